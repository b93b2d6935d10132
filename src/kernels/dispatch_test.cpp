// Which instruction set is chosen, and what is refused with which words.
#include <gtest/gtest.h>

#include <string>
#include <string_view>
#include <vector>

#include "base/status.h"
#include "kernels/kernels.h"
#include "kernels/tables.h"

namespace shoal {
namespace {

TEST(Isa, TheFastestIsChosenAndALowerOneCanBeForced) {
  const std::vector<Isa> isas = SupportedIsas();
  ASSERT_FALSE(isas.empty());
  EXPECT_EQ(*ChooseIsa(""), isas.back());
  EXPECT_EQ(*ChooseIsa("reference"), Isa::kReference);
  for (const Isa isa : isas) {
    EXPECT_EQ(*ChooseIsa(IsaName(isa)), isa);
    EXPECT_EQ(SelectKernels(isa).isa, isa);
  }
}

#if defined(__x86_64__)
TEST(Isa, RefusesASetThatThisMachineLacksAndNamesThoseItHas) {
  int lacking = 0;
  for (const std::string_view name : {"reference", "avx2", "avx-vnni", "avx512", "amx"}) {
    const auto isa = ChooseIsa(name);
    if (isa.ok()) continue;
    ++lacking;
    EXPECT_EQ(isa.status().code(), absl::StatusCode::kFailedPrecondition) << name;
    for (const std::string& part : {"'" + std::string(name) + "'", std::string("which this machine lacks"),
                                    std::string(IsaName(SupportedIsas().back()))}) {
      EXPECT_NE(Message(isa.status()).find(part), std::string::npos) << Message(isa.status());
    }
  }
  if (lacking == 0) GTEST_SKIP() << "this machine lacks none";
}

TEST(Isa, ACpuWithoutVectorsIsRefusedWithTheReasonAndWhatToDo) {
  const absl::Status old = LacksVectors({"AVX2", "F16C"}, false);
  EXPECT_EQ(old.code(), absl::StatusCode::kFailedPrecondition);
  for (const std::string_view part : {"AVX2, F16C", "newer CPU", "--isa reference"}) {
    EXPECT_NE(Message(old).find(part), std::string::npos) << Message(old);
  }
  EXPECT_EQ(Message(old).find("virtual machine"), std::string::npos) << Message(old);
  const absl::Status hidden = LacksVectors({"FMA3", "AVX2"}, true);
  for (const std::string_view part : {"FMA3, AVX2", "virtual machine", "CPU type 'host'"}) {
    EXPECT_NE(Message(hidden).find(part), std::string::npos) << Message(hidden);
  }
  // The reference needs FMA3 as well.
  EXPECT_EQ(Message(hidden).find("--isa reference"), std::string::npos) << Message(hidden);
}

// On a CPU that has less than AVX2 it is refused instead: qemu-x86_64 -cpu Nehalem kernels_test.
TEST(Isa, TheReferenceIsNeverChosenUnasked) {
  const auto isa = ChooseIsa("");
  if (isa.ok()) {
    EXPECT_NE(*isa, Isa::kReference);
  } else {
    EXPECT_NE(Message(isa.status()).find("AVX2"), std::string::npos) << Message(isa.status());
  }
}
#endif

TEST(Isa, RefusesAnUnknownNameAndListsTheKnownOnes) {
  const auto isa = ChooseIsa("sse2");
  EXPECT_EQ(isa.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_NE(Message(isa.status()).find("reference"), std::string::npos);
}

}  // namespace
}  // namespace shoal
