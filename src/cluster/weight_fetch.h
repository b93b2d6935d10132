// Fetches chunks of a model into its files, from several sources at once: each chunk from whichever source is free,
// compared with the hash that the first source states.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

#include "absl/status/statusor.h"
#include "base/clock.h"
#include "cluster/chunk_source.h"
#include "formats/checkpoint.h"
#include "loading/fetched_models.h"

namespace shoal {

struct FetchOptions {
  /// The first states the hashes: without it nothing can be fetched. The others may have all, some or nothing.
  std::vector<ChunkSource*> sources;
  /// Bytes that are here and verified, and all; from several threads, one at a time. May be empty.
  std::function<void(int64_t done, int64_t total)> progress;
  /// Asked between two requests: whether to end with Cancelled. May be empty.
  std::function<bool()> cancelled;
  int64_t request_bytes = kRequestBytesMax;  ///< At most, of one request; one chunk has more if it has.
  /// Between two attempts at a source that is away; doubles up to 20 times as much.
  Duration pause = std::chrono::milliseconds(100);
};

struct FetchReport {
  int64_t bytes = 0;       ///< That came over the network, damaged ones included.
  int64_t here_bytes = 0;  ///< That were here already.
  int64_t damaged = 0;     ///< Chunks that came with other bytes than their hash says.
  int64_t sources = 0;     ///< That sent anything.
};

/// Makes sure that all `chunks` are in `files`, verified. checkpoint: the model as opened from them. DataLoss: a chunk
/// came damaged again and again; NotFound: no source has it; Unavailable: the sources are away, or the first is; each
/// names tensor and source. ResourceExhausted: the disk is full. What came is kept, whatever the end.
absl::StatusOr<FetchReport> FetchChunks(FetchedModel& files, const Checkpoint& checkpoint,
                                        std::vector<TensorChunk> chunks, const FetchOptions& options);

}  // namespace shoal
