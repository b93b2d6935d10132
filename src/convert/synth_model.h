// Random checkpoints of every family: the tensors are those of the family's own ModelSpec.
#pragma once

#include "absl/status/status.h"
#include "convert/synth.h"

namespace shoal {

/// Synthesize (convert/synth.h) with the tensors of the config's family; the errors of SpecFor, too.
absl::Status SynthesizeModel(const SynthOptions& options, const ProgressFn& progress = {});

}  // namespace shoal
