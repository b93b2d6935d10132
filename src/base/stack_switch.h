// How a thread leaves one stack for another. The C library's contexts, but on 64-bit ARM: there the switch is written out
// (stack_switch.cpp), for macOS has those contexts no longer, and it is the same on all systems.
#pragma once

#include <cstddef>

#if !defined(__aarch64__)
#include <ucontext.h>

#include "base/check.h"
#endif

namespace shoal {

#if defined(__aarch64__)

/// Where to go on: the top of a stack, on which lie the registers that a function keeps for its caller.
struct StackPlace {
  void* top = nullptr;
};

/// Has a switch to `place` call entry(high, low), which must not return, on the stack of `bytes` from `bottom`.
void BeginStack(StackPlace& place, void* bottom, size_t bytes, void (*entry)(unsigned int, unsigned int),
                unsigned int high, unsigned int low);

extern "C" void shoal_switch_stack(void** leave, void* enter) asm("shoal_switch_stack");

/// Goes on at `enter`; returns when somebody switches to `leave`. Sanitizers count calls, so this is none.
[[gnu::always_inline]] inline void SwitchStack(StackPlace& leave, StackPlace& enter) {
  shoal_switch_stack(&leave.top, enter.top);
}

#else

using StackPlace = ucontext_t;

inline void BeginStack(StackPlace& place, void* bottom, size_t bytes,
                       void (*entry)(unsigned int, unsigned int), unsigned int high, unsigned int low) {
  SHOAL_CHECK_EQ(getcontext(&place), 0);
  place.uc_stack.ss_sp = bottom;
  place.uc_stack.ss_size = bytes;
  place.uc_link = nullptr;
  makecontext(&place, reinterpret_cast<void (*)()>(entry), 2, high, low);
}

[[gnu::always_inline]] inline void SwitchStack(StackPlace& leave, StackPlace& enter) {
  SHOAL_CHECK_EQ(swapcontext(&leave, &enter), 0);
}

#endif

}  // namespace shoal
