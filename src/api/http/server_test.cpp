#include "api/http/server.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>
#include <zlib.h>

#include <atomic>
#include <mutex>
#include <thread>

#include "api/http/client.h"
#include "api/http/tcp_stream.h"
#include "api/http/text.h"
#include "base/check.h"
#include "base/process.h"
#include "base/status.h"

namespace shoal {
namespace {

using std::chrono::milliseconds;
using ::testing::AllOf;
using ::testing::ContainsRegex;
using ::testing::EndsWith;
using ::testing::HasSubstr;
using ::testing::Not;
using ::testing::StartsWith;

Deadline Soon() { return Deadline::after_ms(20'000); }

/// Everything until the server hangs up.
std::string ReadAll(TcpStream& stream) {
  std::string all;
  while (true) {
    const auto piece = stream.receive(Soon());
    if (!piece.ok() || piece->empty()) return all;
    all += *piece;
  }
}

class HttpServerTest : public ::testing::Test {
 protected:
  void start(HttpServerOptions options = {}) {
    options.error_body = [](int status, const std::string& message) {
      return fmt::format("[{}] {}", status, message);
    };
    auto server = HttpServer::Start(
        std::move(options),
        {{"POST", "/echo",
          [](const HttpRequest& request, auto writer) { writer->send({.body = request.body}); }},
         {"GET", "/path/*",
          [](const HttpRequest& request, auto writer) {
            writer->send({.body = request.path + "?" + request.query});
          }},
         {"GET", "/stream",
          [](const HttpRequest&, auto writer) {
            writer->begin_stream(200, "text/event-stream");
            for (int i = 0; i < 3; ++i) writer->write(fmt::format("data: {}\n\n", i));
            writer->end_stream();
          }},
         {"GET", "/urgent", [](const HttpRequest&, auto writer) { writer->send({.body = "alive"}); }, true,
          true},
         {"GET", "/id", [](const HttpRequest& request, auto writer) { writer->send({.body = request.id}); }},
         {"GET", "/dropped", [](const HttpRequest&, auto) {}},
         {"GET", "/throws", [](const HttpRequest&, auto) { throw std::runtime_error("bug"); }},
         {"GET", "/held",
          [this](const HttpRequest&, auto writer) {
            std::lock_guard lock(mutex_);
            held_.push_back(writer);
          }},
         {"GET", "/kept", [this](const HttpRequest&, auto writer) {
            writer->on_disconnect([this] { ++disconnects_; });
            std::lock_guard lock(mutex_);
            kept_ = writer;
          }}});
    ASSERT_TRUE(server.ok()) << ToString(server.status());
    server_ = *std::move(server);
  }
  TcpStream connect() {
    auto stream = TcpStream::Connect("127.0.0.1", server_->port(), Soon());
    SHOAL_CHECK(stream.ok());
    return *std::move(stream);
  }
  std::string exchange(std::string_view bytes) {
    TcpStream stream = connect();
    EXPECT_TRUE(stream.send_all(bytes, Soon()).ok());
    return ReadAll(stream);
  }
  HttpClient client() { return HttpClient("127.0.0.1", server_->port()); }
  std::shared_ptr<ResponseWriter> kept() {
    const Deadline deadline = Soon();
    while (!deadline.expired()) {
      {
        std::lock_guard lock(mutex_);
        if (kept_) return std::exchange(kept_, nullptr);
      }
      std::this_thread::sleep_for(milliseconds(1));
    }
    return nullptr;
  }
  bool eventually(const std::function<bool()>& condition) {
    const Deadline deadline = Soon();
    while (!condition() && !deadline.expired()) std::this_thread::sleep_for(milliseconds(1));
    return condition();
  }

  std::mutex mutex_;
  std::shared_ptr<ResponseWriter> kept_;
  std::vector<std::shared_ptr<ResponseWriter>> held_;
  std::atomic<int> disconnects_ = 0;
  std::unique_ptr<HttpServer> server_;
};

TEST_F(HttpServerTest, AnswersWithTheHandlersBody) {
  start();
  const auto reply = client().post("/echo", "hello", Soon());
  ASSERT_TRUE(reply.ok()) << ToString(reply.status());
  EXPECT_EQ(reply->status, 200);
  EXPECT_EQ(reply->body, "hello");
  EXPECT_EQ(reply->header("content-type"), "application/json");
  EXPECT_EQ(client().get("/path/a%20b/c?x=1", Soon())->body, "/path/a b/c?x=1");
}

TEST_F(HttpServerTest, StreamsPiecesAndEnds) {
  start();
  EXPECT_EQ(client().get("/stream", Soon())->body, "data: 0\n\ndata: 1\n\ndata: 2\n\n");
  const std::string old = exchange("GET /stream HTTP/1.0\r\n\r\n");
  EXPECT_THAT(old, HasSubstr("\r\n\r\ndata: 0\n\ndata: 1\n\ndata: 2\n\n"));
  EXPECT_THAT(old, ::testing::Not(HasSubstr("chunked")));
}

TEST_F(HttpServerTest, KeepsTheConnectionAndTakesPipelinedRequests) {
  start();
  const std::string one = "POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\n";
  const std::string all = exchange(
      one + "abc" + one + "def" +
      "GET /nowhere HTTP/1.1\r\nHost: x\r\n\r\nPOST /echo HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
      "Transfer-Encoding: chunked\r\n\r\n2\r\ngh\r\n1\r\ni\r\n0\r\n\r\n");
  EXPECT_THAT(all, AllOf(HasSubstr("abc"), HasSubstr("def"), HasSubstr("404 Not Found"), HasSubstr("ghi")));
}

TEST_F(HttpServerTest, ASplitRequestIsOneRequest) {
  start();
  TcpStream stream = connect();
  for (const char c :
       std::string("POST /echo HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 5\r\n\r\nhello")) {
    ASSERT_TRUE(stream.send_all(std::string(1, c), Soon()).ok());
  }
  EXPECT_THAT(ReadAll(stream), HasSubstr("\r\n\r\nhello"));
}

TEST_F(HttpServerTest, InvitesTheBodyOfAnExpectingClient) {
  start();
  TcpStream stream = connect();
  ASSERT_TRUE(stream
                  .send_all("POST /echo HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nConnection: close\r\n"
                            "Content-Length: 2\r\n\r\n",
                            Soon())
                  .ok());
  EXPECT_THAT(*stream.receive(Soon()), StartsWith("HTTP/1.1 100 Continue\r\n\r\n"));
  ASSERT_TRUE(stream.send_all("ok", Soon()).ok());
  EXPECT_THAT(ReadAll(stream), HasSubstr("\r\n\r\nok"));
}

struct BadCase {
  const char* name;
  std::string bytes;
  const char* status;
};

TEST_F(HttpServerTest, BadRequestsGetAClearEnd) {
  start({.header_bytes_max = 2000, .body_bytes_max = 1000});
  const std::vector<BadCase> cases = {
      {"not http", "hello\r\n\r\n", "400"},
      {"binary", std::string("\x16\x03\x01\x02\x00\x01\x00", 7) + "\r\n\r\n", "400"},
      {"no host", "GET /path/x HTTP/1.1\r\nConnection: close\r\n\r\n", "400"},
      {"two hosts", "GET /path/x HTTP/1.1\r\nHost: x\r\nHost: y\r\n\r\n", "400"},
      {"no path", "GET path/x HTTP/1.1\r\nHost: x\r\n\r\n", "400"},
      {"asterisk", "GET * HTTP/1.1\r\nHost: x\r\n\r\n", "400"},
      {"no version", "GET /path/x\r\n\r\n", "400"},
      {"http/3", "GET /path/x HTTP/3.0\r\n\r\n", "400"},
      {"bad header", "GET /path/x HTTP/1.1\r\nno colon\r\n\r\n", "400"},
      {"space in name", "GET /path/x HTTP/1.1\r\nHost: x\r\nbad name: x\r\n\r\n", "400"},
      {"bad length", "POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: x\r\n\r\n", "400"},
      {"negative length", "POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n", "400"},
      {"two lengths", "POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab",
       "400"},
      {"length and chunked",
       "POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\nabc", "400"},
      {"bad chunk", "POST /echo HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", "400"},
      {"bad escape", "GET /path/%zz HTTP/1.1\r\nHost: x\r\n\r\n", "400"},
      {"huge length", "POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 18446744073709551615\r\n\r\n",
       "413"},
      {"long body", "POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 1001\r\n\r\n", "413"},
      {"long chunked body",
       "POST /echo HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n1000\r\n" +
           std::string(4096, 'x'),
       "413"},
      {"long headers", "GET /path/x HTTP/1.1\r\nHost: x\r\nX: " + std::string(3000, 'x') + "\r\n\r\n", "431"},
      {"wrong method", "DELETE /echo HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", "405"},
      {"head", "HEAD /echo HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", "405"},
      {"wrong path", "GET /nowhere HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", "404"},
      {"dropped", "GET /dropped HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", "500"},
      {"throws", "GET /throws HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", "500"},
  };
  for (const BadCase& one : cases) {
    EXPECT_THAT(exchange(one.bytes), StartsWith(std::string("HTTP/1.1 ") + one.status)) << one.name;
  }
  TcpStream half = connect();
  ASSERT_TRUE(half.send_all("POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\nabc", Soon()).ok());
  half.close_sending();
  EXPECT_THAT(ReadAll(half), AllOf(HasSubstr("400 Bad Request"), HasSubstr("before it was complete")));
  EXPECT_EQ(client().post("/echo", "still here", Soon())->body, "still here");
  EXPECT_TRUE(eventually([&] { return server_->connections() == 0; }));
}

TEST_F(HttpServerTest, AllowNamesTheMethods) {
  start();
  EXPECT_EQ(client().get("/echo", Soon())->header("allow"), "POST, OPTIONS");
  const std::string post = exchange("OPTIONS /echo HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
  EXPECT_THAT(post,
              AllOf(StartsWith("HTTP/1.1 204 No Content\r\n"), HasSubstr("\r\nAllow: POST, OPTIONS\r\n")));
  const std::string all = exchange("OPTIONS * HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
  EXPECT_THAT(all, HasSubstr("\r\nAllow: POST, GET, HEAD, OPTIONS\r\n"));
}

TEST_F(HttpServerTest, HeadGivesTheHeadersOfGetAndNoBody) {
  start();
  for (const char* path : {"/path/abc", "/stream", "/urgent"}) {
    const std::string rest = fmt::format(" {} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", path);
    const std::string got = exchange("GET" + rest);
    const std::string head = exchange("HEAD" + rest);
    EXPECT_THAT(head, AllOf(StartsWith("HTTP/1.1 200 OK\r\n"), EndsWith("\r\n\r\n"))) << path;
    EXPECT_EQ(head.find("\r\n\r\n") + 4, head.size()) << head;
    for (const char* name : {"Content-Length", "Transfer-Encoding", "Content-Type"}) {
      EXPECT_EQ(got.find(name) == std::string::npos, head.find(name) == std::string::npos) << name;
    }
  }
}

TEST_F(HttpServerTest, FindsRoutesBySpellingsThatClientsUse) {
  start();
  for (const char* target : {"/path/x/", "//path//x", "/v1/path/x", "/v1/v1/path/x", "http://y:1/path/x"}) {
    const std::string answer =
        exchange(fmt::format("GET {} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", target));
    EXPECT_THAT(answer, AllOf(StartsWith("HTTP/1.1 200"), HasSubstr("/path/x"))) << target;
  }
}

TEST_F(HttpServerTest, AnswersHaveADateAndAnIdThatHandlersKnow) {
  start();
  const std::string rest = "GET /id HTTP/1.1\r\nHost: x\r\nConnection: close\r\n";
  EXPECT_THAT(exchange(rest + "X-Request-Id: mine-7\r\n\r\n"),
              AllOf(HasSubstr("\r\nX-Request-Id: mine-7\r\n"), EndsWith("\r\n\r\nmine-7"),
                    ContainsRegex("\r\nDate: [A-Z][a-z]{2}, [0-9]{2} [A-Z][a-z]{2} 20[0-9]{2} .* GMT\r\n")));
  EXPECT_THAT(exchange(rest + "\r\n"), ContainsRegex("\r\nX-Request-Id: req-[0-9a-f]{16}\r\n"));
  EXPECT_THAT(exchange(rest + "X-Request-Id: " + std::string(200, 'x') + "\r\n\r\n"),
              HasSubstr("\r\nX-Request-Id: req-"));
  EXPECT_THAT(exchange("hello\r\n\r\n"),
              AllOf(StartsWith("HTTP/1.1 400"), HasSubstr("\r\nX-Request-Id: req-")));
}

TEST_F(HttpServerTest, PagesOfOthersAreRefusedBeforeTheirRequestIsActedOn) {
  start();
  const std::string post =
      "POST /echo HTTP/1.1\r\nHost: 127.0.0.1:80\r\nConnection: close\r\nContent-Length: 2\r\n";
  EXPECT_THAT(
      exchange(post + "Origin: http://evil.example\r\nContent-Type: text/plain\r\n\r\nok"),
      AllOf(StartsWith("HTTP/1.1 403"), HasSubstr("--cors-origins"), Not(HasSubstr("Access-Control"))));
  EXPECT_THAT(exchange(post + "Origin: http://127.0.0.1:80\r\n\r\nok"), StartsWith("HTTP/1.1 200"));
  EXPECT_THAT(exchange(post + "Content-Type: text/plain\r\n\r\nok"), StartsWith("HTTP/1.1 415"));
  EXPECT_THAT(exchange(post + "Content-Type: application/x-www-form-urlencoded\r\n\r\nok"),
              StartsWith("HTTP/1.1 200"));
  EXPECT_THAT(
      exchange("GET /path/x HTTP/1.1\r\nHost: x\r\nOrigin: http://evil.example\r\nConnection: close\r\n\r\n"),
      AllOf(StartsWith("HTTP/1.1 200"), Not(HasSubstr("Access-Control"))));
}

TEST_F(HttpServerTest, PagesThatAreAllowedGetTheirHeadersOnEveryAnswer) {
  start({.cors_origins = {"https://chat.example"}});
  const std::string from = "Host: x\r\nConnection: close\r\nOrigin: https://chat.example\r\n";
  const std::string granted = "\r\nAccess-Control-Allow-Origin: https://chat.example\r\n";
  for (const char* begin : {"GET /stream", "GET /path/x", "GET /nowhere", "DELETE /echo", "GET /throws"}) {
    EXPECT_THAT(exchange(fmt::format("{} HTTP/1.1\r\n{}\r\n", begin, from)),
                AllOf(HasSubstr(granted), HasSubstr("\r\nVary: Origin\r\n")))
        << begin;
  }
  const std::string asks =
      "OPTIONS /echo HTTP/1.1\r\nAccess-Control-Request-Method: POST\r\n"
      "Access-Control-Request-Headers: authorization,x-stainless-os\r\n";
  EXPECT_THAT(exchange(asks + from + "\r\n"),
              AllOf(StartsWith("HTTP/1.1 204"), HasSubstr(granted),
                    HasSubstr("\r\nAccess-Control-Allow-Methods: POST, OPTIONS\r\n"),
                    HasSubstr("\r\nAccess-Control-Allow-Headers: authorization,x-stainless-os\r\n")));
  EXPECT_THAT(exchange(asks + "Host: x\r\nConnection: close\r\nOrigin: https://other.example\r\n\r\n"),
              AllOf(StartsWith("HTTP/1.1 403"), Not(HasSubstr("Access-Control-Allow"))));
}

TEST_F(HttpServerTest, CompressedBodiesReachTheHandlerPlain) {
  start({.body_bytes_max = 1000});
  std::string packed(100, '\0');
  uLongf size = packed.size();
  ASSERT_EQ(
      compress(reinterpret_cast<Bytef*>(packed.data()), &size, reinterpret_cast<const Bytef*>("hello"), 5),
      Z_OK);
  packed.resize(size);
  const auto post = [&](const char* encoding) {
    return exchange(
        fmt::format("POST /echo HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Encoding: {}\r\n"
                    "Content-Length: {}\r\n\r\n{}",
                    encoding, packed.size(), packed));
  };
  EXPECT_THAT(post("deflate"), EndsWith("\r\n\r\nhello"));
  EXPECT_THAT(post("br"),
              AllOf(StartsWith("HTTP/1.1 415"), HasSubstr("\r\nAccept-Encoding: gzip, deflate\r\n")));
}

TEST_F(HttpServerTest, WhomTheGateRefusesNoHandlerSeesButOpenRoutesAnswer) {
  std::atomic<int> held = 0;
  start({.admit = [&held](const HttpRequest& request) -> HttpAdmission {
    if (request.header("x-api-key") != "right") return {.refusal = HttpResponse{.status = 401, .body = "no"}};
    ++held;
    return {.caller = "me", .held = std::shared_ptr<void>(nullptr, [&held](void*) { --held; })};
  }});
  EXPECT_EQ(client().get("/id", Soon())->status, 401);
  EXPECT_EQ(client().get("/urgent", Soon())->status, 200);
  TcpStream stream = connect();
  ASSERT_TRUE(stream.send_all("GET /kept HTTP/1.1\r\nHost: x\r\nX-Api-Key: right\r\n\r\n", Soon()).ok());
  auto writer = kept();
  ASSERT_NE(writer, nullptr);
  EXPECT_EQ(held, 1);
  writer->send({.body = "done"});
  EXPECT_TRUE(eventually([&] { return held == 0; }));
  {
    TcpStream leaves = connect();
    ASSERT_TRUE(leaves.send_all("GET /kept HTTP/1.1\r\nHost: x\r\nX-Api-Key: right\r\n\r\n", Soon()).ok());
    writer = kept();
    ASSERT_NE(writer, nullptr);
    EXPECT_EQ(held, 1);
  }
  EXPECT_TRUE(eventually([&] { return held == 0; }));
}

TEST_F(HttpServerTest, ManyPipelinedRequestsAreAnsweredOneAfterAnother) {
  start();
  std::string all;
  for (int i = 0; i < 3000; ++i) all += "GET /n HTTP/1.1\r\nHost: x\r\n\r\n";
  all += "GET /urgent HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
  const std::string answers = exchange(all);
  size_t count = 0;
  for (size_t at = 0; (at = answers.find("404 Not Found", at)) != std::string::npos; ++at) ++count;
  EXPECT_EQ(count, 3000U);
  EXPECT_THAT(answers, EndsWith("alive"));
}

TEST_F(HttpServerTest, LocalhostIsBothFamilies) {
  start({.hosts = {"localhost"}});
  EXPECT_EQ(HttpClient("127.0.0.1", server_->port()).get("/urgent", Soon())->body, "alive");
  if (!TcpStream::Connect("::1", server_->port(), Soon()).ok()) GTEST_SKIP() << "no IPv6 here";
  EXPECT_EQ(HttpClient("::1", server_->port()).get("/urgent", Soon())->body, "alive");
}

TEST_F(HttpServerTest, AClientThatSendsSlowlyGets408) {
  start({.request_timeout = milliseconds(100)});
  EXPECT_THAT(exchange("POST /echo HTTP/1.1\r\nHost: x\r\nContent-Le"), HasSubstr("408 Request Timeout"));
  EXPECT_THAT(exchange("POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\nabc"),
              HasSubstr("408 Request Timeout"));
  // One byte every now and then does not buy time.
  TcpStream stream = connect();
  const Clock::time_point begin = Clock::now();
  std::string answer;
  for (int i = 0; i < 100 && answer.empty(); ++i) {
    if (!stream.send_all(i == 0 ? "GET / HTTP/1.1\r\nHost: x\r\nA" : "A", Soon()).ok()) break;
    const auto piece = stream.receive(Deadline::after_ms(20));
    if (piece.ok()) answer = *piece;
  }
  EXPECT_THAT(answer, HasSubstr("408"));
  EXPECT_LT(Clock::now() - begin, std::chrono::seconds(2));
}

TEST_F(HttpServerTest, AnIdleConnectionIsClosed) {
  start({.idle_timeout = milliseconds(50)});
  EXPECT_EQ(exchange(""), "");
  EXPECT_TRUE(eventually([&] { return server_->connections() == 0; }));
}

TEST_F(HttpServerTest, NoticesAClientThatLeavesWhileItWaits) {
  start();
  {
    TcpStream stream = connect();
    ASSERT_TRUE(stream.send_all("GET /kept HTTP/1.1\r\nHost: x\r\n\r\n", Soon()).ok());
    const auto writer = kept();
    ASSERT_NE(writer, nullptr);
    EXPECT_EQ(disconnects_, 0);
    std::lock_guard lock(mutex_);
    kept_ = writer;
  }
  EXPECT_TRUE(eventually([&] { return disconnects_ == 1; }));
  const auto writer = kept();
  EXPECT_TRUE(eventually([&] { return writer->gone(); }));
  EXPECT_FALSE(writer->write("x"));
  std::atomic<bool> told = false;
  writer->on_disconnect([&] { told = true; });
  EXPECT_TRUE(eventually([&] { return told.load(); }));
}

TEST_F(HttpServerTest, AClientThatOnlyEndedItsSendingStillGetsAQuickAnswer) {
  start();
  TcpStream stream = connect();
  ASSERT_TRUE(stream.send_all("POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\nok", Soon()).ok());
  stream.close_sending();
  EXPECT_THAT(ReadAll(stream), HasSubstr("\r\n\r\nok"));
}

TEST_F(HttpServerTest, CutsAClientThatDoesNotRead) {
  start({.unread_bytes_max = 64 << 10, .write_timeout = milliseconds(100)});
  for (const bool by_size : {true, false}) {
    TcpStream stream = connect();
    stream.shrink_receive_buffer();
    ASSERT_TRUE(stream.send_all("GET /kept HTTP/1.1\r\nHost: x\r\n\r\n", Soon()).ok());
    const auto writer = kept();
    ASSERT_NE(writer, nullptr);
    writer->begin_stream(200, "text/event-stream");
    const int before = disconnects_;
    const std::string piece(8 << 10, 'x');
    // By time: stay below the unread limit while the kernel's buffers fill.
    for (int i = 0; i < 4000 && writer->write(piece); ++i) {
      if (!by_size) std::this_thread::sleep_for(milliseconds(1));
    }
    EXPECT_TRUE(eventually([&] { return disconnects_ == before + 1; })) << by_size;
  }
}

TEST_F(HttpServerTest, WhereThereIsNoRoomTheLongestIdleConnectionGoes) {
  start({.connections_max = 3});
  TcpStream oldest = connect();
  TcpStream second = connect();
  TcpStream third = connect();
  ASSERT_TRUE(eventually([&] { return server_->connections() == 3; }));
  EXPECT_EQ(client().post("/echo", "served", Soon())->body, "served");
  EXPECT_EQ(ReadAll(oldest), "");
  for (TcpStream* other : {&second, &third}) {
    ASSERT_TRUE(other->send_all("GET /path/x HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", Soon()).ok());
    EXPECT_THAT(ReadAll(*other), HasSubstr("200 OK"));
  }
}

TEST_F(HttpServerTest, UnfinishedRequestsMakeRoomAfterASecond) {
  start({.connections_max = 2});
  TcpStream first = connect();
  TcpStream second = connect();
  for (TcpStream* one : {&first, &second})
    ASSERT_TRUE(one->send_all("POST /echo HTTP/1.1\r\nHost: x\r\n", Soon()).ok());
  std::this_thread::sleep_for(milliseconds(200));  // Until they are read: before, both are idle.
  EXPECT_TRUE(eventually([&] { return client().post("/echo", "served", Soon())->status == 200; }));
  bool told = false;
  for (TcpStream* one : {&first, &second}) {
    const auto answer = one->receive(Deadline::after_ms(50));
    told = told || (answer.ok() && answer->find("408") != std::string::npos);
  }
  EXPECT_TRUE(told);
}

TEST_F(HttpServerTest, OneAddressCannotTakeTheRoomOfOthers) {
  start({.connections_max = 100, .connections_per_address_max = 5});
  std::vector<TcpStream> crowd;
  for (int i = 0; i < 50; ++i) crowd.push_back(connect());
  EXPECT_TRUE(eventually([&] { return server_->connections() == 5; })) << server_->connections();
  EXPECT_EQ(client().post("/echo", "served", Soon())->body, "served");
}

TEST_F(HttpServerTest, WhereAllConnectionsAreAnsweredOnlyUrgentRoutesAre) {
  start({.handler_threads = 1, .connections_max = 2});
  std::vector<TcpStream> busy;
  std::vector<std::shared_ptr<ResponseWriter>> writers;
  for (int i = 0; i < 2; ++i) {
    busy.push_back(connect());
    ASSERT_TRUE(busy.back().send_all("GET /kept HTTP/1.1\r\nHost: x\r\n\r\n", Soon()).ok());
    writers.push_back(kept());
    ASSERT_NE(writers.back(), nullptr);
  }
  for (int i = 0; i < 40; ++i) EXPECT_EQ(client().get("/urgent", Soon())->body, "alive") << i;
  const auto refused = client().post("/echo", "x", Soon());
  ASSERT_TRUE(refused.ok()) << ToString(refused.status());
  EXPECT_EQ(refused->status, 503);
  EXPECT_EQ(refused->header("retry-after"), "1");
  // Those who take a reserved place and say nothing do not keep others from it.
  std::vector<TcpStream> silent;
  for (int i = 0; i < 40; ++i) silent.push_back(connect());
  EXPECT_EQ(client().get("/urgent", Soon())->body, "alive");
  EXPECT_TRUE(eventually([&] { return server_->connections() <= 2 + 17; })) << server_->connections();
  for (const auto& writer : writers) writer->send({.body = "done"});
}

TEST_F(HttpServerTest, AcceptsAgainWhenDescriptorsAreBackSaysSoAndDoesNotSpin) {
  start();
  ASSERT_EQ(client().post("/echo", "x", Soon())->status, 200);
  ASSERT_TRUE(eventually([&] { return server_->connections() == 0; }));
  std::vector<int> sockets;
  for (int i = 0; i < 12; ++i) sockets.push_back(::socket(AF_INET, SOCK_STREAM, 0));
  testing::internal::CaptureStderr();
  rlimit all{};
  ASSERT_EQ(getrlimit(RLIMIT_NOFILE, &all), 0);
  rlimit few = all;
  const int next = dup(0);
  ::close(next);
  few.rlim_cur = static_cast<rlim_t>(next) + 3;
  ASSERT_EQ(setrlimit(RLIMIT_NOFILE, &few), 0);
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_port = htons(static_cast<uint16_t>(server_->port()));
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  const std::string_view request = "GET /held HTTP/1.1\r\nHost: x\r\n\r\n";
  for (const int one : sockets) {
    ASSERT_EQ(::connect(one, reinterpret_cast<sockaddr*>(&address), sizeof address), 0);
    ASSERT_EQ(::send(one, request.data(), request.size(), 0), std::ssize(request));
  }
  const CpuTime before = ProcessCpuTime();
  std::this_thread::sleep_for(milliseconds(500));
  const CpuTime spent = ProcessCpuTime() - before;
  EXPECT_LT(spent.user_s + spent.system_s, 0.1);
  EXPECT_LE(server_->connections(), 3);
  ASSERT_EQ(setrlimit(RLIMIT_NOFILE, &all), 0);
  EXPECT_TRUE(eventually([&] { return server_->connections() == 12; })) << server_->connections();
  const std::string log = testing::internal::GetCapturedStderr();
  EXPECT_THAT(log, AllOf(HasSubstr("accept: Too many open files"), HasSubstr("accepts connections again")));
  EXPECT_EQ(log.find("Too many", log.find("Too many") + 1), std::string::npos) << log;
  for (const int one : sockets) ::close(one);
}

TEST_F(HttpServerTest, StopWaitsForTheAnswerInFlight) {
  start();
  TcpStream stream = connect();
  ASSERT_TRUE(stream.send_all("GET /kept HTTP/1.1\r\nHost: x\r\n\r\n", Soon()).ok());
  auto writer = kept();
  ASSERT_NE(writer, nullptr);
  std::thread stopper([&] { server_->stop(std::chrono::seconds(10)); });
  std::this_thread::sleep_for(milliseconds(20));
  writer->send({.body = "done"});
  writer.reset();
  EXPECT_THAT(ReadAll(stream), HasSubstr("\r\n\r\ndone"));
  stopper.join();
  EXPECT_EQ(disconnects_, 0);
}

TEST_F(HttpServerTest, StopCutsWhatDoesNotEnd) {
  start();
  TcpStream stream = connect();
  ASSERT_TRUE(stream.send_all("GET /kept HTTP/1.1\r\nHost: x\r\n\r\n", Soon()).ok());
  auto writer = kept();
  ASSERT_NE(writer, nullptr);
  std::thread releaser([&] {
    eventually([&] { return disconnects_ == 1; });
    writer.reset();
  });
  server_->stop(milliseconds(20));
  releaser.join();
  EXPECT_EQ(disconnects_, 1);
}

TEST(HttpServer, SaysWhyItCannotListen) {
  auto first = HttpServer::Start({}, {});
  ASSERT_TRUE(first.ok());
  const auto second = HttpServer::Start({.port = (*first)->port()}, {});
  EXPECT_EQ(second.status().code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(Message(second.status()), HasSubstr(std::to_string((*first)->port())));
}

TEST(HttpText, DecodesPercentEscapesOnlyWhenWhole) {
  std::string out;
  EXPECT_EQ(PercentEncode("a/b &=%+\xc3\xa4.-_~Z9"), "a%2Fb%20%26%3D%25%2B%C3%A4.-_~Z9");
  EXPECT_TRUE(PercentDecode(PercentEncode("a/b &=%"), out));
  EXPECT_EQ(out, "a/b &=%");
  EXPECT_TRUE(PercentDecode("/a%2Fb%20c", out));
  EXPECT_EQ(out, "/a/b c");
  for (const char* broken : {"%", "%1", "%g0", "x%0"}) EXPECT_FALSE(PercentDecode(broken, out)) << broken;
}

TEST(HttpClient, UnderstandsUrls) {
  EXPECT_TRUE(HttpClient::FromUrl("http://localhost:8000/v1/").ok());
  EXPECT_TRUE(HttpClient::FromUrl("localhost:8000").ok());
  EXPECT_FALSE(HttpClient::FromUrl("ftp://localhost:8000").ok());
  EXPECT_FALSE(HttpClient::FromUrl("http://localhost:port").ok());
}

TEST(HttpClient, SaysThatNobodyListens) {
  auto server = HttpServer::Start({}, {});
  const int port = (*server)->port();
  server->reset();
  const auto reply = HttpClient("127.0.0.1", port).get("/", Soon());
  EXPECT_EQ(reply.status().code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(Message(reply.status()), HasSubstr("127.0.0.1"));
}

}  // namespace
}  // namespace shoal
