#include "api/models/model_shelf.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

#include "api/answer/answer_service.h"
#include "api/http/routing.h"
#include "base/check.h"
#include "base/log.h"
#include "base/process.h"
#include "base/status.h"

namespace shoal {
namespace {

/// How often it is looked whether a model has become idle: their ends are not announced.
constexpr Duration kPoll = std::chrono::milliseconds(50);
constexpr Duration kWatch = std::chrono::milliseconds(500);

ApiError NotLoaded(const std::string& name, const absl::Status& why) {
  ApiError error = FromStatus(why);
  // Whatever is wrong with a model's folder or its room, it is not the request's fault.
  if (error.status < 500) error.status = 503;
  error.message = fmt::format("the model '{}' can't be loaded: {}", name, Message(why));
  error.type = "server_error";
  error.code = "model_not_loaded";
  return error;
}

}  // namespace

std::string_view Name(ShelfState state) {
  switch (state) {
    case ShelfState::kUnloaded:
      return "unloaded";
    case ShelfState::kLoading:
      return "loading";
    case ShelfState::kLoaded:
      return "loaded";
    case ShelfState::kLeaving:
      return "leaving";
    case ShelfState::kUnloading:
      return "unloading";
  }
  return "unknown";
}

ModelShelf::ModelShelf(Options options) : options_(std::move(options)), models_(options_.models.size()) {
  SHOAL_CHECK(!models_.empty());
  for (size_t i = 0; i < models_.size(); ++i) models_[i].entry = options_.models[i];
}

ModelShelf::~ModelShelf() { stop(); }

void ModelShelf::start() {
  for (Model& model : models_) model.start_due = model.entry.at_start;
  loader_ = std::jthread([this](const std::stop_token& stop) { load_and_unload(stop); });
  watch_ = std::jthread([this](const std::stop_token& stop) { watch_deadlines(stop); });
}

void ModelShelf::stop() {
  loader_.request_stop();
  watch_.request_stop();
  std::vector<Waiting> refused;
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
    for (Model& model : models_) {
      std::ranges::move(model.waiting, std::back_inserter(refused));
      model.waiting.clear();
    }
    waiting_ = 0;
  }
  changed_.notify_all();
  Refuse(std::move(refused), ShuttingDown());
  if (loader_.joinable()) loader_.join();
  if (watch_.joinable()) watch_.join();
}

std::optional<size_t> ModelShelf::find(std::string_view name) const {
  for (size_t i = 0; i < models_.size(); ++i) {
    const ShelfEntry& entry = models_[i].entry;
    if (entry.name == name || std::ranges::count(entry.aliases, name) > 0) return i;
  }
  return std::nullopt;
}

void ModelShelf::Answer(LoadedModel& model, Ask& ask) {
  if (ask.then) return ask.then(model);
  for (const HttpRoute& route : model.routes()) {
    if (route.method != ask.request.method || !HttpRouteMatches(route.path, ask.request.path)) continue;
    return route.handler(ask.request, std::move(ask.writer));
  }
  ask.refuse(*ask.writer, {.status = 404, .message = fmt::format("this model has no {}", ask.request.path)});
}

void ModelShelf::Refuse(std::vector<Waiting> list, const ApiError& error) {
  for (Waiting& one : list) one.ask.refuse(*one.ask.writer, error);
}

void ModelShelf::ask(size_t index, Ask ask) {
  std::shared_ptr<LoadedModel> loaded;
  std::optional<ApiError> refusal;
  {
    const std::lock_guard lock(mutex_);
    Model& model = models_[index];
    if (stopping_) {
      refusal = ShuttingDown();
    } else if (model.state == ShelfState::kLoaded) {
      loaded = model.loaded;
      model.used_at = Clock::now();
    } else if (waiting_ >= options_.waiting_max) {
      refusal = ApiError{.status = 429,
                         .message = fmt::format("{} requests wait for models already, which is the most this "
                                                "server queues; try again later",
                                                waiting_),
                         .type = "server_error",
                         .code = "queue_full"};
    } else {
      model.waiting.push_back({std::move(ask), Clock::now()});
      ++waiting_;
    }
  }
  if (refusal.has_value()) return ask.refuse(*ask.writer, *refusal);
  if (loaded != nullptr) return Answer(*loaded, ask);
  changed_.notify_all();
}

