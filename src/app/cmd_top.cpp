// `shoal top`: a coordinator's cluster in a terminal, asked over HTTP.
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <condition_variable>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <ctime>
#include <mutex>
#include <nlohmann/json.hpp>
#include <thread>

#include "api/http/client.h"
#include "api/http/text.h"
#include "api/top/frame.h"
#include "app/command.h"
#include "app/server_reply.h"
#include "app/terminal.h"
#include "base/file.h"
#include "base/json.h"
#include "base/status.h"

namespace shoal {
namespace {

constexpr int64_t kCallMs = 4000;
constexpr int64_t kKeyFileBytesMax = 64 << 10;
constexpr size_t kLooksMax = 60;
/// The screen follows a window that is resized, and an answer that came, within this.
constexpr Duration kKeyWait = std::chrono::milliseconds(100);

struct TopFlags {
  std::string url = "http://127.0.0.1:8000";
  std::string api_key;
  std::string api_key_file;
  std::string model;
  double interval_s = 1;
  int columns = 0;
  bool once = false;
};

absl::StatusOr<std::string> ReadApiKey(const TopFlags& flags) {
  if (flags.api_key_file.empty()) return flags.api_key;
  ASSIGN_OR_RETURN(const std::string text, ReadTextFile(flags.api_key_file, kKeyFileBytesMax));
  const std::string key = text.substr(0, text.find_first_of(" \t\r\n"));
  if (key.empty())
    return InvalidArgument("--api-key-file '{}': its first line holds no key", flags.api_key_file);
  if (key.starts_with("sha256:")) {
    return InvalidArgument(
        "--api-key-file '{}' holds the digests by which a server knows keys, not a key: give a file with the "
        "key that `shoal token api-key` printed",
        flags.api_key_file);
  }
  return key;
}

std::string LocalClock(int64_t unix_s) {
  const auto at = static_cast<std::time_t>(unix_s);
  std::tm local{};
  std::array<char, 16> text{};
  if (localtime_r(&at, &local) == nullptr) return "";
  return {text.data(), std::strftime(text.data(), text.size(), "%H:%M:%S", &local)};
}

/// Asks a coordinator, again and again; keeps what it said last.
class Watcher {
 public:
  Watcher(HttpClient client, const TopFlags& flags) : client_(std::move(client)) {
    picture_.url = flags.url;
    if (!flags.model.empty()) model_ = PercentEncode(flags.model);
  }

  /// One look. On an error the picture is as it was, with the error. experts: their use, too, which asks all nodes.
  absl::Status look(bool experts) {
    TopPicture seen;
    {
      const std::lock_guard lock(mutex_);
      seen = picture_;
    }
    const absl::Status asked = ask(experts, seen);
    if (asked.ok()) {
      seen.problem.clear();
      seen.seen_at = UnixSeconds();
    } else {
      seen.problem = Message(asked) + "; asked again";
    }
    const std::lock_guard lock(mutex_);
    picture_ = std::move(seen);
    return asked;
  }

  TopPicture picture() const {
    const std::lock_guard lock(mutex_);
    return picture_;
  }

 private:
  absl::StatusOr<HttpReply> get(std::string path) const {
    if (!model_.empty()) path += (path.find('?') == std::string::npos ? "?model=" : "&model=") + model_;
    ASSIGN_OR_RETURN(HttpReply reply, client_.get(path, Deadline::after_ms(kCallMs)));
    if (reply.status != 200) return RefusedBy(reply);
    return reply;
  }
  absl::StatusOr<Json> get_json(const std::string& path) const {
    ASSIGN_OR_RETURN(const HttpReply reply, get(path));
    Json read = ParseJson(reply.body).value_or(Json());
    if (read.is_object()) return read;
    return DataLoss("{}: expected what a shoal coordinator answers, got no JSON object", path);
  }
  absl::Status ask(bool experts, TopPicture& seen) {
    ASSIGN_OR_RETURN(const Json status, get_json("/cluster/status"));
    ReadStatus(status, seen);
    ASSIGN_OR_RETURN(const HttpReply scrape, get("/metrics"));
    looks_.push_back({SecondsOf(Clock::now().time_since_epoch()), Scrape::Read(scrape.body)});
    if (looks_.size() > kLooksMax) looks_.erase(looks_.begin());
    ReadMetrics(looks_, seen);
    ASSIGN_OR_RETURN(const Json events, get_json(fmt::format("/cluster/events?after={}", last_event_)));
    last_event_ = ReadEvents(events, last_event_, seen.events);
    if (!experts) return absl::OkStatus();
    ASSIGN_OR_RETURN(const Json use, get_json("/cluster/experts"));
    seen.experts = ReadExperts(use);
    return absl::OkStatus();
  }

  const HttpClient client_;
  std::string model_;
  // Of who looks:
  std::vector<TopLook> looks_;
  int64_t last_event_ = 0;
  mutable std::mutex mutex_;  ///< Guards what follows.
  TopPicture picture_;
};

/// Looks on a thread of its own, until it is destroyed.
class Looking {
 public:
  Looking(Watcher& watcher, Duration interval) {
    // Signals are for the thread that has the terminal.
    sigset_t all;
    sigset_t before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    thread_ = std::jthread([this, &watcher, interval](const std::stop_token& stop) {
      while (!stop.stop_requested()) {
        (void)watcher.look(experts);  // The picture says what is wrong.
        ++looks;
        std::unique_lock lock(mutex_);
        wake_.wait_for(lock, stop, interval, [this] { return hurry_; });
        hurry_ = false;
      }
    });
    pthread_sigmask(SIG_SETMASK, &before, nullptr);
  }
  /// Looks at once.
  void hurry() {
    {
      const std::lock_guard lock(mutex_);
      hurry_ = true;
    }
    wake_.notify_all();
  }

