#include "compute/blocks/hyper.h"

#include <algorithm>
#include <utility>

#include "base/check.h"
#include "base/status.h"
#include "numeric/transcendental.h"

namespace shoal {
namespace {

constexpr int64_t kHyperStreamsMax = 16;

float SigmoidOf(float x) { return static_cast<float>(1.0 / (1.0 + Exp(-static_cast<double>(x)))); }

/// x[i * stride] /= their sum + eps, in ascending order, for i < count.
void DivideBySum(float* x, int64_t count, int64_t stride, float eps) {
  float sum = 0;
  for (int64_t i = 0; i < count; ++i) sum += x[i * stride];
  for (int64_t i = 0; i < count; ++i) x[i * stride] /= sum + eps;
}

}  // namespace

absl::StatusOr<HyperMix> HyperMix::Load(const WeightLoader& loader, const HyperRule& rule,
                                        const HyperMixSpec& spec, ThreadPool& pool) {
  HyperMix mix;
  mix.rule_ = rule;
  SHOAL_CHECK_LE(rule.streams, kHyperStreamsMax);
  mix.norm_ = Norm::Weightless(rule.streams * rule.width, rule.norm_eps);
  ASSIGN_OR_RETURN(mix.matrix_, Linear::Load(loader, spec.matrix, pool));
  ASSIGN_OR_RETURN(mix.base_, loader.read_vector(spec.base));
  ASSIGN_OR_RETURN(mix.scale_, loader.read_vector(spec.scale));
  SHOAL_CHECK(mix.matrix_.rows() == rule.streams ||
              mix.matrix_.rows() == 2 * rule.streams + rule.streams * rule.streams);
  return mix;
}

int64_t HyperMix::bytes() const {
  return matrix_.bytes() + static_cast<int64_t>((base_.size() + scale_.size()) * sizeof(float));
}

void HyperMix::read(const ComputeContext& context, MatView<const float> streams, MatView<float> coefficients,
                    MatView<float> x) const {
  const ArenaScope scope(*context.arena);
  const MatView<float> normed = context.arena->allocate_rows<float>(streams.rows, streams.cols);
  context.for_rows(streams.rows, streams.cols,
                   [&](Range part) { norm_.apply(*context.kernels, streams, normed, part); });
  RunExactLinear(context, normed, matrix_, coefficients);
  context.for_rows(streams.rows, streams.cols, [&](Range part) {
    for (int64_t t = part.begin; t < part.end; ++t) {
      float* const row = coefficients.row(t);
      finish(row);
      for (int64_t c = 0; c < rule_.width; ++c) {
        float sum = 0;
        for (int64_t i = 0; i < rule_.streams; ++i) sum += row[i] * streams.at(t, i * rule_.width + c);
        x.at(t, c) = sum;
      }
    }
  });
}

/// What matrix_ gave, into coefficients: read, write, keep.
void HyperMix::finish(float* row) const {
  const int64_t streams = rule_.streams;
  for (int64_t n = 0; n < matrix_.rows(); ++n) {
    const size_t kind = n < streams ? 0 : n < 2 * streams ? 1 : 2;
    row[n] = row[n] * scale_[kind] + base_[static_cast<size_t>(n)];
    if (kind == 0) row[n] = SigmoidOf(row[n]) + rule_.eps;
    if (kind == 1) row[n] = 2 * SigmoidOf(row[n]);
  }
  if (matrix_.rows() > streams) make_keep(row + 2 * streams);
}

/// keep [S, S] of what goes into its softmaxes. Source: Sinkhorn, Knopp 1967, whose limit has rows and columns of sum 1.
void HyperMix::make_keep(float* keep) const {
  const int64_t streams = rule_.streams;
  for (int64_t i = 0; i < streams; ++i) {
    float* const row = keep + i * streams;
    const float largest = *std::max_element(row, row + streams);
    for (int64_t j = 0; j < streams; ++j)
      row[j] = static_cast<float>(Exp(static_cast<double>(row[j] - largest)));
    DivideBySum(row, streams, 1, 0);
    for (int64_t j = 0; j < streams; ++j) row[j] += rule_.eps;
  }
  for (int round = 0; round < rule_.rounds; ++round) {
    for (int64_t i = 0; round > 0 && i < streams; ++i) DivideBySum(keep + i * streams, streams, 1, rule_.eps);
    for (int64_t j = 0; j < streams; ++j) DivideBySum(keep + j, streams, streams, rule_.eps);
  }
}

void HyperMix::write(const ComputeContext& context, MatView<const float> y, MatView<const float> coefficients,
                     MatView<float> streams) const {
  const int64_t count = rule_.streams;
  context.for_rows(streams.rows, streams.cols * count, [&](Range part) {
    for (int64_t t = part.begin; t < part.end; ++t) {
      const float* const writes = coefficients.row(t) + count;
      const float* const keep = writes + count;
      for (int64_t c = 0; c < rule_.width; ++c) {
        float before[kHyperStreamsMax];
        for (int64_t i = 0; i < count; ++i) before[i] = streams.at(t, i * rule_.width + c);
        for (int64_t j = 0; j < count; ++j) {
          float kept = 0;
          for (int64_t i = 0; i < count; ++i) kept += keep[i * count + j] * before[i];
          streams.at(t, j * rule_.width + c) = writes[j] * y.at(t, c) + kept;
        }
      }
    }
  });
}

}  // namespace shoal
