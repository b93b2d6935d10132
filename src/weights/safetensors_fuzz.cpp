// Any bytes are a header that tiles the file, or an InvalidArgument with a message; never a crash.
#include "base/check.h"
#include "base/status.h"
#include "weights/safetensors.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::span<const std::byte> file(reinterpret_cast<const std::byte*>(data), size);
  const auto header = shoal::ParseSafetensorsHeader(file, "fuzz.safetensors");
  if (!header.ok()) {
    SHOAL_CHECK(header.status().code() == absl::StatusCode::kInvalidArgument);
    SHOAL_CHECK(shoal::Message(header.status()).find("fuzz.safetensors") != std::string::npos);
    return 0;
  }
  int64_t at = header->data_begin;
  for (const shoal::TensorInfo& tensor : header->tensors) {
    SHOAL_CHECK_EQ(tensor.bytes.begin, at);
    SHOAL_CHECK_EQ(tensor.bytes.size(), *shoal::ElementCount(tensor.shape) * shoal::DTypeBytes(tensor.dtype));
    at = tensor.bytes.end;
  }
  SHOAL_CHECK_EQ(at, static_cast<int64_t>(size));
  return 0;
}
