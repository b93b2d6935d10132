#include "turns.h"

#include <sys/mman.h>

#include <algorithm>
#include <cerrno>
#include <memory>
#include <utility>

#include "base/check.h"
#include "base/log.h"

namespace shoal::sim {
namespace {

constexpr size_t kStackBytes = size_t{1} << 20;
constexpr uint64_t kYieldOneIn = 16;
/// So many without an end are a loop that waits for nothing.
constexpr uint64_t kTurnsMax = 20'000'000;

Turns* turns = nullptr;

void* MakeStack() {
  void* memory = mmap(nullptr, kStackBytes, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_STACK, -1, 0);
  SHOAL_CHECK(memory != MAP_FAILED);
  return memory;
}

}  // namespace

Turns* CurrentTurns() { return turns; }

int Turns::machine() const { return current_ == nullptr ? 0 : current_->machine; }

void Turns::set_machine(int machine) {
  SHOAL_CHECK(current_ != nullptr);
  current_->machine = machine;
}

void Turns::Enter() {
  Thread* thread = turns->current_;
  thread->result = thread->body();
  thread->done = true;
  turns->wake_all(thread);
  turns->let_go();
}

Turns::Thread* Turns::make_thread(std::function<void*()> body, int machine) {
  auto* thread = new Thread;
  thread->id = next_id_++;
  thread->body = std::move(body);
  thread->machine = machine;
  if (stacks_.empty()) stacks_.push_back(MakeStack());
  thread->stack = stacks_.back();
  stacks_.pop_back();
  SHOAL_CHECK_EQ(getcontext(&thread->context), 0);
  thread->context.uc_stack.ss_sp = thread->stack;
  thread->context.uc_stack.ss_size = kStackBytes;
  thread->context.uc_link = nullptr;
  makecontext(&thread->context, &Turns::Enter, 0);
  ready_.push_back(thread);
  return thread;
}

void Turns::forget(Thread* thread) {
  stacks_.push_back(thread->stack);
  waiting_.erase(thread);
  delete thread;
}

void Turns::run(std::function<void()> body) {
  SHOAL_CHECK(turns == nullptr);
  turns = this;
  Thread* first = make_thread(
      [body = std::move(body)]() -> void* {
        body();
        return nullptr;
      },
      0);
  while (!first->done) {
    Thread* thread = next();
    if (++turns_ > kTurnsMax) FailSeed("20 million turns without an end: something loops");
    note(thread->id);
    note(static_cast<uint64_t>(now_ns_));
    resume(*thread);
    if (thread->done && thread->detached) forget(thread);
  }
  turns = nullptr;
}

void Turns::resume(Thread& thread) {
  current_ = &thread;
  SwapThreadLogName(thread.log_name);
  SHOAL_CHECK_EQ(swapcontext(&scheduler_, &thread.context), 0);
  SwapThreadLogName(thread.log_name);
  current_ = nullptr;
}

void Turns::let_go() { SHOAL_CHECK_EQ(swapcontext(&current_->context, &scheduler_), 0); }

Turns::Thread* Turns::next() {
  while (!timers_.empty() && (ready_.empty() || timers_.begin()->first.first <= now_ns_)) {
    Thread* due = timers_.begin()->second;
    now_ns_ = std::max(now_ns_, timers_.begin()->first.first);
    make_ready(due);
  }
  if (ready_.empty()) FailSeed("all threads wait for one another");
  const auto index = static_cast<std::ptrdiff_t>(random_.below(ready_.size()));
  Thread* thread = ready_[static_cast<size_t>(index)];
  ready_.erase(ready_.begin() + index);
  return thread;
}

void Turns::make_ready(Thread* thread) {
  timers_.erase({thread->until_ns, thread->id});
  thread->until_ns = kNever;
  if (const auto queue = waiting_.find(thread->waits_for); queue != waiting_.end()) {
    std::erase(queue->second, thread);
    if (queue->second.empty()) waiting_.erase(queue);
  }
  thread->waits_for = nullptr;
  ready_.push_back(thread);
}

bool Turns::wait(const void* what, int64_t until_ns) {
  Thread& self = *current_;
  self.waits_for = what;
  self.until_ns = until_ns;
  self.woken = false;
  if (what != nullptr) waiting_[what].push_back(&self);
  if (until_ns != kNever) timers_[{until_ns, self.id}] = &self;
  let_go();
  return self.woken;
}

void Turns::wake_one(const void* what) {
  const auto queue = waiting_.find(what);
  if (queue == waiting_.end()) return;
  Thread* woken = queue->second[random_.below(queue->second.size())];
  woken->woken = true;
  make_ready(woken);
}

void Turns::wake_all(const void* what) {
  const auto queue = waiting_.find(what);
  if (queue == waiting_.end()) return;
  const std::deque<Thread*> woken = queue->second;
  for (Thread* thread : woken) {
    thread->woken = true;
    make_ready(thread);
  }
}

void Turns::maybe_yield() {
  if (random_.below(kYieldOneIn) != 0) return;
  ready_.push_back(current_);
  let_go();
}

pthread_t Turns::start(void* (*body)(void*), void* argument) {
  return reinterpret_cast<pthread_t>(
      make_thread([body, argument] { return body(argument); }, current_->machine));
}

void* Turns::join(pthread_t thread) {
  auto* joined = reinterpret_cast<Thread*>(thread);
  while (!joined->done) (void)wait(joined, kNever);
  void* result = joined->result;
  forget(joined);
  return result;
}

void Turns::detach(pthread_t thread) {
  auto* detached = reinterpret_cast<Thread*>(thread);
  detached->detached = true;
  if (detached->done) forget(detached);
}

}  // namespace shoal::sim
