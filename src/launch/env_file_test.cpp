#include "launch/env_file.h"

#include <gmock/gmock.h>

#include "base/status.h"

namespace shoal {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Pair;

std::map<std::string, std::string> Parsed(std::string_view text) {
  const auto values = ParseEnvFile(text);
  EXPECT_TRUE(values.ok()) << ToString(values.status());
  return values.value_or(std::map<std::string, std::string>());
}

TEST(EnvFile, NamesAndValues) {
  EXPECT_THAT(Parsed("# a ring\nRANK=1\n\n  export WORLD_SIZE = 3  # three\r\nMASTER_ADDR=mini1.local"),
              ElementsAre(Pair("MASTER_ADDR", "mini1.local"), Pair("RANK", "1"), Pair("WORLD_SIZE", "3")));
}

TEST(EnvFile, QuotedValuesKeepSpacesAndHashes) {
  EXPECT_THAT(
      Parsed("A='it # stands $HOME \\n'\nB=\"two\\nlines \\\"x\\\" \\$1\"  # yes\nC=\"a\nb\""),
      ElementsAre(Pair("A", "it # stands $HOME \\n"), Pair("B", "two\nlines \"x\" $1"), Pair("C", "a\nb")));
}

TEST(EnvFile, AHashInAWordIsNoComment) {
  EXPECT_THAT(Parsed("A=a#b\nB=#c\nC="), ElementsAre(Pair("A", "a#b"), Pair("B", ""), Pair("C", "")));
}

TEST(EnvFile, TheLastValueCounts) { EXPECT_THAT(Parsed("A=1\nA=2"), ElementsAre(Pair("A", "2"))); }

TEST(EnvFile, NothingIsNothing) { EXPECT_THAT(Parsed(" \n# only words\n"), IsEmpty()); }

TEST(EnvFile, AVariableNamedExportIsOne) {
  EXPECT_THAT(Parsed("export=1"), ElementsAre(Pair("export", "1")));
}

TEST(EnvFile, ErrorsNameTheLine) {
  for (const auto& [text, line] :
       std::vector<std::pair<std::string, std::string>>{{"A=1\nB 2\n", "line 2"},
                                                        {"1A=1", "line 1"},
                                                        {"\n\nA=\"x\ny", "line 3"},
                                                        {"A='x' y", "line 1"},
                                                        {std::string("A=\0", 3), "line 1"},
                                                        {"=x", "line 1"},
                                                        {"A-B=1", "line 1"}}) {
    const absl::Status status = ParseEnvFile(text).status();
    EXPECT_TRUE(absl::IsInvalidArgument(status)) << text;
    EXPECT_THAT(Message(status), HasSubstr(line)) << text;
  }
}

}  // namespace
}  // namespace shoal
