// A conversation to the text that the model was trained on, as transformers' apply_chat_template makes it.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include "base/status.h"

struct ShoalTemplate;

namespace shoal {

/// What to render. JSON texts; an empty one is an absent one.
struct ChatRequest {
  std::string_view messages;     ///< [{"role": "user", "content": "Hi"}, ...]
  std::string_view tools = {};   ///< [{"type": "function", "function": {...}}, ...]
  std::string_view kwargs = {};  ///< {"enable_thinking": false, ...}: further variables of the template.
  bool add_generation_prompt = true;
  /// Ends the text where the final message ends, for the model to go on with it.
  bool continue_final_message = false;
  /// What strftime_now shows, in seconds since 1970 as the wall shows them; the local time now where absent.
  std::optional<int64_t> local_seconds = std::nullopt;
};

/// Immutable; `render` may be called by many threads at once. The template comes from elsewhere: its
/// time is bounded, and its memory, by 256 MiB and 64 bytes for every byte of the request. One that asks for
/// more is refused from then on; what it had taken stays taken.
class ChatTemplate {
 public:
  /// From chat_template.jinja of a model folder, else from `chat_template` of its tokenizer_config.json,
  /// which also gives the special tokens. NotFound where the model has none; InvalidArgument names the line
  /// of a syntax error.
  static absl::StatusOr<ChatTemplate> Load(const std::filesystem::path& folder);
  /// From the texts of both files, empty where absent.
  static absl::StatusOr<ChatTemplate> FromText(std::string_view jinja, std::string_view tokenizer_config);

  /// FailedPrecondition with the template's own words where it refuses the conversation; InvalidArgument
  /// where the request is no JSON of the right shape, or the template fails on it (naming its line).
  absl::StatusOr<std::string> render(const ChatRequest& request) const;

 private:
  struct Free {
    void operator()(ShoalTemplate* handle) const;
  };
  explicit ChatTemplate(ShoalTemplate* handle) : handle_(handle) {}

  std::unique_ptr<ShoalTemplate, Free> handle_;
};

}  // namespace shoal
