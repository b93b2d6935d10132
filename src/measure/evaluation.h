// The quality of a model on a text, and its distance from a reference model: what `shoal eval` prints.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "absl/status/statusor.h"
#include "base/ids.h"
#include "exec/engine.h"
#include "numeric/view.h"

namespace shoal {

/// Scores a model on a text, position by position.
class TextScore {
 public:
  /// logits: [V]; next: the token that followed in the text.
  void add(std::span<const float> logits, int32_t next);

  int64_t tokens() const { return tokens_; }
  /// Mean of -ln p(next), in nats; 0 if nothing was added.
  double mean_nll() const { return tokens_ > 0 ? nll_ / static_cast<double>(tokens_) : 0; }
  double perplexity() const;

 private:
  int64_t tokens_ = 0;
  double nll_ = 0;
};

/// The distance of a model's next-token distributions from those of a reference.
class Divergence {
 public:
  /// Both [V].
  void add(std::span<const float> reference, std::span<const float> got);

  int64_t rows() const { return rows_; }
  /// KL(reference || got), in nats.
  double mean_kl() const { return rows_ > 0 ? kl_ / static_cast<double>(rows_) : 0; }
  double max_kl() const { return max_kl_; }
  /// The fraction of rows whose most likely token is the same; ties to the lowest id.
  double top1() const { return rows_ > 0 ? static_cast<double>(same_top_) / static_cast<double>(rows_) : 0; }

 private:
  int64_t rows_ = 0;
  int64_t same_top_ = 0;
  double kl_ = 0;
  double max_kl_ = 0;
};

/// The relative error of each layer's output against a reference: the root of the sum of squared differences,
/// divided by the root of the sum of the reference's squares. Layer -1 is the embedding. For each window the
/// rows of the model are added first, then those of the reference in the same order. Several threads may
/// call, but not at the same time for one layer.
class LayerErrors {
 public:
  explicit LayerErrors(int64_t layers) : layers_(static_cast<size_t>(layers) + 1) {}

  void add_model(LayerId layer, MatView<const float> x);
  /// CHECKs that as many values of the model were added before.
  void add_reference(LayerId layer, MatView<const float> x);
  /// Drops the rows of the model. CHECKs that all of them were compared.
  void end_window();

  int64_t layers() const { return std::ssize(layers_) - 1; }
  /// 0 if nothing was added.
  double relative_rms(LayerId layer) const;

 private:
  struct Layer {
    std::vector<float> model;  ///< The model's values of this window.
    size_t compared = 0;       ///< How many of them were compared.
    double error = 0;
    double norm = 0;
  };
  Layer& at(LayerId layer) { return layers_[static_cast<size_t>(layer.value + 1)]; }
  std::vector<Layer> layers_;
};

struct Evaluation {
  TextScore model;
  TextScore reference;    ///< Empty if there is no reference.
  Divergence divergence;  ///< Empty if there is no reference.
};

/// Runs `ids` through both engines, in windows of at most `window` tokens, each a sequence of its own. In a
/// window every token except the first is scored, and the distributions of all positions are compared.
/// reference: nullptr, or an engine with the same vocabulary.
/// layers: nullptr, or the object that the engines' hooks add to.
/// progress(done, total): counts tokens; may be empty.
/// Returns InvalidArgument if there are fewer than two ids, if window < 2, or if the vocabularies differ;
/// otherwise the errors of the engines.
absl::StatusOr<Evaluation> EvaluateText(Engine& model, Engine* reference, std::span<const int32_t> ids,
                                        int64_t window, LayerErrors* layers,
                                        const std::function<void(int64_t done, int64_t total)>& progress);

}  // namespace shoal
