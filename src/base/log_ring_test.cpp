#include "base/log_ring.h"

#include <gtest/gtest.h>

#include "base/log.h"

namespace shoal {
namespace {

TEST(LogRing, KeepsTheNewestLinesWithinItsBytesAndGivesThoseThatAreAskedFor) {
  LogRing ring(4 << 10);
  for (int i = 1; i <= 200; ++i)
    ring.add(i % 2 == 0 ? LogLevel::kInfo : LogLevel::kWarning, "line " + std::to_string(i), 1000 + i);
  const auto all = ring.read({});
  ASSERT_FALSE(all.empty());
  EXPECT_LT(all.size(), 200U);
  EXPECT_EQ(all.back().text, "line 200");
  EXPECT_EQ(all.back().id, 200U);
  EXPECT_EQ(all.front().id, 201 - all.size());
  for (const LoggedLine& line : ring.read({.at_least = LogLevel::kWarning}))
    EXPECT_EQ(line.level, LogLevel::kWarning);
  EXPECT_EQ(ring.read({.after_ms = 1198}).size(), 2U);
  EXPECT_EQ(ring.read({.after_ms = 1200}).size(), 0U);
  const auto few = ring.read({.bytes_max = 300});
  ASSERT_FALSE(few.empty());
  EXPECT_LT(few.size(), 6U);
  EXPECT_EQ(few.back().text, "line 200") << "the newest";
  EXPECT_EQ(ring.read({.bytes_max = 0}).size(), 0U);
}

TEST(LogRing, CutsALineThatIsLongAndForgetsOneThatIsTooLongForItself) {
  LogRing ring;
  ring.add(LogLevel::kInfo, std::string(1 << 20, 'x'), 1);
  ASSERT_EQ(ring.read({}).size(), 1U);
  EXPECT_EQ(ring.read({})[0].text.size(), kLoggedLineBytesMax);
  LogRing tiny(10);
  tiny.add(LogLevel::kInfo, "x", 1);
  EXPECT_EQ(tiny.read({}).size(), 0U);
}

TEST(LogRing, HasWhatTheProcessLoggedAndNotWhatItsLevelDropped) {
  ASSERT_TRUE(SetLogLevel("warning"));
  LogInfo("a dropped line");
  LogWarning("a line that\nis two");
  ASSERT_TRUE(SetLogLevel("info"));
  const auto lines = RecentLog({});
  ASSERT_GE(lines.size(), 2U);
  EXPECT_NE(lines[lines.size() - 2].text.find("] a line that"), std::string::npos);
  EXPECT_NE(lines.back().text.find("] is two"), std::string::npos);
  for (const LoggedLine& line : lines) EXPECT_EQ(line.text.find("a dropped line"), std::string::npos);
}

}  // namespace
}  // namespace shoal
