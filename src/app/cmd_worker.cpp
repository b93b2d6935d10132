#include <optional>

#include "app/command.h"
#include "app/expert_service.h"
#include "app/machine_report.h"
#include "app/profile_store.h"
#include "app/signals.h"
#include "app/tls_flags.h"
#include "app/worker_join.h"
#include "base/exposure.h"
#include "base/log.h"
#include "base/log_name.h"
#include "base/status.h"
#include "base/text.h"
#include "cluster/addresses.h"
#include "cluster/enrolment.h"
#include "cluster/worker_node.h"
#include "cpu/topology.h"
#include "tls/authority.h"
#include "tls/digest.h"

namespace shoal {
namespace {

constexpr Duration kStopMax = std::chrono::milliseconds(1500);  ///< From the signal to the end.
constexpr Duration kGoodbyeTimeout = std::chrono::seconds(1);
/// For a call that asks for a certificate; and between two.
constexpr Duration kEnrolMax = std::chrono::seconds(5);
constexpr Duration kEnrolPause = std::chrono::seconds(2);
/// For the coordinator to end the session in order, once it knows.
constexpr Duration kLeaveMax = std::chrono::seconds(2);

struct WorkerFlags {
  std::string listen;  ///< Empty: the default.
  std::string name;
  int rank = -1;
  std::vector<std::string> model_roots;
  std::string memory;
  std::string expert_memory;
  ClusterKeyFlags key;
  bool insecure = false;
  int rest_port = -1;
  std::string rest_host = "127.0.0.1";
  ComputeFlags compute;
  ProfileFlags profile;
  PackedCacheFlags cache;
  KvDiskFlags kv_disk;
  JoinFlags join;
  WeightsCacheFlags weights_cache;
  std::string weights_rate;
};

/// Listens. Where nobody chose the port, another one will do if the usual one is taken.
absl::StatusOr<std::unique_ptr<WorkerNode>> StartWorker(WorkerNode::Options& options, bool chosen_port) {
  auto worker = WorkerNode::Start(options);
  if (chosen_port || !absl::IsUnavailable(worker.status())) return worker;
  options.listen = options.listen.substr(0, options.listen.rfind(':')) + ":0";
  return WorkerNode::Start(options);
}

void SayGoodbye(Announcer& announcer, const WorkerNode& worker) {
  announcer.leave(Deadline::after(kGoodbyeTimeout));
  const Deadline deadline = Deadline::after(kLeaveMax);
  while (worker.in_session() && !StopSignalWithin(Deadline::min(deadline, Deadline::after_ms(20)))) {
    if (deadline.expired()) return;
  }
}

JoinFlags JoinOf(const WorkerFlags& flags) {
  JoinFlags join = flags.join;
  if (flags.rank > 0) join.rank = flags.rank;
  return join;
}

std::string NameOf(const WorkerFlags& flags) { return flags.name.empty() ? HostName() : flags.name; }

/// All but what joining decides (another key, another address), and the rates of this machine, which take time.
absl::StatusOr<WorkerNode::Options> OptionsOf(const WorkerFlags& flags, const JoinTarget& target) {
  WorkerNode::Options options;
  options.name = NameOf(flags);
  ClusterKeyFlags key = flags.key;
  if (!target.authority.empty()) key.tls_dir.clear();  // It is asked for.
  ASSIGN_OR_RETURN(options.key, key.read(NameOf(flags)));
  // A certificate says how this node is called, unless a flag does.
  if (options.key.tls != nullptr && flags.name.empty()) options.name = options.key.tls->name();
  options.listen = flags.listen.empty() ? "127.0.0.1:50051" : flags.listen;
  options.model_roots = flags.model_roots;
  const Topology machine = ReadTopology();
  options.device = machine.cpu_name;
  options.memory_bytes = UsableMemory(machine);
  if (!flags.memory.empty()) {
    ASSIGN_OR_RETURN(options.memory_bytes, ParseBytes(flags.memory));
  }
  ASSIGN_OR_RETURN(options.expert_memory, ParseExpertMemory(flags.expert_memory));
  ASSIGN_OR_RETURN(options.isa, flags.compute.chosen_isa());
  ASSIGN_OR_RETURN(options.cpus, flags.compute.chosen_cpus());
  options.threads = flags.compute.chosen_threads();
  ASSIGN_OR_RETURN(options.packed_cache, flags.cache.open());
  ASSIGN_OR_RETURN(options.kv_disk, flags.kv_disk.open(options.name));
  ASSIGN_OR_RETURN(options.fetched, flags.weights_cache.open(options.name));
  ASSIGN_OR_RETURN(options.weights_rate, ParseWeightsRate(flags.weights_rate));
  if (flags.model_roots.empty() && options.fetched == nullptr) {
    return InvalidArgument(
        "worker: neither model files (--model-root) nor a place for fetched weights (--weights-cache)");
  }
  options.version = kShoalVersion;
  options.machine = [] { return ReadMachine(); };
  options.insecure = flags.insecure;
  return options;
}

/// Where the certificate of a token is kept.
absl::StatusOr<std::string> EnrolmentFolder(const WorkerFlags& flags, const JoinTarget& target) {
  if (!flags.key.tls_dir.empty()) return flags.key.tls_dir;
  constexpr size_t kDigits = 16;
  const std::string home = UserCacheFolder();
  if (home.empty())
    return InvalidArgument("worker: this user has no home to keep the certificate in: give --tls-dir DIR");
  return fmt::format("{}/tls/{}/{}", home, Sha256Hex(target.authority).substr(0, kDigits), NameOf(flags));
}

/// Asks for the certificate of this node until it is there. Cancelled: the process is to end.
absl::StatusOr<std::unique_ptr<Enrolment>> Enrol(const WorkerFlags& flags, const JoinTarget& target,
                                                 ClusterKey& key) {
  if (!IsCertifiableName(NameOf(flags))) {
    return InvalidArgument(
        "worker: no certificate can name '{}': give --name with letters, digits, '-', '_' and '.'",
        NameOf(flags));
  }
  ASSIGN_OR_RETURN(const std::string folder, EnrolmentFolder(flags, target));
  auto enrolment =
      std::make_unique<Enrolment>(Enrolment::Options{.name = NameOf(flags),
                                                     .folder = folder,
                                                     .authority = target.authority,
                                                     .key = *target.key,
                                                     .find = [registry = target.registry](Deadline deadline) {
                                                       return FindCoordinator(*registry, deadline);
                                                     }});
  std::string told;
  while (true) {
    const auto identity = enrolment->identity(Deadline::after(kEnrolMax));
    if (identity.ok()) {
      key.tls = *identity;
      enrolment->keep();
      return enrolment;
    }
    if (absl::IsInvalidArgument(identity.status()) || absl::IsUnimplemented(identity.status()))
      return Annotate(identity.status(), "worker --join");
    if (const std::string why = Message(identity.status()); told != why) {
      LogWarning("no certificate yet, asks again: {}", why);
      told = why;
    }
    if (StopSignalWithin(Deadline::after(kEnrolPause))) return Cancelled("worker: ended while it waited");
  }
}

void ReloadCertificate(const ClusterKey& key, Enrolment* enrolment) {
  if (enrolment != nullptr) return enrolment->renew();
  if (key.tls == nullptr) return;
  const absl::Status read = key.tls->reload();
  if (read.ok()) return LogInfo("SIGHUP: the certificate is read again");
  LogError("SIGHUP: the certificate stays as it was: {}", Message(read));
}

absl::Status RunWorker(const WorkerFlags& flags) {
  BlockStopSignals();
  SetProcessLogName(NameOf(flags), flags.rank);
  ASSIGN_OR_RETURN(JoinTarget target, ReadJoin(flags.join));
  if (!target.authority.empty() || !flags.key.tls_dir.empty()) BlockReloadSignal();
  ASSIGN_OR_RETURN(WorkerNode::Options options, OptionsOf(flags, target));
  SetProcessLogName(options.name, flags.rank);
  SetThreadLogName(options.name, -1);
  if (target.key.has_value()) {
    if (options.key.shared.has_value())
      return InvalidArgument("worker: a token has the key: leave out --key-file");
    options.key.shared = target.key;
  }
  std::unique_ptr<Enrolment> enrolment;
  if (!target.authority.empty()) {
    auto enrolled = Enrol(flags, target, options.key);
    if (absl::IsCancelled(enrolled.status())) return absl::OkStatus();
    ASSIGN_OR_RETURN(enrolment, std::move(enrolled));
  }
  if (flags.join.chosen() && flags.listen.empty()) {
    ASSIGN_OR_RETURN(options.listen,
                     ListenToJoin(*target.registry, options.key.has_value() || options.insecure));
  }
  if (flags.rest_port >= 0) {
    RETURN_IF_ERROR(CheckExposure(
        {"worker --rest-host", flags.rest_host, options.key.shared.has_value(), options.insecure}));
  }
  // What is wrong with the flags was said by now, not after seconds.
  options.rates = RatesOfThisMachine(flags.compute, flags.profile);
  std::unique_ptr<ExpertRestServer> rest;
  if (flags.rest_port >= 0) {
    ASSIGN_OR_RETURN(rest, ExpertRestServer::Start({.host = flags.rest_host,
                                                    .port = flags.rest_port,
                                                    .key = options.key.shared,
                                                    .tls = options.key.tls,
                                                    .service = {.model_roots = flags.model_roots,
                                                                .threads = options.threads,
                                                                .cpus = options.cpus,
                                                                .isa = options.isa,
                                                                .packed_cache = options.packed_cache,
                                                                .expert_memory = options.expert_memory}}));
    LogInfo("expert REST API on {}://{}:{}", options.key.tls == nullptr ? "http" : "https", flags.rest_host,
            rest->port());
  }
  ASSIGN_OR_RETURN(const std::unique_ptr<WorkerNode> worker,
                   StartWorker(options, !flags.join.chosen() || !flags.listen.empty()));
  LogInfo("worker listens on {}:{}, {} threads, {}, up to {}",
          options.listen.substr(0, options.listen.rfind(':')), worker->port(), options.threads,
          IsaName(options.isa), FormatBytes(options.memory_bytes));
  std::unique_ptr<Announcer> announcer;
  if (flags.join.chosen()) announcer = StartToJoin(target, JoinOf(flags), options, *worker);
  WaitForStopSignal([&] { ReloadCertificate(options.key, enrolment.get()); });
  LogInfo("stopping");
  if (announcer != nullptr) SayGoodbye(*announcer, *worker);
  UnblockStopSignals();
  ExitWithin(kStopMax);
  return absl::OkStatus();
}

}  // namespace

Command AddWorkerCommand(Flags root) {
  auto flags = std::make_shared<WorkerFlags>();
  Flags app = root.add_subcommand("worker", "Hold a shard of a model for a coordinator");
  app.add_option("--listen", flags->listen,
                 "HOST:PORT for control calls and frames (default 127.0.0.1:50051; port 0 picks one)");
  app.add_option("--name", flags->name, "Of this node in logs (default: the host's name)");
  app.add_option("--rank", flags->rank,
                 "Of this node in its log, and among the workers that join, which plans take in this order")
      .range(1, 1 << 20);
  app.add_option(
      "--model-root", flags->model_roots,
      "Model files are taken from below this folder only; repeatable. A model that is not there is "
      "fetched from the coordinator");
  app.add_option("--memory", flags->memory,
                 "For weights and cache, such as 8GiB (default: what is available now, less a tenth)");
  AddExpertMemoryOption(app, flags->expert_memory);
  flags->key.add_to(app);
  app.add_flag("--insecure", flags->insecure,
               "Listen beyond loopback without key or certificate: whoever reaches the port may use it");
  app.add_option("--rest-port", flags->rest_port, "Serve the JSON expert API on this port (0 picks one)")
      .range(0, 65535);
  app.add_option("--rest-host", flags->rest_host, "Where the JSON expert API listens (default 127.0.0.1)");
  flags->join.add_to(app);
  flags->compute.add_machine_flags(app);
  flags->profile.add_to(app);
  flags->cache.add_to(app);
  flags->kv_disk.add_to(app);
  flags->weights_cache.add_to(app);
  AddWeightsRateOption(app, flags->weights_rate);
  return {app, [flags] { return RunWorker(*flags); }};
}

}  // namespace shoal
