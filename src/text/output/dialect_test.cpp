#include "text/output/dialect.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <iterator>
#include <set>

#include "text/test_data.h"

namespace shoal {
namespace {

using testing::HasSubstr;

/// What the templates of public models are, by the names of their files: those of tests/goldens/text/chat/templates
/// and of llama.cpp's models/templates.
struct KnownTemplate {
  std::string_view name, tools, reasoning;
};
constexpr KnownTemplate kKnown[] = {
    {"Apertus-8B-Instruct", "apertus", "apertus"},
    {"Apriel-1.6-15b-Thinker-fixed", "apriel", "apriel"},
    {"Bielik-11B-v3.0-Instruct", "hermes", "think"},
    {"ByteDance-Seed-OSS", "seed-oss", "seed-oss"},
    {"Cohere2MoE", "command-r", "command-r"},
    {"CohereForAI-c4ai-command-r-plus-tool_use", "command-r-plus", "none"},
    {"CohereForAI-c4ai-command-r7b-12-2024-tool_use", "command-r", "command-r"},
    {"GLM-4.6", "glm", "think"},
    {"GLM-4.7-Flash", "glm", "think"},
    {"GigaChat3-10B-A1.8B", "gigachat", "none"},
    {"GigaChat3.1-10B-A1.8B", "gigachat", "none"},
    {"HuggingFaceTB-SmolLM3-3B", "hermes", "think"},
    {"Kimi-K2-Instruct", "kimi-k2", "none"},
    {"Kimi-K2-Thinking", "kimi-k2", "think"},
    {"Kimi-K3", "kimi-k3", "kimi-k3"},
    {"LFM2-8B-A1B", "lfm2", "none"},
    {"LFM2.5-8B-A1B", "lfm2", "think"},
    {"LFM2.5-Instruct", "lfm2", "think"},
    {"MiMo-VL", "hermes", "none"},
    {"MiniMax-M1", "apriel", "none"},
    {"MiniMax-M2", "minimax-m2", "think"},
    {"MiniMax-M3", "minimax-m3", "minimax-m3"},
    {"Mistral-Small-3.2-24B-Instruct-2506", "mistral", "none"},
    {"NVIDIA-Nemotron-3-Nano-30B-A3B-BF16", "qwen3-coder", "think"},
    {"NVIDIA-Nemotron-Nano-v2", "nemotron", "think"},
    {"NousResearch-Hermes-2-Pro-Llama-3-8B-tool_use", "hermes", "none"},
    {"NousResearch-Hermes-3-Llama-3.1-8B-tool_use", "hermes", "none"},
    {"Qwen-QwQ-32B", "hermes", "think"},
    {"Qwen-Qwen2.5-7B-Instruct", "hermes", "none"},
    {"Qwen-Qwen3-0.6B", "hermes", "think"},
    {"Qwen3-Coder", "qwen3-coder", "none"},
    {"Qwen3.5-4B", "qwen3-coder", "think"},
    {"Reka-Edge", "hermes", "think"},
    {"Spark2.5", "glm", "think"},
    {"StepFun3.5-Flash", "qwen3-coder", "think"},
    {"deepseek-ai-DeepSeek-R1-Distill-Llama-8B", "deepseek", "think"},
    {"deepseek-ai-DeepSeek-R1-Distill-Qwen-32B", "deepseek", "think"},
    {"deepseek-ai-DeepSeek-V3.1", "deepseek", "think"},
    {"deepseek-ai-DeepSeek-V3.2", "deepseek-v3.2", "think"},
    {"deepseek-ai-DeepSeek-V4", "deepseek-v3.2", "think"},
    {"deepseek-ai-DeepSeek-V4-Flash-0731", "deepseek-v3.2", "think"},
    {"fireworks-ai-llama-3-firefunction-v2", "firefunction", "none"},
    {"google-gemma-2-2b-it", "none", "none"},
    {"google-gemma-4-31B-it", "gemma4", "gemma4"},
    {"google-gemma-4-31B-it-interleaved", "gemma4", "gemma4"},
    {"ibm-granite-granite-3.3-2B-Instruct", "granite", "granite"},
    {"ibm-granite-granite-4.0", "hermes", "none"},
    {"ibm-granite-granite-4.1", "hermes", "none"},
    {"inclusionai-ling-3.0-flash", "glm", "think"},
    {"llama-cpp-deepseek-r1", "deepseek", "think"},
    {"llama-cpp-rwkv-world", "none", "think"},
    {"meetkai-functionary-medium-v3.1", "functionary-v3.1", "none"},
    {"meetkai-functionary-medium-v3.2", "functionary-v3.2", "none"},
    {"meta-llama-Llama-3.1-8B-Instruct", "llama3", "none"},
    {"meta-llama-Llama-3.2-3B-Instruct", "llama3", "none"},
    {"meta-llama-Llama-3.3-70B-Instruct", "llama3", "none"},
    {"microsoft-Phi-3.5-mini-instruct", "none", "none"},
    {"mistralai-Ministral-3-14B-Reasoning-2512", "mistral", "mistral"},
    {"mistralai-Mistral-Nemo-Instruct-2407", "mistral", "none"},
    {"moonshotai-Kimi-K2", "kimi-k2", "none"},
    {"muse-glimmer", "atem", "none"},
    {"openai-gpt-oss-120b", "harmony", "harmony"},
    {"openbmb-MiniCPM5-1B", "minicpm", "think"},
    {"poolside-Laguna-S-2.1", "glm", "think"},
    {"poolside-Laguna-XS-2.1", "glm", "think"},
    {"poolside-Laguna-XS.2", "glm", "think"},
    {"tencent-Hy3", "hunyuan", "hunyuan"},
    {"unsloth-Apriel-1.5", "apriel", "apriel"},
    {"unsloth-mistral-Devstral-Small-2507", "mistral", "none"},
    {"upstage-Solar-Open-100B", "solar", "solar"},
};

bool NoToken(std::string_view /*name*/) { return false; }

Dialect Recognized(const std::filesystem::path& path) {
  return RecognizeDialect(test::FileText(path), NoToken);
}

int CheckFolder(const std::filesystem::path& folder) {
  int templates = 0;
  for (const auto& entry : std::filesystem::directory_iterator(folder)) {
    if (entry.path().extension() != ".jinja") continue;
    ++templates;
    const std::string name = entry.path().stem();
    const auto known = std::ranges::find(kKnown, name, &KnownTemplate::name);
    const Dialect got = Recognized(entry.path());
    if (known == std::end(kKnown)) {
      ADD_FAILURE() << name << " is not in the table: " << got.tools << ", " << got.reasoning;
      continue;
    }
    EXPECT_EQ(got.tools, known->tools) << name;
    EXPECT_EQ(got.reasoning, known->reasoning) << name;
  }
  return templates;
}

TEST(Dialect, IsRecognizedFromTheTemplates) {
  EXPECT_EQ(CheckFolder(test::Goldens() / "chat/templates"), 17);
  const auto shared = test::SourceDir() / "../shared/goldens/text/chat/templates";
  if (std::filesystem::exists(shared)) CheckFolder(shared);
}

// The templates of a folder that tools/templates/render.py made; they are not ours to copy.
TEST(Dialect, IsRecognizedFromMoreTemplates) {
  const char* const folder = std::getenv("SHOAL_TEMPLATES");
  if (folder == nullptr) GTEST_SKIP() << "SHOAL_TEMPLATES names no folder of tools/templates/render.py";
  EXPECT_GT(CheckFolder(std::filesystem::path(folder) / "templates"), 0);
}

TEST(Dialect, ATokenSaysWhatATemplateDoesNot) {
  const auto think = [](std::string_view name) { return name == "<think>"; };
  EXPECT_EQ(RecognizeDialect("{{ messages }}", think), (Dialect{"none", "think"}));
  EXPECT_EQ(RecognizeDialect("{{ messages }}", NoToken), (Dialect{}));
}

TEST(Dialect, FlagsOverrideWhatIsRecognized) {
  const Dialect recognized = {"hermes", "think"};
  EXPECT_EQ(*ChooseDialect(recognized, "auto", "auto"), recognized);
  EXPECT_EQ(*ChooseDialect(recognized, "mistral", "none"), (Dialect{"mistral", "none"}));
  EXPECT_EQ(*ChooseDialect(recognized, "harmony", "harmony"), (Dialect{"harmony", "harmony"}));
  const auto unknown = ChooseDialect(recognized, "hermess", "auto");
  EXPECT_EQ(unknown.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(unknown.status().message()), HasSubstr("one of: auto, none, harmony, deepseek"));
  EXPECT_FALSE(ChooseDialect(recognized, "harmony", "think").ok());
  EXPECT_FALSE(ChooseDialect(recognized, "auto", "thinking").ok());
}

TEST(Dialect, NamesAreUniqueAndMarksDoNotContainOneAnother) {
  std::set<std::string> names;
  for (const Dialect& dialect : Dialects()) {
    EXPECT_TRUE(names.insert(dialect.tools).second) << dialect.tools;
    const ToolFormat* format = FindToolFormat(dialect.tools);
    if (format == nullptr) continue;
    std::vector<std::string> marks = format->openers;
    const std::vector<std::string> closers = format->syntax().closers;
    marks.insert(marks.end(), closers.begin(), closers.end());
    for (const std::string& a : marks) {
      EXPECT_NE(a, "") << dialect.tools;
      for (const std::string& b : marks)
        EXPECT_TRUE(&a == &b || !a.contains(b)) << dialect.tools << ": " << a << b;
    }
  }
}

}  // namespace
}  // namespace shoal
