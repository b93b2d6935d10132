// The control plane as plain values: what a coordinator asks of a worker, over whatever carries it.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/clock.h"
#include "base/ids.h"
#include "base/log_ring.h"
#include "base/range.h"
#include "exec/expert_use.h"
#include "exec/node_model.h"
#include "exec/stage_runner.h"
#include "kv/block_image.h"
#include "plan/plan.h"
#include "wire/cluster_key.h"

namespace grpc {
class Service;
}

namespace shoal {

enum class WorkerState : uint8_t { kIdle, kLoading, kReady, kServing };

/// What a worker says of itself.
/// What a node sent to another one in the session that is open.
struct PeerLink {
  std::string to;  ///< The other's name.
  int64_t bytes_sent = 0;
  int64_t frames_sent = 0;
  int64_t bytes_waiting = 0;  ///< Of those, for the link to take them.
  bool operator==(const PeerLink&) const = default;
};

struct WorkerFacts {
  std::string name;
  uint32_t wire_version = 0;
  std::string numerics_class;  ///< Of its backend.
  std::string version;
  std::string device;
  std::string isa;
  int32_t threads = 0;
  int64_t memory_bytes = 0;
  WorkerState state = WorkerState::kIdle;
  int64_t weight_bytes = 0;
  uint64_t session = 0;  ///< Not told to others: who knows it may end the session.
  uint64_t steps = 0;
  uint64_t expert_calls = 0;
  int64_t resident_bytes = 0;
  int64_t fetched_bytes = 0;       ///< Of weights that it fetches now; what was there is included.
  int64_t fetch_total_bytes = 0;   ///< 0: it fetches none.
  int64_t weights_sent_bytes = 0;  ///< To others, since its start.
  int64_t expert_memory = 0;       ///< As BackendLoad's.
  std::optional<ExpertTierStats>
      expert_tier;           ///< Of all models together; nothing where all experts are in memory.
  int64_t copied_bytes = 0;  ///< Of its cache, that its buddy took in the open session.
  int64_t copies = 0;        ///< Blocks and states of other nodes' caches that it keeps.
  int64_t copies_bytes = 0;
  int64_t copies_evicted = 0;        ///< Of those that it kept, for lack of room.
  std::vector<PeerLink> links;       ///< To other nodes; of one that serves several models, a link for each.
  uint64_t instance = 0;             ///< Of its process; random. 0: of a build that does not say.
  std::optional<ThreadRates> rates;  ///< Of its threads, where they were measured.
};

/// A worker offers itself to a coordinator.
struct JoinOffer {
  std::string name;
  uint64_t instance = 0;  ///< As WorkerFacts::instance.
  std::vector<std::string>
      addresses;                ///< HOST:PORT at which it may be reached; the first that works is taken.
  std::optional<int32_t> rank;  ///< Its place among the nodes, where it has one; the coordinator is 0.
  int port = 0;                 ///< Also to be tried at the address that the call comes from; 0: no.
  bool operator==(const JoinOffer&) const = default;
};

struct JoinAnswer {
  std::string coordinator;  ///< Its name.
  std::string address;      ///< The worker's that works.
  Duration lease{};         ///< A worker that offers itself again within this time is there.
  bool operator==(const JoinAnswer&) const = default;
};

/// The coordinator that gives an order. Its name and address are the plan's node 0.
struct OrderGiver {
  uint64_t id = 0;         ///< Of its process and model; random.
  bool take_over = false;  ///< Also from a coordinator that has a session open.
  bool operator==(const OrderGiver&) const = default;
};

/// Load your shard of this plan.
struct PrepareOrder {
  Plan plan;
  NodeId node;
  std::vector<std::string> model_names;  ///< Tried in order: absolute path, provider/name, folder name.
  std::string model_hash;
  /// Of weights of the worker's shard that the coordinator has, too: the worker's are to be the same.
  std::vector<WeightSample> samples;
  StepLimits limits;  ///< Of the sessions to come: the memory must hold their cache, too.
  OrderGiver giver;
  /// Checkpoint::content_identity() of the coordinator's model, whose tensors its node sends; empty: it does not.
  std::string weights_content;
  /// A session of the same coordinator may be open, and stays: the shard is held beside that of the session until
  /// another session opens with it.
  bool beside = false;
};

/// Take part in this session.
struct OpenOrder {
  uint64_t session = 0;
  Plan plan;
  NodeId node;
  StepLimits limits;
  Duration expert_timeout{};
  OrderGiver giver;
  uint64_t keep_from = 0;  ///< As NodeHost::SessionSetup's, like those that follow.
  std::vector<CachedPlace> places = {};
  struct Source {
    std::string name;  ///< For messages.
    std::string address;
    Range layers;
    std::string copies_of;  ///< As CacheSource's.
  };
  std::vector<Source> sources = {};
  Duration move_max{};
  bool gives = false;
  bool copied = false;
  /// A node of which this one is to keep copies.
  struct Follow {
    std::string name;
    std::string address;
    int64_t bytes_max = 0;
  };
  std::vector<Follow> follows = {};
};

/// Keep copies of further nodes of the session.
struct FollowOrder {
  std::string model_hash;
  uint64_t session = 0;
  std::vector<OpenOrder::Follow> follows;
};

struct OpenAnswer {
  bool keeps_cache = false;  ///< As NodeHost::KeptPart, like what follows.
  std::vector<int32_t> missing = {};
};

/// A node that another one is to reach.
struct PeerToCheck {
  std::string name;       ///< For messages.
  std::string address;    ///< HOST:PORT.
  uint64_t instance = 0;  ///< Who is to answer there; 0: anybody.
  bool operator==(const PeerToCheck&) const = default;
};

struct PeerResult {
  absl::Status status;           ///< Why it is not reached.
  Duration round_trip{};         ///< Of a small call: the shortest of a few.
  int64_t bytes_per_second = 0;  ///< Of large ones, beyond a round trip; 0: not measured.
};

/// Whether a worker is to reach these, within a time.
struct PeerCheck {
  std::vector<PeerToCheck> peers;
  int64_t probe_bytes = 0;  ///< To send to each at most, to measure the bandwidth; 0: none.
  Duration timeout{};       ///< For all.
  bool operator==(const PeerCheck&) const = default;
};

/// A machine, as a process on it finds it now.
struct MachineReport {
  int64_t unix_s = 0;  ///< Its clock.
  std::string cpu_name;
  int32_t cpus = 0;
  int32_t cores = 0;
  std::string isa;           ///< The fastest that the CPU has.
  int64_t memory_total = 0;  ///< Of the machine; 0: unknown, as for the next.
  int64_t memory_available = 0;
  int64_t memory_limit = 0;    ///< Of a control group, or the machine's.
  std::string huge_pages;      ///< "always", "madvise", "never"; "": the system does not say.
  int64_t descriptors = 0;     ///< That the process may have open.
  std::string model_hash;      ///< Of the model that was asked for.
  std::string model_error;     ///< Why it was not found.
  bool fetches_model = false;  ///< It is not there, and its tensors may be fetched.
};

using PrepareProgress = std::function<void(int64_t done, int64_t total)>;

/// A worker, as the control service sees it. Calls may come from several threads.
class WorkerControl {
 public:
  virtual ~WorkerControl() = default;
  virtual WorkerFacts describe() = 0;
  /// Returns the packed bytes held. NotFound: no such model under the roots. FailedPrecondition: another
  /// model of that name (another config, other tensors, or other numbers in them), or in a session of another
  /// coordinator, which the error names.
  /// ResourceExhausted: it does not fit the memory allowed, or not beside what is held. Unavailable: busy with another call.
  virtual absl::StatusOr<int64_t> prepare(const PrepareOrder& order, const PrepareProgress& progress) = 0;
  /// FailedPrecondition where the shard of this plan was not prepared, or is in a session of another coordinator.
  virtual absl::StatusOr<OpenAnswer> open(const OpenOrder& order) = 0;
  /// Opens the links of a session that is to be opened next, while the one that is open goes on. Errors as open(), and of the
  /// links; then nothing of it stays.
  virtual absl::Status dial(const OpenOrder& order) = 0;
  /// FailedPrecondition: that session is not open.
  virtual absl::Status follow(const FollowOrder& order) = 0;
  virtual void close(uint64_t session) = 0;
  /// A result for each peer, in their order.
  virtual std::vector<PeerResult> check_peers(const PeerCheck& check) = 0;
  /// model_names: as PrepareOrder's, of a model to look for; none: of the machine alone.
  virtual MachineReport examine(const std::vector<std::string>& model_names) = 0;
  /// As NodeHost::take_expert_use(), of a model.
  virtual std::vector<LayerUseCount> take_expert_use(const std::string& model_hash) = 0;
};

/// Says who is there, with a proof of the key where there is one.
class ProbeService {
 public:
  ProbeService(uint64_t instance, ClusterKey key);
  ~ProbeService();
  grpc::Service* service();

