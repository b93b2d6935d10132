// Any bytes that a client sends before it closes its sending side: every answer begins as one, the connection
// ends soon, and whatever was refused, the next client is served.
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <utility>

#include "api/http/server.h"
#include "api/http/tcp_stream.h"
#include "base/check.h"
#include "base/clock.h"

namespace shoal {
namespace {

// Small, so that inputs of a few kilobytes reach every limit.
constexpr int64_t kHeaderBytesMax = 1 << 10;
constexpr int64_t kBodyBytesMax = 1 << 10;
// Far above what an answer takes (milliseconds), below what the server grants a client that says nothing.
constexpr int64_t kTimeoutMs = 20'000;

/// A route that answers at once, one that streams, one that drops its writer.
std::vector<HttpRoute> Routes() {
  using Writer = std::shared_ptr<ResponseWriter>;
  return {{"POST", "/echo",
           [](const HttpRequest& request, const Writer& writer) { writer->send({.body = request.body}); }},
          {"GET", "/stream/*",
           [](const HttpRequest& request, const Writer& writer) {
             writer->begin_stream(200, "text/event-stream");
             writer->write(request.path);
             writer->write(request.query);
             writer->end_stream();
           }},
          {"GET", "/silent", [](const HttpRequest&, const Writer&) {}}};
}

HttpServer& Server() {
  static const std::unique_ptr<HttpServer> server = [] {
    auto started =
        HttpServer::Start({.header_bytes_max = kHeaderBytesMax, .body_bytes_max = kBodyBytesMax}, Routes());
    SHOAL_CHECK(started.ok());
    return *std::move(started);
  }();
  return *server;
}

/// All that the server says to a client that sends `bytes` and nothing more.
std::string Exchange(std::string_view bytes) {
  const Deadline deadline = Deadline::after_ms(kTimeoutMs);
  auto stream = TcpStream::Connect("127.0.0.1", Server().port(), deadline);
  SHOAL_CHECK(stream.ok());
  // A server that refuses early may hang up while we send.
  const bool sent = stream->send_all(bytes, deadline).ok();
  stream->close_sending();
  std::string answer;
  while (true) {
    const auto piece = stream->receive(deadline);
    if (!piece.ok()) SHOAL_CHECK(!sent || piece.status().code() != absl::StatusCode::kDeadlineExceeded);
    if (!piece.ok() || piece->empty()) return answer;
    answer += *piece;
  }
}

}  // namespace
}  // namespace shoal

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string answer = shoal::Exchange({reinterpret_cast<const char*>(data), size});
  SHOAL_CHECK(answer.empty() || answer.starts_with("HTTP/1.1 "));
  const std::string next = shoal::Exchange("POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nhi");
  SHOAL_CHECK(next.starts_with("HTTP/1.1 200 ") && next.ends_with("\r\n\r\nhi"));
  return 0;
}
