#include "convert/keep.h"

#include <algorithm>
#include <utility>

#include "base/status.h"
#include "formats/block_types.h"

namespace shoal {

namespace {

/// How a weight is stored.
std::string_view StoredAs(const StoredWeight& weight) {
  return weight.blocks.type == BlockType::kNone ? DTypeName(weight.format.dtype)
                                                : LawOf(weight.blocks.type).name;
}

}  // namespace

absl::Status KeepFormats(std::vector<ConvertJob>& jobs, const std::string& folder) {
  for (ConvertJob& job : jobs) {
    const StoredWeight& first = job.parts.front();
    job.dtype = first.format.dtype;
    if (job.vector) {
      if (job.dtype == DType::kI64 || job.dtype == DType::kI32) job.dtype = DType::kF32;
      continue;
    }
    for (const StoredWeight& part : job.parts) {
      if (part.format == first.format) continue;
      return Unimplemented(
          "convert: --quant keep: '{}' in {}: its matrices are stored as {} and as {}, and a folder has one "
          "format "
          "for all matrices of a stack; give another --quant, such as affine-8-g64",
          job.name(), folder, StoredAs(first), StoredAs(part));
    }
    if (!first.format.affine()) continue;
    if (job.base.empty() || job.suffix != "weight") {
      return Unimplemented(
          "convert: --quant keep: '{}' in {}: it is stored as {}, and a folder has codes only of what is "
          "called "
          "'weight'; give another --quant, such as affine-8-g64",
          job.name(), folder, StoredAs(first));
    }
    job.codes = true;
    job.format = AffineFormat{first.format.bits, first.format.group};
  }
  return absl::OkStatus();
}

std::optional<AffineFormat> UsualFormat(const std::vector<ConvertJob>& jobs) {
  std::vector<std::pair<AffineFormat, int64_t>> counts;
  for (const ConvertJob& job : jobs) {
    if (!job.format) continue;
    const auto at = std::ranges::find(counts, *job.format, [](const auto& count) { return count.first; });
    if (at == counts.end()) {
      counts.emplace_back(*job.format, 1);
    } else {
      ++at->second;
    }
  }
  const auto most = std::ranges::max_element(counts, {}, [](const auto& count) { return count.second; });
  return most == counts.end() ? std::nullopt : std::optional(most->first);
}

}  // namespace shoal
