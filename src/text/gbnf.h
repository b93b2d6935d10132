// GBNF, the grammar notation of llama.cpp, as the Lark dialect of llguidance.
#pragma once

#include <string>
#include <string_view>

#include "absl/status/statusor.h"

namespace shoal {

/// Whether `grammar` is GBNF rather than Lark: a line of it defines a rule with "::=".
bool IsGbnf(std::string_view grammar);

/// Rules that lead back to themselves stay rules. All others become terminals, and so does what stands between
/// recursive parts, as long runs of it as possible: a lexer reads terminals, greedily, so that where two meet the
/// first takes what it can. A grammar without recursion is one terminal, and therefore exact.
/// InvalidArgument names the line.
absl::StatusOr<std::string> LarkFromGbnf(std::string_view grammar);

}  // namespace shoal
