// Renders a conversation to the prompt that a model was trained on, as transformers' apply_chat_template
// does.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/status.h"
#include "text/tokenizer.h"

struct ShoalTemplate;

namespace shoal {

/// A conversation to render. The texts are JSON; an empty text means that there is none.
struct ChatRequest {
  std::string_view messages;     ///< [{"role": "user", "content": "Hi"}, ...]
  std::string_view tools = {};   ///< [{"type": "function", "function": {...}}, ...]
  std::string_view kwargs = {};  ///< {"enable_thinking": false, ...}: further variables of the template.
  bool add_generation_prompt = true;
  /// Ends the text with the final message, so that the model continues it.
  bool continue_final_message = false;
  /// Where the template refuses the conversation: tries it with the system texts merged in front, then also
  /// with neighbours of one role joined, then with the system's text at the head of the first user message.
  bool reshape = false;
  /// The time that strftime_now shows, in seconds since 1970 of local time; the current time if absent.
  std::optional<int64_t> local_seconds = std::nullopt;
};

/// A rendered conversation.
struct RenderedPrompt {
  std::string text;
  std::vector<int32_t> ids;
};

/// Immutable; many threads may call `render` at once. Templates are not trusted: their time is bounded, and
/// their memory, by 256 MiB plus 64 bytes for every byte of the request. A template that exceeds its memory
/// is refused from then on; the memory that it took is not given back.
class ChatTemplate {
 public:
  /// Reads chat_template.jinja of a model folder, or else `chat_template` of its tokenizer_config.json, which
  /// also gives the special tokens. Returns NotFound if the model has no template, InvalidArgument, naming
  /// the line, for a syntax error.
  static absl::StatusOr<ChatTemplate> Load(const std::filesystem::path& folder);
  /// As Load, from the texts of the two files; a missing file is an empty text.
  static absl::StatusOr<ChatTemplate> FromText(std::string_view jinja, std::string_view tokenizer_config);

  /// Returns FailedPrecondition with the template's own message if it raises an exception; InvalidArgument if
  /// the request is not JSON of the right shape, or if the template fails on it (naming its line).
  absl::StatusOr<std::string> render(const ChatRequest& request) const;

  /// The rendered text with its ids, in which control tokens come from the template alone. A control token
  /// that a text of the request spells, also in part, becomes the ids of its characters; all other ids are
  /// those of the rendered text with control tokens. One exception: an assistant's text keeps the marks of
  /// thinking and calls ("<think>", "<tool_call>") that models write in their answers, for templates look for
  /// them. Errors as render().
  absl::StatusOr<RenderedPrompt> encode(const ChatRequest& request, const Tokenizer& tokenizer) const;

  /// For the other functions of this folder.
  const ShoalTemplate* handle() const { return handle_.get(); }

  /// The text of the template; of all, where there are several.
  const std::string& source() const { return source_; }

 private:
  struct Free {
    void operator()(ShoalTemplate* handle) const;
  };
  ChatTemplate(ShoalTemplate* handle, std::string source) : handle_(handle), source_(std::move(source)) {}

  std::unique_ptr<ShoalTemplate, Free> handle_;
  std::string source_;
};

}  // namespace shoal
