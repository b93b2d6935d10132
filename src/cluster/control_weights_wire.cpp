#include "cluster/control_weights_wire.h"

#include <algorithm>

#include "base/status.h"
#include "cluster/chunk_source.h"

namespace shoal {
namespace {

constexpr int64_t kPieceBytesMax = int64_t{1} << 20;
constexpr int kFilesPerPart = 1000;
constexpr int64_t kPiecesMax = 1'000'000;

}  // namespace

void PutChunks(std::span<const TensorChunk> chunks, v1::ChunksRequest& request) {
  for (const TensorChunk& chunk : chunks) {
    request.add_tensors(chunk.tensor);
    request.add_begins(chunk.begin);
    request.add_bytes(chunk.bytes);
  }
}

absl::StatusOr<std::vector<TensorChunk>> ReadChunks(const v1::ChunksRequest& request) {
  const int count = request.tensors_size();
  if (request.begins_size() != count || request.bytes_size() != count || count > kRequestChunksMax) {
    return InvalidArgument(
        "chunks: {} tensors, {} begins and {} lengths, expected as many of each, {} at most", count,
        request.begins_size(), request.bytes_size(), kRequestChunksMax);
  }
  std::vector<TensorChunk> chunks;
  int64_t left = kRequestBytesMax;
  for (int i = 0; i < count; ++i) {
    const TensorChunk chunk{request.tensors(i), request.begins(i), request.bytes(i)};
    if (chunk.bytes <= 0 || chunk.bytes > left) {
      return InvalidArgument("chunks: one of {} bytes, expected {} bytes in all at most", chunk.bytes,
                             kRequestBytesMax);
    }
    left -= chunk.bytes;
    chunks.push_back(chunk);
  }
  return chunks;
}

void PutHashes(std::span<const std::optional<ContentHash128>> hashes, v1::HashesReply& reply) {
  for (const std::optional<ContentHash128>& hash : hashes) {
    reply.add_here(hash.has_value());
    reply.add_high(hash.value_or(ContentHash128()).high);
    reply.add_low(hash.value_or(ContentHash128()).low);
  }
}

absl::StatusOr<std::vector<std::optional<ContentHash128>>> ReadHashes(const v1::HashesReply& reply,
                                                                      size_t chunks) {
  const auto is = [chunks](int size) { return static_cast<size_t>(size) == chunks; };
  if (!is(reply.here_size()) || !is(reply.high_size()) || !is(reply.low_size())) {
    return InvalidArgument("hashes: {}, {} and {} entries for {} chunks", reply.here_size(),
                           reply.high_size(), reply.low_size(), chunks);
  }
  std::vector<std::optional<ContentHash128>> hashes(chunks);
  for (size_t i = 0; i < chunks; ++i) {
    const int at = static_cast<int>(i);
    if (reply.here(at)) hashes[i] = ContentHash128{reply.high(at), reply.low(at)};
  }
  return hashes;
}

std::vector<v1::SkeletonPart> SkeletonParts(const ModelSkeleton& skeleton) {
  std::vector<v1::SkeletonPart> parts(1);
  for (const ModelSkeleton::File& file : skeleton.files) {
    if (parts.back().files_size() == kFilesPerPart) parts.emplace_back();
    v1::SkeletonPart::File& out = *parts.back().add_files();
    out.set_name(file.name);
    out.set_bytes(file.bytes);
  }
  int64_t room = 0;
  for (const ModelSkeleton::Piece& piece : skeleton.pieces) {
    for (int64_t at = 0; at < std::ssize(piece.bytes);) {
      if (room == 0) {
        parts.emplace_back();
        room = kPieceBytesMax;
      }
      const int64_t bytes = std::min(room, std::ssize(piece.bytes) - at);
      v1::SkeletonPart::Piece& out = *parts.back().add_pieces();
      out.set_file(piece.file);
      out.set_begin(piece.begin + at);
      out.set_data(piece.bytes.substr(static_cast<size_t>(at), static_cast<size_t>(bytes)));
      at += bytes;
      // Padding between tensors comes in pieces of a few bytes, each of which costs more than that.
      constexpr int64_t kPieceCost = 32;
      room -= std::min(room, bytes + kPieceCost);
    }
  }
  return parts;
}

absl::Status AddPart(const v1::SkeletonPart& part, ModelSkeleton& skeleton) {
  if (std::ssize(skeleton.files) + part.files_size() > kSkeletonFilesMax) {
    return InvalidArgument("a model's files: expected at most {}, got more", kSkeletonFilesMax);
  }
  for (const v1::SkeletonPart::File& file : part.files())
    skeleton.files.push_back({file.name(), file.bytes()});
  for (const v1::SkeletonPart::Piece& piece : part.pieces()) {
    if (piece.begin() < 0)
      return InvalidArgument("a model's headers: a piece from byte {} on", piece.begin());
    // Parts of one piece follow one another: they become one again.
    if (!skeleton.pieces.empty()) {
      ModelSkeleton::Piece& last = skeleton.pieces.back();
      if (last.file == piece.file() && piece.begin() - last.begin == std::ssize(last.bytes)) {
        last.bytes += piece.data();
        continue;
      }
    }
    skeleton.pieces.push_back({piece.file(), piece.begin(), piece.data()});
  }
  if (skeleton.bytes() > kSkeletonBytesMax || std::ssize(skeleton.pieces) > kPiecesMax) {
    return InvalidArgument("a model's headers: expected at most {} bytes in {} pieces, got more",
                           kSkeletonBytesMax, kPiecesMax);
  }
  return absl::OkStatus();
}

}  // namespace shoal
