// The head for multi-token prediction computes what its layer computes as an ordinary model of one layer, over inputs
// that are made by plain arithmetic.
#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <fstream>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <numeric>
#include <string>
#include <vector>

#include "base/status.h"
#include "compute/cpu_backend.h"
#include "compute/row_ops.h"
#include "compute/testing/session_experts.h"
#include "convert/testing/checkpoints.h"
#include "models/family.h"
#include "models/spec.h"

namespace shoal {
namespace {

constexpr int64_t kRows = 20;
constexpr double kEps = 1e-6;  // rms_norm_eps of tiny configs.

/// Rows of f32 values.
struct Rows {
  Rows(int64_t rows_in, int64_t cols_in) : values(static_cast<size_t>(rows_in * cols_in)), cols(cols_in) {}
  MatView<float> view() { return {values.data(), std::ssize(values) / cols, cols}; }
  MatView<float> part(int64_t begin, int64_t end) { return view().rows_between(begin, end); }

  std::vector<float> values;
  int64_t cols = 0;
};

/// A model in one session, with one sequence.
class Runner {
 public:
  Runner(const std::string& folder, bool mtp) {
    load_.weights = *ResolvedWeights::Open(folder);
    const ModelSpec& spec = load_.weights->spec();
    load_.stage = {.layers = {0, spec.layer_count()}, .embed = true, .head = true, .mtp = mtp};
    for (const LayerSpec& layer : spec.layers) load_.experts.push_back(AllExperts(layer));
    model_ = *backend_.load(load_);
    if (KeepsState(spec)) states_ = {{kRows, SlotId{0}}};
    session_ = *model_->open(
        {.blocks = 1, .state_slots = KeepsState(spec) ? 2 : 0, .kv_dtype = DType::kF32, .rows_max = kRows});
    experts_ = std::make_unique<SessionExperts>(*session_);
  }

  const ModelSpec& spec() const { return model_->spec(); }
  BackendSession& session() { return *session_; }

  Rows embed(const std::vector<int32_t>& tokens) {
    Rows rows(std::ssize(tokens), spec().width);
    EXPECT_EQ(session_->embed(tokens, rows.view()), absl::OkStatus());
    return rows;
  }
  /// With what the model's layers hand on behind each row.
  Rows forward(const std::vector<int32_t>& tokens) {
    Rows rows(std::ssize(tokens), spec().row_width());
    EXPECT_EQ(session_->embed(tokens, rows.view()), absl::OkStatus());
    StepSlice slice = slice_at(0, std::ssize(tokens));
    slice.state_to = states_;
    EXPECT_EQ(session_->forward({.slices = {&slice, 1}, .experts = experts_.get()}, rows.view()),
              absl::OkStatus());
    return rows;
  }
  /// What the head reads of the rows that leave the model.
  Rows read_by_head(Rows rows) const {
    Rows narrow(rows.view().rows, spec().width);
    CopyRows(rows.view().cols_between(0, spec().width), narrow.view(), 0);
    return narrow;
  }
  /// Rows [begin, end) of x, in place.
  void predict(const std::vector<int32_t>& next, int64_t begin, int64_t end, Rows& x) {
    const StepSlice slice = slice_at(begin, end - begin);
    const auto tokens = std::span(next).subspan(static_cast<size_t>(begin), static_cast<size_t>(end - begin));
    EXPECT_EQ(session_->mtp_forward({.slices = {&slice, 1}}, tokens, x.part(begin, end)), absl::OkStatus());
  }
  /// Log-probabilities of some ids in each of the rows whose logits are kept.
  std::vector<float> scores() {
    std::vector<float> all;
    for (int64_t row = 0; row < kRows; ++row) {
      for (int32_t id = 0; id < spec().vocabulary; id += 30) {
        all.push_back(session_->score(row, {.id = id, .position = row})->logprob);
      }
    }
    return all;
  }

 private:
  StepSlice slice_at(int64_t position, int64_t rows) const {
    return {.row_begin = 0, .rows = rows, .position = position, .blocks = blocks_};
  }

