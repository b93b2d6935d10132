#include "base/repeater.h"

#include <utility>

#include "base/process.h"

namespace shoal {

Repeater::Repeater(const char* name, Duration first, Act act)
    : act_(std::move(act)), thread_([this, name, first] { run(name, first); }) {}

Repeater::~Repeater() { stop(); }

void Repeater::stop() {
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  stopped_.notify_all();
  if (thread_.joinable()) thread_.join();
}

void Repeater::run(const char* name, Duration pause) {
  NameThread(name);
  while (true) {
    {
      std::unique_lock lock(mutex_);
      if (stopped_.wait_for(lock, pause, [this] { return stopping_; })) return;
    }
    pause = act_();
  }
}

}  // namespace shoal
