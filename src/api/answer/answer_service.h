// What every API that generates needs of the served model: its names, prompts from conversations and texts, and
// the way of a request through the scheduler to an AnswerWriter. Knows no wire format.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "api/answer/answer_sink.h"
#include "api/answer/answer_writer.h"
#include "api/answer/sampling_fields.h"
#include "api/api_error.h"
#include "api/http/server.h"
#include "api/metrics.h"
#include "api/retry/answer_record.h"
#include "api/structure/grammar_service.h"
#include "api/structure/tool_grammar.h"
#include "api/trace/tracer.h"
#include "base/clock.h"
#include "sched/scheduler.h"
#include "text/chat_template.h"
#include "text/fill_in_middle.h"
#include "text/tokenizer.h"

namespace shoal {

/// The model's text side. `chat` is empty where the model has no chat template.
struct ServedText {
  Tokenizer tokenizer;
  std::optional<ChatTemplate> chat;
};

/// Priorities of one caller's requests: the lower, the earlier.
struct CallerPriority {
  int usual = 0;            ///< Of a request that does not say.
  int best = kPriorityMin;  ///< The lowest that a request may ask for.
};

struct AnswerServiceOptions {
  std::vector<std::string> model_names;  ///< At least one; answers carry the first.
  int32_t vocabulary = 0;                ///< Number of logits.
  std::vector<int32_t> eos_ids;
  SamplingDefaults sampling;
  Duration request_deadline = std::chrono::seconds(600);
  /// What priorities a caller's requests have, by HttpRequest::caller. Empty: CallerPriority{} for all.
  std::function<CallerPriority(const std::string& caller)> caller_priority = {};
  /// How the answer to a conversation is read, which `prompt` is the rendered text of (it may end within the
  /// model's reasoning). Empty: all is content. Here the parsers of tool calls and reasoning plug in.
  std::function<OutputFormat(const ChatRequest& chat, std::string_view prompt)> chat_format = {};
  /// The same for grammars: how the model writes calls and reasoning. Empty: neither.
  std::function<AnswerFormat(std::string_view prompt)> answer_format = {};
  /// Of requests that clients may send again; nullptr: none are kept.
  std::shared_ptr<AnswerRecords> records = nullptr;
  /// Of requests that are traced, and how the plan in force calls a node there; nullptr: none are.
  std::shared_ptr<Tracer> tracer = nullptr;
  std::function<std::string(NodeId)> node_name = {};
};

/// A conversation, ready to be answered.
struct ChatPrompt {
  std::string text;
  std::vector<int32_t> tokens;
  OutputFormat format;   ///< Of the answer.
  AnswerFormat written;  ///< The same for grammars.
};

/// A conversation for the chat template.
struct Conversation {
  std::string messages;  ///< JSON.
  /// The same, to be tried where the template can't take `messages`; empty where there is none.
  std::string fallback_messages = {};
  std::string tools = {};   ///< JSON; empty for none.
  std::string kwargs = {};  ///< JSON; empty for none.
  bool add_generation_prompt = true;
  /// The model goes on with the final message; kIfPossible: unless the template does not allow it.
  enum class Continue : uint8_t { kNo, kIfPossible, kYes };
  Continue continue_final = Continue::kNo;
};

/// What is to be generated, whatever API asked for it.
struct AnswerOrder {
  std::string id;                             ///< "chatcmpl-..."
  std::vector<std::vector<int32_t>> prompts;  ///< At least one.
  const char* prompt_field = "messages";      ///< Where prompts are in the request, for errors.
  int choices_per_prompt = 1;
  bool score_prompts = false;  ///< The writer is told how likely the tokens of each prompt were.
  SamplingFields sampling;
  /// Absent: the rest of the context, which bounds it anyway. 0: nothing; prompts are computed all the same.
  std::optional<int64_t> max_tokens;
  int64_t min_tokens = 0;  ///< Neither an end-of-text token nor a stop string ends the text before.
  std::vector<std::string> stop;
  std::vector<int32_t> stop_token_ids;  ///< End the text as the end-of-text tokens do.
  std::optional<int> priority;          ///< Absent: the caller's.
  bool ignore_eos = false;              ///< Those of the model do not end it, unless `constraint` says so.
  std::shared_ptr<const TokenConstraint>
      constraint;  ///< What the text must match; nullptr: any text will do.
  OutputFormat format;
};

class AnswerService {
 public:
  /// All must outlive it.
  AnswerService(AnswerServiceOptions options, const ServedText& text, Scheduler& scheduler, Metrics& metrics);

