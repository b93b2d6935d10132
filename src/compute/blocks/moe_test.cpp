// The shared expert and its gate against their formula, on weights read one by one.
#include "compute/blocks/moe.h"

#include <gtest/gtest.h>

#include <cmath>
#include <functional>
#include <memory>
#include <string_view>
#include <vector>

#include "base/random.h"
#include "base/status.h"
#include "convert/testing/checkpoints.h"
#include "loading/weight_loader.h"
#include "models/family.h"

namespace shoal {
namespace {

/// Nobody has experts: what is left is the shared one.
class NoExperts final : public ExpertExchange {
 public:
  absl::StatusOr<Ticket> dispatch(LayerId, const ExpertRows&, const Routing& routing) override {
    asked.assign(routing.ids.data, routing.ids.data + routing.ids.rows * routing.ids.cols);
    return Ticket{1};
  }
  absl::Status combine(Ticket, MatView<float>) override {
    ++combined;
    return absl::OkStatus();
  }
  int combined = 0;
  std::vector<int32_t> asked;  ///< Ids of the last dispatch.
};

std::vector<double> Read(const Checkpoint& checkpoint, const std::string& name) {
  const TensorView view = checkpoint.view(*checkpoint.find(name));
  std::vector<double> values;
  for (int64_t i = 0; i < view.bytes / DTypeBytes(view.dtype); ++i) {
    values.push_back(LoadFloatWeight(view.data, view.dtype, i));
  }
  return values;
}

std::vector<double> Times(const std::vector<double>& w, const std::vector<double>& x) {
  std::vector<double> y(w.size() / x.size());
  for (size_t n = 0; n < y.size(); ++n) {
    for (size_t k = 0; k < x.size(); ++k) y[n] += w[n * x.size() + k] * x[k];
  }
  return y;
}

/// sigmoid(gate x) * down(silu(gate_proj x) * up_proj x) of layer 1.
std::vector<double> Expected(const Checkpoint& checkpoint, const std::vector<double>& x) {
  const std::string base = "model.layers.1.mlp.shared_expert";
  std::vector<double> hidden = Times(Read(checkpoint, base + ".gate_proj.weight"), x);
  const std::vector<double> up = Times(Read(checkpoint, base + ".up_proj.weight"), x);
  for (size_t i = 0; i < hidden.size(); ++i) hidden[i] *= up[i] / (1 + std::exp(-hidden[i]));
  std::vector<double> y = Times(Read(checkpoint, base + ".down_proj.weight"), hidden);
  const double gate = Times(Read(checkpoint, base + "_gate.weight"), x)[0];
  for (double& value : y) value /= 1 + std::exp(-gate);
  return y;
}

/// The experts of a layer of a family's tiny model, and rows for them.
struct MoeOfTiny {
  MoeOfTiny(std::string_view family, size_t layer, int64_t rows)
      : checkpoint(*Checkpoint::Open(TinyCheckpoint(family))),
        spec(*SpecFor(checkpoint->config())),
        moe(*Moe::Load(*WeightLoader::Create(*checkpoint), *MoeOf(spec.layers[layer]), pool)),
        x(static_cast<size_t>(rows * spec.width)) {
    RandomStream random(4);
    for (float& value : x) value = static_cast<float>(random.uniform() * 2 - 1);
  }
  std::shared_ptr<const Checkpoint> checkpoint;
  ModelSpec spec;
  ThreadPool pool{2};
  Arena arena;
  ComputeContext context{.kernels = &SelectKernels(SupportedIsas().back()),
                         .pool = &pool,
                         .arena = &arena,
                         .activations = ActivationMode::kF32};
  Moe moe;
  std::vector<float> x;  ///< [rows, D]
};

TEST(Moe, TheSharedExpertIsAddedTimesTheSigmoidOfItsGate) {
  constexpr int64_t kRows = 3;
  MoeOfTiny of("qwen2_moe", 1, kRows);
  const int64_t width = of.spec.width;
  const std::vector<float>& x = of.x;
  std::vector<float> y(x.size(), 0.5f);
  LinearInput input(MatView<const float>(x.data(), kRows, width));
  NoExperts nobody;
  const absl::Status status = of.moe.forward(of.context, LayerId{1}, input, input.x(), {nobody, {}},
                                             MatView<float>(y.data(), kRows, width));
  ASSERT_TRUE(status.ok()) << status;
  EXPECT_EQ(nobody.combined, 1);
  for (int64_t t = 0; t < kRows; ++t) {
    const auto row = x.begin() + t * width;
    const std::vector<double> expected = Expected(*of.checkpoint, {row, row + width});
    for (int64_t c = 0; c < width; ++c) {
      // Chains of 320 and 448 products of magnitude one: far below this.
      EXPECT_NEAR(y[static_cast<size_t>(t * width + c)], 0.5 + expected[static_cast<size_t>(c)], 1e-4);
    }
  }
}

TEST(Moe, IdentitiesAddTheirWeightsOfTheRowAndNobodyIsAskedForThem) {
  constexpr int64_t kRows = 40;
  MoeOfTiny of("longcat_flash", 0, kRows);
  const int64_t width = of.spec.width;
  const std::vector<float>& x = of.x;
  const MoeSpec& moe_spec = *MoeOf(of.spec.layers[0]);
  const auto experts = static_cast<int32_t>(moe_spec.experts.size());
  std::vector<float> y(x.size());
  std::vector<float> sum(x.size(), 0.5f);
  std::vector<int32_t> ids;
  std::vector<float> weights;
  const std::function<void(LayerId, const Routing&)> on_routing = [&](LayerId, const Routing& routing) {
    const auto size = routing.ids.rows * routing.ids.cols;
    ids.assign(routing.ids.data, routing.ids.data + size);
    weights.assign(routing.weights.data, routing.weights.data + size);
  };
  LinearInput input(MatView<const float>(x.data(), kRows, width));
  NoExperts nobody;
  const absl::Status status = of.moe.forward(
      of.context, LayerId{0}, input, input.x(),
      {.exchange = nobody, .on_routing = on_routing, .sum = MatView<float>(sum.data(), kRows, width)},
      MatView<float>(y.data(), kRows, width));
  ASSERT_TRUE(status.ok()) << status;
  int identities = 0;
  for (size_t i = 0; i < ids.size(); ++i) {
    identities += ids[i] >= experts ? 1 : 0;
    EXPECT_EQ(nobody.asked[i], ids[i] >= experts ? kNoExpert : ids[i]);
  }
  EXPECT_GT(identities, 0);
  const auto k = static_cast<size_t>(moe_spec.top_k);
  for (size_t at = 0; at < sum.size(); ++at) {
    const size_t row = at / static_cast<size_t>(width);
    float share = 0;
    for (size_t i = row * k; i < (row + 1) * k; ++i) share += ids[i] >= experts ? weights[i] : 0.0f;
    EXPECT_EQ(sum[at], 0.5f + share * x[at]);
  }
}

}  // namespace
}  // namespace shoal
