// Written in assembly, because a compiler would merge, reorder or drop work whose results are not used, and
// because assembly needs no compiler flags. Twelve of sixteen registers are accumulators: the instructions
// have a latency of 4 or 5 cycles, at two per cycle. Operands are neither zero nor tiny, which might cost a
// CPU less than real ones.
#include "base/process.h"
#include "measure/roofline_probes.h"

namespace shoal {
namespace {

constexpr uint32_t kBytes = 0x5b3c7d2e;  // As four 8-bit integers.
constexpr uint32_t kFloat = 0x3f9d70a4;  // 1.23f

// __builtin_cpu_supports also checks that the operating system saves the registers (XGETBV).
bool HasAvx2() { return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"); }
bool HasAvx512() { return __builtin_cpu_supports("avx512f"); }
bool HasAvx512Vnni() { return HasAvx512() && __builtin_cpu_supports("avx512vnni"); }

bool HasAvxVnni() { return ChooseIsa("avx-vnni").ok(); }

// ---- Multiply and add ----

enum Body { kVnniZmm, kVnniYmm, kFmaZmm, kFmaYmm };

/// Repeats one instruction on twelve accumulators in turn.
template <Body body>
void Chains(int64_t rounds) {
  const uint32_t operand = body == kVnniZmm || body == kVnniYmm ? kBytes : kFloat;
  asm volatile(
      ".if %c2 == 0 || %c2 == 2\n vpbroadcastd %1, %%zmm12\n vpbroadcastd %1, %%zmm13\n .endif\n"
      ".if %c2 == 1 || %c2 == 3\n vpbroadcastd %1, %%ymm12\n vpbroadcastd %1, %%ymm13\n .endif\n"
      ".irp r,0,1,2,3,4,5,6,7,8,9,10,11\n vpxor %%ymm\\r, %%ymm\\r, %%ymm\\r\n .endr\n"
      "1:\n"
      ".rept 4\n"
      ".irp r,0,1,2,3,4,5,6,7,8,9,10,11\n"
      ".if %c2 == 0\n vpdpbusd %%zmm12, %%zmm13, %%zmm\\r\n .endif\n"
      ".if %c2 == 1\n %{vex%} vpdpbusd %%ymm12, %%ymm13, %%ymm\\r\n .endif\n"
      ".if %c2 == 2\n vfmadd231ps %%zmm12, %%zmm13, %%zmm\\r\n .endif\n"
      ".if %c2 == 3\n vfmadd231ps %%ymm12, %%ymm13, %%ymm\\r\n .endif\n"
      ".endr\n"
      ".endr\n"
      "dec %0\n jnz 1b\n vzeroupper"
      : "+r"(rounds)
      : "m"(operand), "i"(body)
      : "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", "xmm9", "xmm10", "xmm11",
        "xmm12", "xmm13", "cc");
}

/// Operations of a round of Chains, with `lanes` multiply-adds per instruction.
constexpr int64_t ChainOps(int64_t lanes) { return 4 * 12 * lanes * 2; }

/// A quantized product in registers: ten sums over a group of 64, then for each a conversion, the product of
/// the two scales, and two multiply-adds for scale and bias.
constexpr int64_t kScaledZmmOps = 10 * 16 * 64 * 2;
void ScaledZmm(int64_t rounds) {
  asm volatile(
      "vpbroadcastd %1, %%zmm20\n vpbroadcastd %1, %%zmm21\n"
      "vpbroadcastd %2, %%zmm22\n vpbroadcastd %2, %%zmm23\n"
      ".irp r,0,1,2,3,4,5,6,7,8,9\n vpxord %%zmm1\\r, %%zmm1\\r, %%zmm1\\r\n .endr\n"
      "1:\n"
      ".irp r,0,1,2,3,4,5,6,7,8,9\n vpxord %%zmm\\r, %%zmm\\r, %%zmm\\r\n .endr\n"
      ".rept 16\n"
      ".irp r,0,1,2,3,4,5,6,7,8,9\n vpdpbusd %%zmm20, %%zmm21, %%zmm\\r\n .endr\n"
      ".endr\n"
      ".irp r,0,1,2,3,4,5,6,7,8,9\n"
      "vcvtdq2ps %%zmm\\r, %%zmm24\n vmulps %%zmm22, %%zmm23, %%zmm25\n"
      "vfmadd231ps %%zmm24, %%zmm25, %%zmm1\\r\n vfmadd231ps %%zmm22, %%zmm23, %%zmm1\\r\n"
      ".endr\n"
      "dec %0\n jnz 1b\n vzeroupper"
      : "+r"(rounds)
      : "m"(kBytes), "m"(kFloat)
      : "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", "xmm9", "xmm10", "xmm11",
        "xmm12", "xmm13", "xmm14", "xmm15", "cc");
}

/// The fastest exact product without VNNI is that of 4-bit weights: a pair of products is at most 2 * 15 *
/// 127, so eight pairs fit 16 bits and are widened together. Four chains, each with a temporary.
constexpr int64_t kMaddYmmOps = 8 * 4 * 32 * 2;
void MaddYmm(int64_t rounds) {
  asm volatile(
      "vpbroadcastd %1, %%ymm12\n vpbroadcastd %1, %%ymm13\n vpsrlw $15, %%ymm12, %%ymm14\n"
      ".irp r,0,1,2,3,4,5,6,7,8,9,10,11\n vpxor %%ymm\\r, %%ymm\\r, %%ymm\\r\n .endr\n"
      "1:\n"
      ".rept 8\n"
      ".irp r,4,5,6,7\n vpmaddubsw %%ymm12, %%ymm13, %%ymm\\r\n .endr\n"
      "vpaddw %%ymm4, %%ymm0, %%ymm0\n vpaddw %%ymm5, %%ymm1, %%ymm1\n"
      "vpaddw %%ymm6, %%ymm2, %%ymm2\n vpaddw %%ymm7, %%ymm3, %%ymm3\n"
      ".endr\n"
      "vpmaddwd %%ymm14, %%ymm0, %%ymm4\n vpmaddwd %%ymm14, %%ymm1, %%ymm5\n"
      "vpmaddwd %%ymm14, %%ymm2, %%ymm6\n vpmaddwd %%ymm14, %%ymm3, %%ymm7\n"
      "vpaddd %%ymm4, %%ymm8, %%ymm8\n vpaddd %%ymm5, %%ymm9, %%ymm9\n"
      "vpaddd %%ymm6, %%ymm10, %%ymm10\n vpaddd %%ymm7, %%ymm11, %%ymm11\n"
      ".irp r,0,1,2,3\n vpxor %%ymm\\r, %%ymm\\r, %%ymm\\r\n .endr\n"
      "dec %0\n jnz 1b\n vzeroupper"
      : "+r"(rounds)
      : "m"(kBytes)
      : "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", "xmm9", "xmm10", "xmm11",
        "xmm12", "xmm13", "xmm14", "cc");
}

// ---- Multiply, add and scale, on 256 bits ----

/// What ScaledZmm does, on the 16 registers of AVX2: ten exact sums, which hide the latency, and three of floats for all
/// of them.
constexpr int64_t kScaledYmmOps = 10 * 16 * 32 * 2;
void ScaledYmm(int64_t rounds) {
  asm volatile(
      "vpbroadcastd %1, %%ymm13\n vpbroadcastd %2, %%ymm14\n"
      ".irp r,10,11,12\n vpxor %%ymm\\r, %%ymm\\r, %%ymm\\r\n .endr\n"
      ".macro shoal_scale dot, sum\n"
      "vcvtdq2ps %%ymm\\dot, %%ymm\\dot\n vmulps %%ymm14, %%ymm14, %%ymm15\n"
      "vfmadd231ps %%ymm\\dot, %%ymm15, %%ymm\\sum\n vfmadd231ps %%ymm14, %%ymm14, %%ymm\\sum\n"
      ".endm\n"
      "1:\n"
      ".irp r,0,1,2,3,4,5,6,7,8,9\n vpxor %%ymm\\r, %%ymm\\r, %%ymm\\r\n .endr\n"
      ".rept 16\n"
      ".irp r,0,1,2,3,4,5,6,7,8,9\n %{vex%} vpdpbusd %%ymm13, %%ymm13, %%ymm\\r\n .endr\n"
      ".endr\n"
      "shoal_scale 0, 10\n shoal_scale 1, 11\n shoal_scale 2, 12\n shoal_scale 3, 10\n shoal_scale 4, 11\n"
      "shoal_scale 5, 12\n shoal_scale 6, 10\n shoal_scale 7, 11\n shoal_scale 8, 12\n shoal_scale 9, 10\n"
      ".purgem shoal_scale\n"
      "dec %0\n jnz 1b\n vzeroupper"
      : "+r"(rounds)
      : "m"(kBytes), "m"(kFloat)
      : "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", "xmm9", "xmm10", "xmm11",
        "xmm12", "xmm13", "xmm14", "xmm15", "cc");
}

/// The same with MaddYmm's products of 4-bit weights: three sums, of two panels of 32 columns each.
constexpr int64_t kScaledMaddOps = 3 * 16 * 32 * 2;
void ScaledMadd(int64_t rounds) {
  asm volatile(
      "vpbroadcastd %1, %%ymm12\n vpbroadcastd %1, %%ymm13\n vpsrlw $15, %%ymm12, %%ymm14\n"
      "vpbroadcastd %2, %%ymm15\n"
      ".irp r,9,10,11\n vpxor %%ymm\\r, %%ymm\\r, %%ymm\\r\n .endr\n"
      "1:\n"
      ".irp panel,0,1\n"
      ".irp r,0,1,2\n vpmaddubsw %%ymm12, %%ymm13, %%ymm\\r\n .endr\n"
      ".rept 7\n"
      ".irp r,3,4,5\n vpmaddubsw %%ymm12, %%ymm13, %%ymm\\r\n .endr\n"
      "vpaddw %%ymm3, %%ymm0, %%ymm0\n vpaddw %%ymm4, %%ymm1, %%ymm1\n vpaddw %%ymm5, %%ymm2, %%ymm2\n"
      ".endr\n"
      ".if \\panel == 0\n"
      "vpmaddwd %%ymm14, %%ymm0, %%ymm6\n vpmaddwd %%ymm14, %%ymm1, %%ymm7\n vpmaddwd %%ymm14, %%ymm2, "
      "%%ymm8\n"
      ".else\n"
      "vpmaddwd %%ymm14, %%ymm0, %%ymm3\n vpmaddwd %%ymm14, %%ymm1, %%ymm4\n vpmaddwd %%ymm14, %%ymm2, "
      "%%ymm5\n"
      "vpaddd %%ymm3, %%ymm6, %%ymm6\n vpaddd %%ymm4, %%ymm7, %%ymm7\n vpaddd %%ymm5, %%ymm8, %%ymm8\n"
      ".endif\n"
      ".endr\n"
      "vmulps %%ymm15, %%ymm15, %%ymm3\n vmulps %%ymm15, %%ymm15, %%ymm4\n vmulps %%ymm15, %%ymm15, %%ymm5\n"
      ".irp r,6,7,8\n vcvtdq2ps %%ymm\\r, %%ymm\\r\n .endr\n"
      "vfmadd231ps %%ymm6, %%ymm3, %%ymm9\n vfmadd231ps %%ymm7, %%ymm4, %%ymm10\n"
      "vfmadd231ps %%ymm8, %%ymm5, %%ymm11\n"
      ".irp r,9,10,11\n vfmadd231ps %%ymm15, %%ymm15, %%ymm\\r\n .endr\n"
      "dec %0\n jnz 1b\n vzeroupper"
      : "+r"(rounds)
      : "m"(kBytes), "m"(kFloat)
      : "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", "xmm9", "xmm10", "xmm11",
        "xmm12", "xmm13", "xmm14", "xmm15", "cc");
}

/// The same for 8-bit weights, whose pairs saturate 16 bits: widened, then vpmaddwd, half as many products at a time.
constexpr int64_t kScaledWideOps = 3 * 32 * 16 * 2;
void ScaledWide(int64_t rounds) {
  asm volatile(
      "vpbroadcastd %1, %%ymm12\n vpsrlw $8, %%ymm12, %%ymm12\n vmovdqa %%ymm12, %%ymm13\n vpbroadcastd %2, "
      "%%ymm15\n"
      ".irp r,9,10,11\n vpxor %%ymm\\r, %%ymm\\r, %%ymm\\r\n .endr\n"
      "1:\n"
      ".irp r,0,1,2\n vpmaddwd %%ymm12, %%ymm13, %%ymm\\r\n .endr\n"
      ".rept 31\n"
      ".irp r,3,4,5\n vpmaddwd %%ymm12, %%ymm13, %%ymm\\r\n .endr\n"
      "vpaddd %%ymm3, %%ymm0, %%ymm0\n vpaddd %%ymm4, %%ymm1, %%ymm1\n vpaddd %%ymm5, %%ymm2, %%ymm2\n"
      ".endr\n"
      "vmulps %%ymm15, %%ymm15, %%ymm3\n vmulps %%ymm15, %%ymm15, %%ymm4\n vmulps %%ymm15, %%ymm15, %%ymm5\n"
      ".irp r,0,1,2\n vcvtdq2ps %%ymm\\r, %%ymm\\r\n .endr\n"
      "vfmadd231ps %%ymm0, %%ymm3, %%ymm9\n vfmadd231ps %%ymm1, %%ymm4, %%ymm10\n"
      "vfmadd231ps %%ymm2, %%ymm5, %%ymm11\n"
      ".irp r,9,10,11\n vfmadd231ps %%ymm15, %%ymm15, %%ymm\\r\n .endr\n"
      "dec %0\n jnz 1b\n vzeroupper"
      : "+r"(rounds)
      : "m"(kBytes), "m"(kFloat)
      : "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", "xmm9", "xmm10", "xmm11",
        "xmm12", "xmm13", "xmm14", "xmm15", "cc");
}

// ---- Tiles ----

struct alignas(64) TileConfig {
  uint8_t palette = 1;
  uint8_t start_row = 0;
  uint8_t reserved[14] = {};
  uint16_t row_bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
  uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
};
static_assert(sizeof(TileConfig) == 64);

/// An instruction has 16 x 16 x 64 multiply-adds and takes 16 cycles, with a latency of 52: four accumulators
/// in turn.
constexpr int64_t kTileOps = 4 * 4 * (16 * 16 * 64 * 2);
void Tiles(int64_t rounds) {
  const TileConfig config;
  alignas(64) uint32_t tile[256];
  for (uint32_t& word : tile) word = kBytes;
  const int64_t stride = 64;
  asm volatile(
      "ldtilecfg %1\n"
      ".irp r,0,1,2,3\n tilezero %%tmm\\r\n .endr\n"
      ".irp r,4,5,6,7\n tileloadd (%2,%3,1), %%tmm\\r\n .endr\n"
      "1:\n"
      ".rept 4\n"
      "tdpbusd %%tmm6, %%tmm4, %%tmm0\n tdpbusd %%tmm7, %%tmm4, %%tmm1\n"
      "tdpbusd %%tmm6, %%tmm5, %%tmm2\n tdpbusd %%tmm7, %%tmm5, %%tmm3\n"
      ".endr\n"
      "dec %0\n jnz 1b\n tilerelease"
      : "+r"(rounds)
      : "m"(config), "r"(tile), "r"(stride)
      : "cc", "memory");
}

// ---- Memory ----

/// Loads of 32 bytes, two per cycle: many times the rate of memory. Prefetches run `ahead` bytes before the
/// loads; prefetches beyond the buffer have no effect.
template <int64_t ahead>
void ReadLines(const std::byte* data, int64_t bytes) {
  static_assert(kReadStep == 8 * 64);
  const std::byte* const end = data + bytes;
  if (bytes == 0) return;
  asm volatile(
      "1:\n"
      ".irp line,0,64,128,192,256,320,384,448\n prefetcht0 %c2+\\line(%0)\n .endr\n"
      ".irp line,0,64,128,192,256,320,384,448\n vmovdqa \\line(%0), %%ymm0\n vmovdqa \\line+32(%0), %%ymm1\n "
      ".endr\n"
      "add $512, %0\n cmp %1, %0\n jb 1b\n vzeroupper"
      : "+r"(data)
      : "r"(end), "i"(ahead)
      : "xmm0", "xmm1", "cc", "memory");
}

constexpr RateProbe kInt8[] = {
    {"vpdpbusd on 512 bits", HasAvx512Vnni, Isa::kAvx512, ChainOps(64), Chains<kVnniZmm>},
    {"vpdpbusd on 256 bits", HasAvxVnni, Isa::kAvxVnni, ChainOps(32), Chains<kVnniYmm>},
    {"vpmaddubsw on 256 bits, 4-bit weights", HasAvx2, Isa::kAvx2, kMaddYmmOps, MaddYmm}};
constexpr RateProbe kScaledInt8[] = {
    {"vpdpbusd on 512 bits, scaled by groups of 64", HasAvx512Vnni, Isa::kAvx512, kScaledZmmOps, ScaledZmm},
    {"vpdpbusd on 256 bits, scaled by groups of 64", HasAvxVnni, Isa::kAvxVnni, kScaledYmmOps, ScaledYmm},
    {"vpmaddubsw on 256 bits, 4-bit weights, scaled by groups of 64", HasAvx2, Isa::kAvx2, kScaledMaddOps,
     ScaledMadd}};
constexpr RateProbe kWide[] = {{"vpmaddwd on 256 bits, 8-bit weights, scaled by groups of 64", HasAvx2,
                                Isa::kAvx2, kScaledWideOps, ScaledWide}};
constexpr RateProbe kTiles[] = {{"tdpbusd", MayUseAmxInt8, Isa::kAmx, kTileOps, Tiles}};
constexpr RateProbe kFma[] = {
    {"vfmadd231ps on 512 bits", HasAvx512, Isa::kAvx512, ChainOps(16), Chains<kFmaZmm>},
    {"vfmadd231ps on 256 bits", HasAvx2, Isa::kAvx2, ChainOps(8), Chains<kFmaYmm>}};
constexpr ReadProbe kReads[] = {
    {HasAvx2, ReadLines<0>}, {HasAvx2, ReadLines<1024>}, {HasAvx2, ReadLines<4096>}};

}  // namespace

std::span<const RateProbe> Int8Probes() { return kInt8; }
std::span<const RateProbe> ScaledInt8Probes() { return kScaledInt8; }
std::span<const RateProbe> WideProbes() { return kWide; }
std::span<const RateProbe> TileProbes() { return kTiles; }
std::span<const RateProbe> FmaProbes() { return kFma; }
std::span<const ReadProbe> ReadProbes() { return kReads; }

}  // namespace shoal
