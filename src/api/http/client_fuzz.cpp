// What a server or a client may send that is no body of a request: an answer of HTTP with server-sent events, URLs, queries,
// headers, a page of metrics, a file of keys. The first byte picks it.
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <iterator>
#include <memory>
#include <mutex>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

#include "api/api_keys.h"
#include "api/http/async_client.h"
#include "api/http/client.h"
#include "api/http/sse_reader.h"
#include "api/http/text.h"
#include "api/log_question.h"
#include "api/plan_question.h"
#include "api/top/scrape.h"
#include "api/trace/trace_context.h"
#include "base/check.h"
#include "base/clock.h"
#include "base/status.h"

namespace shoal {
namespace {

// Far above what an answer takes (milliseconds).
constexpr int64_t kTimeoutMs = 8'000;

/// Answers each connection with the same bytes, whatever it is asked, and closes its side.
class FixedServer {
 public:
  FixedServer() : listener_(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)) {
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    socklen_t length = sizeof address;
    auto* const general = reinterpret_cast<sockaddr*>(&address);
    SHOAL_CHECK(::bind(listener_, general, length) == 0 && ::listen(listener_, 64) == 0);
    SHOAL_CHECK(::getsockname(listener_, general, &length) == 0);
    port_ = ntohs(address.sin_port);
    std::thread([this] { serve(); }).detach();
  }

  int port() const { return port_; }
  void set_answer(std::string_view bytes) {
    const std::lock_guard lock(mutex_);
    answer_ = bytes;
  }

 private:
  void serve() {
    while (true) {
      const int one = ::accept(listener_, nullptr, nullptr);
      if (one < 0) continue;
      std::string answer;
      {
        const std::lock_guard lock(mutex_);
        answer = answer_;
      }
      std::string_view left = answer;
      while (!left.empty()) {
        const ssize_t sent = ::send(one, left.data(), left.size(), MSG_NOSIGNAL);
        if (sent <= 0) break;
        left.remove_prefix(static_cast<size_t>(sent));
      }
      ::shutdown(one, SHUT_WR);
      char ignored[4096];
      while (::recv(one, ignored, sizeof ignored, 0) > 0) {
      }
      ::close(one);
    }
  }

  const int listener_;
  int port_ = 0;
  std::mutex mutex_;
  std::string answer_;  // Guarded by mutex_.
};

class Observer : public HttpObserver {
 public:
  void on_head(int status) override { SHOAL_CHECK(!ended_ && status >= 0); }
  void on_body(std::string_view piece) override { SHOAL_CHECK(!ended_ && !piece.empty()); }
  void on_end(HttpFailure failure, const std::string& why) override {
    SHOAL_CHECK(!ended_ && failure != HttpFailure::kTimedOut);
    SHOAL_CHECK_EQ(why.empty(), failure == HttpFailure::kNone);
    ended_ = true;
  }
  bool ended() const { return ended_; }

 private:
  bool ended_ = false;
};

/// Clients end with an answer or an error, and never wait for what can't come.
void CheckAnswer(std::string_view bytes) {
  static FixedServer& server = *new FixedServer;  // Its thread stays until the process ends.
  server.set_answer(bytes);
  const HttpClient client("127.0.0.1", server.port());
  const auto reply = client.get("/", Deadline::after_ms(kTimeoutMs));
  if (!reply.ok()) SHOAL_CHECK(absl::IsUnavailable(reply.status()) || absl::IsDataLoss(reply.status()));
  int events = 0;
  const auto streamed = client.post_events("/", "{}", Deadline::after_ms(kTimeoutMs),
                                           [&](std::string_view) { return ++events < 100; });
  SHOAL_CHECK(!absl::IsDeadlineExceeded(streamed.status()));
  auto many =
      AsyncHttpClient::Create({.host = "127.0.0.1", .port = server.port(), .prefix = "", .headers = {}});
  SHOAL_CHECK(many.ok());
  const auto observer = std::make_shared<Observer>();
  (*many)->post("/", "{}", Deadline::after_ms(kTimeoutMs), observer);
  (*many)->run();
  SHOAL_CHECK(observer->ended());
}

std::vector<std::string> Events(std::string_view text, size_t step) {
  std::vector<std::string> events;
  SseReader reader([&](std::string_view data) { events.emplace_back(data); });
  for (size_t i = 0; i < text.size(); i += step) reader.push(text.substr(i, step));
  return events;
}

void CheckEvents(std::string_view text) {
  const auto whole = Events(text, text.size() + 1);
  SHOAL_CHECK(Events(text, 1) == whole && Events(text, 3) == whole);
}

void CheckText(std::string_view text) {
  std::string decoded;
  SHOAL_CHECK(PercentDecode(PercentEncode(text), decoded) && decoded == text);
  (void)PercentDecode(text, decoded);
  (void)QueryValue(text, "node");
  if (const auto question = ParseLogQuestion(text); !question.has_value())
    SHOAL_CHECK_EQ(question.error().status, 400);
  if (const auto base = ParseHttpBase(text); base.ok()) SHOAL_CHECK(!base->prefix.ends_with('/'));
  if (const auto url = ParseHttpUrl(text); url.ok()) {
    SHOAL_CHECK(url->target.starts_with('/') && url->base.port >= 1 && url->base.prefix.empty());
  }
  if (const auto trace = ParseTraceParent(text); trace.has_value())
    SHOAL_CHECK(trace->trace_id().size() == 32 && (trace->trace_high | trace->trace_low) != 0);
}

void CheckScrape(std::string_view text) {
  const Scrape scrape = Scrape::Read(text);
  (void)scrape.total("shoal_tokens_total", {{"node", "a"}});
  const ScrapedHistogram histogram = scrape.histogram("h");
  for (const double q : {0.0, 0.5, 0.99}) (void)histogram.quantile(q);
  (void)histogram.since(histogram).observations();
}

void CheckKeys(std::string_view text) {
  auto keys = ParseApiKeys(text, "fuzz");
  if (!keys.ok()) return SHOAL_CHECK(Message(keys.status()).find("fuzz") != std::string::npos);
  SHOAL_CHECK(!keys->empty());
  for (const ApiKey& key : *keys) SHOAL_CHECK(!key.name.empty() && key.digest.size() == 64);
  const ApiKeys all(*std::move(keys));
  (void)all.priority_of("key1");
}

void CheckPlanQuestion(std::string_view text) {
  const auto question = ParsePlanQuestion(std::string(text));
  if (!question.has_value()) SHOAL_CHECK(question.error().status == 400 && !question.error().message.empty());
}

}  // namespace
}  // namespace shoal

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace shoal;
  if (size == 0) return 0;
  const std::string_view rest(reinterpret_cast<const char*>(data + 1), size - 1);
  constexpr void (*kChecks[])(std::string_view) = {CheckAnswer, CheckEvents, CheckText,
                                                   CheckScrape, CheckKeys,   CheckPlanQuestion};
  kChecks[data[0] % std::size(kChecks)](rest);
  return 0;
}
