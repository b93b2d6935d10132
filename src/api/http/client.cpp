#include "api/http/client.h"

#include <algorithm>
#include <charconv>
#include <optional>

#include "api/http/tcp_stream.h"
#include "api/http/text.h"
#include "base/status.h"
#include "base/text.h"

namespace shoal {
namespace {

constexpr size_t kHeadBytesMax = 64 << 10;
constexpr size_t kBodyBytesMax = 256 << 20;

std::string_view Trimmed(std::string_view text) {
  while (!text.empty() && (text.front() == ' ' || text.front() == '\t')) text.remove_prefix(1);
  while (!text.empty() && (text.back() == ' ' || text.back() == '\r' || text.back() == '\t'))
    text.remove_suffix(1);
  return text;
}

absl::StatusOr<size_t> ParseSize(std::string_view text, int base, std::string_view what) {
  size_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value, base);
  if (error != std::errc{} || end == text.data() || value > kBodyBytesMax) {
    return DataLoss("http: the reply's {} is '{}'", what, text);
  }
  return value;
}

// Reads a reply piece by piece from a stream.
class ReplyReader {
 public:
  ReplyReader(TcpStream& stream, Deadline deadline) : stream_(stream), deadline_(deadline) {}

  absl::StatusOr<HttpReply> read_head() {
    HttpReply reply;
    ASSIGN_OR_RETURN(std::string line, read_line());
    if (!line.starts_with("HTTP/1.") || line.size() < 12)
      return DataLoss("http: the reply begins with '{}'", line);
    ASSIGN_OR_RETURN(const size_t status, ParseSize(std::string_view(line).substr(9, 3), 10, "status"));
    reply.status = static_cast<int>(status);
    for (size_t bytes = 0; bytes < kHeadBytesMax; bytes += line.size()) {
      ASSIGN_OR_RETURN(line, read_line());
      if (line.empty()) return reply;
      const size_t colon = line.find(':');
      if (colon == std::string::npos) return DataLoss("http: the reply has a header '{}'", line);
      reply.headers.emplace_back(LowerCase(std::string_view(line).substr(0, colon)),
                                 Trimmed(std::string_view(line).substr(colon + 1)));
    }
    return DataLoss("http: the reply's headers are longer than {} bytes", kHeadBytesMax);
  }

  /// Calls `take` with each piece until the end, or until it returns false.
  template <typename Take>
  absl::Status read_body(const HttpReply& reply, const Take& take) {
    if (reply.header("transfer-encoding") == "chunked") return read_chunks(take);
    std::optional<size_t> left;
    if (const std::string_view length = reply.header("content-length"); !length.empty()) {
      ASSIGN_OR_RETURN(left, ParseSize(length, 10, "Content-Length"));
    }
    while (!left.has_value() || *left > 0) {
      ASSIGN_OR_RETURN(const bool more, fill());
      if (!more) {
        if (left.has_value()) return Unavailable("http: the server hung up {} bytes before the end", *left);
        return absl::OkStatus();
      }
      const std::string piece = take_buffer(left.value_or(buffer_.size()));
      if (left.has_value()) *left -= piece.size();
      if (!take(piece)) return absl::OkStatus();
    }
    return absl::OkStatus();
  }

 private:
  template <typename Take>
  absl::Status read_chunks(const Take& take) {
    while (true) {
      ASSIGN_OR_RETURN(const std::string head, read_line());
      ASSIGN_OR_RETURN(size_t left, ParseSize(head, 16, "chunk size"));
      if (left == 0) return absl::OkStatus();
      while (left > 0) {
        ASSIGN_OR_RETURN(const bool more, fill());
        if (!more) return Unavailable("http: the server hung up within a chunk");
        const std::string piece = take_buffer(left);
        left -= piece.size();
        if (!take(piece)) return absl::OkStatus();
      }
      RETURN_IF_ERROR(read_line().status());
    }
  }

  /// False at the end of the stream.
  absl::StatusOr<bool> fill() {
    if (!buffer_.empty()) return true;
    ASSIGN_OR_RETURN(buffer_, stream_.receive(deadline_));
    return !buffer_.empty();
  }

  std::string take_buffer(size_t bytes_max) {
    std::string piece = buffer_.substr(0, bytes_max);
    buffer_.erase(0, piece.size());
    return piece;
  }

  absl::StatusOr<std::string> read_line() {
    size_t end = 0;
    while ((end = buffer_.find('\n')) == std::string::npos) {
      if (buffer_.size() > kHeadBytesMax) return DataLoss("http: a line longer than {} bytes", kHeadBytesMax);
      ASSIGN_OR_RETURN(const std::string more, stream_.receive(deadline_));
      if (more.empty()) return Unavailable("http: the server hung up");
      buffer_ += more;
    }
    const std::string line(Trimmed(std::string_view(buffer_).substr(0, end)));
    buffer_.erase(0, end + 1);
    return line;
  }

  TcpStream& stream_;
  const Deadline deadline_;
  std::string buffer_;
};

}  // namespace

std::string_view HttpReply::header(std::string_view name) const {
  for (const auto& [key, value] : headers) {
    if (key == name) return value;
  }
  return {};
}

