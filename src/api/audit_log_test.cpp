#include "api/audit_log.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>

#include "base/file.h"
#include "base/random.h"
#include "base/status.h"

namespace shoal {
namespace {

using testing::HasSubstr;
using testing::Not;

AdminCall Drain() {
  return {.request_id = "req-1",
          .caller = "ann",
          .peer = "10.0.0.9",
          .method = "POST",
          .path = "/cluster/drain",
          .subject = {.target = "w1"},
          .status = 202};
}

TEST(AuditLog, ALineSaysWhoDidWhatToWhom) {
  EXPECT_EQ(AuditLine(Drain(), 0),
            R"({"time":"1970-01-01T00:00:00Z","request":"req-1","key":"ann","address":"10.0.0.9",)"
            R"("call":"POST /cluster/drain","target":"w1","status":202})"
            "\n");
  AdminCall unread = Drain();
  unread.subject = {};
  EXPECT_THAT(AuditLine(unread, 0), Not(HasSubstr("target")));
  unread.subject.target = std::string(5000, 'x');
  EXPECT_LT(AuditLine(unread, 0).size(), 400U) << "a line stays one write";
}

TEST(AuditLog, AppendsToAPrivateFileAndOpensItAnew) {
  const std::string path =
      (std::filesystem::temp_directory_path() / fmt::format("shoal-audit-{:016x}", EntropySeed())).string();
  auto log = AuditLog::Open(path);
  ASSERT_TRUE(log.ok()) << ToString(log.status());
  (*log)->record(Drain(), 0);
  (*log)->record(Drain(), 0);
  EXPECT_EQ(*ReadTextFile(path, 1 << 20), AuditLine(Drain(), 0) + AuditLine(Drain(), 0));
  using std::filesystem::perms;
  EXPECT_EQ(std::filesystem::status(path).permissions(), perms::owner_read | perms::owner_write);
  std::filesystem::rename(path, path + ".1");
  ASSERT_TRUE((*log)->reopen().ok());
  (*log)->record(Drain(), 0);
  EXPECT_EQ(*ReadTextFile(path, 1 << 20), AuditLine(Drain(), 0));
  std::filesystem::remove(path);
  std::filesystem::remove(path + ".1");
  EXPECT_TRUE(absl::IsInvalidArgument(AuditLog::Open("/no/such/folder/file").status()));
}

}  // namespace
}  // namespace shoal
