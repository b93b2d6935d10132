// Any text is a shard whose table is sound, or an InvalidArgument with a message; never a crash. What is
// sound is laid over a table of two tensors, as the files of a folder might have them.
#include "base/check.h"
#include "base/status.h"
#include "formats/shard.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const auto shard = shoal::ParseShard({reinterpret_cast<const char*>(data), size}, "fuzz.json");
  if (!shard.ok()) {
    SHOAL_CHECK(shard.status().code() == absl::StatusCode::kInvalidArgument);
    SHOAL_CHECK(shoal::Message(shard.status()).starts_with("fuzz.json"));
    return 0;
  }
  const auto again = shoal::ParseShard(shoal::ShardText(*shard), "fuzz.json");
  SHOAL_CHECK(again.ok() && again->stacks == shard->stacks);
  SHOAL_CHECK(again->tensors.size() == shard->tensors.size());
  std::vector<shoal::TensorInfo> tensors = {
      {.name = "experts", .dtype = shoal::DType::kBF16, .shape = {2, 4}, .bytes = {0, 16}},
      {.name = "norm", .dtype = shoal::DType::kF32, .shape = {4}, .bytes = {16, 32}}};
  if (!shoal::CompleteTable(*shard, "fuzz", &tensors).ok()) return 0;
  SHOAL_CHECK(tensors.size() == shard->tensors.size());
  for (const shoal::TensorInfo& tensor : tensors) {
    SHOAL_CHECK(tensor.file == 0 || (tensor.bytes.empty() && tensor.held.empty()));
    if (tensor.held.empty()) continue;
    SHOAL_CHECK(tensor.held.back() < tensor.shape[0] && tensor.bytes.size() % std::ssize(tensor.held) == 0);
  }
  return 0;
}
