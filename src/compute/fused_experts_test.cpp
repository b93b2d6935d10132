// Experts as transformers 5 holds them, gate_up_proj [E, 2F, D] and down_proj [E, D, F], are the model whose experts
// stand alone: the same logits, to the bit.
#include <gtest/gtest.h>

#include <map>
#include <string>
#include <vector>

#include "compute/testing/gguf_converter.h"
#include "convert/testing/checkpoints.h"

namespace shoal {
namespace {

constexpr int64_t kFusedExperts = 13;

/// One of the experts' matrices: "…mlp.experts.7.gate_proj.weight" is 7, its part, and "…mlp.experts.".
struct ExpertName {
  std::string base;
  int64_t expert = 0;
  int part = 0;  ///< 0: gate, 1: up, 2: down.
};

std::optional<ExpertName> AsExpert(const std::string& name) {
  constexpr std::string_view kExpertsWord = ".experts.";
  const size_t at = name.find(kExpertsWord);
  if (at == std::string::npos) return std::nullopt;
  const size_t digits = at + kExpertsWord.size();
  const size_t dot = name.find('.', digits);
  if (dot == std::string::npos || dot == digits || name[digits] < '0' || name[digits] > '9')
    return std::nullopt;
  const std::string part = name.substr(dot + 1);
  const bool gate = part == "gate_proj.weight" || part == "w1.weight";
  const bool up = part == "up_proj.weight" || part == "w3.weight";
  return ExpertName{name.substr(0, digits), std::stoll(name.substr(digits, dot - digits)),
                    gate ? 0
                    : up ? 1
                         : 2};
}

/// As mixtral and its relatives are called by transformers 5.
void RenameBlocks(std::string& name, const std::string& router) {
  const bool block = gguf_testing::Replace(name, ".block_sparse_moe.gate.", ".mlp." + router + ".") ||
                     gguf_testing::Replace(name, ".block_sparse_moe.", ".mlp.");
  static_cast<void>(block);
}

void FuseAll(std::vector<EditableTensor>& tensors, const std::string& router) {
  std::map<std::string, std::map<int64_t, std::array<std::vector<std::byte>, 3>>> layers;
  std::vector<EditableTensor> result;
  std::vector<int64_t> up_shape;
  DType dtype = DType::kBF16;
  for (EditableTensor& tensor : tensors) {
    const auto expert = AsExpert(tensor.name);
    if (!expert) {
      RenameBlocks(tensor.name, router);
      result.push_back(std::move(tensor));
      continue;
    }
    dtype = tensor.dtype;
    if (expert->part == 1) up_shape = tensor.shape;
    layers[expert->base][expert->expert][static_cast<size_t>(expert->part)] = std::move(tensor.bytes);
  }
  for (auto& [base, experts] : layers) {
    ASSERT_EQ(std::ssize(experts), kFusedExperts);
    std::vector<std::byte> gate_up;
    std::vector<std::byte> down;
    for (const auto& [number, parts] : experts) {
      gate_up.insert(gate_up.end(), parts[0].begin(), parts[0].end());
      gate_up.insert(gate_up.end(), parts[1].begin(), parts[1].end());
      down.insert(down.end(), parts[2].begin(), parts[2].end());
    }
    std::string name = base;
    RenameBlocks(name, router);
    result.push_back(
        {name + "gate_up_proj", dtype, {kFusedExperts, 2 * up_shape[0], up_shape[1]}, std::move(gate_up)});
    result.push_back({name + "down_proj", dtype, {kFusedExperts, up_shape[1], up_shape[0]}, std::move(down)});
  }
  tensors = std::move(result);
}

TEST(FusedExperts, HaveTheBitsOfThoseThatStandAlone) {
  for (const std::string family :
       {"qwen3_moe", "mixtral", "olmoe", "phimoe", "minimax_m2", "deepseek_v3", "glm4_moe", "qwen2_moe",
        "qwen3_next", "ernie4_5_moe", "exaone_moe", "dots1"}) {
    SCOPED_TRACE(family);
    const TempFolder alone;
    gguf_testing::Synthesize(family, {}, alone.path());
    const TempFolder fused;
    CopyCheckpoint(alone.path(), fused.path(), [&](std::vector<EditableTensor>& tensors) {
      FuseAll(tensors, family == "phimoe" ? "router" : "gate");
    });
    gguf_testing::ExpectSameBits(fused.path(), alone.path());
  }
}

}  // namespace
}  // namespace shoal
