// What JSON schemas say of strings, as regular expressions of whole texts.
#pragma once

#include <optional>
#include <string>
#include <string_view>

namespace shoal {

/// All texts in which `pattern`, one of ECMA 262, has a match; nullopt: it has what can't be said (a look ahead, an
/// anchor in the middle).
std::optional<std::string> SearchRegex(std::string_view pattern);

/// The texts of a "format"; "": it is not known.
std::string_view FormatRegex(std::string_view format);

}  // namespace shoal
