#include "api/page.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <chrono>

#include "api/http/client.h"

namespace shoal {
namespace {

TEST(Page, TagsAreFoundInListsAndWeak) {
  EXPECT_TRUE(MatchesETag("\"a\"", "\"a\""));
  EXPECT_TRUE(MatchesETag("\"b\" , W/\"a\"", "\"a\""));
  EXPECT_TRUE(MatchesETag("*", "\"a\""));
  EXPECT_FALSE(MatchesETag("", "\"a\""));
  EXPECT_FALSE(MatchesETag("\"ab\", a", "\"a\""));
}

class PageServer : public testing::Test {
 protected:
  void SetUp() override {
    HttpServerOptions options;
    options.admit = [](const HttpRequest&) {
      return HttpAdmission{.refusal = HttpResponse{.status = 401, .body = "{}"}};
    };
    std::vector<HttpRoute> routes = PageRoutes(files_);
    routes.push_back({"GET", "/secret", [](const HttpRequest&, const auto& writer) { writer->send({}); }});
    auto server = HttpServer::Start(std::move(options), std::move(routes));
    ASSERT_TRUE(server.ok()) << server.status();
    server_ = *std::move(server);
  }
  HttpReply get(const std::string& path) const {
    auto reply = HttpClient("127.0.0.1", server_->port()).get(path, Deadline::after_ms(5000));
    EXPECT_TRUE(reply.ok()) << reply.status();
    return reply.ok() ? *std::move(reply) : HttpReply{};
  }

  const std::vector<PageFile> files_ = {{"/", "text/html; charset=utf-8", "\"1\"", "<!doctype html>"},
                                        {"/assets/x-1.js", "text/javascript", "\"2\"", "let x;", true}};
  std::unique_ptr<HttpServer> server_;
};

TEST_F(PageServer, IsAnsweredWithoutAKeyAndNothingElseIs) {
  EXPECT_EQ(get("/").body, "<!doctype html>");
  EXPECT_EQ(get("/assets/x-1.js").body, "let x;");
  EXPECT_EQ(get("/assets/y.js").status, 404);
  EXPECT_EQ(get("/secret").status, 401);
}

TEST_F(PageServer, ForbidsAllThatIsNotItsOwn) {
  const HttpReply reply = get("/");
  const std::string policy(reply.header("content-security-policy"));
  EXPECT_THAT(policy, testing::HasSubstr("default-src 'none'"));
  EXPECT_THAT(policy, testing::HasSubstr("frame-ancestors 'none'"));
  EXPECT_THAT(policy, testing::Not(testing::HasSubstr("unsafe")));
  EXPECT_EQ(reply.header("x-content-type-options"), "nosniff");
  EXPECT_EQ(reply.header("etag"), "\"1\"");
}

TEST_F(PageServer, OnlyFilesNamedByTheirContentAreKeptUnasked) {
  EXPECT_EQ(get("/").header("cache-control"), "no-cache");
  EXPECT_THAT(std::string(get("/assets/x-1.js").header("cache-control")), testing::HasSubstr("immutable"));
}

}  // namespace
}  // namespace shoal