bool ModelShelf::unload(size_t index) {
  const std::lock_guard lock(mutex_);
  Model& model = models_[index];
  if (model.state != ShelfState::kLoaded && model.state != ShelfState::kLeaving) return false;
  model.state = ShelfState::kLeaving;
  model.unload_due = true;
  changed_.notify_all();
  return true;
}

ModelShelf::Status ModelShelf::status(size_t index) const {
  const std::lock_guard lock(mutex_);
  const Model& model = models_[index];
  return {model.state, static_cast<int>(model.waiting.size()), model.last_load};
}

std::shared_ptr<LoadedModel> ModelShelf::loaded(size_t index) const {
  const std::lock_guard lock(mutex_);
  return models_[index].loaded;
}

// Copies of the pointer are made with mutex_ held: where there is one only, no handler is in the model.
bool ModelShelf::Idle(const Model& model) {
  return model.loaded.use_count() == 1 && model.loaded->requests() == 0;
}

void ModelShelf::load_and_unload(const std::stop_token& stop) {
  SetThreadLogName("models", -1);
  NameThread("models");
  Lock lock(mutex_);
  while (!stop.stop_requested()) {
    forget_gone_clients();
    send_others_away(Clock::now());
    if (Model* model = next_to_unload()) {
      unload(*model, lock);
    } else if (Model* wanted = next_to_load()) {
      load(*wanted, lock, stop);
    } else {
      changed_.wait_for(lock, kPoll);
    }
    for (Model& model : models_) {
      if (model.state == ShelfState::kLoaded && !model.waiting.empty()) serve_waiting(model, lock);
    }
  }
}

/// Requests that nobody reads the answer of load no model, take nobody's room, and no place in the queue.
void ModelShelf::forget_gone_clients() {
  for (Model& model : models_) {
    const size_t gone =
        std::erase_if(model.waiting, [](const Waiting& one) { return one.ask.writer->gone(); });
    waiting_ -= static_cast<int>(gone);
  }
}

/// Whether there may be room for a model that waits for others: one is idle, or went without being asked to for its
/// sake, as by POST /models/unload.
bool ModelShelf::may_try_again(const Model& blocked) {
  return blocked.waiting.empty() || gone_ || oldest_that_may_go(/*idle=*/true) != nullptr;
}

/// Who waits longest, those of the start first; not one that waits for others to go.
ModelShelf::Model* ModelShelf::next_to_load() {
  if (blocked_ != nullptr) {
    Model* model = blocked_;
    if (!may_try_again(*model)) return nullptr;
    blocked_ = nullptr;
    keep_all();
    if (!model->waiting.empty()) return model;
  }
  Model* next = nullptr;
  for (Model& model : models_) {
    if (model.state != ShelfState::kUnloaded) continue;
    if (model.start_due) return &model;
    if (model.waiting.empty()) continue;
    if (next == nullptr || model.waiting.front().since < next->waiting.front().since) next = &model;
  }
  return next;
}

ModelShelf::Model* ModelShelf::next_to_unload() {
  const Clock::time_point now = Clock::now();
  for (Model& model : models_) {
    if (model.loaded == nullptr || !Idle(model)) continue;
    const bool forgotten = options_.idle_max > Duration::zero() && !model.entry.pinned &&
                           now - model.used_at >= options_.idle_max;
    if (model.unload_due || forgotten) return &model;
  }
  return nullptr;
}

/// Of the loaded models that are not pinned, and that are idle if `idle`: the one that was asked for longest ago.
ModelShelf::Model* ModelShelf::oldest_that_may_go(bool idle) {
  Model* oldest = nullptr;
  for (Model& model : models_) {
    if (model.loaded == nullptr || model.entry.pinned || (idle && !Idle(model))) continue;
    if (oldest == nullptr || model.used_at < oldest->used_at) oldest = &model;
  }
  return oldest;
}

