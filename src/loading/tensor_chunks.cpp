#include "loading/tensor_chunks.h"

#include <algorithm>
#include <set>

#include "base/check.h"
#include "base/status.h"
#include "formats/content_hash.h"

namespace shoal {

StoredParts::StoredParts(const ResolvedWeights& weights) : checkpoint_(weights.checkpoint()) {
  const std::span<const TensorInfo> stored = checkpoint_.stored_tensors();
  for (size_t i = 0; i < stored.size(); ++i) {
    by_place_[{stored[i].file, stored[i].bytes.begin}] = i;
    by_name_[stored[i].name] = i;
  }
}

std::vector<StoredPart> StoredParts::of(const ResolvedWeight& weight) const {
  const StoredWeight& stored = weight.stored;
  const WeightSource& source = *stored.source;
  const TensorInfo* info = checkpoint_.find(source.name());
  SHOAL_CHECK(info != nullptr);  // It was found.
  const int64_t matrix = source.stack > 0 ? source.index : -1;
  std::vector<StoredPart> parts;
  if (info->parts) {
    const EncodingTensors& encoding = *info->parts;
    parts.push_back({by_name_.at(encoding.codes_name), matrix});
    if (info->file < 0) return parts;  // Its other tensors have no place either.
    const auto at = [this](const TensorPlace& place) {
      return by_place_.at({place.file, place.bytes.begin});
    };
    parts.push_back({at(encoding.scales), matrix});
    if (encoding.zeros) parts.push_back({at(*encoding.zeros), matrix});
    if (encoding.order) parts.push_back({at(*encoding.order), matrix});
    return parts;
  }
  parts.push_back({by_name_.at(info->name), matrix});
  if (stored.affine.rows > 0) {
    parts.push_back({by_name_.at(source.base + ".scales"), matrix});
    parts.push_back({by_name_.at(source.base + ".biases"), matrix});
  }
  return parts;
}

int64_t WholeBytes(const TensorInfo& tensor) {
  if (tensor.file >= 0 && tensor.held.empty()) return tensor.bytes.size();
  return ElementCount(tensor.shape).value_or(0) * DTypeBytes(tensor.dtype);
}

std::vector<TensorChunk> ChunksOf(const ResolvedWeights& weights,
                                  const std::function<bool(const WeightUse&)>& needed) {
  const StoredParts stored(weights);
  std::set<StoredPart> parts;  // A whole tensor comes before its matrices.
  for (const ResolvedWeight& weight : weights.all()) {
    if (!needed(weight.use)) continue;
    for (const StoredPart& part : stored.of(weight)) parts.insert(part);
  }
  std::vector<TensorChunk> chunks;
  size_t whole = SIZE_MAX;
  for (const StoredPart& part : parts) {
    if (part.tensor == whole) continue;
    const TensorInfo& tensor = weights.checkpoint().stored_tensors()[part.tensor];
    int64_t bytes = WholeBytes(tensor);
    int64_t begin = 0;
    if (part.matrix < 0) {
      whole = part.tensor;
    } else {
      bytes /= tensor.shape[0];
      begin = part.matrix * bytes;
    }
    for (const int64_t end = begin + bytes; begin < end; begin += kChunkBytesMax) {
      chunks.push_back({static_cast<int32_t>(part.tensor), begin, std::min(kChunkBytesMax, end - begin)});
    }
  }
  return chunks;
}

absl::StatusOr<std::optional<FilePlace>> Locate(const Checkpoint& checkpoint, const TensorChunk& chunk) {
  const std::span<const TensorInfo> stored = checkpoint.stored_tensors();
  if (chunk.tensor < 0 || chunk.tensor >= std::ssize(stored)) {
    return InvalidArgument("chunk of tensor {}: the model has {}", chunk.tensor, stored.size());
  }
  const TensorInfo& tensor = stored[static_cast<size_t>(chunk.tensor)];
  const int64_t whole = WholeBytes(tensor);
  if (chunk.bytes <= 0 || chunk.bytes > kChunkBytesMax || chunk.begin < 0 ||
      chunk.begin > whole - chunk.bytes) {
    return InvalidArgument("chunk of tensor '{}': expected 1 to {} bytes of its {}, got {} from {} on",
                           tensor.name, kChunkBytesMax, whole, chunk.bytes, chunk.begin);
  }
  if (tensor.file < 0) return std::nullopt;
  int64_t begin = chunk.begin;
  if (!tensor.held.empty()) {
    const int64_t each = whole / tensor.shape[0];
    const int64_t matrix = begin / each;
    if ((begin + chunk.bytes - 1) / each != matrix) {
      return InvalidArgument("chunk of tensor '{}': it has bytes of two matrices of the stack", tensor.name);
    }
    const int64_t slot = Checkpoint::SlotOf(tensor, matrix);
    if (slot < 0) return std::nullopt;
    begin += (slot - matrix) * each;
  }
  begin += tensor.bytes.begin;
  return FilePlace{tensor.file, {begin, begin + chunk.bytes}};
}

std::string TensorTableHash(const Checkpoint& checkpoint) {
  std::string text;
  for (const TensorInfo& tensor : checkpoint.stored_tensors()) {
    text += fmt::format("{} {} {}\n", tensor.name.size(), tensor.name, DescribeTensor(tensor));
  }
  return ContentHashHex(text);
}

}  // namespace shoal
