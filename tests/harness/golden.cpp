#include "harness/golden.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <set>

#include "base/check.h"
#include "base/status.h"
#include "formats/mapped_file.h"
#include "formats/safetensors.h"

namespace shoal {
namespace {

/// The tensors of one file by name.
class Tensors {
 public:
  static absl::StatusOr<Tensors> Open(const std::string& path) {
    ASSIGN_OR_RETURN(MappedFile file, MappedFile::Open(path));
    ASSIGN_OR_RETURN(SafetensorsHeader header, ParseSafetensorsHeader(file.bytes(), path));
    return Tensors(std::move(file), std::move(header));
  }

  const std::vector<TensorInfo>& infos() const { return header_.tensors; }

  template <class T>
  absl::StatusOr<std::vector<T>> read(const std::string& name, DType dtype,
                                      std::vector<int64_t>* shape = nullptr) const {
    for (const TensorInfo& info : header_.tensors) {
      if (info.name != name) continue;
      if (info.dtype != dtype)
        return InvalidArgument("{}: tensor '{}' has an unexpected dtype", file_.path(), name);
      std::vector<T> values(static_cast<size_t>(info.bytes.size()) / sizeof(T));
      std::memcpy(values.data(), file_.bytes().data() + info.bytes.begin,
                  static_cast<size_t>(info.bytes.size()));
      if (shape != nullptr) *shape = info.shape;
      return values;
    }
    return NotFound("{}: no tensor '{}'", file_.path(), name);
  }

