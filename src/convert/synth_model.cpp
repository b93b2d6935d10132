#include "convert/synth_model.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "base/status.h"
#include "models/family.h"

namespace shoal {
namespace {

/// Deviation that keeps a row of unit deviation at unit deviation.
double UnitGain(int64_t cols) { return 1.0 / std::sqrt(static_cast<double>(cols)); }

/// Whether a matrix takes the product of gate and up, which is small.
bool TakesGatedRows(const std::string& base) { return base.ends_with(".down_proj") || base.ends_with(".w2"); }

/// Collects the tensors behind the weights of a spec.
class Lister {
 public:
  Lister(const ModelSpec& spec, bool stacked) : spec_(spec), stacked_(stacked) {}

  void add(const WeightUse& use) {
    if (use.role == "head" && spec_.tied_head) return;
    const WeightSource& own = use.ref.sources.front();
    const WeightSource& source = source_of(use.ref);
    if (source.stack > 0 && !own_stack(own, source)) {
      add_to_stack(use, own, source);
      return;
    }
    if (!names_.insert(source.name()).second) return;  // Another part of a fused tensor was here before.
    tensors_.push_back(tensor_of(use, source));
    SynthTensor& tensor = tensors_.back();
    tensor.experts = source.stack;
    for (int64_t i = 0; i < std::max<int64_t>(source.stack, 1); ++i) {
      // Stacks that are named by their last word alone share what stands before it.
      const bool shares_base = source.stack > 0 && source.suffix != "weight" && source.suffix != "bias";
      const std::string name = shares_base ? source.name() : source.base;
      tensor.seeds.push_back(source.stack == 0 ? name : fmt::format("{}[{}]", name, i));
    }
  }

  std::vector<SynthTensor> list() && { return std::move(tensors_); }

 private:
  /// Where MLX has it where the checkpoint is to be MLX's, else the first place.
  const WeightSource& source_of(const WeightRef& ref) const {
    for (const WeightSource& source : ref.sources) {
      if (stacked_ && source.mlx) return source;
    }
    for (const WeightSource& source : ref.sources) {
      if (stacked_ && source.stack > 0 && source.suffix == "weight") return source;
    }
    return ref.sources.front();
  }
  /// The hub, too, has this weight in a stack only.
  static bool own_stack(const WeightSource& own, const WeightSource& source) {
    return own.stack > 0 && own.name() == source.name();
  }

  /// The stack holds the values that the experts' own tensors would have.
  void add_to_stack(const WeightUse& use, const WeightSource& own, const WeightSource& source) {
    if (names_.insert(source.name()).second) {
      tensors_.push_back(tensor_of(use, source));
      tensors_.back().experts = source.stack;
      stacks_[source.name()] = tensors_.size() - 1;
    }
    // With other matrices of the stack.
    const bool shared = own.strided.has_value() || !own.rows.empty() || own.stack > 0;
    tensors_[stacks_.at(source.name())].seeds.push_back(
        shared ? fmt::format("{}[{}]", source.base, source.index) : own.base);
  }

  SynthTensor tensor_of(const WeightUse& use, const WeightSource& source) const {
    SynthTensor tensor{.base = source.base, .suffix = source.suffix, .cols = use.ref.shape.back()};
    if (use.ref.shape.size() == 1) {
      tensor.kind = SynthTensor::Kind::kVector;
      if (source.strided) {
        tensor.shape = source.strided->stored_shape;  // The weight may be a part of it.
        tensor.cols = *ElementCount(tensor.shape) / std::max<int64_t>(source.stack, 1);
      }
      if (use.role == "choice") {
        tensor.choices = std::ssize(MoeOf(spec_.layers[static_cast<size_t>(use.layer)])->experts);
      }
      const bool scales = use.role == "norm" || use.role == "scale";
      tensor.mean = scales ? 1.0 - source.offset : 0.0;
      tensor.deviation = scales ? 0.1 : 0.2;
      if (use.role == "convolution") tensor.deviation = 0.5;
      if (use.role == "decay" && source.suffix == "A_log") {
        tensor.mean = -2.0;  // States that remember a few dozen tokens, some more, some less.
        tensor.deviation = 1.0;
      }
      return tensor;
    }
    tensor.rows = source.rows.empty() ? use.ref.shape.front() : source.stored_rows;
    if (source.strided) {
      const std::vector<int64_t>& shape = source.strided->stored_shape;
      tensor.cols = shape.back();
      tensor.rows = shape[shape.size() - 2];
    }
    tensor.deviation = UnitGain(tensor.cols);
    if (use.role == "head" || (use.role == "embedding" && spec_.tied_head)) {
      tensor.deviation *= 2.0;  // What is the head decides the logits.
    } else if (use.role == "embedding") {
      tensor.deviation = 1.0;
    } else if (use.role == "router") {
      tensor.kind = SynthTensor::Kind::kRouter;
      tensor.deviation *= 2.0;
    } else if (TakesGatedRows(use.ref.sources.front().base)) {
      tensor.deviation *= 2.0;
    }
    return tensor;
  }

  const ModelSpec& spec_;
  bool stacked_;
  std::set<std::string> names_;
  std::map<std::string, size_t> stacks_;
  std::vector<SynthTensor> tensors_;
};

absl::StatusOr<std::vector<SynthTensor>> ListTensors(const ModelConfig& config, bool stacked) {
  ASSIGN_OR_RETURN(const ModelSpec spec, SpecFor(config));
  Lister lister(spec, stacked);
  ForEachWeight(spec, [&](const WeightUse& use) { lister.add(use); });
  return std::move(lister).list();
}

}  // namespace

absl::Status SynthesizeModel(const SynthOptions& options, const ProgressFn& progress) {
  return Synthesize(options, ListTensors, progress);
}

}  // namespace shoal