void ModelShelf::load(Model& model, Lock& lock, const std::stop_token& stop) {
  model.state = ShelfState::kLoading;
  const auto index = static_cast<size_t>(&model - models_.data());
  LogInfo("loading '{}'", model.entry.name);
  while (true) {
    lock.unlock();
    auto loaded = options_.load(index, stop);
    lock.lock();
    model.last_load = loaded.status();
    if (loaded.ok()) {
      model.loaded = *std::move(loaded);
      model.start_due = false;
      model.used_at = Clock::now();
      return serve_waiting(model, lock);
    }
    if (stop.stop_requested()) break;
    const bool full = loaded.status().code() == absl::StatusCode::kResourceExhausted;
    if (full && no_room(model, loaded.status())) {
      Model* other = oldest_that_may_go(/*idle=*/true);
      if (other == nullptr) break;  // It waits for them.
      unload(*other, lock);
      continue;
    }
    LogWarning("'{}' can't be loaded: {}", model.entry.name, Message(loaded.status()));
    std::vector<Waiting> refused;
    std::ranges::move(model.waiting, std::back_inserter(refused));
    model.waiting.clear();
    waiting_ -= static_cast<int>(refused.size());
    lock.unlock();
    Refuse(std::move(refused), NotLoaded(model.entry.name, loaded.status()));
    lock.lock();
    break;
  }
  model.start_due = false;
  model.state = ShelfState::kUnloaded;
}

/// Whether others may make room: if they are busy, the model is `blocked_` until one is idle.
bool ModelShelf::no_room(Model& model, const absl::Status& why) {
  if (model.waiting.empty()) return false;  // Loaded ahead of requests: nobody goes for that.
  if (oldest_that_may_go(/*idle=*/false) == nullptr) return false;
  if (oldest_that_may_go(/*idle=*/true) != nullptr) return true;
  LogInfo("'{}' waits for others to end their requests: {}", model.entry.name, Message(why));
  blocked_ = &model;
  gone_ = false;
  const Clock::time_point at = Clock::now() + options_.stays_at_least;
  for (Model& other : models_) {
    if (other.loaded != nullptr && !other.entry.pinned) other.leaves_at = at;
  }
  return true;
}

/// Models whose time is up take no more requests, or one that is always busy would never make room.
void ModelShelf::send_others_away(Clock::time_point now) {
  for (Model& model : models_) {
    if (!model.leaves_at.has_value() || now < *model.leaves_at) continue;
    if (model.state == ShelfState::kLoaded) model.state = ShelfState::kLeaving;
  }
}

/// Nobody waits for room any more.
void ModelShelf::keep_all() {
  for (Model& model : models_) {
    model.leaves_at.reset();
    if (model.state == ShelfState::kLeaving && !model.unload_due) model.state = ShelfState::kLoaded;
  }
}

void ModelShelf::serve_waiting(Model& model, Lock& lock) {
  model.state = ShelfState::kLoaded;
  while (!model.waiting.empty()) {
    Waiting one = std::move(model.waiting.front());
    model.waiting.pop_front();
    --waiting_;
    std::shared_ptr<LoadedModel> loaded = model.loaded;
    lock.unlock();
    Answer(*loaded, one.ask);
    loaded.reset();
    lock.lock();
  }
}

void ModelShelf::unload(Model& model, Lock& lock) {
  LogInfo("unloading '{}'", model.entry.name);
  model.state = ShelfState::kUnloading;
  model.unload_due = false;
  model.leaves_at.reset();
  std::shared_ptr<LoadedModel> gone = std::move(model.loaded);
  model.loaded = nullptr;
  lock.unlock();
  gone.reset();
  lock.lock();
  model.state = ShelfState::kUnloaded;
  gone_ = true;
}

void ModelShelf::watch_deadlines(const std::stop_token& stop) {
  NameThread("models-watch");
  Lock lock(mutex_);
  while (!stop.stop_requested()) {
    changed_.wait_for(lock, kWatch);
    const Clock::time_point now = Clock::now();
    for (Model& model : models_) {
      std::vector<Waiting> late;
      while (!model.waiting.empty() && now - model.waiting.front().since >= options_.waits_at_most) {
        late.push_back(std::move(model.waiting.front()));
        model.waiting.pop_front();
        --waiting_;
      }
      if (late.empty()) continue;
      const ApiError error = NotLoaded(
          model.entry.name,
          Unavailable("it was not ready within {} s",
                      std::chrono::duration_cast<std::chrono::seconds>(options_.waits_at_most).count()));
      lock.unlock();
      Refuse(std::move(late), error);
      lock.lock();
    }
  }
}

}  // namespace shoal