 private:
  class Impl;
  std::unique_ptr<Impl> impl_;
};

/// Asks a ProbeService. The status is FailedPrecondition where another process than that of the instance answers; else as of
/// any call.
PeerResult ProbePeer(const PeerToCheck& peer, const ClusterKey& key, int64_t bytes, Deadline deadline);
/// All at the same time, `bytes` for each.
std::vector<PeerResult> ProbePeers(const PeerCheck& check, const ClusterKey& key);

/// A coordinator, as workers that join see it. Calls may come from several threads.
class JoinControl {
 public:
  virtual ~JoinControl() = default;
  /// peer: the address that the call came from, without a port; "" where it is unknown. FailedPrecondition: another
  /// worker of that name is there, or the two are of builds that don't work together. Unavailable: none of its addresses
  /// works from here. ResourceExhausted: there are too many members.
  virtual absl::StatusOr<JoinAnswer> join(const JoinOffer& offer, const std::string& peer) = 0;
  /// Nothing where that process is no member.
  virtual void leave(const std::string& name, uint64_t instance) = 0;
  /// The certificate (PEM) of a node's request. is_node: the caller shows one of that name already. Unimplemented: this
  /// coordinator has no authority's key. FailedPrecondition: the name is another's. InvalidArgument: it is no request.
  virtual absl::StatusOr<std::string> enrol(const std::string& name, const std::string& request,
                                            bool is_node) = 0;
};

/// Serves `control` over gRPC, as ControlService does.
class JoinService {
 public:
  JoinService(JoinControl& control, ClusterKey key);
  ~JoinService();
  grpc::Service* service();

