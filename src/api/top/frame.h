// `shoal top` as lines of text: what stands where on a screen of any size. Pure functions.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "api/top/picture.h"

namespace shoal {

enum class TopStyle : uint8_t { kPlain, kStrong, kDim, kGood, kWarning, kBad, kChosen };

/// A line: texts side by side, together no wider than the screen.
using TopLine = std::vector<std::pair<std::string, TopStyle>>;

enum class TopPage : uint8_t { kCluster, kLinks, kEvents, kExperts };
inline constexpr int kTopPages = 4;

struct TopView {
  TopPage page = TopPage::kCluster;
  int first = 0;  ///< Of the rows of the page's list, to be shown at the top of it.
  int width = 80;
  int height = 24;
  std::function<std::string(int64_t unix_s)> clock;  ///< "14:03:07"
};

struct TopFrame {
  std::vector<TopLine> lines;  ///< At most `height`.
  int rows = 0;                ///< Of the page's list.
  int rows_shown = 0;          ///< For which there is room.
};

TopFrame DrawTop(const TopPicture& picture, const TopView& view);

/// The lines without their styles, and without blanks at their ends.
std::string TopText(const TopFrame& frame);

/// Columns that a terminal takes for a text in UTF-8.
int ColumnsOf(std::string_view text);
/// What is printable of a text, in exactly so many columns: cut, with '~' at its end, or followed by blanks.
std::string FitColumns(std::string_view text, int columns);

}  // namespace shoal
