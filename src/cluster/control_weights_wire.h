// Between chunks, skeletons and their protobuf messages. Included by control_*.cpp only.
#pragma once

#include <optional>
#include <span>
#include <vector>

#include "absl/status/statusor.h"
#include "formats/content_hash.h"
#include "loading/model_skeleton.h"
#include "loading/tensor_chunks.h"
#include "shoal/v1/control.pb.h"

namespace shoal {

void PutChunks(std::span<const TensorChunk> chunks, v1::ChunksRequest& request);
/// InvalidArgument where the lists differ in length, or ask for more than kRequestChunksMax chunks or kRequestBytesMax.
absl::StatusOr<std::vector<TensorChunk>> ReadChunks(const v1::ChunksRequest& request);

void PutHashes(std::span<const std::optional<ContentHash128>> hashes, v1::HashesReply& reply);
/// InvalidArgument where it is not about `chunks` chunks.
absl::StatusOr<std::vector<std::optional<ContentHash128>>> ReadHashes(const v1::HashesReply& reply,
                                                                      size_t chunks);

/// In parts of up to a megabyte and a bit.
std::vector<v1::SkeletonPart> SkeletonParts(const ModelSkeleton& skeleton);
/// Adds one part. InvalidArgument where it grows beyond the limits; the whole is for CheckSkeleton to judge.
absl::Status AddPart(const v1::SkeletonPart& part, ModelSkeleton& skeleton);

}  // namespace shoal