absl::StatusOr<HttpBase> ParseHttpBase(std::string_view url) {
  std::string_view rest = url;
  bool tls = false;
  const size_t scheme = url.find("://");
  if (scheme != std::string_view::npos) {
    tls = url.substr(0, scheme) == "https";
    if (!tls && url.substr(0, scheme) != "http") {
      return InvalidArgument("url '{}': expected http://HOST:PORT or https://HOST:PORT, got scheme '{}'", url,
                             url.substr(0, scheme));
    }
    rest.remove_prefix(scheme + 3);
  }
  const size_t slash = rest.find('/');
  std::string address(rest.substr(0, slash));
  if (address.find(':') == std::string::npos) address += tls ? ":443" : ":80";
  ASSIGN_OR_RETURN(const HostPort host_port, ParseHostPort(address));
  HttpBase base{.host = host_port.host, .port = host_port.port, .tls = tls, .prefix = ""};
  if (slash != std::string_view::npos) base.prefix = rest.substr(slash);
  while (base.prefix.ends_with('/')) base.prefix.pop_back();
  if (base.prefix.ends_with("/v1")) base.prefix.resize(base.prefix.size() - 3);
  return base;
}

absl::StatusOr<HttpUrl> ParseHttpUrl(std::string_view url) {
  constexpr char kExpected[] = "expected http://HOST[:PORT]/PATH or https://HOST[:PORT]/PATH";
  const size_t scheme = url.find("://");
  if (scheme == std::string_view::npos) return InvalidArgument("{}, got no scheme", kExpected);
  const std::string_view name = url.substr(0, scheme);
  if (name != "http" && name != "https") return InvalidArgument("{}, got scheme '{}'", kExpected, name);
  if (!IsPrintable(url) || url.find(' ') != std::string_view::npos)
    return InvalidArgument("{}, got spaces or bytes that a URL must escape", kExpected);
  if (url.find('#') != std::string_view::npos) return InvalidArgument("{}, got a fragment ('#')", kExpected);
  const std::string_view rest = url.substr(scheme + 3);
  const size_t end = std::min(rest.find_first_of("/?"), rest.size());
  if (rest.substr(0, end).find('@') != std::string_view::npos)
    return InvalidArgument("{}, got a user ('@'), which is not sent", kExpected);
  const auto base = ParseHttpBase(url.substr(0, scheme + 3 + end));
  if (!base.ok() || base->host.empty() || base->port < 1)
    return InvalidArgument("{}, got a host or port that is none", kExpected);
  HttpUrl parsed{.base = *base, .target = std::string(rest.substr(end))};
  if (!parsed.target.starts_with('/')) parsed.target.insert(0, "/");
  return parsed;
}

absl::StatusOr<HttpClient> HttpClient::FromUrl(std::string_view url) {
  ASSIGN_OR_RETURN(HttpBase base, ParseHttpBase(url));
  if (base.tls) return Https(std::move(base));
  return HttpClient(std::move(base));
}

absl::StatusOr<HttpClient> HttpClient::Https(HttpBase base, const std::string& authorities) {
  base.tls = true;
  HttpClient client(std::move(base));
  ASSIGN_OR_RETURN(client.tls_, TlsContext::Client(authorities));
  return client;
}

std::string HttpClient::request_text(std::string_view method, const std::string& path,
                                     const std::string& body) const {
  std::string text = fmt::format("{} {}{} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\nAccept: */*\r\n",
                                 method, base_.prefix, path, HostPort{base_.host, base_.port}.to_string());
  if (!api_key_.empty()) text += fmt::format("Authorization: Bearer {}\r\n", api_key_);
  if (method == "POST")
    text += fmt::format("Content-Type: application/json\r\nContent-Length: {}\r\n", body.size());
  return text + "\r\n" + body;
}

absl::StatusOr<HttpReply> HttpClient::exchange(const std::string& request, Deadline deadline,
                                               const Consumer* consumer) const {
  ASSIGN_OR_RETURN(TcpStream stream, TcpStream::Connect(base_.host, base_.port, deadline));
  if (tls_ != nullptr) RETURN_IF_ERROR(stream.start_tls(tls_, base_.host, deadline));
  // A server that refuses early may hang up while we send: its answer is still worth reading.
  const absl::Status sent = stream.send_all(request, deadline);
  ReplyReader reader(stream, deadline);
  auto head = reader.read_head();
  if (!head.ok()) return sent.ok() ? head.status() : sent;
  HttpReply reply = *std::move(head);
  if (consumer != nullptr && reply.status == 200) {
    RETURN_IF_ERROR(reader.read_body(reply, *consumer));
    return reply;
  }
  bool too_long = false;
  RETURN_IF_ERROR(reader.read_body(reply, [&](const std::string& piece) {
    too_long = reply.body.size() + piece.size() > kBodyBytesMax;
    if (!too_long) reply.body += piece;
    return !too_long;
  }));
  if (too_long) return DataLoss("http: the reply is longer than {} bytes", kBodyBytesMax);
  return reply;
}

absl::StatusOr<HttpReply> HttpClient::get(const std::string& path, Deadline deadline) const {
  return exchange(request_text("GET", path, ""), deadline, nullptr);
}

absl::StatusOr<HttpReply> HttpClient::post(const std::string& path, const std::string& json,
                                           Deadline deadline) const {
  return exchange(request_text("POST", path, json), deadline, nullptr);
}

absl::StatusOr<HttpReply> HttpClient::post_events(
    const std::string& path, const std::string& json, Deadline deadline,
    const std::function<bool(std::string_view)>& on_data) const {
  std::string pending;
  const Consumer consumer = [&](std::string_view piece) {
    pending += piece;
    size_t end = 0;
    while ((end = pending.find('\n')) != std::string::npos) {
      const std::string line(Trimmed(std::string_view(pending).substr(0, end)));
      pending.erase(0, end + 1);
      if (line.starts_with("data:") && !on_data(Trimmed(std::string_view(line).substr(5)))) return false;
    }
    return pending.size() <= kHeadBytesMax * 16;
  };
  return exchange(request_text("POST", path, json), deadline, &consumer);
}

}  // namespace shoal