 private:
  class Impl;
  std::unique_ptr<Impl> impl_;
};

/// A worker's line to the coordinator that it joins. Errors as JoinControl; each names the coordinator's address.
class JoinClient {
 public:
  JoinClient(const std::string& address, ClusterKey key);
  ~JoinClient();

  absl::StatusOr<JoinAnswer> join(const JoinOffer& offer, Deadline deadline);
  absl::Status leave(const std::string& name, uint64_t instance, Deadline deadline);
  /// As JoinControl::enrol(); PermissionDenied: no key is shared, so that nothing could be proved.
  absl::StatusOr<std::string> enrol(const std::string& name, const std::string& request, Deadline deadline);
  /// As WorkerClient::cancel().
  void cancel();

 private:
  class Impl;
  std::unique_ptr<Impl> impl_;
};

/// Serves `control` over gRPC; with a key, calls must carry a fresh proof of it.
class ControlService {
 public:
  ControlService(WorkerControl& control, ClusterKey key);
  ~ControlService();
  grpc::Service* service();

 private:
  class Impl;
  std::unique_ptr<Impl> impl_;
};

/// A coordinator's line to one worker. Calls block; each has a deadline. A worker that does not answer
/// keep-alive pings for six seconds is Unavailable, however long the deadline. Every error names the worker's
/// address.
class WorkerClient {
 public:
  /// name: as plans have it, which a certificate must name; "", or its address: unknown.
  WorkerClient(const std::string& address, ClusterKey key, std::string name = "");
  ~WorkerClient();

  const std::string& address() const;
  absl::StatusOr<WorkerFacts> describe(Deadline deadline);
  absl::StatusOr<int64_t> prepare(const PrepareOrder& order, const PrepareProgress& progress,
                                  Deadline deadline);
  absl::StatusOr<OpenAnswer> open(const OpenOrder& order, Deadline deadline);
  /// Unimplemented: an older worker.
  absl::Status dial(const OpenOrder& order, Deadline deadline);
  /// Unimplemented likewise.
  absl::Status follow(const FollowOrder& order, Deadline deadline);
  absl::Status close(uint64_t session, Deadline deadline);
  /// A result for each peer of the check, within its timeout.
  absl::StatusOr<std::vector<PeerResult>> check_peers(const PeerCheck& check);
  absl::StatusOr<MachineReport> examine(const std::vector<std::string>& model_names, Deadline deadline);
  /// How the experts of the worker's layers were used since this was last asked. Unimplemented: an older worker.
  absl::StatusOr<std::vector<LayerUseCount>> take_expert_use(const std::string& model_hash,
                                                             Deadline deadline);
  /// The last lines of its log. Unimplemented: an older worker.
  absl::StatusOr<std::vector<LoggedLine>> recent_log(const LogQuery& query, Deadline deadline);
  /// Ends calls in flight, and those to come, with Cancelled. Safe from any thread.
  void cancel();

 private:
  class Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace shoal