 private:
  Tensors(MappedFile file, SafetensorsHeader header) : file_(std::move(file)), header_(std::move(header)) {}
  MappedFile file_;
  SafetensorsHeader header_;
};

/// log(sum(exp(row))) in double.
double LogSumExp(std::span<const float> row) {
  const double top = *std::max_element(row.begin(), row.end());
  double sum = 0;
  for (const float value : row) sum += std::exp(value - top);
  return top + std::log(sum);
}

/// Where the reference breaks ties by chance: what follows from taking the lowest position (tests/goldens/README.md).
absl::Status ReplaceTies(const std::string& folder, Golden& golden) {
  const std::filesystem::path path(folder);
  const std::string file =
      RepositoryPath(fmt::format("tests/goldens/lowest_ties/{}/{}.safetensors",
                                 path.parent_path().filename().string(), path.filename().string()));
  if (!std::filesystem::exists(file)) return absl::OkStatus();
  ASSIGN_OR_RETURN(const Tensors tensors, Tensors::Open(file));
  ASSIGN_OR_RETURN(golden.long_logits, tensors.read<float>("long_logits", DType::kF32));
  ASSIGN_OR_RETURN(golden.long_greedy, tensors.read<int32_t>("long_greedy", DType::kI32));
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<Golden> LoadGolden(const std::string& folder) {
  ASSIGN_OR_RETURN(const Tensors tensors, Tensors::Open(folder + "/expect.safetensors"));
  Golden golden;
  std::vector<int64_t> shape;
  ASSIGN_OR_RETURN(golden.logits, tensors.read<float>("logits", DType::kF32, &shape));
  golden.vocabulary = shape.back();
  ASSIGN_OR_RETURN(golden.prompt, tensors.read<int32_t>("prompt", DType::kI32));
  ASSIGN_OR_RETURN(golden.greedy, tensors.read<int32_t>("greedy", DType::kI32));
  ASSIGN_OR_RETURN(golden.long_prompt, tensors.read<int32_t>("long_prompt", DType::kI32));
  ASSIGN_OR_RETURN(golden.long_logits, tensors.read<float>("long_logits", DType::kF32));
  ASSIGN_OR_RETURN(golden.long_greedy, tensors.read<int32_t>("long_greedy", DType::kI32));
  for (const TensorInfo& info : tensors.infos()) {
    if (!info.name.starts_with("router.")) continue;
    ASSIGN_OR_RETURN(golden.router[std::stoi(info.name.substr(7))],
                     tensors.read<int32_t>(info.name, DType::kI32));
  }
  if (golden.logits.size() != golden.prompt.size() * static_cast<size_t>(golden.vocabulary)) {
    return InvalidArgument("{}: expected logits [prompt, V], got another number of rows", folder);
  }
  RETURN_IF_ERROR(ReplaceTies(folder, golden));
  return golden;
}

int32_t Argmax(std::span<const float> logits) {
  return static_cast<int32_t>(std::max_element(logits.begin(), logits.end()) - logits.begin());
}

LogitsDistance CompareLogits(std::span<const float> reference, std::span<const float> got,
                             int64_t vocabulary) {
  SHOAL_CHECK(reference.size() == got.size() && reference.size() % static_cast<size_t>(vocabulary) == 0);
  const auto v = static_cast<size_t>(vocabulary);
  const size_t rows = reference.size() / v;
  LogitsDistance distance;
  for (size_t r = 0; r < rows; ++r) {
    const auto want = reference.subspan(r * v, v);
    const auto have = got.subspan(r * v, v);
    const double want_sum = LogSumExp(want);
    const double have_sum = LogSumExp(have);
    double kl = 0;
    for (size_t i = 0; i < v; ++i) {
      const double difference = std::abs(static_cast<double>(want[i]) - static_cast<double>(have[i]));
      // Negated, so that a NaN becomes the distance.
      if (!(difference <= distance.max_abs)) distance.max_abs = difference;
      const double log_p = want[i] - want_sum;
      kl += std::exp(log_p) * (log_p - (have[i] - have_sum));
    }
    distance.mean_kl += kl / static_cast<double>(rows);
    distance.top1 += (Argmax(want) == Argmax(have) ? 1.0 : 0.0) / static_cast<double>(rows);
  }
  return distance;
}

double SameRouting(const std::map<int32_t, std::vector<int32_t>>& reference,
                   const std::map<int32_t, std::vector<int32_t>>& got, int64_t rows) {
  int64_t same = 0;
  int64_t all = 0;
  // The reference may number the blocks of a layer instead of layers: then the order tells.
  const bool by_number =
      std::ranges::all_of(reference, [&](const auto& of) { return got.contains(of.first); });
  auto next = got.begin();
  for (const auto& [layer, want] : reference) {
    const size_t k = want.size() / static_cast<size_t>(rows);
    const auto have = by_number ? got.find(layer) : next;
    if (next != got.end()) ++next;
    for (size_t r = 0; r < static_cast<size_t>(rows); ++r, ++all) {
      if (have == got.end() || have->second.size() != want.size()) continue;
      const auto set = [&](const std::vector<int32_t>& ids) {
        return std::set<int32_t>(ids.begin() + static_cast<std::ptrdiff_t>(r * k),
                                 ids.begin() + static_cast<std::ptrdiff_t>((r + 1) * k));
      };
      if (set(want) == set(have->second)) ++same;
    }
  }
  return all == 0 ? 1.0 : static_cast<double>(same) / static_cast<double>(all);
}

absl::StatusOr<GoldenReport> CompareWithGolden(const Golden& golden, const GoldenSubject& subject) {
  GoldenReport report;
  ASSIGN_OR_RETURN(const ModelRun run, subject(golden.prompt, static_cast<int>(golden.greedy.size())));
  if (run.logits.size() != golden.logits.size()) {
    return InvalidArgument("golden: got {} logits, expected {}", run.logits.size(), golden.logits.size());
  }
  report.prompt = CompareLogits(golden.logits, run.logits, golden.vocabulary);
  report.same_routing = SameRouting(golden.router, run.router, static_cast<int64_t>(golden.prompt.size()));
  report.greedy_equal = run.greedy == golden.greedy;
  ASSIGN_OR_RETURN(const ModelRun longer,
                   subject(golden.long_prompt, static_cast<int>(golden.long_greedy.size())));
  if (longer.logits.size() < golden.long_logits.size()) {
    return InvalidArgument("golden: got {} long logits, expected at least {}", longer.logits.size(),
                           golden.long_logits.size());
  }
  const std::span<const float> last = std::span(longer.logits).last(golden.long_logits.size());
  report.long_prompt = CompareLogits(golden.long_logits, last, golden.vocabulary);
  report.long_greedy_equal = longer.greedy == golden.long_greedy;
  return report;
}

std::string GoldenReport::to_string() const {
  const auto line = [](const LogitsDistance& d, bool equal) {
    return fmt::format("max {:.2e}, mean KL {:.2e}, top-1 {:.3f}, greedy {}", d.max_abs, d.mean_kl, d.top1,
                       equal ? "equal" : "differs");
  };
  return fmt::format("{}, routing {:.3f}; long: {}", line(prompt, greedy_equal), same_routing,
                     line(long_prompt, long_greedy_equal));
}

bool GoldensBesideExist() { return std::filesystem::exists(RepositoryPath("../shared/goldens")); }

GoldenCases GoldenFolders(const std::string& family) {
  // long: a line for each family
  struct Names {
    std::vector<std::string> here, beside;
    std::string folder = {};  // Where it is called otherwise than the family.
  };
  static const std::map<std::string, Names> kCases = {
      {"afmoe", {{}, {"plain"}}},
      {"apertus", {{}, {"plain"}}},
      {"bailing_hybrid", {{}, {"plain"}}},
      {"cohere2", {{}, {"plain"}}},
      {"deepseek", {{}, {"v1moe"}}},
      {"deepseek_v2", {{}, {"group_limited", "lite"}}},
      {"deepseek_v3", {{}, {"r1", "r1-q4g64"}}},
      {"deepseek_v4", {{}, {"flash"}}},
      {"deepseek_v32", {{}, {"plain"}}},
      {"dots1", {{}, {"plain"}}},
      {"ernie4_5", {{}, {"plain"}}},
      {"ernie4_5_moe", {{}, {"plain"}}},
      {"exaone4", {{}, {"plain"}}},
      {"exaone_moe", {{}, {"plain"}}},
      {"falcon_h1", {{}, {"plain"}}},
      {"gemma", {{}, {"plain"}}},
      {"gemma2", {{}, {"plain"}}},
      {"gemma3", {{}, {}}},
      {"gemma3_text", {{}, {"plain"}}},
      {"gemma3n", {{}, {"text"}}},
      {"gemma3n_text", {{}, {}}},
      {"gemma4", {{}, {"moe"}}},
      {"gemma4_text", {{"layer_inputs"}, {}, "gemma4"}},
      {"glm4", {{}, {"plain"}}},
      {"glm4_moe", {{}, {"qknorm"}}},
      {"glm4_moe_lite", {{}, {"plain"}}},
      {"glm_moe_dsa", {{}, {"plain", "plain-q4g64", "shared"}}},
      {"gpt_oss", {{}, {"bf16", "mxfp4", "mxfp4-q8g64"}}},
      {"granite", {{}, {"plain"}}},
      {"granitemoe", {{}, {"plain"}}},
      {"granitemoehybrid", {{}, {"dense", "plain"}}},
      {"hunyuan_v1_dense", {{}, {"plain"}}},
      {"hunyuan_v1_moe", {{}, {"plain"}}},
      {"jamba", {{}, {"plain"}}},
      {"kimi_k2", {{}, {"plain"}}},
      {"kimi_k25", {{}, {"text"}}},
      {"kimi_linear", {{}, {"plain"}}},
      {"lfm2", {{}, {"plain"}}},
      {"lfm2_moe", {{}, {"plain", "plain-q4g64"}}},
      {"llama",
       {{"llama3_rope_tied", "plain", "plain-q3g64", "plain-q4g64", "plain-gguf-f16", "plain-gguf-q8_0"},
        {"bias_mha", "plain-gguf-q4_0", "wide-gguf-q4_k_m"}}},
      {"llama4", {{}, {"scout"}}},
      {"llama4_text", {{}, {}}},
      {"longcat_flash", {{}, {"plain"}}},
      {"mamba2", {{}, {"plain"}}},
      {"mimo", {{}, {"plain"}}},
      {"mimo_v2_flash", {{}, {"plain"}}},
      {"minimax_m2", {{}, {"plain"}}},
      {"minimax_m3_vl", {{}, {"text"}, "minimax_m3"}},
      {"minimax_m3_vl_text", {{}, {}}},
      {"ministral3", {{}, {"plain"}}},
      {"mistral", {{}, {"swa"}}},
      {"mistral3", {{}, {"ministral", "ministral-q4g64", "small"}}},
      {"mistral4", {{}, {"text"}}},
      {"mixtral", {{}, {"plain"}}},
      {"nanochat", {{}, {"plain"}}},
      {"nemotron_h", {{}, {"dense", "moe"}}},
      {"olmo2", {{}, {"plain"}}},
      {"olmo3", {{}, {"plain"}}},
      {"olmoe", {{}, {"plain"}}},
      {"phi", {{"plain"}, {}}},
      {"phi3", {{}, {"longrope", "mini4k"}}},
      {"phimoe", {{}, {"plain"}}},
      {"qwen2", {{"tied"}, {"untied"}}},
      {"qwen2_5_vl", {{}, {"text"}}},
      {"qwen2_moe", {{"plain"}, {}}},
      {"qwen3",
       {{"tied", "tied-q4g32", "tied-q4g64", "tied-q6g64", "tied-q8g64", "tied-gguf-q8_0"}, {"yarn_untied"}}},
      {"qwen3_5", {{}, {"dense", "dense-q4g64", "tied"}}},
      {"qwen3_5_moe", {{}, {"plain", "plain-q4g64"}}},
      {"qwen3_5_moe_text", {{}, {}}},
      {"qwen3_5_text", {{}, {"plain"}}},
      {"qwen3_moe", {{"plain", "plain-mixed46", "plain-q4g64", "plain-gguf-q4_0"}, {"sparse_step"}}},
      {"qwen3_next", {{}, {"plain", "plain-q4g64"}}},
      {"qwen3_vl", {{}, {"text"}}},
      {"qwen3_vl_moe", {{}, {"text"}}},
      {"seed_oss", {{}, {"plain"}}},
      {"smollm3", {{}, {"plain"}}},
      {"solar_open", {{}, {"plain"}}},
      {"stablelm", {{}, {"plain"}}},
      {"starcoder2", {{}, {"plain"}}},
      {"step3p5", {{}, {"plain"}}},
  };
  const Names& names = kCases.at(family);
  const std::string& models = names.folder.empty() ? family : names.folder;
  GoldenCases cases;
  for (const std::string& name : names.here) {
    cases.here.push_back(RepositoryPath(fmt::format("tests/goldens/models/{}/{}", models, name)));
  }
  for (const std::string& name : names.beside) {
    cases.beside.push_back(RepositoryPath(fmt::format("../shared/goldens/models/{}/{}", models, name)));
  }
  return cases;
}

std::string RepositoryPath(const std::string& relative) {
  return std::string(SHOAL_SOURCE_DIR) + "/" + relative;
}

}  // namespace shoal
