#include "loading/explain_model.h"

#include <algorithm>
#include <map>
#include <optional>
#include <set>
#include <utility>

#include "base/status.h"
#include "base/text.h"
#include "formats/checkpoint.h"
#include "formats/strict_json.h"
#include "loading/stored_weight.h"
#include "models/family.h"

namespace shoal {
namespace {

constexpr size_t kShownMax = 12;  ///< Lines of a kind.

/// "model.layers.7.mlp.up_proj.weight" -> "model.layers.*.mlp.up_proj.weight".
std::string PatternOf(std::string_view name) {
  std::string pattern;
  for (size_t begin = 0; begin <= name.size();) {
    const size_t end = std::min(name.find('.', begin), name.size());
    const std::string_view word = name.substr(begin, end - begin);
    const bool number =
        !word.empty() && std::ranges::all_of(word, [](char c) { return c >= '0' && c <= '9'; });
    pattern += fmt::format("{}{}", begin == 0 ? "" : ".", number ? "*" : word);
    begin = end + 1;
  }
  return Printable(pattern, 160);
}

class Explanation {
 public:
  explicit Explanation(const std::string& folder) : folder_(folder) {}

  std::vector<std::string> lines() {
    const absl::StatusOr<std::shared_ptr<const Checkpoint>> checkpoint = Checkpoint::Open(folder_);
    if (!checkpoint.ok()) {
      say("files", std::string(Message(checkpoint.status())));
      explain_config_alone();
      return std::move(lines_);
    }
    const ModelConfig& config = (*checkpoint)->config();
    explain_config(config);
    const absl::StatusOr<ModelSpec> spec = SpecFor(config);
    if (spec.ok()) explain_weights(**checkpoint, *spec);
    list_tensors((*checkpoint)->tensors());
    return std::move(lines_);
  }

 private:
  void say(std::string_view about, std::string text) {
    lines_.push_back(fmt::format("{}: {}", about, std::move(text)));
  }

  /// Where the files of weights do not open, their config may.
  void explain_config_alone() {
    const absl::StatusOr<ModelConfig> config = ModelConfig::Load(folder_ + "/config.json");
    if (config.ok()) explain_config(*config);
  }

  void explain_config(const ModelConfig& config) {
    const absl::StatusOr<std::optional<std::string>> type = config.optional_string("model_type");
    const std::string model_type = type.ok() && *type ? **type : "";
    const absl::StatusOr<const Family*> family = FindFamily(model_type);
    if (!family.ok()) {
      say("model_type", model_type.empty() ? "the config has none" : nearest(model_type));
      return;
    }
    const absl::StatusOr<ModelSpec> spec = SpecFor(config);
    say("config", spec.ok() ? fmt::format("understood as '{}' of {} layers", model_type, spec->layer_count())
                            : std::string(Message(spec.status())));
    const auto quantization = config.optional_object("quantization_config");
    if (!quantization.ok() || !*quantization) return;
    const auto method = (*quantization)->optional_string("quant_method");
    if (method.ok() && *method) {
      say("quantization",
          fmt::format("'{}'; read are gptq, awq, compressed-tensors, fp8, mxfp4 and MLX's, as "
                      "docs/formats.md has them",
                      Printable(**method, 40)));
    }
  }

  static std::string nearest(const std::string& model_type) {
    std::vector<std::string> known;
    for (const Family* family : Families()) known.emplace_back(family->model_type);
    const std::string near = NearestWord(model_type, known);
    return fmt::format("'{}' is not built{}; known: {}", Printable(model_type, 60),
                       near.empty() ? "" : fmt::format(" (nearest: '{}')", near), Join(known, ", "));
  }

  void explain_weights(const Checkpoint& checkpoint, const ModelSpec& spec) {
    const absl::StatusOr<WeightFinder> finder = WeightFinder::Create(checkpoint);
    if (!finder.ok()) return say("quantization", std::string(Message(finder.status())));
    std::map<std::string, std::pair<int64_t, std::string>>
        misses;  // Pattern -> how many, the first one's message.
    int64_t found = 0;
    ForEachWeight(spec, [&](const WeightUse& use) {
      if (use.is_mtp) return;
      const absl::StatusOr<StoredWeight> stored = finder->find(use.ref);
      if (stored.ok()) {
        ++found;
        used_.insert(stored->source->name());
        for (const char* part : {".scales", ".biases"}) used_.insert(stored->source->base + part);
        return;
      }
      auto& [count, message] = misses[PatternOf(use.ref.sources[0].name())];
      if (count++ == 0) message = std::string(Message(stored.status()));
    });
    say("weights", fmt::format("{} are where they are expected, {} kinds are not", found, misses.size()));
    for (const auto& [pattern, miss] : misses) {
      if (shown_++ >= kShownMax) return say("weights", "and so on");
      say("weights", fmt::format("{} of '{}': {}", miss.first, pattern, miss.second));
    }
  }

  /// Of tensors that stand behind no weight if any do, else of all.
  void list_tensors(std::span<const TensorInfo> tensors) {
    std::map<std::string, std::pair<int64_t, std::string>>
        kinds;  // Pattern -> how many, what the first one is.
    for (const TensorInfo& tensor : tensors) {
      if (used_.contains(tensor.name)) continue;
      auto& [count, what] = kinds[PatternOf(tensor.name)];
      if (count++ == 0) what = DescribeTensor(tensor);
    }
    const std::string_view about = used_.empty() ? "tensors" : "tensors behind no weight";
    size_t listed = 0;
    for (const auto& [pattern, kind] : kinds) {
      if (listed++ >= kShownMax)
        return say(about, fmt::format("and {} kinds more", kinds.size() - kShownMax));
      say(about, fmt::format("{} of '{}', {}", kind.first, pattern, kind.second));
    }
  }

  const std::string& folder_;
  std::vector<std::string> lines_;
  std::set<std::string> used_;
  size_t shown_ = 0;
};

}  // namespace

std::vector<std::string> ExplainModel(const std::string& folder) { return Explanation(folder).lines(); }

}  // namespace shoal
