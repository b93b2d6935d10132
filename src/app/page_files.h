// The page's files, as the build made them of web/ (cmake/ShoalPage.cmake); a short text where it had no Node.
#pragma once

#include <span>

#include "api/page.h"

namespace shoal {

/// The first is that at "/".
std::span<const PageFile> BuiltInPage();

}  // namespace shoal
