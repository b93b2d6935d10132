// Any text is a share whose table is sound, or an InvalidArgument with a message; never a crash. What is
// sound is laid over a table of two tensors, as the files of a folder might have them.
#include "base/check.h"
#include "base/status.h"
#include "formats/share.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const auto share = shoal::ParseShare({reinterpret_cast<const char*>(data), size}, "fuzz.json");
  if (!share.ok()) {
    SHOAL_CHECK(share.status().code() == absl::StatusCode::kInvalidArgument);
    SHOAL_CHECK(shoal::Message(share.status()).starts_with("fuzz.json"));
    return 0;
  }
  const auto again = shoal::ParseShare(shoal::ShareText(*share), "fuzz.json");
  SHOAL_CHECK(again.ok() && again->stacks == share->stacks);
  SHOAL_CHECK(again->tensors.size() == share->tensors.size());
  std::vector<shoal::TensorInfo> tensors = {
      {.name = "experts", .dtype = shoal::DType::kBF16, .shape = {2, 4}, .bytes = {0, 16}},
      {.name = "norm", .dtype = shoal::DType::kF32, .shape = {4}, .bytes = {16, 32}}};
  if (!shoal::CompleteTable(*share, "fuzz", &tensors).ok()) return 0;
  SHOAL_CHECK(tensors.size() == share->tensors.size());
  for (const shoal::TensorInfo& tensor : tensors) {
    SHOAL_CHECK(tensor.file == 0 || (tensor.bytes.empty() && tensor.held.empty()));
    if (tensor.held.empty()) continue;
    SHOAL_CHECK(tensor.held.back() < tensor.shape[0] && tensor.bytes.size() % std::ssize(tensor.held) == 0);
  }
  return 0;
}
