#include "base/stack_switch.h"

#include <cstdint>
#include <cstring>

#if defined(__aarch64__)

// What the procedure call standard has a function keep: x19 to x30 and the lower halves of v8 to v15. 160 bytes, x30 the
// twelfth word: where a switch to this stack goes on.
asm(R"(
.text
.p2align 2
.globl shoal_switch_stack
shoal_switch_stack:
  stp x19, x20, [sp, #-160]!
  stp x21, x22, [sp, #16]
  stp x23, x24, [sp, #32]
  stp x25, x26, [sp, #48]
  stp x27, x28, [sp, #64]
  stp x29, x30, [sp, #80]
  stp d8, d9, [sp, #96]
  stp d10, d11, [sp, #112]
  stp d12, d13, [sp, #128]
  stp d14, d15, [sp, #144]
  mov x9, sp
  str x9, [x0]
  mov sp, x1
  ldp x21, x22, [sp, #16]
  ldp x23, x24, [sp, #32]
  ldp x25, x26, [sp, #48]
  ldp x27, x28, [sp, #64]
  ldp x29, x30, [sp, #80]
  ldp d8, d9, [sp, #96]
  ldp d10, d11, [sp, #112]
  ldp d12, d13, [sp, #128]
  ldp d14, d15, [sp, #144]
  ldp x19, x20, [sp], #160
  ret
.p2align 2
.globl shoal_begin_stack
shoal_begin_stack:
  mov x0, x19
  mov x1, x20
  blr x21
  brk #1
)");

namespace shoal {
namespace {

constexpr size_t kSavedWords = 20;

extern "C" void shoal_begin_stack() asm("shoal_begin_stack");

}  // namespace

void BeginStack(StackPlace& place, void* bottom, size_t bytes, void (*entry)(unsigned int, unsigned int),
                unsigned int high, unsigned int low) {
  uint64_t saved[kSavedWords] = {};
  saved[0] = high;                                // x19
  saved[1] = low;                                 // x20
  saved[2] = reinterpret_cast<uintptr_t>(entry);  // x21
  saved[11] = reinterpret_cast<uintptr_t>(&shoal_begin_stack);
  const auto end = (reinterpret_cast<uintptr_t>(bottom) + bytes) / 16 * 16;
  place.top = reinterpret_cast<void*>(end - sizeof saved);
  std::memcpy(place.top, saved, sizeof saved);
}

}  // namespace shoal

#endif