  CpuBackend backend_{{.isa = SupportedIsas().back(), .threads = 2}};
  BackendLoad load_;
  std::unique_ptr<BackendModel> model_;
  std::unique_ptr<BackendSession> session_;
  std::unique_ptr<SessionExperts> experts_;
  const std::vector<BlockId> blocks_ = {BlockId{0}};
  std::vector<StateWrite> states_;  // Of all rows.
};

/// What a family's checkpoints call the parts of the head.
struct HeadNames {
  std::string embedding_norm, hidden_norm, projection, layer, norm;
  double offset = 0;  ///< Stored norms are applied as w + offset.
};

HeadNames NamesOf(const std::string& family) {
  if (family.starts_with("qwen3_5")) {
    return {"mtp.pre_fc_norm_embedding.weight",
            "mtp.pre_fc_norm_hidden.weight",
            "mtp.fc.weight",
            "mtp.layers.0.",
            "mtp.norm.weight",
            1};
  }
  const std::string base = "model.layers.7.";
  return {base + "enorm.weight", base + "hnorm.weight", base + "eh_proj.weight", base,
          base + "shared_head.norm.weight"};
}

std::vector<double> ValuesOf(const EditableTensor& tensor) {
  EXPECT_EQ(tensor.dtype, DType::kBF16);
  std::vector<double> values;
  for (size_t i = 0; i < tensor.bytes.size(); i += 2) {
    const uint32_t bits =
        (static_cast<uint32_t>(tensor.bytes[i]) | static_cast<uint32_t>(tensor.bytes[i + 1]) << 8) << 16;
    values.push_back(std::bit_cast<float>(bits));
  }
  return values;
}

std::vector<double> Normed(const float* row, const std::vector<double>& weight, double offset) {
  double squares = 0;
  for (size_t c = 0; c < weight.size(); ++c) squares += double{row[c]} * row[c];
  const double scale = 1 / std::sqrt(squares / static_cast<double>(weight.size()) + kEps);
  std::vector<double> normed;
  for (size_t c = 0; c < weight.size(); ++c) normed.push_back(row[c] * scale * (weight[c] + offset));
  return normed;
}

/// What enters the head's layer: projection [norm(embedding); norm(hidden)].
std::vector<float> Projected(std::vector<EditableTensor>& tensors, const HeadNames& names, Rows embedded,
                             Rows hidden) {
  const std::vector<double> enorm = ValuesOf(TensorNamed(tensors, names.embedding_norm));
  const std::vector<double> hnorm = ValuesOf(TensorNamed(tensors, names.hidden_norm));
  const std::vector<double> matrix = ValuesOf(TensorNamed(tensors, names.projection));
  std::vector<float> out;
  for (int64_t row = 0; row < kRows; ++row) {
    std::vector<double> both = Normed(embedded.view().row(row), enorm, names.offset);
    const std::vector<double> second = Normed(hidden.view().row(row), hnorm, names.offset);
    both.insert(both.end(), second.begin(), second.end());
    for (auto at = matrix.begin(); at != matrix.end(); at += std::ssize(both)) {
      out.push_back(static_cast<float>(std::inner_product(both.begin(), both.end(), at, 0.0)));
    }
  }
  return out;
}

/// A model of the head's layer alone: token i is what enters it in row i.
void MakeLayerAlone(const std::string& from, const std::string& to, const HeadNames& names, Rows embedded,
                    Rows hidden) {
  CopyCheckpoint(from, to, [&](std::vector<EditableTensor>& tensors) {
    const std::vector<float> table = Projected(tensors, names, std::move(embedded), std::move(hidden));
    std::vector<EditableTensor> kept;
    for (EditableTensor& tensor : tensors) {
      if (tensor.name == names.norm) {
        tensor.name = "model.norm.weight";
      } else if (tensor.name.starts_with(names.layer)) {
        tensor.name = "model.layers.0." + tensor.name.substr(names.layer.size());
      } else if (tensor.name == "model.embed_tokens.weight") {
        tensor.dtype = DType::kF32;
        tensor.bytes.assign(4 * static_cast<size_t>(tensor.shape[0] * tensor.shape[1]), std::byte{0});
        std::ranges::copy(std::as_bytes(std::span(table)), tensor.bytes.begin());
      } else if (tensor.name != "lm_head.weight") {
        continue;
      }
      kept.push_back(tensor);
    }
    tensors = std::move(kept);
  });
  nlohmann::json config = nlohmann::json::parse(std::ifstream(from + "/config.json"));
  config.erase("num_nextn_predict_layers");
  config.erase("mtp_num_hidden_layers");
  if (config.contains("layer_types")) config["layer_types"] = {"full_attention"};
  config["num_hidden_layers"] = 1;
  config["first_k_dense_replace"] = 0;
  std::ofstream(to + "/config.json") << config;
}

class MtpTest : public testing::TestWithParam<std::string> {
 protected:
  MtpTest() {
    for (int32_t i = 0; i <= kRows; ++i) tokens_.push_back((37 * i + 11) % 331);
    next_.assign(tokens_.begin() + 1, tokens_.end());
    tokens_.pop_back();
  }
  std::vector<int32_t> tokens_;
  std::vector<int32_t> next_;  ///< Of each of them.
};

TEST_P(MtpTest, TheHeadIsItsLayerOverTheProjectionOfEmbeddingAndHiddenRow) {
  const std::string folder = MtpCheckpoint(GetParam());
  Runner whole(folder, true);
  Rows rows_of_model = whole.forward(tokens_);
  Rows hidden(kRows, whole.spec().width);
  ASSERT_EQ(whole.session().read_hidden(rows_of_model.view(), hidden.view()), absl::OkStatus());
  Rows x = whole.read_by_head(rows_of_model);
  TempFolder alone;
  MakeLayerAlone(folder, alone.path(), NamesOf(GetParam()), whole.embed(next_), hidden);
  whole.predict(next_, 0, kRows, x);
  ASSERT_EQ(whole.session().mtp_head(x.view(), 0), absl::OkStatus());

  Runner layer(alone.path(), false);
  std::vector<int32_t> rows(kRows);
  std::iota(rows.begin(), rows.end(), 0);
  Rows y = layer.forward(rows);
  ASSERT_EQ(layer.session().head(y.view(), 0), absl::OkStatus());
  const std::vector<float> expected = layer.scores();
  const std::vector<float> got = whole.scores();
  ASSERT_EQ(got.size(), expected.size());
  float largest = 0;
  for (size_t i = 0; i < got.size(); ++i) {
    // f32 sums of 640 products against those of doubles: some units of 2^-24 of logits below 32.
    EXPECT_NEAR(got[i], expected[i], 1e-3) << i;
    largest = std::max(largest, std::abs(expected[i] - expected[0]));
  }
  EXPECT_GT(largest, 1);  // They tell one from another.
}

TEST_P(MtpTest, ChunksHaveTheBitsOfOneShotAndTheModelHasItsOwn) {
  Runner whole(MtpCheckpoint(GetParam()), true);
  Runner plain(MtpCheckpoint(GetParam()), false);
  const Rows rows = whole.forward(tokens_);
  EXPECT_EQ(plain.forward(tokens_).values, rows.values);
  const Rows x = whole.read_by_head(rows);
  Rows once = x;
  whole.predict(next_, 0, kRows, once);
  Rows chunked = x;
  whole.predict(next_, 0, 7, chunked);
  whole.predict(next_, 7, 8, chunked);
  whole.predict(next_, 8, kRows, chunked);
  EXPECT_EQ(chunked.values, once.values);
  EXPECT_EQ(whole.forward(tokens_).values, rows.values);  // Whatever the head has done.
}

TEST_P(MtpTest, ACheckpointWithoutTheTensorsHasNoHeadWhateverItsConfigSays) {
  TempFolder folder;
  const HeadNames names = NamesOf(GetParam());
  CopyCheckpoint(MtpCheckpoint(GetParam()), folder.path(), [&](std::vector<EditableTensor>& tensors) {
    std::erase_if(tensors, [&](const auto& tensor) {
      return tensor.name.starts_with("mtp.") || tensor.name.starts_with(names.layer);
    });
  });
  const auto weights = ResolvedWeights::Open(folder.path());
  ASSERT_TRUE(weights.ok()) << ToString(weights.status());
  EXPECT_FALSE((*weights)->spec().mtp.has_value());
  // Half a head is an error.
  CopyCheckpoint(MtpCheckpoint(GetParam()), folder.path(), [&](std::vector<EditableTensor>& tensors) {
    std::erase_if(tensors, [&](const auto& tensor) { return tensor.name == names.hidden_norm; });
  });
  EXPECT_EQ(ResolvedWeights::Open(folder.path()).status().code(), absl::StatusCode::kNotFound);
}

INSTANTIATE_TEST_SUITE_P(Families, MtpTest,
                         testing::Values("glm4_moe", "deepseek_v3", "glm_moe_dsa", "qwen3_5_text"),
                         [](const auto& test) { return test.param; });

}  // namespace
}  // namespace shoal
