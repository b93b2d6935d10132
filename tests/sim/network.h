// Machines, and what travels between them: streams of frames with the promises of TCP (in order, once, or broken and
// told), in simulated time. wire_seam.cpp and control_seam.cpp put it in the place of gRPC.
#pragma once

#include <array>
#include <condition_variable>
#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <set>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "base/clock.h"
#include "base/random.h"
#include "cluster/control.h"
#include "wire/grpc/endpoint.h"
#include "wire/inbox.h"

namespace shoal::sim {

inline constexpr int kFirstPort = 7000;  ///< Of machine 0; the others follow.
inline std::string AddressOf(int machine) { return fmt::format("127.0.0.1:{}", kFirstPort + machine); }
int MachineAt(const std::string& address);
/// Of the calling thread.
int ThisMachine();

/// A process's giver of caches, as control_seam.cpp knows it.
struct CacheDoor;

/// What calls find on a machine.
struct Process {
  std::shared_ptr<WorkerControl> control;
  std::shared_ptr<CacheDoor> caches;
};

struct NetworkOptions {
  uint64_t seed = 0;
  int machines = 1;
  Duration delay_min = std::chrono::microseconds(100);  ///< One way.
  Duration delay_max = std::chrono::milliseconds(2);
  /// The first frames of a session come once more in the next one of their receiver.
  bool replays = false;
};

/// One node's end of a session. Its Transport is TransportOf(end).
struct StreamEnd : std::enable_shared_from_this<StreamEnd> {
  StreamEnd(SessionOptions o, int m, WindowLimits window)
      : options(std::move(o)), machine(m), inbox(window) {}

  const SessionOptions options;
  const int machine;
  Inbox inbox;
  // Guarded by the network's mutex.
  bool closed = false;
  struct Out {
    bool open = false;
    Clock::time_point dialled_again;  ///< Not before.
    Clock::time_point last_ready;     ///< When its last frame arrives.
    std::deque<Event> held;           ///< On their way when the network parted.
    LinkStats sent;
  };
  std::map<NodeId, Out> out;
};

class Network {
 public:
  explicit Network(const NetworkOptions& options);
  ~Network();
  static Network& Get();

  // What runs on a machine: one process at a time.
  void boot(int machine);
  /// Everything of the process is gone: its streams break, its calls end, and nothing of it is heard any more.
  void crash(int machine);
  bool up(int machine) const;
  /// Which process it is; never the same again.
  uint64_t process(int machine) const;
  /// Calls to the machine go to `control`, which the last of them may be what keeps.
  void serve(int machine, std::shared_ptr<WorkerControl> control);
  void serve_caches(int machine, std::shared_ptr<CacheDoor> caches);
  void announce(int machine, uint64_t instance);

  // Faults between machines.
  void part(int a, int b);
  /// What was held travels on.
  void heal(int a, int b);
  /// Streams between them break, as by a reset or where keep-alive pings go unanswered; calls end.
  void reset(int a, int b);
  void corrupt_next(int from, int to);
  /// The next frame vanishes, and nobody is told: no network does that to a stream. For a planted fault.
  void lose_next(int from, int to);
  void slow_down(int machine, Duration more);
  bool parted(int a, int b) const;
  /// Frames of streams, so far.
  uint64_t frames() const { return frames_; }

  // wire_seam.cpp
  absl::StatusOr<std::shared_ptr<StreamEnd>> open(SessionOptions options, int machine, uint64_t process,
                                                  const WindowLimits& window);
  absl::Status connect(StreamEnd& end, Deadline deadline);
  absl::Status send(StreamEnd& end, NodeId to, Frame frame, Deadline deadline);
  void close(StreamEnd& end, const absl::Status& why);

  // control_seam.cpp
  struct Caller {
    int machine = 0;
    uint64_t process = 0;
  };
  Caller caller() const { return {ThisMachine(), process(ThisMachine())}; }
  /// Runs `run` on the machine at `address`: the status says what became of the way there and back. `cancelled` is
  /// asked now and then.
  absl::Status call(const Caller& caller, const std::string& address,
                    std::function<absl::Status(const Process&)> run, Deadline deadline,
                    const std::function<bool()>& cancelled);
  absl::Status probe(const PeerToCheck& peer, Deadline deadline);

 private:
  using Key = std::tuple<int, uint64_t, NodeId>;  // Machine, session, node.
  struct Machine {
    bool up = false;
    uint64_t process = 0;
    Process serves;
    uint64_t instance = 0;
  };
  struct Call {
    bool done = false;
    absl::Status status;
  };
  using EndPtr = std::shared_ptr<StreamEnd>;

  // With the mutex held.
  EndPtr peer_of(const StreamEnd& end, NodeId to) const;
  std::vector<EndPtr> ends_on(int machine) const;
  absl::Status dial(StreamEnd& end, NodeId to);
  absl::Status deliver(StreamEnd& end, StreamEnd& peer, const Buffer& encoded);
  void put_on_the_way(StreamEnd& end, StreamEnd& peer, Event event);
  /// Hands events to their receivers when they arrive, as the one thread that does.
  void carry();
  void arrive_at(const EndPtr& to, Event event, Clock::time_point when);
  bool linked(const StreamEnd& a, const StreamEnd& b) const;
  void break_stream(StreamEnd& a, StreamEnd& b, const std::string& why);
  void tell_down(StreamEnd& end, const StreamEnd& peer, const std::string& why);
  void leave(StreamEnd& end, const std::string& why);
  void keep_for_replay(const StreamEnd& end, const StreamEnd& peer, const Event& event);
  void replay(StreamEnd& end);
  Duration delay(int from, int to);
  std::string name_of(const StreamEnd& end, NodeId node) const;

  void serve_call(const std::shared_ptr<Call>& call, int from, int to,
                  const std::function<absl::Status(const Process&)>& run);
  /// Waits out the way of one message.
  void travel(int from, int to);
  void end_call(const std::shared_ptr<Call>& call, absl::Status status);

  const NetworkOptions options_;
  RandomStream random_;
  mutable std::mutex mutex_;  // Guards all below.
  std::condition_variable changed_;
  std::vector<Machine> machines_;
  std::map<Key, std::weak_ptr<StreamEnd>> ends_;  // Iterated in the order of machines: the same in every run.
  std::set<Key> known_;
  std::set<std::pair<int, int>> parted_;
  std::map<std::pair<int, int>, uint64_t> resets_;  // How often.
  std::set<std::pair<int, int>> corrupt_, lose_;
  std::map<int, Duration> extra_delay_;
  std::map<int, std::deque<std::pair<uint64_t, Event>>> kept_;  // By receiver: the session, and the frame.
  struct Arrival {
    EndPtr to;
    Event event;
  };
  std::map<std::pair<Clock::time_point, uint64_t>, Arrival> on_the_way_;  // By time, then order.
  std::condition_variable sooner_;
  bool closing_ = false;
  uint64_t next_arrival_ = 0;
  uint64_t next_process_ = 1;
  uint64_t frames_ = 0;
  std::thread carrier_;
};

std::unique_ptr<Transport> TransportOf(std::shared_ptr<StreamEnd> end);

}  // namespace shoal::sim
