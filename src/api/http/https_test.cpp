#include "api/http/https.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <future>

#include "api/http/client.h"
#include "api/http/server.h"
#include "api/http/tcp_stream.h"
#include "base/status.h"
#include "tls/testing/identities.h"

namespace shoal {
namespace {

using testing::AllOf;
using testing::HasSubstr;

Deadline Soon() { return Deadline::after_ms(20'000); }

class HttpsTest : public testing::Test {
 protected:
  HttpsTest() : files_(authority_.files_of({.name = "api", .addresses = {"127.0.0.1"}})) {
    auto https = HttpsCertificate::Load({files_.certificate, files_.key});
    SHOAL_CHECK(https.ok());
    https_ = *https;
    auto server = HttpServer::Start(
        {.request_timeout = std::chrono::milliseconds(300),
         .idle_timeout = std::chrono::milliseconds(300),
         .tls = https_,
         .error_body = [](int status,
                          const std::string& text) { return fmt::format("[{}] {}", status, text); },
         .on_admin = [this](const AdminCall& call) { admin_.set_value(call); }},
        {{"POST", "/echo",
          [](const HttpRequest& request, auto writer) { writer->send({.body = request.body}); }},
         {"GET", "/stream",
          [](const HttpRequest&, auto writer) {
            writer->begin_stream(200, "text/plain");
            for (int i = 0; i < 100; ++i) writer->write(std::string(5000, 'x'));
            writer->end_stream();
          }},
         {.method = "POST",
          .path = "/admin",
          .handler = [](const HttpRequest&, auto writer) { writer->send({.status = 202}); },
          .admin = true}});
    SHOAL_CHECK(server.ok());
    server_ = *std::move(server);
  }

  HttpClient client(TestAuthority& believed) {
    auto made = HttpClient::Https({.host = "127.0.0.1", .port = server_->port(), .prefix = ""},
                                  believed.key().certificate);
    SHOAL_CHECK(made.ok());
    return *made;
  }
  TcpStream connect() { return *TcpStream::Connect("127.0.0.1", server_->port(), Soon()); }

  TestAuthority authority_;
  TlsFiles files_;
  std::shared_ptr<HttpsCertificate> https_;
  std::promise<AdminCall> admin_;
  std::unique_ptr<HttpServer> server_;
};

TEST_F(HttpsTest, AnswersLargeAndSmallToWhoBelievesItsAuthority) {
  const std::string large(1 << 20, 'y');
  const auto echoed = client(authority_).post("/echo", large, Soon());
  ASSERT_TRUE(echoed.ok()) << ToString(echoed.status());
  EXPECT_EQ(echoed->body, large);
  const auto streamed = client(authority_).get("/stream", Soon());
  ASSERT_TRUE(streamed.ok()) << ToString(streamed.status());
  EXPECT_EQ(streamed->body.size(), 500'000U);
  TestAuthority other;
  EXPECT_TRUE(absl::IsUnauthenticated(client(other).post("/echo", "x", Soon()).status()));
}

TEST_F(HttpsTest, AConnectionIsKeptForTheNextRequest) {
  TcpStream stream = connect();
  ASSERT_TRUE(stream.start_tls(*TlsContext::Client(authority_.key().certificate), "127.0.0.1", Soon()).ok());
  for (int i = 0; i < 3; ++i) {
    ASSERT_TRUE(
        stream.send_all("POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\nhi", Soon()).ok());
    std::string answer;
    while (!answer.ends_with("hi")) {
      const auto piece = stream.receive(Soon());
      ASSERT_TRUE(piece.ok() && !piece->empty()) << answer;
      answer += *piece;
    }
    EXPECT_THAT(answer, HasSubstr("Connection: keep-alive"));
  }
}

TEST_F(HttpsTest, PlainHttpOnThePortIsToldToUseHttps) {
  TcpStream stream = connect();
  ASSERT_TRUE(stream.send_all("GET /stream HTTP/1.1\r\nHost: x\r\n\r\n", Soon()).ok());
  std::string all;
  for (auto piece = stream.receive(Soon()); piece.ok() && !piece->empty(); piece = stream.receive(Soon()))
    all += *piece;
  EXPECT_THAT(all, AllOf(HasSubstr("400 Bad Request"), HasSubstr("https://")));
}

TEST_F(HttpsTest, WhoBeginsTlsAndSaysNothingIsClosed) {
  TcpStream stream = connect();
  ASSERT_TRUE(stream.send_all("\x16\x03\x01", Soon()).ok());
  const auto end = stream.receive(Soon());
  EXPECT_TRUE(!end.ok() || end->empty());
}

TEST_F(HttpsTest, ACertificateIsRenewedWhileThePortIsOpenAndABadOneIsNot) {
  TestAuthority next;
  ASSERT_TRUE(client(authority_).post("/echo", "x", Soon()).ok());
  const TlsFiles renewed = next.files_of({.name = "api", .addresses = {"127.0.0.1"}});
  std::filesystem::copy_file(renewed.certificate, files_.certificate,
                             std::filesystem::copy_options::overwrite_existing);
  EXPECT_FALSE(https_->reload().ok());  // The key is still the old one's.
  EXPECT_TRUE(client(authority_).post("/echo", "x", Soon()).ok());
  std::filesystem::copy_file(renewed.key, files_.key, std::filesystem::copy_options::overwrite_existing);
  ASSERT_TRUE(https_->reload().ok());
  EXPECT_TRUE(client(next).post("/echo", "x", Soon()).ok());
  EXPECT_FALSE(client(authority_).post("/echo", "x", Soon()).ok());
}

TEST(HttpsUrl, NamesAnotherPort) {
  EXPECT_TRUE(ParseHttpBase("https://h/v1")->tls);
  EXPECT_EQ(ParseHttpBase("https://h/v1")->port, 443);
  EXPECT_FALSE(ParseHttpBase("http://h/v1")->tls);
  EXPECT_TRUE(HttpClient::FromUrl("https://localhost:8000").ok());
}

TEST_F(HttpsTest, AnAdminCallIsToldWithItsAnswer) {
  ASSERT_EQ(client(authority_).post("/admin", R"({"node": "a"})", Soon())->status, 202);
  const AdminCall call = admin_.get_future().get();
  EXPECT_EQ(call.path, "/admin");
  EXPECT_EQ(call.status, 202);
  EXPECT_EQ(call.peer, "127.0.0.1");
}

TEST_F(HttpsTest, EveryAnswerHasTheHeadersThatBrowsersHeed) {
  for (const auto& reply :
       {client(authority_).post("/echo", "x", Soon()), client(authority_).get("/nowhere", Soon())}) {
    ASSERT_TRUE(reply.ok());
    EXPECT_EQ(reply->header("x-content-type-options"), "nosniff");
    EXPECT_THAT(std::string(reply->header("content-security-policy")), HasSubstr("frame-ancestors 'none'"));
    EXPECT_EQ(reply->header("referrer-policy"), "no-referrer");
  }
}

}  // namespace
}  // namespace shoal
