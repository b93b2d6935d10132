// The kernel tables of this build, which of them this machine can run, and the choice of one by name.
#include <algorithm>
#include <string>
#include <vector>

#include "base/check.h"
#include "base/process.h"
#include "base/status.h"
#include "base/text.h"
#include "kernels/kernels.h"
#include "kernels/tables.h"

#if defined(__x86_64__)
#include <cpuid.h>
#endif

namespace shoal {
namespace {

struct IsaEntry {
  Isa isa;
  std::string_view name;
  std::string_view needs;  ///< What the CPU must have, for the error text.
  const Kernels& (*table)();
  bool (*supported)();
};

// __builtin_cpu_supports also checks that the operating system saves the registers (XGETBV).
#if defined(__x86_64__)
bool HasFma() { return __builtin_cpu_supports("fma"); }
bool HasAvx2() { return HasFma() && __builtin_cpu_supports("avx2") && __builtin_cpu_supports("f16c"); }
/// AVX-VNNI on 256 bits, which Linux calls avx_vnni. By CPUID, since not all compilers know its name.
bool HasAvxVnni() {
  unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;
  return HasAvx2() && __get_cpuid_count(7, 1, &eax, &ebx, &ecx, &edx) != 0 && (eax & (1u << 4)) != 0;
}
bool HasAvx512() {
  return HasAvx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") &&
         __builtin_cpu_supports("avx512vnni");
}
bool HasAmx() { return HasAvx512() && MayUseAmxInt8(); }
const IsaEntry kEntries[] = {
    {Isa::kReference, "reference", "FMA3", ReferenceKernels, HasFma},
    {Isa::kAvx2, "avx2", "AVX2, FMA3 and F16C", Avx2Kernels, HasAvx2},
    {Isa::kAvxVnni, "avx-vnni", "all that avx2 needs and AVX-VNNI", AvxVnniKernels, HasAvxVnni},
    {Isa::kAvx512, "avx512", "AVX-512 F, BW, VL, DQ and VNNI", Avx512Kernels, HasAvx512},
    {Isa::kAmx, "amx", "all that avx512 needs, AMX-TILE, AMX-INT8, and Linux 5.16 or newer that permits AMX",
     AmxKernels, HasAmx},
};
/// Set by hypervisors, which decide what else CPUID shows.
bool InVirtualMachine() {
  unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;
  return __get_cpuid(1, &eax, &ebx, &ecx, &edx) != 0 && (ecx & (1u << 31)) != 0;
}
/// Whether this CPU runs any vector kernels.
absl::Status CheckVectors() {
  std::vector<std::string> lacking;
  if (!HasFma()) lacking.emplace_back("FMA3");
  if (!__builtin_cpu_supports("avx2")) lacking.emplace_back("AVX2");
  if (!__builtin_cpu_supports("f16c")) lacking.emplace_back("F16C");
  return lacking.empty() ? absl::OkStatus() : LacksVectors(lacking, InVirtualMachine());
}
#elif defined(__aarch64__)
absl::Status CheckVectors() { return absl::OkStatus(); }
bool Always() { return true; }  // NEON is part of AArch64, and so are FMA and f16 conversions.
bool HasI8mm() { return HasArmDotProduct() && HasArmInt8MatrixProduct(); }
const IsaEntry kEntries[] = {
    {Isa::kReference, "reference", "nothing", ReferenceKernels, Always},
    {Isa::kNeon, "neon", "nothing", NeonKernels, Always},
    {Isa::kNeonDotprod, "neon-dotprod", "dot products (asimddp)", NeonDotprodKernels, HasArmDotProduct},
    {Isa::kNeonI8mm, "neon-i8mm", "dot and matrix products of 8 bits (asimddp, i8mm)", NeonI8mmKernels,
     HasI8mm},
};
#else
absl::Status CheckVectors() { return absl::OkStatus(); }
bool Always() { return true; }
const IsaEntry kEntries[] = {{Isa::kReference, "reference", "nothing", ReferenceKernels, Always}};
#endif

std::vector<std::string> Names(bool supported_only) {
  std::vector<std::string> names;
  for (const IsaEntry& entry : kEntries) {
    if (!supported_only || entry.supported()) names.emplace_back(entry.name);
  }
  return names;
}

}  // namespace

std::string_view IsaName(Isa isa) {
  for (const IsaEntry& entry : kEntries) {
    if (entry.isa == isa) return entry.name;
  }
  return "not in this build";
}

std::vector<Isa> SupportedIsas() {
  std::vector<Isa> isas;
  for (const IsaEntry& entry : kEntries) {
    if (entry.supported()) isas.push_back(entry.isa);
  }
  return isas;
}

absl::Status LacksVectors(const std::vector<std::string>& lacking, bool in_virtual_machine) {
  const bool runs_reference = std::find(lacking.begin(), lacking.end(), "FMA3") == lacking.end();
  return FailedPrecondition(
      "isa: this CPU {} {}; shoal needs AVX2, FMA3 and F16C (Intel since Haswell, AMD since Excavator); {}{}",
      in_virtual_machine ? "is shown by its virtual machine without" : "lacks", Join(lacking, ", "),
      in_virtual_machine
          ? "choose CPU type 'host' for the virtual machine (QEMU: -cpu host), if its host has them"
          : "run shoal on a newer CPU",
      runs_reference ? ", or ask for --isa reference, which is many times slower" : "");
}

absl::StatusOr<Isa> ChooseIsa(std::string_view forced) {
  if (forced.empty()) {
    RETURN_IF_ERROR(CheckVectors());
    return SupportedIsas().back();
  }
  for (const IsaEntry& entry : kEntries) {
    if (entry.name != forced) continue;
    if (entry.supported()) return entry.isa;
    return FailedPrecondition("isa '{}' needs {}, which this machine lacks; it can run: {}", forced,
                              entry.needs, Join(Names(true), ", "));
  }
  return InvalidArgument("isa '{}' is unknown; this build has: {}", forced, Join(Names(false), ", "));
}

const Kernels& SelectKernels(Isa isa) {
  const auto* const end = std::end(kEntries);
  const auto* const entry =
      std::find_if(std::begin(kEntries), end, [&](const IsaEntry& e) { return e.isa == isa; });
  SHOAL_CHECK(entry != end && entry->supported());
  return entry->table();
}

}  // namespace shoal
