// The models that a server offers: which of them are loaded, who waits for one to be, and which gives way to it.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <stop_token>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "api/api_error.h"
#include "api/http/server.h"
#include "api/json.h"
#include "api/metrics.h"
#include "base/clock.h"

namespace shoal {

/// A model that answers requests. Its destructor ends what still runs.
class LoadedModel {
 public:
  virtual ~LoadedModel() = default;
  /// Their handlers answer for this model. Valid as long as it is.
  virtual const std::vector<HttpRoute>& routes() const = 0;
  /// Requests that it has queued or computes.
  virtual int requests() const = 0;
  virtual Metrics& metrics() = 0;
  /// OK while its nodes can compute.
  virtual absl::Status engine() const = 0;
  /// What the lists of OpenAI's and Ollama's APIs say of it.
  virtual Json openai_entry() const = 0;
  virtual Json ollama_entry() const = 0;
  virtual std::optional<Json> ollama_running_entry() const = 0;
};

/// What is said of a model before it is loaded.
struct ShelfEntry {
  std::string name;
  std::vector<std::string> aliases;
  bool at_start = false;  ///< Loaded by start(), as long as it fits beside those before it.
  bool pinned = false;    ///< Once loaded it stays: it never gives way to another.
  int64_t bytes = 0;      ///< Of its files.
};

enum class ShelfState : uint8_t { kUnloaded, kLoading, kLoaded, kLeaving, kUnloading };
std::string_view Name(ShelfState state);  ///< "unloaded", "loading", "loaded", "leaving", "unloading"

/// Loads one model at a time, and never ends a request for it: where a model does not fit beside the others, the one
/// that was not asked for longest goes as soon as nothing of it runs. Requests for a model that is not loaded wait,
/// each until its deadline. Safe from any thread.
class ModelShelf {
 public:
  struct Options {
    std::vector<ShelfEntry> models;  ///< At least one; names and aliases are all different.
    /// Loads models[index], and returns when it answers requests. ResourceExhausted: there is no room for it beside
    /// those that are loaded. Gives up soon after a stop is requested. Never called by two threads at a time.
    std::function<absl::StatusOr<std::shared_ptr<LoadedModel>>(size_t index, std::stop_token stop)> load;
    int waiting_max = 1024;                              ///< Requests that may wait for models, over all.
    Duration waits_at_most = std::chrono::seconds(600);  ///< A request for its model.
    /// How long a model that another one waits for takes further requests; later ones wait in turn.
    Duration stays_at_least = std::chrono::seconds(10);
    /// A model that nobody asked for so long is unloaded; zero: only where another needs its room.
    Duration idle_max = Duration::zero();
  };

  explicit ModelShelf(Options options);
  /// stop()s first.
  ~ModelShelf();

  /// Begins to load those that are loaded at the start, in their order.
  void start();
  /// Requests that wait for a model end with 503, and no more are taken. Loaded models stay until the shelf goes.
  void stop();

  size_t size() const { return models_.size(); }
  const ShelfEntry& entry(size_t index) const { return models_[index].entry; }
  /// By name or alias.
  std::optional<size_t> find(std::string_view name) const;

  /// What is asked of a model.
  struct Ask {
    HttpRequest request;
    std::shared_ptr<ResponseWriter> writer;
    std::function<void(ResponseWriter&, const ApiError&)> refuse;  ///< Answers with an error.
    /// Answers; called when the model is loaded. Empty: its route for the request answers.
    std::function<void(LoadedModel&)> then;
  };
  /// Answers by models[index]: now, or once it is loaded. Runs its handler in this thread, or in the shelf's.
  void ask(size_t index, Ask ask);

  /// models[index] goes as soon as nothing of it runs, even if it is pinned. False where it is not loaded.
  bool unload(size_t index);

  struct Status {
    ShelfState state = ShelfState::kUnloaded;
    int waiting = 0;         ///< Requests for it that wait until it is loaded.
    absl::Status last_load;  ///< Why the last attempt to load it failed; OK where none has.
  };
  Status status(size_t index) const;
  /// nullptr where it is not loaded. Whoever has it keeps it from going.
  std::shared_ptr<LoadedModel> loaded(size_t index) const;

 private:
  struct Waiting {
    Ask ask;
    Clock::time_point since;
  };
  struct Model {
    ShelfEntry entry;
    ShelfState state = ShelfState::kUnloaded;
    std::shared_ptr<LoadedModel> loaded;
    Clock::time_point used_at;
    std::deque<Waiting> waiting;
    bool start_due = false;   ///< To be loaded by start() still.
    bool unload_due = false;  ///< Somebody asked for it to go.
    /// When it stops to take requests, for the sake of another; none: nobody waits for its room.
    std::optional<Clock::time_point> leaves_at;
    absl::Status last_load;
  };

  using Lock = std::unique_lock<std::mutex>;

  void load_and_unload(const std::stop_token& stop);
  void watch_deadlines(const std::stop_token& stop);
  static void Answer(LoadedModel& model, Ask& ask);
  static void Refuse(std::vector<Waiting> list, const ApiError& error);
  void load(Model& model, Lock& lock, const std::stop_token& stop);
  void unload(Model& model, Lock& lock);
  void serve_waiting(Model& model, Lock& lock);

  // With mutex_ held.
  static bool Idle(const Model& model);
  void forget_gone_clients();
  bool may_try_again(const Model& blocked);
  Model* next_to_load();
  Model* next_to_unload();
  Model* oldest_that_may_go(bool idle);
  bool no_room(Model& model, const absl::Status& why);
  void send_others_away(Clock::time_point now);
  void keep_all();

  const Options options_;
  mutable std::mutex mutex_;
  std::condition_variable changed_;
  std::vector<Model> models_;
  Model* blocked_ = nullptr;  // Waits for the room of others, which are busy.
  bool gone_ = false;         // A model was unloaded since then.
  int waiting_ = 0;           // Requests, over all models.
  bool stopping_ = false;
  std::jthread loader_;
  std::jthread watch_;
};

}  // namespace shoal
