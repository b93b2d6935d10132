#include "text/chat_template.h"

#include <ctime>
#include <nlohmann/json.hpp>

#include "base/clock.h"
#include "base/file.h"
#include "base/json.h"
#include "text/bridge.h"

namespace shoal {
namespace {

/// A tokenizer_config.json may list all added tokens, which takes a few MB.
constexpr int64_t kFileBytesMax = 64 << 20;

/// The text of the file; empty if there is no such file.
absl::StatusOr<std::string> ReadIfThere(const std::filesystem::path& path) {
  auto text = ReadTextFile(path, kFileBytesMax);
  if (absl::IsNotFound(text.status())) return std::string();
  return text;
}

/// The templates in a tokenizer_config.json; empty where it is not as expected, of which the bridge tells.
std::string TemplatesOf(std::string_view tokenizer_config) {
  nlohmann::json config;
  if (!ReadJson(tokenizer_config, {.depth_max = 64}, &config).ok() || !config.is_object()) return "";
  const auto found = config.find("chat_template");
  if (found == config.end()) return "";
  if (found->is_string()) return found->get<std::string>();
  std::string all;
  if (!found->is_array()) return all;
  for (const auto& one : *found) {
    if (one.is_object() && one.contains("template") && one["template"].is_string()) {
      all += one["template"].get<std::string>() + "\n";
    }
  }
  return all;
}

int64_t LocalSeconds() {
  const auto now = static_cast<std::time_t>(UnixSeconds());
  std::tm local{};
  if (localtime_r(&now, &local) == nullptr) return now;
  return timegm(&local);
}

ShoalRenderRequest BridgeRequest(const ChatRequest& request) {
  return {
      .messages = bridge::Slice(request.messages),
      .tools = bridge::Slice(request.tools),
      .kwargs = bridge::Slice(request.kwargs),
      .local_seconds = request.local_seconds ? *request.local_seconds : LocalSeconds(),
      .add_generation_prompt = request.add_generation_prompt,
      .continue_final_message = request.continue_final_message,
      .reshape = request.reshape,
  };
}

}  // namespace

void ChatTemplate::Free::operator()(ShoalTemplate* handle) const { shoal_template_free(handle); }

absl::StatusOr<ChatTemplate> ChatTemplate::Load(const std::filesystem::path& folder) {
  ASSIGN_OR_RETURN(const std::string jinja, ReadIfThere(folder / "chat_template.jinja"));
  ASSIGN_OR_RETURN(const std::string config, ReadIfThere(folder / "tokenizer_config.json"));
  auto chat_template = FromText(jinja, config);
  if (!chat_template.ok()) return Annotate(chat_template.status(), folder.string());
  return chat_template;
}

absl::StatusOr<ChatTemplate> ChatTemplate::FromText(std::string_view jinja,
                                                    std::string_view tokenizer_config) {
  ShoalTemplate* handle = nullptr;
  ShoalBytes error{};
  const int32_t code =
      shoal_template_new(bridge::Slice(jinja), bridge::Slice(tokenizer_config), &handle, &error);
  RETURN_IF_ERROR(bridge::Result(code, error));
  return ChatTemplate(handle, jinja.empty() ? TemplatesOf(tokenizer_config) : std::string(jinja));
}

absl::StatusOr<std::string> ChatTemplate::render(const ChatRequest& request) const {
  const ShoalRenderRequest raw = BridgeRequest(request);
  ShoalBytes text{};
  ShoalBytes error{};
  RETURN_IF_ERROR(bridge::Result(shoal_template_render(handle_.get(), &raw, &text, &error), error));
  return bridge::Take(text);
}

absl::StatusOr<RenderedPrompt> ChatTemplate::encode(const ChatRequest& request,
                                                    const Tokenizer& tokenizer) const {
  const ShoalRenderRequest raw = BridgeRequest(request);
  ShoalBytes text{};
  ShoalIds ids{};
  ShoalBytes error{};
  RETURN_IF_ERROR(bridge::Result(
      shoal_template_encode(handle_.get(), tokenizer.handle(), &raw, &text, &ids, &error), error));
  return RenderedPrompt{bridge::Take(text), bridge::Take(ids)};
}

}  // namespace shoal
