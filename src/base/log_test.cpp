#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "base/log_format.h"
#include "base/log_name.h"

namespace shoal {
namespace {

using ::testing::internal::CaptureStderr;
using ::testing::internal::GetCapturedStderr;

TEST(LogFormat, ALineIsOneObjectWithWhatIsKnown) {
  EXPECT_EQ(LogLineJson(1796119200045, {LogLevel::kInfo, "mini2", 1, "supervisor", "req-7"}, "loaded"),
            R"({"time":"2026-12-01T10:00:00.045Z","level":"info","node":"mini2","rank":1,)"
            R"("thread":"supervisor","request":"req-7","message":"loaded"})");
  EXPECT_EQ(LogLineJson(0, {LogLevel::kError, "shoal"}, "no"),
            R"({"time":"1970-01-01T00:00:00.000Z","level":"error","node":"shoal","message":"no"})");
}

TEST(LogFormat, ATextOfSeveralLinesAndBrokenBytesStayOneLine) {
  const std::string line = LogLineJson(0, {}, "a\nb \"c\" \xff");
  EXPECT_EQ(line.find('\n'), std::string::npos);
  EXPECT_EQ(nlohmann::json::parse(line)["message"], "a\nb \"c\" \xEF\xBF\xBD");
}

TEST(LogFormat, OnlyTextAndJsonAreFormats) { EXPECT_FALSE(SetLogFormat("xml")); }

TEST(LogFormat, LinesOfAThreadNameItsNodeAndItsRequest) {
  ASSERT_TRUE(SetLogFormat("json"));
  SetThreadLogName("mini2", 3);
  CaptureStderr();
  {
    const LogRequest outer("a");
    {
      const LogRequest inner("b");
      LogWarning("inner");
    }
    LogWarning("outer");
  }
  LogWarning("none");
  const std::string text = GetCapturedStderr();
  ASSERT_TRUE(SetLogFormat("text"));
  SetThreadLogName("shoal", -1);
  std::vector<nlohmann::json> lines;
  for (size_t begin = 0, end = 0; (end = text.find('\n', begin)) != std::string::npos; begin = end + 1)
    lines.push_back(nlohmann::json::parse(text.substr(begin, end - begin)));
  ASSERT_EQ(lines.size(), 3u) << text;
  EXPECT_EQ(lines[0]["request"], "b");
  EXPECT_EQ(lines[1]["request"], "a");
  EXPECT_FALSE(lines[2].contains("request"));
  EXPECT_EQ(lines[2]["node"], "mini2");
  EXPECT_EQ(lines[2]["rank"], 3);
  EXPECT_EQ(lines[2]["level"], "warning");
}

}  // namespace
}  // namespace shoal
