// A model's folder without the bytes of its tensors: small files whole, of the others the headers. Enough to open it as a
// Checkpoint, and to know where each tensor's bytes belong.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "formats/checkpoint.h"

namespace shoal {

struct ModelSkeleton {
  struct File {
    std::string name;  ///< Plain: no folder.
    int64_t bytes = 0;
    bool operator==(const File&) const = default;
  };
  /// Bytes of a file that are no tensor's.
  struct Piece {
    int32_t file = 0;
    int64_t begin = 0;
    std::string bytes;
    bool operator==(const Piece&) const = default;
  };
  std::vector<File> files;  ///< Those with tensors first, as Checkpoint::files().
  std::vector<Piece> pieces;
  bool operator==(const ModelSkeleton&) const = default;

  /// What Checkpoint::Open gets, below the folder: the first GGUF file, or "" for the folder itself.
  std::string entry() const;
  /// Of all pieces.
  int64_t bytes() const;
  /// 32 hex digits of all that it says.
  std::string hash() const;
};

inline constexpr int64_t kSkeletonBytesMax = int64_t{256} << 20;  ///< Of all pieces.
inline constexpr int64_t kSkeletonFilesMax = 10'000;

/// Whether it came from outside as one should: InvalidArgument for names that are not plain ones of a model's folder, or
/// appear twice, sizes that make no sense, pieces that lie outside their files, and more than the limits above.
absl::Status CheckSkeleton(const ModelSkeleton& skeleton);

/// Of an open model. Reads its small files anew. ResourceExhausted where it exceeds the limits, Unavailable where a file
/// can't be read.
absl::StatusOr<ModelSkeleton> SkeletonOf(const Checkpoint& checkpoint);

}  // namespace shoal
