// The probes of roofline_x86.cpp for AArch64: every CPU has vectors of 128 bits, most have dot products of 8
// bits.
#include "base/process.h"
#include "measure/roofline_probes.h"

namespace shoal {
namespace {

constexpr uint32_t kBytes = 0x5b3c7d2e;  // As four 8-bit integers.
constexpr uint32_t kFloat = 0x3f9d70a4;  // 1.23f

bool Always() { return true; }

enum Body { kDot, kMultiplyLong, kFma, kMatrix };

/// Repeats one instruction on sixteen accumulators in turn, enough for four per cycle with a latency of 4.
template <Body body>
__attribute__((target("arch=armv8.2-a+dotprod+i8mm"))) void Chains(int64_t rounds) {
  const uint32_t operand = body == kFma ? kFloat : kBytes;
  asm volatile(
      "dup v16.4s, %w1\n dup v17.4s, %w1\n"
      ".irp r,v0.4s,v1.4s,v2.4s,v3.4s,v4.4s,v5.4s,v6.4s,v7.4s,"
      "v8.4s,v9.4s,v10.4s,v11.4s,v12.4s,v13.4s,v14.4s,v15.4s\n movi \\r, #0\n .endr\n"
      "1:\n"
      ".rept 4\n"
      ".if %c2 == 0\n"
      ".irp r,v0.4s,v1.4s,v2.4s,v3.4s,v4.4s,v5.4s,v6.4s,v7.4s,"
      "v8.4s,v9.4s,v10.4s,v11.4s,v12.4s,v13.4s,v14.4s,v15.4s\n sdot \\r, v16.16b, v17.16b\n .endr\n"
      ".elseif %c2 == 1\n"
      ".irp r,v0.8h,v1.8h,v2.8h,v3.8h,v4.8h,v5.8h,v6.8h,v7.8h,"
      "v8.8h,v9.8h,v10.8h,v11.8h,v12.8h,v13.8h,v14.8h,v15.8h\n smlal \\r, v16.8b, v17.8b\n .endr\n"
      ".elseif %c2 == 3\n"
      ".irp r,v0.4s,v1.4s,v2.4s,v3.4s,v4.4s,v5.4s,v6.4s,v7.4s,"
      "v8.4s,v9.4s,v10.4s,v11.4s,v12.4s,v13.4s,v14.4s,v15.4s\n smmla \\r, v16.16b, v17.16b\n .endr\n"
      ".else\n"
      ".irp r,v0.4s,v1.4s,v2.4s,v3.4s,v4.4s,v5.4s,v6.4s,v7.4s,"
      "v8.4s,v9.4s,v10.4s,v11.4s,v12.4s,v13.4s,v14.4s,v15.4s\n fmla \\r, v16.4s, v17.4s\n .endr\n"
      ".endif\n"
      ".endr\n"
      "subs %0, %0, #1\n b.ne 1b"
      : "+r"(rounds)
      : "r"(operand), "i"(body)
      : "v0", "v1", "v2", "v3", "v4", "v5", "v6", "v7", "v8", "v9", "v10", "v11", "v12", "v13", "v14", "v15",
        "v16", "v17", "cc");
}

constexpr int64_t ChainOps(int64_t lanes) { return 4 * 16 * lanes * 2; }

void ReadLines(const std::byte* data, int64_t bytes) {
  static_assert(kReadStep == 16 * 32);
  const std::byte* const end = data + bytes;
  if (bytes == 0) return;
  asm volatile(
      "1:\n"
      ".rept 16\n ldp q0, q1, [%0], #32\n .endr\n"
      "cmp %0, %1\n b.lo 1b"
      : "+r"(data)
      : "r"(end)
      : "v0", "v1", "cc", "memory");
}

// Without dot products a widening multiply-add comes closest. It counts as one, although sums need another
// instruction.
constexpr RateProbe kInt8[] = {
    {"smmla on 128 bits", HasArmInt8MatrixProduct, Isa::kNeonI8mm, ChainOps(32), Chains<kMatrix>},
    {"sdot on 128 bits", HasArmDotProduct, Isa::kNeonDotprod, ChainOps(16), Chains<kDot>},
    {"smlal on 64 bits", Always, Isa::kNeon, ChainOps(8), Chains<kMultiplyLong>}};
constexpr RateProbe kFmas[] = {{"fmla on 128 bits", Always, Isa::kNeon, ChainOps(4), Chains<kFma>}};
constexpr ReadProbe kReads[] = {{Always, ReadLines}};

}  // namespace

std::span<const RateProbe> Int8Probes() { return kInt8; }
std::span<const RateProbe> ScaledInt8Probes() { return {}; }
std::span<const RateProbe> WideProbes() { return {}; }
std::span<const RateProbe> TileProbes() { return {}; }
std::span<const RateProbe> FmaProbes() { return kFmas; }
std::span<const ReadProbe> ReadProbes() { return kReads; }

}  // namespace shoal
