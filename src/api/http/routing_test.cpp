#include "api/http/routing.h"

#include <gtest/gtest.h>

namespace shoal {
namespace {

const std::vector<HttpRoute>& Routes() {
  static const std::vector<HttpRoute> routes = {{"POST", "/v1/chat/completions", nullptr},
                                                {"GET", "/v1/models", nullptr},
                                                {"GET", "/v1/models/*", nullptr},
                                                {"GET", "/health", nullptr},
                                                {"POST", "/health", nullptr}};
  return routes;
}

TEST(HttpRouting, ReadsEveryFormOfATarget) {
  struct Case {
    const char* target;
    const char* path;
    const char* query;
  };
  for (const Case& one : {Case{"/a?b=c?d", "/a", "b=c?d"}, Case{"http://host:1/a/b?c", "/a/b", "c"},
                          Case{"HTTPS://host", "/", ""}, Case{"http://host?c", "/", "c"}, Case{"*", "*", ""},
                          Case{"//a///b/", "/a/b/", ""}, Case{"/a%2F%2Fb", "/a//b", ""}}) {
    HttpTarget target;
    ASSERT_TRUE(ParseHttpTarget(one.target, target)) << one.target;
    EXPECT_EQ(target.path, one.path) << one.target;
    EXPECT_EQ(target.query, one.query) << one.target;
  }
  HttpTarget target;
  for (const char* broken : {"", "a", "host:1", "ftp://host/a", "/%"}) {
    EXPECT_FALSE(ParseHttpTarget(broken, target)) << broken;
  }
}

TEST(HttpRouting, FindsARouteByTheSpellingsOfItsPath) {
  for (const char* path : {"/v1/chat/completions", "/v1/chat/completions/", "/chat/completions",
                           "/chat/completions/", "/v1/v1/chat/completions", "/v1/v1/v1/chat/completions"}) {
    const RouteMatch match = FindRoute(Routes(), "POST", path);
    ASSERT_NE(match.route, nullptr) << path;
    EXPECT_EQ(match.path, "/v1/chat/completions") << path;
  }
  EXPECT_EQ(FindRoute(Routes(), "GET", "/v1/v1/models/a/b").path, "/v1/models/a/b");
  EXPECT_EQ(FindRoute(Routes(), "GET", "/v1/models/").path, "/v1/models");
  EXPECT_EQ(FindRoute(Routes(), "GET", "/v1/health").path, "/health");
  for (const char* other :
       {"/", "/v1", "/v1/", "/v2/chat/completions", "/v1x/models", "/chat", "/health/x"}) {
    EXPECT_EQ(FindRoute(Routes(), "POST", other).known, nullptr) << other;
  }
}

TEST(HttpRouting, NamesTheMethodsAndAnswersHeadAsGet) {
  EXPECT_EQ(FindRoute(Routes(), "PUT", "/health").allowed, "GET, HEAD, POST, OPTIONS");
  EXPECT_EQ(FindRoute(Routes(), "PUT", "/health").route, nullptr);
  EXPECT_EQ(FindRoute(Routes(), "HEAD", "/health").route->method, "GET");
  EXPECT_EQ(FindRoute(Routes(), "HEAD", "/chat/completions").route, nullptr);
  EXPECT_EQ(FindRoute(Routes(), "OPTIONS", "*").allowed, "POST, GET, HEAD, OPTIONS");
  EXPECT_EQ(FindRoute(Routes(), "OPTIONS", "*").route, nullptr);
}

}  // namespace
}  // namespace shoal