  const std::vector<std::string>& model_names() const { return options_.model_names; }
  int32_t vocabulary() const { return options_.vocabulary; }
  const Tokenizer& tokenizer() const { return text_.tokenizer; }

  /// From now on requests are refused; those in progress go on. From any thread.
  void drain() { draining_ = true; }
  bool draining() const { return draining_; }

  /// The priority of a request of this caller that asks for `asked`; absent: the caller's usual one.
  ApiResult<int> priority_for(std::optional<int> asked, const std::string& caller) const;

  /// That a request means this model. Absent: it does.
  std::optional<ApiError> check_model(const std::optional<std::string>& name) const;

  /// Renders and encodes a conversation, in another shape where the template refuses it as it is. Errors name
  /// `field`.
  ApiResult<ChatPrompt> chat_prompt(const Conversation& conversation, const char* field) const;
  /// The tokens of a text that is to be continued. Errors name `field`.
  ApiResult<std::vector<int32_t>> text_prompt(std::string_view text, const char* field) const;

  /// The tokens that ask for what stands between two texts. A model that was not trained for it is an error that
  /// names "suffix"; what is wrong with a text names "prompt".
  ApiResult<FillInMiddle> fill_in_middle(const AroundMiddle& around) const;

  /// Binds the order's text to `structure`, if there is one, which may take a moment to compile.
  std::optional<ApiError> constrain(const std::optional<Structure>& structure, AnswerOrder& order);

  /// Positions that a prompt and its answer may have together; 0 while the cluster has never been up.
  int64_t context() const { return PositionsMax(scheduler_.stats().limits); }

  /// Generates: all further goes to `answer`, which `writer`'s client gets. On an error nothing has begun, and the
  /// caller answers.
  std::optional<ApiError> start(AnswerOrder order, std::unique_ptr<AnswerWriter> answer,
                                const std::shared_ptr<ResponseWriter>& writer);

  /// For a request that is about to be queued; nullptr: it is not traced.
  std::shared_ptr<RequestTrace> trace(const ResponseWriter& writer, int64_t prompt_tokens, int choices) const;

  /// That a prompt has tokens, and that the model knows them: a tokenizer may have more (a fine-tune that added some).
  std::optional<ApiError> check_tokens(const std::vector<int32_t>& prompt) const;

 private:
  /// Begins a record of what is generated for a request that may come again. An error where its key came with another.
  std::optional<ApiError> record(const std::optional<RepeatKey>& key) const;
  GenerationRequest generation(const AnswerOrder& order, const std::vector<int32_t>& prompt) const;

  const AnswerServiceOptions options_;
  const ServedText& text_;
  GrammarService grammars_;
  Scheduler& scheduler_;
  Metrics& metrics_;
  std::atomic<bool> draining_ = false;
};

/// A model's name without ":latest", with which Ollama lists it, and which its clients send to every API.
std::string_view WithoutLatest(std::string_view name);

/// What a request gets while the server drains.
ApiError ShuttingDown();

/// The seed that the request says, or one that it has each time that it is sent, or one from the operating system.
uint64_t SeedFor(const SamplingFields& sampling, const ResponseWriter& writer);

/// `prefix` and 16 hexadecimal digits that no other request has.
std::string NewAnswerId(std::string_view prefix, const ResponseWriter& writer);

}  // namespace shoal
