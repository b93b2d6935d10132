// Looks at the cluster four times a second, and keeps what became otherwise: GET /cluster/events.
#pragma once

#include <functional>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "base/repeater.h"
#include "cluster/event_log.h"
#include "cluster/remote_cluster.h"
#include "cluster/replanner.h"
#include "cluster/supervisor.h"
#include "exec/pipeline_engine.h"

namespace shoal {

/// What is seen of the cluster now; asks no other process.
ClusterSnapshot LookAt(const Members& members, const PipelineEngine& engine, const Supervisor& supervisor,
                       const std::vector<LeftOutMember>& left_out);

class ClusterWatch {
 public:
  using OnEvents = std::function<void(const std::vector<ClusterEvent>&)>;
  /// look: as LookAt(). on_events: told what is new, at least one event; must not block. Both are called from the thread,
  /// and from those that ask for events, one at a time.
  ClusterWatch(std::function<ClusterSnapshot()> look, OnEvents on_events)
      : look_(std::move(look)), on_events_(std::move(on_events)) {}
  ~ClusterWatch() { stop(); }

  void start();
  /// Idempotent.
  void stop();

  /// {"last": ID, "events": [{"id", "at", "kind", "node", "text"}]}: those after the id, as of now. `last` below `after`
  /// says that the server began anew.
  std::string events_json(int64_t after);

 private:
  /// With looking_ held.
  void look();

  const std::function<ClusterSnapshot()> look_;
  const OnEvents on_events_;
  std::mutex looking_;  ///< Guards log_ and last_.
  EventLog log_;
  ClusterSnapshot last_;
  std::optional<Repeater> repeater_;
};

}  // namespace shoal