  std::atomic<bool> experts = false;  ///< Whether to ask for them, too.
  std::atomic<int64_t> looks = 0;

 private:
  std::mutex mutex_;
  std::condition_variable_any wake_;
  bool hurry_ = false;
  std::jthread thread_;  ///< Last: it uses the others.
};

/// What a key does to what is shown. False: it is over.
bool Obey(const Terminal::Pressed& pressed, const TopFrame& frame, TopView& view) {
  using Press = Terminal::Press;
  const auto turn_to = [&view](int page) {
    view.page = static_cast<TopPage>(page);
    view.first = 0;
  };
  switch (pressed.what) {
    case Press::kQuit:
      return false;
    case Press::kNextPage:
      turn_to((static_cast<int>(view.page) + 1) % kTopPages);
      break;
    case Press::kPage:
      turn_to(pressed.page);
      break;
    case Press::kUp:
      --view.first;
      break;
    case Press::kDown:
      ++view.first;
      break;
    case Press::kPageUp:
      view.first -= frame.rows_shown;
      break;
    case Press::kPageDown:
      view.first += frame.rows_shown;
      break;
    case Press::kHome:
      view.first = 0;
      break;
    case Press::kNone:
    case Press::kResized:
      break;
  }
  view.first = std::clamp(view.first, 0, std::max(frame.rows - frame.rows_shown, 0));
  return true;
}

bool HasColours() {
  const char* const off = std::getenv("NO_COLOR");  // https://no-color.org
  return off == nullptr || *off == '\0';
}

absl::Status Watch(Watcher& watcher, const TopFlags& flags) {
  ASSIGN_OR_RETURN(const std::unique_ptr<Terminal> terminal, Terminal::Open(HasColours()));
  Looking looking(watcher, FromSeconds(flags.interval_s));
  TopView view{.clock = LocalClock};
  int64_t shown = -1;
  bool changed = true;
  TopFrame frame;
  while (true) {
    if (const int64_t looks = looking.looks; changed || looks != shown) {
      shown = looks;
      view.width = terminal->width();
      view.height = terminal->height();
      frame = DrawTop(watcher.picture(), view);
      terminal->show(frame);
    }
    const Terminal::Pressed pressed = terminal->wait(kKeyWait);
    changed = pressed.what != Terminal::Press::kNone;
    if (!Obey(pressed, frame, view)) return absl::OkStatus();
    const bool experts = view.page == TopPage::kExperts;
    if (looking.experts.exchange(experts) != experts && experts) looking.hurry();
  }
}

/// All pages but those that ask more of the nodes, as text: rates are of two looks.
absl::Status PrintOnce(Watcher& watcher, const TopFlags& flags) {
  RETURN_IF_ERROR(watcher.look(/*experts=*/false));
  std::this_thread::sleep_for(FromSeconds(flags.interval_s));
  RETURN_IF_ERROR(watcher.look(/*experts=*/true));
  TopView view{.height = 1 << 20, .clock = LocalClock};
  if (flags.columns > 0) view.width = flags.columns;
  std::string text;
  for (int page = 0; page < kTopPages; ++page) {
    view.page = static_cast<TopPage>(page);
    TopFrame frame = DrawTop(watcher.picture(), view);
    frame.lines.erase(frame.lines.begin() + 1);  // Of keys, which nobody can press.
    if (page > 0) frame.lines.erase(frame.lines.begin());
    text += TopText(frame);
  }
  std::fputs(text.c_str(), stdout);
  return absl::OkStatus();
}

absl::Status Top(const TopFlags& flags) {
  ASSIGN_OR_RETURN(HttpClient client, HttpClient::FromUrl(flags.url));
  ASSIGN_OR_RETURN(std::string key, ReadApiKey(flags));
  client.set_api_key(std::move(key));
  Watcher watcher(std::move(client), flags);
  return flags.once || isatty(STDOUT_FILENO) == 0 ? PrintOnce(watcher, flags) : Watch(watcher, flags);
}

}  // namespace

Command AddTopCommand(Flags root) {
  auto flags = std::make_shared<TopFlags>();
  Flags app = root.add_subcommand(
      "top", "Watch a cluster in the terminal: nodes, rates, latencies, what happened, use of experts");
  app.add_option("--url", flags->url, "The coordinator (default http://127.0.0.1:8000)");
  app.add_option("--api-key", flags->api_key, "The key that the server wants, if any")
      .envname("SHOAL_API_KEY");
  app.add_option("--api-key-file", flags->api_key_file, "A file whose first line is that key");
  app.add_option("--model", flags->model, "Of a server of several: the model that is looked at");
  app.add_option("--interval", flags->interval_s, "Seconds between two looks (default 1)").range(0.2, 3600.0);
  app.add_flag("--once", flags->once, "Print one frame as plain text, as where the output is no terminal");
  app.add_option("--columns", flags->columns, "Of that text (default 80)").range(20, 1000);
  return {app, [flags] { return Top(*flags); }};
}

}  // namespace shoal
