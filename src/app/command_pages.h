// Pages about the command line, written from what is declared: a manual and shells' completions.
#pragma once

#include <string>

#include "app/flags.h"

namespace shoal {

/// The manual, shoal(1), for man(1): troff with the macros of man(7).
std::string ManualPage(const CommandText& program, const std::string& version);

/// Scripts that a shell reads to complete command lines.
std::string BashCompletion(const CommandText& program);
std::string ZshCompletion(const CommandText& program);
std::string FishCompletion(const CommandText& program);

}  // namespace shoal
