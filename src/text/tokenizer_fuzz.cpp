// Any bytes give a tokenizer whose streams join to its full decode, or an error with a message; never a
// crash.
#include "base/check.h"
#include "text/stream_decoder.h"
#include "text/tokenizer.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const auto tokenizer = shoal::Tokenizer::FromJson({reinterpret_cast<const char*>(data), size});
  if (!tokenizer.ok()) {
    SHOAL_CHECK(!shoal::Message(tokenizer.status()).empty());
    return 0;
  }
  SHOAL_CHECK_GE(tokenizer->vocab_size(), 0);
  for (const bool parse_special : {false, true}) {
    const auto ids = tokenizer->encode("Hi <s>é 世界", {.add_special = true, .parse_special = parse_special});
    if (!ids.ok()) continue;
    shoal::StreamDecoder stream(*tokenizer, false);
    for (const int32_t id : *ids) {
      SHOAL_CHECK(id >= 0 && id < tokenizer->vocab_size());
      if (!stream.push(id).ok()) return 0;
      SHOAL_CHECK(tokenizer->token_bytes(id).ok());
    }
    (void)stream.flush();
  }
  return 0;
}
