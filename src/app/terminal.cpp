#include "app/terminal.h"

#include <unistd.h>

#include <clocale>
#include <cstdio>
#include <cstdlib>
#include <utility>

#include "base/status.h"

// Last, and without its macros for words such as `timeout` and `clear`.
#define NCURSES_NOMACROS 1
#include <curses.h>

namespace shoal {
namespace {

enum Pair : short { kGoodPair = 1, kWarningPair, kBadPair, kChosenPair };

attr_t Attributes(TopStyle style, bool colours) {
  const auto pair = [&](Pair one, attr_t otherwise) {
    return colours ? static_cast<attr_t>(COLOR_PAIR(one)) : otherwise;
  };
  switch (style) {
    case TopStyle::kPlain:
      return A_NORMAL;
    case TopStyle::kStrong:
      return A_BOLD;
    case TopStyle::kDim:
      return colours ? A_DIM : A_NORMAL;
    case TopStyle::kGood:
      return pair(kGoodPair, A_NORMAL);
    case TopStyle::kWarning:
      return pair(kWarningPair, A_BOLD);
    case TopStyle::kBad:
      return pair(kBadPair, A_BOLD) | A_BOLD;
    case TopStyle::kChosen:
      return A_REVERSE;
  }
  return A_NORMAL;
}

}  // namespace

struct Terminal::Impl {
  SCREEN* screen = nullptr;
  bool colours = false;
};

Terminal::Terminal(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}

absl::StatusOr<std::unique_ptr<Terminal>> Terminal::Open(bool colours) {
  if (isatty(STDOUT_FILENO) == 0) return FailedPrecondition("standard output is no terminal");
  std::setlocale(LC_CTYPE, "");  // Else letters beyond ASCII are shown byte by byte.
  SCREEN* const screen = newterm(nullptr, stdout, stdin);
  if (screen == nullptr) {
    const char* const type = std::getenv("TERM");
    return FailedPrecondition("the terminal '{}' is not known here: set TERM, or print a frame with --once",
                              type == nullptr ? "" : type);
  }
  set_term(screen);
  cbreak();
  noecho();
  nonl();
  keypad(stdscr, TRUE);
  set_escdelay(50);  // Milliseconds within which the rest of a key's sequence must come.
  curs_set(0);
  auto impl = std::make_unique<Impl>();
  impl->screen = screen;
  impl->colours = colours && has_colors() && start_color() == OK;
  if (impl->colours) {
    use_default_colors();
    init_pair(kGoodPair, COLOR_GREEN, -1);
    init_pair(kWarningPair, COLOR_YELLOW, -1);
    init_pair(kBadPair, COLOR_RED, -1);
    init_pair(kChosenPair, COLOR_CYAN, -1);
  }
  return std::unique_ptr<Terminal>(new Terminal(std::move(impl)));
}

Terminal::~Terminal() {
  endwin();
  delscreen(impl_->screen);
}

int Terminal::width() const { return getmaxx(stdscr); }
int Terminal::height() const { return getmaxy(stdscr); }

void Terminal::show(const TopFrame& frame) {
  werase(stdscr);
  for (int y = 0; y < static_cast<int>(frame.lines.size()); ++y) {
    wmove(stdscr, y, 0);
    for (const auto& [text, style] : frame.lines[static_cast<size_t>(y)]) {
      wattrset(stdscr, static_cast<int>(Attributes(style, impl_->colours)));
      waddnstr(stdscr, text.data(), static_cast<int>(text.size()));
    }
  }
  wattrset(stdscr, A_NORMAL);
  wrefresh(stdscr);
}

Terminal::Pressed Terminal::wait(Duration limit) {
  wtimeout(stdscr, static_cast<int>(std::chrono::ceil<std::chrono::milliseconds>(limit).count()));
  const int key = wgetch(stdscr);
  switch (key) {
    case ERR:
      return {};
    case KEY_RESIZE:
      // What a terminal keeps of its old size, and what it drew meanwhile, is not known here.
      clearok(curscr, TRUE);
      return {Press::kResized};
    case 'q':
    case 'Q':  // Escape is none: over a slow line the rest of an arrow's sequence may come too late.
      return {Press::kQuit};
    case '\t':
    case KEY_RIGHT:
      return {Press::kNextPage};
    case 'k':
    case KEY_UP:
      return {Press::kUp};
    case 'j':
    case KEY_DOWN:
      return {Press::kDown};
    case KEY_PPAGE:
      return {Press::kPageUp};
    case ' ':
    case KEY_NPAGE:
      return {Press::kPageDown};
    case 'g':
    case KEY_HOME:
      return {Press::kHome};
    default:
      break;
  }
  if (key >= '1' && key < '1' + kTopPages) return {Press::kPage, key - '1'};
  return {};
}

}  // namespace shoal
