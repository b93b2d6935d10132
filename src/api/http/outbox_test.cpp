#include "api/http/outbox.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>

#include "api/http/server.h"
#include "base/check.h"
#include "base/status.h"
#include "tls/testing/identities.h"

namespace shoal {
namespace {

using std::chrono::milliseconds;
using testing::ElementsAre;
using testing::HasSubstr;

/// A server that keeps what is posted to it, and answers with the statuses that it is given, then with 200.
class Receiver {
 public:
  explicit Receiver(std::shared_ptr<HttpsCertificate> tls = nullptr) {
    auto server = HttpServer::Start({.tls = std::move(tls)},
                                    {{"POST", "/hook/*", [this](const HttpRequest& request, auto writer) {
                                        writer->send({.status = take(request)});
                                      }}});
    SHOAL_CHECK(server.ok());
    server_ = *std::move(server);
  }
  void answer_with(std::vector<int> statuses) {
    const std::lock_guard lock(mutex_);
    statuses_ = {statuses.begin(), statuses.end()};
  }
  /// No answer until release().
  void hold() {
    const std::lock_guard lock(mutex_);
    held_ = true;
  }
  void release() {
    const std::lock_guard lock(mutex_);
    held_ = false;
    changed_.notify_all();
  }
  /// When so many posts have come.
  std::vector<std::string> bodies(size_t count) {
    std::unique_lock lock(mutex_);
    EXPECT_TRUE(changed_.wait_for(lock, std::chrono::seconds(20), [&] { return bodies_.size() >= count; }));
    return bodies_;
  }
  std::string target() {
    const std::lock_guard lock(mutex_);
    return target_;
  }
  HttpUrl url(const std::string& scheme = "http") {
    return *ParseHttpUrl(fmt::format("{}://127.0.0.1:{}/hook/v1?key=abc", scheme, server_->port()));
  }

 private:
  int take(const HttpRequest& request) {
    std::unique_lock lock(mutex_);
    bodies_.push_back(request.body);
    target_ = request.path + "?" + request.query;
    changed_.notify_all();
    changed_.wait_for(lock, std::chrono::seconds(20), [this] { return !held_; });
    if (statuses_.empty()) return 200;
    const int status = statuses_.front();
    statuses_.pop_front();
    return status;
  }

