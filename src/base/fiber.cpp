#include "base/fiber.h"

#include <sys/mman.h>
#include <unistd.h>

#include <cstddef>
#include <cstdint>
#include <utility>

#include "base/check.h"
#include "base/stack_switch.h"
#include "base/status.h"

// Sanitizers follow the stack of each thread, and must be told when another one takes its place: in the very
// function that switches, as calls are counted.
// GCC and Clang each say in their own way which one is at work.
#if defined(__has_feature)
#define SHOAL_HAS_FEATURE(name) __has_feature(name)
#else
#define SHOAL_HAS_FEATURE(name) 0
#endif
#if defined(__SANITIZE_ADDRESS__) || SHOAL_HAS_FEATURE(address_sanitizer)
#define SHOAL_FIBERS_UNDER_ASAN
#include <sanitizer/common_interface_defs.h>
#elif defined(__SANITIZE_THREAD__) || SHOAL_HAS_FEATURE(thread_sanitizer)
#define SHOAL_FIBERS_UNDER_TSAN
#include <sanitizer/tsan_interface.h>
#endif

namespace shoal {
namespace {

#if defined(MAP_STACK)
constexpr int kOfStack = MAP_STACK;
#else
constexpr int kOfStack = 0;
#endif

// A page is taken when it is first touched.
constexpr size_t kStackBytes = size_t{8} << 20;

/// Memory for a stack, with a page below it that nobody may touch: an overflow ends the process at once.
class Stack {
 public:
  Stack() : guard_(static_cast<size_t>(sysconf(_SC_PAGESIZE))) {
    void* memory = mmap(nullptr, guard_ + kStackBytes, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | kOfStack, -1, 0);
    if (memory == MAP_FAILED) return;
    if (mprotect(memory, guard_, PROT_NONE) == 0) {
      memory_ = memory;
    } else {
      (void)munmap(memory, guard_ + kStackBytes);
    }
  }
  ~Stack() {
    if (memory_ != nullptr) (void)munmap(memory_, guard_ + kStackBytes);
  }
  Stack(const Stack&) = delete;
  Stack& operator=(const Stack&) = delete;

  bool taken() const { return memory_ != nullptr; }
  void* bottom() const { return static_cast<std::byte*>(memory_) + guard_; }

 private:
  const size_t guard_;
  void* memory_ = nullptr;
};

}  // namespace

struct Fiber::Contexts {
  Stack stack;
  StackPlace own{};
  StackPlace caller{};
#if defined(SHOAL_FIBERS_UNDER_ASAN)
  void* fake_stack = nullptr;  // Of the side that is left.
  const void* caller_bottom = nullptr;
  size_t caller_bytes = 0;
  [[gnu::always_inline]] void leave_caller() {
    __sanitizer_start_switch_fiber(&fake_stack, stack.bottom(), kStackBytes);
  }
  [[gnu::always_inline]] void arrive_at_caller(void* left) {
    __sanitizer_finish_switch_fiber(left, nullptr, nullptr);
  }
  [[gnu::always_inline]] void leave_own(void** keep) {
    __sanitizer_start_switch_fiber(keep, caller_bottom, caller_bytes);
  }
  [[gnu::always_inline]] void arrive_at_own(void* left) {
    __sanitizer_finish_switch_fiber(left, &caller_bottom, &caller_bytes);
  }
#elif defined(SHOAL_FIBERS_UNDER_TSAN)
  void* fake_stack = nullptr;
  void* own_state = __tsan_create_fiber(0);
  void* caller_state = nullptr;
  ~Contexts() { __tsan_destroy_fiber(own_state); }
  [[gnu::always_inline]] void leave_caller() {
    caller_state = __tsan_get_current_fiber();
    __tsan_switch_to_fiber(own_state, 0);
  }
  [[gnu::always_inline]] void arrive_at_caller(void*) {}
  [[gnu::always_inline]] void leave_own(void**) { __tsan_switch_to_fiber(caller_state, 0); }
  [[gnu::always_inline]] void arrive_at_own(void*) {}
#else
  void* fake_stack = nullptr;
  [[gnu::always_inline]] void leave_caller() {}
  [[gnu::always_inline]] void arrive_at_caller(void*) {}
  [[gnu::always_inline]] void leave_own(void**) {}
  [[gnu::always_inline]] void arrive_at_own(void*) {}
#endif
};

Fiber::Fiber(std::function<void()> body, std::unique_ptr<Contexts> contexts)
    : body_(std::move(body)), contexts_(std::move(contexts)) {}

absl::StatusOr<std::unique_ptr<Fiber>> Fiber::Create(std::function<void()> body) {
  auto contexts = std::make_unique<Contexts>();
  if (!contexts->stack.taken()) {
    return ResourceExhausted("a stack of {} MiB: the system gives no memory for it", kStackBytes >> 20);
  }
  std::unique_ptr<Fiber> fiber(new Fiber(std::move(body), std::move(contexts)));
  const auto address = reinterpret_cast<uintptr_t>(fiber.get());  // makecontext() passes ints alone.
  BeginStack(fiber->contexts_->own, fiber->contexts_->stack.bottom(), kStackBytes, &Fiber::Enter,
             static_cast<unsigned int>(address >> 32), static_cast<unsigned int>(address));
  return fiber;
}

Fiber::~Fiber() { SHOAL_CHECK(!begun_ || done_); }

void Fiber::Enter(unsigned int high, unsigned int low) {
  auto* fiber = reinterpret_cast<Fiber*>(uintptr_t{high} << 32 | low);
  Contexts& contexts = *fiber->contexts_;
  contexts.arrive_at_own(nullptr);
  fiber->body_();
  fiber->done_ = true;
  contexts.leave_own(nullptr);
  SwitchStack(contexts.own, contexts.caller);  // Not by returning: sanitizers count calls.
}

void Fiber::resume() {
  SHOAL_CHECK(!done_);
  begun_ = true;
  contexts_->leave_caller();
  SwitchStack(contexts_->caller, contexts_->own);
  contexts_->arrive_at_caller(contexts_->fake_stack);
}

void Fiber::suspend() {
  void* fake_stack = nullptr;
  contexts_->leave_own(&fake_stack);
  SwitchStack(contexts_->own, contexts_->caller);
  contexts_->arrive_at_own(fake_stack);
}

}  // namespace shoal
