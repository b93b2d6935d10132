#include "api/http/server.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

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
using ::testing::HasSubstr;
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
         {"GET", "/urgent", [](const HttpRequest&, auto writer) { writer->send({.body = "alive"}); }, true},
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
  const std::string one = "POST /echo HTTP/1.1\r\nContent-Length: 3\r\n\r\n";
  const std::string all = exchange(one + "abc" + one + "def" +
                                   "GET /nowhere HTTP/1.1\r\n\r\nPOST /echo HTTP/1.1\r\nConnection: close\r\n"
                                   "Transfer-Encoding: chunked\r\n\r\n2\r\ngh\r\n1\r\ni\r\n0\r\n\r\n");
  EXPECT_THAT(all, AllOf(HasSubstr("abc"), HasSubstr("def"), HasSubstr("404 Not Found"), HasSubstr("ghi")));
}

TEST_F(HttpServerTest, ASplitRequestIsOneRequest) {
  start();
  TcpStream stream = connect();
  for (const char c :
       std::string("POST /echo HTTP/1.1\r\nConnection: close\r\nContent-Length: 5\r\n\r\nhello")) {
    ASSERT_TRUE(stream.send_all(std::string(1, c), Soon()).ok());
  }
  EXPECT_THAT(ReadAll(stream), HasSubstr("\r\n\r\nhello"));
}

