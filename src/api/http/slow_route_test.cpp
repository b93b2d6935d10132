// Routes whose handlers take long: they keep no others waiting, and there is an end to how many wait. And what the calls of
// admin routes are about, which their handlers say.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <condition_variable>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

#include "api/http/client.h"
#include "api/http/server.h"
#include "api/http/tcp_stream.h"
#include "base/check.h"
#include "base/status.h"

namespace shoal {
namespace {

using testing::HasSubstr;

class SlowRouteTest : public testing::Test {
 protected:
  SlowRouteTest() {
    HttpServerOptions options{.handler_threads = 2, .slow_threads = 1, .slow_requests_max = 2};
    options.error_body = [](int, const std::string& message) { return message; };
    options.on_admin = [this](const AdminCall& call) {
      const std::lock_guard lock(mutex_);
      calls_.push_back(call);
      changed_.notify_all();
    };
    auto server = HttpServer::Start(
        std::move(options),
        {{"GET", "/quick", [](const HttpRequest&, auto writer) { writer->send({.body = "quick"}); }},
         {.method = "POST",
          .path = "/admin",
          .handler =
              [](const HttpRequest& request, auto writer) {
                if (request.body.ends_with("read"))
                  writer->set_subject({.target = std::to_string(request.body.size()), .changes = false});
                writer->send({.status = 202});
              },
          .admin = true},
         {.method = "GET",
          .path = "/slow",
          .handler =
              [this](const HttpRequest&, auto writer) {
                std::unique_lock lock(mutex_);
                ++begun_;
                changed_.notify_all();
                changed_.wait(lock, [this] { return open_; });
                writer->send({.body = "slow"});
              },
          .slow = true}});
    SHOAL_CHECK(server.ok());
    server_ = *std::move(server);
  }
  ~SlowRouteTest() override {
    open();
    for (std::thread& thread : threads_) thread.join();
  }

  void open() {
    const std::lock_guard lock(mutex_);
    open_ = true;
    changed_.notify_all();
  }
  HttpReply get(const std::string& path) {
    const auto reply = HttpClient("127.0.0.1", server_->port()).get(path, Deadline::after_ms(20'000));
    SHOAL_CHECK(reply.ok());
    return *reply;
  }
  void get_slow() {
    threads_.emplace_back([this] {
      const HttpReply reply = get("/slow");
      const std::lock_guard lock(mutex_);
      (reply.status == 200 ? answered_ : refused_) += 1;
      changed_.notify_all();
    });
  }
  void wait_until(const std::function<bool()>& reached) {
    std::unique_lock lock(mutex_);
    EXPECT_TRUE(changed_.wait_for(lock, std::chrono::seconds(20), reached));
  }

  std::mutex mutex_;
  std::condition_variable changed_;
  bool open_ = false;
  int begun_ = 0, answered_ = 0, refused_ = 0;
  std::vector<AdminCall> calls_;
  std::unique_ptr<HttpServer> server_;
  std::vector<std::thread> threads_;
};

TEST_F(SlowRouteTest, KeepsNoOtherRequestWaitingAndRefusesThoseBeyondItsQueue) {
  for (int i = 0; i < 3; ++i) get_slow();
  wait_until([this] { return begun_ == 1 && refused_ == 1; });
  EXPECT_EQ(get("/quick").body, "quick");
  const HttpReply refused = get("/slow");
  EXPECT_EQ(refused.status, 503);
  EXPECT_EQ(refused.header("retry-after"), "1");
  EXPECT_THAT(refused.body, HasSubstr("try again"));
  open();
  wait_until([this] { return answered_ == 2; });
  EXPECT_EQ(get("/slow").body, "slow") << "there is room again";
}

TEST_F(SlowRouteTest, WhoLeavesWhileItWaitsIsNotComputedFor) {
  get_slow();
  wait_until([this] { return begun_ == 1; });
  {
    auto leaves = TcpStream::Connect("127.0.0.1", server_->port(), Deadline::after_ms(20'000));
    ASSERT_TRUE(leaves.ok());
    ASSERT_TRUE(leaves->send_all("GET /slow HTTP/1.1\r\nHost: x\r\n\r\n", Deadline::after_ms(20'000)).ok());
    while (server_->connections() < 2) std::this_thread::sleep_for(std::chrono::milliseconds(5));
  }
  // Who closes its sending side counts as gone half a second later; its place in the queue holds the connection.
  std::this_thread::sleep_for(std::chrono::seconds(1));
  open();
  wait_until([this] { return answered_ == 1; });
  EXPECT_EQ(get("/slow").body, "slow");
  const std::lock_guard lock(mutex_);
  EXPECT_EQ(begun_, 2);
}

TEST_F(SlowRouteTest, AnAdminCallIsAboutWhatItsHandlerReadHoweverLongTheBodyIs) {
  const HttpClient client("127.0.0.1", server_->port());
  for (const std::string& body : {std::string(5000, ' ') + "read", std::string("not")})
    ASSERT_EQ(client.post("/admin", body, Deadline::after_ms(20'000))->status, 202);
  wait_until([this] { return calls_.size() == 2; });
  EXPECT_EQ(calls_[0].subject.target, "5004");
  EXPECT_FALSE(calls_[0].subject.changes);
  EXPECT_EQ(calls_[1].subject.target, "");
  EXPECT_TRUE(calls_[1].subject.changes) << "what nobody read is taken for a change";
}

}  // namespace
}  // namespace shoal
