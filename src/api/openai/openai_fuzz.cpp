// Any body: parses, or is refused with an error that renders; what parses renders again.
#include <cstddef>
#include <cstdint>
#include <string_view>

#include "api/api_error.h"
#include "api/llamacpp/infill_request.h"
#include "api/llamacpp/text_request.h"
#include "api/ollama/embed_api.h"
#include "api/openai/embeddings_api.h"
#include "api/openai/request.h"
#include "base/check.h"

namespace {

template <typename T>
void Check(const shoal::ApiResult<T>& result) {
  if (result.has_value()) return;
  SHOAL_CHECK_EQ(result.error().status, 400);
  SHOAL_CHECK(!result.error().message.empty());
  SHOAL_CHECK(!shoal::ErrorBody(result.error()).empty());
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
  return 0;
}
