// `.env` files: NAME=VALUE lines, as shells and containers read them.
#pragma once

#include <map>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"

namespace shoal {

/// Lines are "NAME=VALUE" or "export NAME=VALUE"; empty lines and those that begin with # are skipped. A value is
/// 'as it stands', "with \n, \t, \", \\ and \$", or bare: up to the line's end or " #", without spaces around it.
/// Quoted values may have several lines. Nothing is expanded: $ is a character. The last of two values counts.
/// InvalidArgument, which names the line: anything else.
absl::StatusOr<std::map<std::string, std::string>> ParseEnvFile(std::string_view text);

/// Whether `name` may name a variable: letters, digits and _, no digit first.
bool IsVariableName(std::string_view name);

}  // namespace shoal
