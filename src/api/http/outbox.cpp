#include "api/http/outbox.h"

#include <algorithm>
#include <utility>

#include "base/log.h"
#include "base/process.h"
#include "base/status.h"
#include "base/text.h"

namespace shoal {

absl::StatusOr<std::unique_ptr<Outbox>> Outbox::Start(Options options) {
  const HttpBase& base = options.url.base;
  HttpClient client(base);
  if (base.tls) {
    ASSIGN_OR_RETURN(client, HttpClient::Https(base));
  }
  std::unique_ptr<Outbox> outbox(new Outbox(std::move(options), std::move(client)));
  outbox->thread_ = std::thread([self = outbox.get()] { self->run(); });
  return outbox;
}

Outbox::Outbox(Options options, HttpClient client)
    : options_(std::move(options)), client_(std::move(client)) {}

Outbox::~Outbox() { stop(Duration::zero()); }

bool Outbox::post(std::function<std::string()> text) {
  {
    const std::lock_guard lock(mutex_);
    if (stopping_ || waiting_.size() >= options_.waiting_max) {
      ++totals_.dropped;
      return false;
    }
    if (waiting_.empty()) first_at_ = Clock::now();
    waiting_.push_back(std::move(text));
  }
  changed_.notify_one();
  return true;
}

OutboxTotals Outbox::totals() const {
  const std::lock_guard lock(mutex_);
  OutboxTotals totals = totals_;
  totals.waiting = std::ssize(waiting_);
  return totals;
}

void Outbox::stop(Duration patience) {
  {
    const std::lock_guard lock(mutex_);
    if (!std::exchange(stopping_, true)) until_ = Deadline::after(patience);
  }
  changed_.notify_all();
  if (thread_.joinable()) thread_.join();
}

void Outbox::run() {
  NameThread("outbox");
  for (auto batch = next_batch(); !batch.empty(); batch = next_batch()) deliver(batch);
}

std::vector<std::function<std::string()>> Outbox::next_batch() {
  std::unique_lock lock(mutex_);
  changed_.wait(lock, [this] { return stopping_ || !waiting_.empty(); });
  if (!waiting_.empty()) {
    changed_.wait_until(lock, *first_at_ + options_.batch_wait,
                        [this] { return stopping_ || waiting_.size() >= options_.batch_max; });
  }
  if (stopping_ && until_.expired()) {
    totals_.dropped += std::ssize(waiting_);
    waiting_.clear();
  }
  std::vector<std::function<std::string()>> batch;
  while (!waiting_.empty() && batch.size() < options_.batch_max) {
    batch.push_back(std::move(waiting_.front()));
    waiting_.pop_front();
  }
  first_at_ = Clock::now();  // Of those that are left.
  return batch;
}

void Outbox::deliver(const std::vector<std::function<std::string()>>& batch) {
  std::string body = options_.head;
  for (const auto& text : batch) {
    if (body.size() > options_.head.size()) body += ',';
    body += text();
  }
  body += options_.tail;
  absl::Status result;
  Duration wait = options_.pause_first;
  for (int i = 1; i <= options_.attempts; ++i) {
    result = attempt(body);
    if (result.ok() || absl::IsInvalidArgument(result) || i == options_.attempts || !pause(wait)) break;
    wait = std::min(wait * 2, options_.pause_max);
  }
  const auto count = std::ssize(batch);
  {
    const std::lock_guard lock(mutex_);
    (result.ok() ? totals_.sent : totals_.failed) += count;
  }
  if (result.ok()) return;
  const HttpBase& base = options_.url.base;
  failures_.warn(fmt::format("{}: {} messages for {} are lost: {}", options_.name, count,
                             HostPort{base.host, base.port}.to_string(), Message(result)));
}

absl::Status Outbox::attempt(const std::string& body) const {
  const auto reply = client_.post(options_.url.target, body, attempt_deadline());
  if (!reply.ok()) {
    // Whatever the client calls it, another attempt may pass.
    return Unavailable("{}", Message(reply.status()));
  }
  if (reply->status >= 200 && reply->status < 300) return absl::OkStatus();
  const bool for_good = reply->status < 500 && reply->status != 408 && reply->status != 429;
  if (for_good) return InvalidArgument("the server refuses them with status {}", reply->status);
  return Unavailable("the server answers with status {}", reply->status);
}

Deadline Outbox::attempt_deadline() const {
  const Deadline deadline = Deadline::after(options_.timeout);
  const std::lock_guard lock(mutex_);
  return stopping_ ? Deadline::min(deadline, until_) : deadline;
}

bool Outbox::pause(Duration duration) {
  std::unique_lock lock(mutex_);
  changed_.wait_for(lock, duration, [this] { return stopping_; });
  return !stopping_ || !until_.expired();
}

}  // namespace shoal
