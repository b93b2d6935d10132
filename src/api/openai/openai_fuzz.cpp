// Any body: parses, or is refused with an error that renders; what parses renders again.
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "api/anthropic/request.h"
#include "api/api_error.h"
#include "api/llamacpp/infill_request.h"
#include "api/llamacpp/text_request.h"
#include "api/ollama/embed_api.h"
#include "api/ollama/request.h"
#include "api/openai/embeddings_api.h"
#include "api/openai/request.h"
#include "api/openai/responses_request.h"
#include "base/check.h"

namespace {

template <typename T>
void Check(const shoal::ApiResult<T>& result) {
  if (result.has_value()) return;
  SHOAL_CHECK_EQ(result.error().status, 400);
  SHOAL_CHECK(!result.error().message.empty());
  SHOAL_CHECK(!shoal::ErrorBody(result.error()).empty());
}

/// One of another dialect: where it parses, it means a chat completion, whose own errors are for the client, too.
template <typename T>
void CheckChat(const shoal::ApiResult<T>& result, const shoal::RequestLimits& limits) {
  Check(result);
  if (result.has_value() && !result->chat.empty()) Check(shoal::ParseChatCompletion(result->chat, limits));
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view body(reinterpret_cast<const char*>(data), size);
  const shoal::RequestLimits limits{.vocabulary = 1000};
  const auto chat = shoal::ParseChatCompletion(body, limits);
  Check(chat);
  if (chat.has_value()) shoal::ResolveSampling(chat->common.sampling, {});
  Check(shoal::ParseCompletion(body, limits));
  Check(shoal::ParseGenerate(body, limits));
  Check(shoal::ParseEmbeddings(body, limits));
  Check(shoal::ParseTokenize(body, limits));
  Check(shoal::ParseDetokenize(body, limits));
  Check(shoal::ParseInfill(body, limits));
  Check(shoal::ParseOllamaEmbed(body));
  Check(shoal::ParseOllamaEmbeddings(body));
  CheckChat(shoal::ParseMessages(body), limits);
  CheckChat(shoal::ParseOllamaChat(body), limits);
  CheckChat(shoal::ParseOllamaGenerate(body), limits);
  Check(shoal::ParseOllamaShow(body));
  const auto earlier = [](const std::string& id) {
    return id == "resp_1" ? std::optional<std::string>(R"([{"role": "user", "content": "Hi"}])")
                          : std::nullopt;
  };
  CheckChat(shoal::ParseResponses(body, earlier), limits);
  return 0;
}
