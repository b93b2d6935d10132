// How good a model is on a text, and how near to a reference: what `shoal eval` prints.
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

/// Sums over the positions of a text; a row is the logits of one position.
class TextScore {
 public:
  /// logits: [V]; next: the token that followed in the text.
  void add(std::span<const float> logits, int32_t next);

  int64_t tokens() const { return tokens_; }
  /// Mean of -ln p(next), nats. 0 where nothing was added.
  double mean_nll() const { return tokens_ > 0 ? nll_ / static_cast<double>(tokens_) : 0; }
  double perplexity() const;

 private:
  int64_t tokens_ = 0;
  double nll_ = 0;
};

/// Distance of a model's next-token distributions from a reference's.
class Divergence {
 public:
  /// Both [V].
  void add(std::span<const float> reference, std::span<const float> got);

  int64_t rows() const { return rows_; }
  double mean_kl() const {
    return rows_ > 0 ? kl_ / static_cast<double>(rows_) : 0;
  }  ///< KL(reference || got), nats.
  double max_kl() const { return max_kl_; }
  /// Share of rows whose likeliest token is the same; ties to the lowest id.
  double top1() const { return rows_ > 0 ? static_cast<double>(same_top_) / static_cast<double>(rows_) : 0; }

 private:
  int64_t rows_ = 0;
  int64_t same_top_ = 0;
  double kl_ = 0;
  double max_kl_ = 0;
};

/// How far the rows that leave each layer are from a reference's: the root of the sum of squared differences
/// over that of the reference's squares. Layer -1 is the embedding. The model's rows of a window come first,
/// then the reference's, each layer's in one order; calls may come from several threads, but not at the same
/// time for one layer.
class LayerErrors {
 public:
  explicit LayerErrors(int64_t layers) : layers_(static_cast<size_t>(layers) + 1) {}

  void add_model(LayerId layer, MatView<const float> x);
  /// CHECKs that the model gave as many values before.
  void add_reference(LayerId layer, MatView<const float> x);
  /// Forgets the model's rows, which must all have met the reference's (CHECK).
  void end_window();

  int64_t layers() const { return std::ssize(layers_) - 1; }
  /// 0 where nothing was added.
  double relative_rms(LayerId layer) const;

 private:
  struct Layer {
    std::vector<float> model;  ///< Of this window.
    size_t compared = 0;       ///< Values of `model`.
    double error = 0;
    double norm = 0;
  };
  Layer& at(LayerId layer) { return layers_[static_cast<size_t>(layer.value + 1)]; }
  std::vector<Layer> layers_;
};

struct Evaluation {
  TextScore model;
  TextScore reference;    ///< Empty without one.
  Divergence divergence;  ///< Empty without one.
};

/// Runs `ids` in windows of at most `window` tokens, each a sequence of its own, through both engines. In a
/// window every token but the first is predicted and scored; the distributions of all positions are compared.
/// reference: nullptr, or an engine with the same vocabulary. layers: nullptr, or what the engines' hooks add
/// to. progress(done, total) counts tokens; may be empty. InvalidArgument where there are fewer than two ids,
/// window < 2, or the vocabularies differ; else the engines' errors.
absl::StatusOr<Evaluation> EvaluateText(Engine& model, Engine* reference, std::span<const int32_t> ids,
                                        int64_t window, LayerErrors* layers,
                                        const std::function<void(int64_t done, int64_t total)>& progress);

}  // namespace shoal