TEST_F(HttpServerTest, InvitesTheBodyOfAnExpectingClient) {
  start();
  TcpStream stream = connect();
  ASSERT_TRUE(stream
                  .send_all("POST /echo HTTP/1.1\r\nExpect: 100-continue\r\nConnection: close\r\n"
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
      {"no version", "GET /path/x\r\n\r\n", "400"},
      {"http/3", "GET /path/x HTTP/3.0\r\n\r\n", "400"},
      {"bad header", "GET /path/x HTTP/1.1\r\nno colon\r\n\r\n", "400"},
      {"space in name", "GET /path/x HTTP/1.1\r\nbad name: x\r\n\r\n", "400"},
      {"bad length", "POST /echo HTTP/1.1\r\nContent-Length: x\r\n\r\n", "400"},
      {"negative length", "POST /echo HTTP/1.1\r\nContent-Length: -1\r\n\r\n", "400"},
      {"two lengths", "POST /echo HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab", "400"},
      {"length and chunked",
       "POST /echo HTTP/1.1\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\nabc", "400"},
      {"bad chunk", "POST /echo HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", "400"},
      {"bad escape", "GET /path/%zz HTTP/1.1\r\n\r\n", "400"},
      {"huge length", "POST /echo HTTP/1.1\r\nContent-Length: 18446744073709551615\r\n\r\n", "413"},
      {"long body", "POST /echo HTTP/1.1\r\nContent-Length: 1001\r\n\r\n", "413"},
      {"long chunked body",
       "POST /echo HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n1000\r\n" + std::string(4096, 'x'), "413"},
      {"long headers", "GET /path/x HTTP/1.1\r\nX: " + std::string(3000, 'x') + "\r\n\r\n", "431"},
      {"wrong method", "DELETE /echo HTTP/1.1\r\nConnection: close\r\n\r\n", "405"},
      {"head", "HEAD /echo HTTP/1.1\r\nConnection: close\r\n\r\n", "405"},
      {"wrong path", "GET /nowhere HTTP/1.1\r\nConnection: close\r\n\r\n", "404"},
      {"dropped", "GET /dropped HTTP/1.1\r\nConnection: close\r\n\r\n", "500"},
      {"throws", "GET /throws HTTP/1.1\r\nConnection: close\r\n\r\n", "500"},
  };
  for (const BadCase& one : cases) {
    EXPECT_THAT(exchange(one.bytes), StartsWith(std::string("HTTP/1.1 ") + one.status)) << one.name;
  }
  TcpStream half = connect();
  ASSERT_TRUE(half.send_all("POST /echo HTTP/1.1\r\nContent-Length: 10\r\n\r\nabc", Soon()).ok());
  half.close_sending();
  EXPECT_THAT(ReadAll(half), AllOf(HasSubstr("400 Bad Request"), HasSubstr("before it was complete")));
  EXPECT_EQ(client().post("/echo", "still here", Soon())->body, "still here");
  EXPECT_TRUE(eventually([&] { return server_->connections() == 0; }));
}

TEST_F(HttpServerTest, AllowNamesTheMethods) {
  start();
  EXPECT_EQ(client().get("/echo", Soon())->header("allow"), "POST");
}

TEST_F(HttpServerTest, AClientThatSendsSlowlyGets408) {
  start({.request_timeout = milliseconds(100)});
  EXPECT_THAT(exchange("POST /echo HTTP/1.1\r\nContent-Le"), HasSubstr("408 Request Timeout"));
  EXPECT_THAT(exchange("POST /echo HTTP/1.1\r\nContent-Length: 10\r\n\r\nabc"),
              HasSubstr("408 Request Timeout"));
  // One byte every now and then does not buy time.
  TcpStream stream = connect();
  const Clock::time_point begin = Clock::now();
  std::string answer;
  for (int i = 0; i < 100 && answer.empty(); ++i) {
    if (!stream.send_all(i == 0 ? "GET / HTTP/1.1\r\nA" : "A", Soon()).ok()) break;
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
    ASSERT_TRUE(stream.send_all("GET /kept HTTP/1.1\r\n\r\n", Soon()).ok());
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
  ASSERT_TRUE(stream.send_all("POST /echo HTTP/1.1\r\nContent-Length: 2\r\n\r\nok", Soon()).ok());
  stream.close_sending();
  EXPECT_THAT(ReadAll(stream), HasSubstr("\r\n\r\nok"));
}

TEST_F(HttpServerTest, CutsAClientThatDoesNotRead) {
  start({.unread_bytes_max = 64 << 10, .write_timeout = milliseconds(100)});
  for (const bool by_size : {true, false}) {
    TcpStream stream = connect();
    stream.shrink_receive_buffer();
    ASSERT_TRUE(stream.send_all("GET /kept HTTP/1.1\r\n\r\n", Soon()).ok());
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
    ASSERT_TRUE(other->send_all("GET /path/x HTTP/1.1\r\nConnection: close\r\n\r\n", Soon()).ok());
    EXPECT_THAT(ReadAll(*other), HasSubstr("200 OK"));
  }
}

TEST_F(HttpServerTest, UnfinishedRequestsMakeRoomAfterASecond) {
  start({.connections_max = 2});
  TcpStream first = connect();
  TcpStream second = connect();
  for (TcpStream* one : {&first, &second}) ASSERT_TRUE(one->send_all("POST /echo HTTP/1.1\r\n", Soon()).ok());
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
    ASSERT_TRUE(busy.back().send_all("GET /kept HTTP/1.1\r\n\r\n", Soon()).ok());
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
  const std::string_view request = "GET /held HTTP/1.1\r\n\r\n";
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
  ASSERT_TRUE(stream.send_all("GET /kept HTTP/1.1\r\n\r\n", Soon()).ok());
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
  ASSERT_TRUE(stream.send_all("GET /kept HTTP/1.1\r\n\r\n", Soon()).ok());
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
  EXPECT_TRUE(PercentDecode("/a%2Fb%20c", out));
  EXPECT_EQ(out, "/a/b c");
  for (const char* broken : {"%", "%1", "%g0", "x%0"}) EXPECT_FALSE(PercentDecode(broken, out)) << broken;
}

TEST(HttpClient, UnderstandsUrls) {
  EXPECT_TRUE(HttpClient::FromUrl("http://localhost:8000/v1/").ok());
  EXPECT_TRUE(HttpClient::FromUrl("localhost:8000").ok());
  EXPECT_FALSE(HttpClient::FromUrl("https://localhost:8000").ok());
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
