// How good a model is on a text, and how near to a reference: what `shoal eval` prints.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "absl/status/statusor.h"
#include "exec/engine.h"

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

struct Evaluation {
  TextScore model;
  TextScore reference;    ///< Empty without one.
  Divergence divergence;  ///< Empty without one.
};

/// Runs `ids` in windows of at most `window` tokens, each a sequence of its own, through both engines. In a
/// window every token but the first is predicted and scored; the distributions of all positions are compared.
/// reference: nullptr, or an engine with the same vocabulary. progress(done, total) counts tokens; may be
/// empty. InvalidArgument where there are fewer than two ids, window < 2, or the vocabularies differ; else
/// the engines' errors.
absl::StatusOr<Evaluation> EvaluateText(Engine& model, Engine* reference, std::span<const int32_t> ids,
                                        int64_t window,
                                        const std::function<void(int64_t done, int64_t total)>& progress);

}  // namespace shoal
