// Any bytes are a header that tiles the file, or an InvalidArgument with a message; never a crash.
#include <cstring>
#include <string>

#include "base/check.h"
#include "base/status.h"
#include "formats/safetensors.h"

namespace {

void CheckParse(std::span<const std::byte> file) {
  const auto header = shoal::ParseSafetensorsHeader(file, "fuzz.safetensors");
  if (!header.ok()) {
    SHOAL_CHECK(header.status().code() == absl::StatusCode::kInvalidArgument);
    SHOAL_CHECK(shoal::Message(header.status()).find("fuzz.safetensors") != std::string::npos);
    return;
  }
  int64_t at = header->data_begin;
  for (const shoal::TensorInfo& tensor : header->tensors) {
    SHOAL_CHECK_EQ(tensor.bytes.begin, at);
    SHOAL_CHECK_EQ(tensor.bytes.size(), *shoal::ElementCount(tensor.shape) * shoal::DTypeBytes(tensor.dtype));
    at = tensor.bytes.end;
  }
  SHOAL_CHECK_EQ(at, static_cast<int64_t>(file.size()));
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  std::string file(reinterpret_cast<const char*>(data), size);
  CheckParse(std::as_bytes(std::span(file)));
  // Most mutations leave the length wrong: once more with the length that ends at the last brace.
  const size_t brace = file.rfind('}');
  if (brace != std::string::npos && brace >= 8) {
    const uint64_t length = brace + 1 - 8;
    std::memcpy(file.data(), &length, 8);
    CheckParse(std::as_bytes(std::span(file)));
  }
  return 0;
}
