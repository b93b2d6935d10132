#include "measure/evaluation.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "base/check.h"
#include "base/status.h"
#include "measure/logits_probe.h"
#include "numeric/transcendental.h"

namespace shoal {
namespace {

/// ln of the sum of e^logits.
double LogSumExp(std::span<const float> logits) {
  const double largest = *std::ranges::max_element(logits);
  double sum = 0;
  for (const float logit : logits) sum += Exp(static_cast<double>(logit) - largest);
  return largest + Log(sum);
}

int64_t Likeliest(std::span<const float> logits) { return std::ranges::max_element(logits) - logits.begin(); }

/// Computes the logits of one window as a new sequence.
class Runner {
 public:
  explicit Runner(Engine& engine) : engine_(engine) {}

  absl::StatusOr<ProbeResult> run(std::span<const int32_t> ids) {
    ProbeRequest request;
    request.ids.assign(ids.begin(), ids.end());
    request.sequence = sequence_;
    request.first_step = step_;
    ASSIGN_OR_RETURN(ProbeResult result, ProbeLogits(engine_, request));
    ++sequence_.value;
    step_ = result.next_step;
    return result;
  }

 private:
  Engine& engine_;
  SeqId sequence_{1};
  StepId step_{1};
};

}  // namespace

void TextScore::add(std::span<const float> logits, int32_t next) {
  SHOAL_CHECK(0 <= next && next < std::ssize(logits));
  nll_ += LogSumExp(logits) - static_cast<double>(logits[static_cast<size_t>(next)]);
  ++tokens_;
}

double TextScore::perplexity() const { return Exp(mean_nll()); }

void Divergence::add(std::span<const float> reference, std::span<const float> got) {
  SHOAL_CHECK_EQ(reference.size(), got.size());
  const double reference_total = LogSumExp(reference);
  const double got_total = LogSumExp(got);
  double kl = 0;
  for (size_t i = 0; i < reference.size(); ++i) {
    const double log_p = static_cast<double>(reference[i]) - reference_total;
    kl += Exp(log_p) * (log_p - (static_cast<double>(got[i]) - got_total));
  }
  kl_ += kl;
  max_kl_ = std::max(max_kl_, kl);
  same_top_ += Likeliest(reference) == Likeliest(got) ? 1 : 0;
  ++rows_;
}

void LayerErrors::add_model(LayerId layer, MatView<const float> x) {
  std::vector<float>& rows = at(layer).model;
  for (int64_t r = 0; r < x.rows; ++r) rows.insert(rows.end(), x.row(r), x.row(r) + x.cols);
}

void LayerErrors::add_reference(LayerId layer, MatView<const float> x) {
  Layer& one = at(layer);
  SHOAL_CHECK_LE(one.compared + static_cast<size_t>(x.rows * x.cols), one.model.size());
  for (int64_t r = 0; r < x.rows; ++r) {
    for (int64_t c = 0; c < x.cols; ++c) {
      const auto expected = static_cast<double>(x.row(r)[c]);
      const double difference = static_cast<double>(one.model[one.compared++]) - expected;
      one.error += difference * difference;
      one.norm += expected * expected;
    }
  }
}

void LayerErrors::end_window() {
  for (Layer& layer : layers_) {
    SHOAL_CHECK_EQ(layer.compared, layer.model.size());
    layer.model.clear();
    layer.compared = 0;
  }
}

double LayerErrors::relative_rms(LayerId layer) const {
  const Layer& one = layers_[static_cast<size_t>(layer.value + 1)];
  return one.norm > 0 ? std::sqrt(one.error / one.norm) : 0;
}

absl::StatusOr<Evaluation> EvaluateText(Engine& model, Engine* reference, std::span<const int32_t> ids,
                                        int64_t window, LayerErrors* layers,
                                        const std::function<void(int64_t done, int64_t total)>& progress) {
  const auto total = std::ssize(ids);
  if (total < 2 || window < 2) {
    return InvalidArgument("eval: expected a text and a window of 2 tokens at least, found {} and {}", total,
                           window);
  }
  const int64_t vocabulary = model.state().limits.vocabulary;
  if (reference != nullptr && reference->state().limits.vocabulary != vocabulary) {
    return InvalidArgument("eval: expected a reference of the same vocabulary, {} tokens, found {}",
                           vocabulary, reference->state().limits.vocabulary);
  }
  Evaluation evaluation;
  Runner model_runner(model);
  Runner reference_runner(reference != nullptr ? *reference : model);
  for (int64_t begin = 0; begin + 1 < total; begin += window) {
    const auto chunk =
        ids.subspan(static_cast<size_t>(begin), static_cast<size_t>(std::min(window, total - begin)));
    ASSIGN_OR_RETURN(const ProbeResult got, model_runner.run(chunk));
    ProbeResult expected;
    if (reference != nullptr) {
      ASSIGN_OR_RETURN(expected, reference_runner.run(chunk));
    }
    if (layers != nullptr) layers->end_window();
    const auto row = [vocabulary](const ProbeResult& result, size_t i) {
      return std::span(result.logits)
          .subspan(i * static_cast<size_t>(vocabulary), static_cast<size_t>(vocabulary));
    };
    for (size_t i = 0; i < chunk.size(); ++i) {
      const bool scored = i + 1 < chunk.size();
      if (scored) evaluation.model.add(row(got, i), chunk[i + 1]);
      if (reference == nullptr) continue;
      if (scored) evaluation.reference.add(row(expected, i), chunk[i + 1]);
      evaluation.divergence.add(row(expected, i), row(got, i));
    }
    if (progress) progress(begin + std::ssize(chunk), total);
  }
  return evaluation;
}

}  // namespace shoal