  std::mutex mutex_;
  std::condition_variable changed_;
  std::vector<std::string> bodies_;
  std::string target_;
  std::deque<int> statuses_;
  bool held_ = false;
  std::unique_ptr<HttpServer> server_;
};

std::unique_ptr<Outbox> OpenOutbox(Outbox::Options options) {
  options.name = "test";
  options.pause_first = milliseconds(1);
  auto outbox = Outbox::Start(std::move(options));
  EXPECT_TRUE(outbox.ok()) << ToString(outbox.status());
  return *std::move(outbox);
}
std::function<std::string()> Say(std::string text) {
  return [text = std::move(text)] { return text; };
}

TEST(HttpUrl, IsReadWholeAndItsTargetStaysAsItWas) {
  const auto url = ParseHttpUrl("https://hooks.example:8443/a/v1?b=c/d");
  ASSERT_TRUE(url.ok());
  EXPECT_EQ(url->base.host, "hooks.example");
  EXPECT_EQ(url->base.port, 8443);
  EXPECT_TRUE(url->base.tls);
  EXPECT_EQ(url->base.prefix, "");
  EXPECT_EQ(url->target, "/a/v1?b=c/d");
  EXPECT_EQ(ParseHttpUrl("http://a")->target, "/");
  EXPECT_EQ(ParseHttpUrl("http://a")->base.port, 80);
  EXPECT_EQ(ParseHttpUrl("http://[::1]:9?x")->target, "/?x");
}

TEST(HttpUrl, WhatIsNoneIsRefusedWithoutItsSecretPart) {
  for (const char* url : {"", "host/secret", "ftp://host/secret", "http://", "http:///secret",
                          "http://u:secret@host/", "http://host/#secret", "http://host/secret path",
                          "http://host:99999/secret", "http://host:0/secret", "http://host/\nsecret"}) {
    const auto parsed = ParseHttpUrl(url);
    EXPECT_EQ(parsed.status().code(), absl::StatusCode::kInvalidArgument) << url;
    EXPECT_THAT(Message(parsed.status()), HasSubstr("expected http://HOST"));
    EXPECT_THAT(Message(parsed.status()), testing::Not(HasSubstr("secret")));
  }
}

TEST(Outbox, MessagesAreToldApartAndCountedOnceTheyAreTaken) {
  Receiver receiver;
  const auto outbox = OpenOutbox({.url = receiver.url()});
  EXPECT_TRUE(outbox->post(Say("{\"a\":1}")));
  EXPECT_TRUE(outbox->post(Say("{\"a\":2}")));
  EXPECT_THAT(receiver.bodies(2), ElementsAre("{\"a\":1}", "{\"a\":2}"));
  EXPECT_EQ(receiver.target(), "/hook/v1?key=abc");
  outbox->stop(std::chrono::seconds(10));
  EXPECT_EQ(outbox->totals().sent, 2);
  EXPECT_EQ(outbox->totals().failed + outbox->totals().dropped + outbox->totals().waiting, 0);
  EXPECT_FALSE(outbox->post(Say("late")));
}

TEST(Outbox, OneThatIsNotTakenIsSentAgainUnlessItIsRefused) {
  Receiver receiver;
  const auto outbox = OpenOutbox({.url = receiver.url(), .attempts = 3});
  receiver.answer_with({503, 429, 200});
  outbox->post(Say("x"));
  EXPECT_THAT(receiver.bodies(3), ElementsAre("x", "x", "x"));
  receiver.answer_with({400});
  outbox->post(Say("bad"));
  outbox->post(Say("good"));
  EXPECT_THAT(receiver.bodies(5), ElementsAre("x", "x", "x", "bad", "good"));
  outbox->stop(std::chrono::seconds(10));
  EXPECT_EQ(outbox->totals().sent, 2);
  EXPECT_EQ(outbox->totals().failed, 1);
}

TEST(Outbox, ABatchIsOnePostWithHeadAndTail) {
  Receiver receiver;
  receiver.hold();
  const auto outbox = OpenOutbox({.url = receiver.url(), .batch_max = 3, .head = "[", .tail = "]"});
  outbox->post(Say("0"));
  receiver.bodies(1);  // It is out: what comes now waits.
  for (const char* text : {"1", "2", "3", "4"}) outbox->post(Say(text));
  receiver.release();
  EXPECT_THAT(receiver.bodies(3), ElementsAre("[0]", "[1,2,3]", "[4]"));
}

TEST(Outbox, ABatchThatIsNotFullGoesAfterAWhile) {
  Receiver receiver;
  const auto outbox = OpenOutbox({.url = receiver.url(), .batch_max = 3, .batch_wait = milliseconds(100)});
  const auto begun = Clock::now();
  outbox->post(Say("1"));
  outbox->post(Say("2"));
  EXPECT_THAT(receiver.bodies(1), ElementsAre("1,2"));
  EXPECT_GE(Clock::now() - begun, milliseconds(100));
}

TEST(Outbox, AServerThatDoesNotAnswerCostsMessagesAndNeverTime) {
  Receiver receiver;
  receiver.hold();
  const auto outbox =
      OpenOutbox({.url = receiver.url(), .waiting_max = 2, .timeout = std::chrono::seconds(20)});
  outbox->post(Say("out"));
  receiver.bodies(1);
  const auto begun = Clock::now();
  int taken = 0;
  for (int i = 0; i < 1000; ++i) taken += outbox->post(Say("x")) ? 1 : 0;
  EXPECT_LT(Clock::now() - begun, std::chrono::seconds(5));
  EXPECT_EQ(taken, 2);
  EXPECT_EQ(outbox->totals().dropped, 998);
  EXPECT_EQ(outbox->totals().waiting, 2);
  receiver.release();
  outbox->stop(std::chrono::seconds(10));
  EXPECT_EQ(outbox->totals().sent, 3);
}

TEST(Outbox, WhereNobodyListensMessagesAreGivenUp) {
  HttpUrl url = *ParseHttpUrl("http://127.0.0.1:1/");  // A port that only root may take.
  const auto outbox = OpenOutbox({.url = std::move(url), .attempts = 2});
  outbox->post(Say("x"));
  outbox->stop(std::chrono::seconds(10));
  EXPECT_EQ(outbox->totals().failed, 1);
}

TEST(Outbox, SpeaksHttpsToWhoeverTheSystemBelieves) {
  TestAuthority authority;
  const TlsFiles files = authority.files_of({.name = "hook", .addresses = {"127.0.0.1"}});
  const std::string believed = testing::TempDir() + "/outbox_test_authority.pem";
  std::ofstream(believed) << authority.key().certificate;
  Receiver receiver(*HttpsCertificate::Load({files.certificate, files.key}));
  {
    const auto doubting = OpenOutbox({.url = receiver.url("https")});
    doubting->post(Say("x"));
    doubting->stop(std::chrono::seconds(10));
    EXPECT_EQ(doubting->totals().failed, 1);
  }
  setenv("SSL_CERT_FILE", believed.c_str(), 1);
  const auto outbox = OpenOutbox({.url = receiver.url("https")});
  unsetenv("SSL_CERT_FILE");
  outbox->post(Say("secret"));
  EXPECT_THAT(receiver.bodies(1), ElementsAre("secret"));
  outbox->stop(std::chrono::seconds(10));
  EXPECT_EQ(outbox->totals().sent, 1);
  std::filesystem::remove(believed);
}

}  // namespace
}  // namespace shoal
