// Any body: what it says an answer must be, and its tools in every format of calls, becomes a grammar that lets some token
// come next and takes it, or a 400 that renders; never a crash. The first byte picks the format.
#include <bit>
#include <cstddef>
#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <vector>

#include "api/openai/request.h"
#include "api/structure/structure.h"
#include "api/structure/tool_grammar.h"
#include "api/testing/byte_text.h"
#include "base/check.h"
#include "base/status.h"
#include "text/gbnf.h"
#include "text/grammar.h"
#include "text/output/dialect.h"

namespace shoal {
namespace {

constexpr int kStepsMax = 12;

const Tokenizer& ByteTokenizer() {
  static const ServedText text = ByteText();
  return text.tokenizer;
}

const GrammarCompiler& Compiler() {
  static const GrammarCompiler compiler = [] {
    auto made = GrammarCompiler::Create(ByteTokenizer(), kByteVocabulary, std::vector{kByteEos});
    SHOAL_CHECK(made.ok());
    return *std::move(made);
  }();
  return compiler;
}

void CheckRefusal(const ApiError& error) {
  SHOAL_CHECK_EQ(error.status, 400);
  SHOAL_CHECK(!error.message.empty() && !ErrorBody(error).empty());
}

/// The lowest or the highest token that may come next; -1: there is none.
int32_t Allowed(const std::vector<uint32_t>& words, bool highest) {
  const auto count = static_cast<int32_t>(words.size());
  for (int32_t i = 0; i < count; ++i) {
    const int32_t at = highest ? count - 1 - i : i;
    if (words[at] == 0) continue;
    return 32 * at + (highest ? 31 - std::countl_zero(words[at]) : std::countr_zero(words[at]));
  }
  return -1;
}

/// Follows the grammar a little. A grammar may run into its limits on the way: that is an error with a message.
void Walk(Grammar& grammar) {
  std::vector<uint32_t> words(grammar.mask_words());
  for (int step = 0; step < kStepsMax && !grammar.is_stopped(); ++step) {
    const absl::Status mask = grammar.mask(words);
    if (!mask.ok()) return SHOAL_CHECK(!Message(mask).empty());
    const int32_t token = Allowed(words, step % 2 == 1);
    SHOAL_CHECK_LT(token, kByteVocabulary);
    if (token < 0) return;
    (void)grammar.forced_text();
    const absl::Status taken = grammar.consume(token);
    // The mask allowed it: only the limits of a grammar may stop it now.
    if (!taken.ok()) return SHOAL_CHECK(Message(taken).find("cannot come next") == std::string::npos);
    (void)grammar.is_accepting();
  }
}

void Compile(const Structure& structure) {
  auto grammar = Compiler().compile(structure.kind, structure.text);
  if (!grammar.ok()) return CheckRefusal(StructureError(structure, Message(grammar.status())));
  Walk(*grammar);
}

void CheckChat(std::string_view body, const Dialect& dialect) {
  const auto chat = ParseChatCompletion(body, {.vocabulary = kByteVocabulary});
  if (!chat.has_value()) return CheckRefusal(chat.error());
  if (chat->common.structure.has_value()) Compile(*chat->common.structure);
  AnswerFormat format = AnswerFormatOf(dialect, "", "");
  const auto structure = ChatStructure(chat->common.structure, chat->conversation.tools, chat->tool_choice,
                                       format, ByteTokenizer());
  if (!structure.has_value()) return CheckRefusal(structure.error());
  if (structure->has_value()) Compile(**structure);
}

}  // namespace
}  // namespace shoal

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace shoal;
  if (size == 0) return 0;
  static const std::vector<Dialect> dialects = Dialects();
  const std::string_view rest(reinterpret_cast<const char*>(data + 1), size - 1);
  CheckChat(rest, dialects[data[0] % dialects.size()]);
  if (IsGbnf(rest)) {
    const auto lark = LarkFromGbnf(rest);
    if (!lark.ok()) {
      SHOAL_CHECK(absl::IsInvalidArgument(lark.status()) && !Message(lark.status()).empty());
    } else {
      Compile({.field = "grammar", .kind = GrammarKind::kLark, .text = *lark});
    }
  }
  return 0;
}
