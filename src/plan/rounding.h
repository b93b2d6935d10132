// What a plan rounds: rows that travel between nodes where Plan::wire_dtype is not exact (docs/numerics.md). Bits then
// depend on who runs what, and this says on what of it.
#pragma once

#include <string>

#include "plan/facts.h"
#include "plan/plan.h"

namespace shoal {

/// Bytes per value of a row between stages or to the owner of experts, and of a row of sums that comes back, at most.
double RowValueBytes(Plan::WireDtype dtype);
/// Bytes of a row from one stage to the next.
double StageRowBytes(const ModelFacts& model, Plan::WireDtype dtype);
double SumValueBytes(Plan::WireDtype dtype);

/// Everything of the plan that decides which values are rounded: the format, the layers after which rows travel, and
/// for each layer which experts are added up apart. Equal texts, equal bits. Empty where nothing is rounded: the format
/// is exact, or no row travels.
std::string RoundingsOf(const Plan& plan);

/// Tells whoever chose the plan, in its notes: that bits depend on it, and how the loss is measured. Nothing where
/// nothing is rounded, or where it stands there.
void NoteRounding(Plan& plan);

}  // namespace shoal
