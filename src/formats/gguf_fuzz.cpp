// Any bytes are a header whose ranges lie in the file, or an error with a message; never a crash.
#include <string>

#include "base/check.h"
#include "base/status.h"
#include "formats/gguf.h"
#include "formats/gguf_model.h"
#include "formats/gguf_text.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const auto file = std::as_bytes(std::span(data, size));
  const auto header = shoal::ParseGguf(file, "fuzz.gguf");
  if (!header.ok()) {
    SHOAL_CHECK(shoal::Message(header.status()).find("fuzz.gguf") != std::string::npos);
    return 0;
  }
  for (const shoal::GgufTensor& tensor : header->tensors) {
    SHOAL_CHECK(header->data_begin <= tensor.bytes.begin && tensor.bytes.begin <= tensor.bytes.end);
    SHOAL_CHECK_LE(tensor.bytes.end, static_cast<int64_t>(size));
  }
  for (const auto& [key, value] : header->metadata) {
    // Each reads all that the value's lengths say.
    (void)value.as_strings();
    (void)value.as_ints();
    (void)value.as_numbers();
    (void)value.as_string();
    SHOAL_CHECK(!value.describe().empty());
  }
  const auto model = shoal::ModelOfGguf({header->metadata, header->tensors, file}, "fuzz.gguf");
  if (!model.ok()) SHOAL_CHECK(!shoal::Message(model.status()).empty());
  const auto text = shoal::TextOfGguf(header->metadata, "fuzz.gguf");
  if (!text.ok()) SHOAL_CHECK(!shoal::Message(text.status()).empty());
  return 0;
}
