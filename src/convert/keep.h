// --quant keep of a GGUF: the codes and scales of its blocks, as affine groups of a folder.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "convert/job.h"

namespace shoal {

/// Sets the formats of jobs so that what is written is read as the same bits: matrices keep the codes and scales of their
/// blocks, floats their dtype. Unimplemented where the matrices of a stack differ. folder: for the message.
absl::Status KeepFormats(std::vector<ConvertJob>& jobs, const std::string& folder);

/// The format that most matrices have; nullopt where none has codes.
std::optional<AffineFormat> UsualFormat(const std::vector<ConvertJob>& jobs);

}  // namespace shoal
