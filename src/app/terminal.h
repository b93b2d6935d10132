// The terminal as a screen of lines, by ncurses: the only place that knows it.
#pragma once

#include <memory>

#include "absl/status/statusor.h"
#include "api/top/frame.h"
#include "base/clock.h"

namespace shoal {

class Terminal {
 public:
  /// Takes over the terminal of this process until it is destroyed. colours: where the terminal has them.
  /// FailedPrecondition: standard output is no terminal, or one that ncurses does not know.
  static absl::StatusOr<std::unique_ptr<Terminal>> Open(bool colours);
  ~Terminal();

  int width() const;
  int height() const;
  void show(const TopFrame& frame);

  enum class Press : uint8_t {
    kNone,
    kResized,
    kQuit,
    kNextPage,
    kUp,
    kDown,
    kPageUp,
    kPageDown,
    kHome,
    kPage
  };
  struct Pressed {
    Press what = Press::kNone;
    int page = 0;  ///< Of kPage, from 0 on.
  };
  /// What was pressed within `limit`.
  Pressed wait(Duration limit);

 private:
  struct Impl;
  explicit Terminal(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace shoal
