#include "measure/evaluation.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>

namespace shoal {
namespace {

TEST(LayerErrors, AreRelativeRootMeanSquares) {
  LayerErrors errors(2);
  EXPECT_EQ(errors.layers(), 2);
  std::vector<float> embedding = {1, 2, 3, 4};
  std::vector<float> model = {3, 4.5, 0, 0.5};
  std::vector<float> reference = {3, 4, 0, 0};
  const auto rows = [](std::vector<float>& values, int64_t count) {
    return MatView<const float>(values.data(), count, std::ssize(values) / count);
  };
  errors.add_model(LayerId{-1}, rows(embedding, 2));
  errors.add_reference(LayerId{-1}, rows(embedding, 1));  // Other steps; only the order of values matters.
  errors.add_model(LayerId{0}, rows(model, 2));
  errors.add_reference(LayerId{0}, rows(reference, 2));
  errors.end_window();
  errors.add_model(LayerId{0}, rows(reference, 1));  // A second window without an error.
  errors.add_reference(LayerId{0}, rows(reference, 1));
  errors.end_window();
  EXPECT_EQ(errors.relative_rms(LayerId{-1}), 0);
  EXPECT_NEAR(errors.relative_rms(LayerId{0}), std::sqrt(0.5 / 50), 1e-12);
  EXPECT_EQ(errors.relative_rms(LayerId{1}), 0);
}

TEST(TextScore, IsTheMeanNegativeLogLikelihoodOfTheNextToken) {
  TextScore score;
  EXPECT_EQ(score.mean_nll(), 0);
  const std::vector<float> even(8, 3.5f);  // Eight tokens, equally likely.
  score.add(even, 2);
  EXPECT_NEAR(score.perplexity(), 8, 1e-12);
  const std::vector<float> sure = {0, 60};  // p(1) is 1 - 1e-26.
  score.add(sure, 1);
  EXPECT_NEAR(score.mean_nll(), std::log(8.0) / 2, 1e-12);
  EXPECT_EQ(score.tokens(), 2);
  score.add(sure, 0);
  EXPECT_NEAR(score.mean_nll(), (std::log(8.0) + 60) / 3, 1e-12);
}

TEST(Divergence, IsZeroForEqualDistributionsAndNotSymmetric) {
  Divergence none;
  const std::vector<float> a = {1, 2, 3};
  const std::vector<float> shifted = {11, 12, 13};  // The same distribution.
  none.add(a, a);
  none.add(a, shifted);
  EXPECT_NEAR(none.mean_kl(), 0, 1e-15);
  EXPECT_EQ(none.top1(), 1);

  // p = (3/4, 1/4), q = (1/4, 3/4): KL(p || q) = ln(3) / 2.
  const std::vector<float> p = {std::log(3.0f), 0};
  const std::vector<float> q = {0, std::log(3.0f)};
  Divergence some;
  some.add(p, q);
  some.add(p, p);
  EXPECT_NEAR(some.max_kl(), std::log(3.0) / 2, 1e-7);
  EXPECT_NEAR(some.mean_kl(), std::log(3.0) / 4, 1e-7);
  EXPECT_EQ(some.top1(), 0.5);
  // KL is not symmetric: r = (1/2, 1/2) gives ln 2 - H(p) one way and -ln(4 * 3/16) / 2 the other.
  const std::vector<float> r = {0, 0};
  Divergence forward;
  forward.add(p, r);
  EXPECT_NEAR(forward.mean_kl(), std::log(2.0) + 0.75 * std::log(0.75) + 0.25 * std::log(0.25), 1e-7);
  Divergence backward;
  backward.add(r, p);
  EXPECT_NEAR(backward.mean_kl(), -0.5 * std::log(0.75), 1e-7);
}

}  // namespace
}  // namespace shoal
