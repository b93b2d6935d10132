// What `shoal serve` was told on its command line.
#pragma once

#include <string>
#include <vector>

#include "app/command.h"
#include "app/outlets.h"
#include "app/tls_flags.h"
#include "base/clock.h"
#include "plan/left_out.h"
#include "sched/scheduler.h"

namespace shoal {

struct ServeFlags {
  std::vector<std::string> models;
  std::string model_list;  ///< A folder with models, or a file that lists them.
  std::vector<std::string> model_roots;
  std::string served_name;
  double model_idle_s = 0;  ///< After which one that nobody asks for is unloaded; 0: never.
  std::vector<std::string> hosts = {"localhost"};
  int port = 8000;
  int connections = 4096;
  std::vector<std::string> cors_origins;
  std::string api_key_file;
  std::string api_key;
  bool open_metrics = false;
  std::string tls_certificate;  ///< Of the HTTP port, which then speaks HTTPS; empty: HTTP.
  std::string tls_key;
  std::string audit_log;
  bool no_ui = false;  ///< No page at /.
  OutletFlags outlets;
  std::string listen;
  int await_ranks = 0;      ///< So many workers that join must have been there before the first plan.
  std::string join_listen;  ///< Where workers join; empty: nowhere.
  std::string registry;     ///< Where workers find that; empty: nowhere.
  std::string memory;
  std::string expert_memory;
  ClusterKeyFlags key;
  bool insecure = false;
  bool take_over = false;
  bool no_send_weights = false;
  std::string weights_rate;
  CacheSize cache_size;
  int rows_per_step = 256;
  double target_itl_ms = 0;
  int queue = 1024;
  double request_timeout_s = 600;
  double drain_timeout_s = 8;  ///< Docker kills ten seconds after SIGTERM.
  double liveness_timeout_s = 4.5;
  double wait_s = 0;
  OnLoss on_loss = OnLoss::kResume;
  /// Seconds that a lost node is waited for before a plan without it, or "never".
  std::string replan_after = "15";
  ReplanAs replan_as = ReplanAs::kAsked;
  double rejoin_wait_s = 30;  ///< That running requests may hold up a node that is back.
  std::string
      answers_dir;  ///< Where answers that clients may ask for again outlive the process; empty: nowhere.
  bool prefix_cache = true;
  std::string tool_parser = "auto";
  std::string reasoning_parser = "auto";
  Pool pooling = Pool::kNone;  ///< kNone: as the model's files say.
  ComputeFlags compute;
  ProfileFlags profile;
  PackedCacheFlags cache;
  KvDiskFlags kv_disk;
  std::string kv_buddy = "off";  ///< "off", "auto", or bytes.
  PlacementFlags placement;
  SpeculationFlags speculation;
};

}  // namespace shoal
