#include <cstdio>
#include <filesystem>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>

#include "api/http/client.h"
#include "app/command.h"
#include "app/machine_report.h"
#include "app/tls_flags.h"
#include "base/json.h"
#include "base/log.h"
#include "base/status.h"
#include "base/text.h"
#include "cluster/checkup.h"
#include "cluster/model_locator.h"
#include "exec/model_facts.h"
#include "numeric/version.h"
#include "tls/probe.h"
#include "wire/key_auth.h"

namespace shoal {
namespace {

using Json = nlohmann::ordered_json;

constexpr Duration kAnswerTimeout = std::chrono::seconds(3);
constexpr Duration kLinkTimeout = std::chrono::seconds(20);
constexpr int64_t kLinkBytes = int64_t{8} << 20;

struct DoctorFlags {
  std::string workers;
  std::string cluster;
  std::string url;
  std::string api_key;
  std::string model;
  ClusterKeyFlags key;
  bool json = false;
};

/// A worker that is looked at.
struct Patient {
  std::string name;
  std::string address;
  std::unique_ptr<WorkerClient> client;
  std::optional<WorkerFacts> facts;
};

class Doctor {
 public:
  explicit Doctor(const DoctorFlags& flags) : flags_(flags) {}

  absl::Status examine() {
    RETURN_IF_ERROR(find_workers());
    check_here();
    if (!key_is_bad_) {
      for (Patient& patient : patients_) check_worker(patient);
      check_links();
    }
    return absl::OkStatus();
  }
  const std::vector<Finding>& findings() const { return findings_; }

 private:
  absl::Status find_workers();
  absl::Status ask_coordinator();
  void add(std::string name, std::string address) {
    patients_.push_back({std::move(name), std::move(address), nullptr, {}});
  }
  void note(Finding finding) { findings_.push_back(std::move(finding)); }
  void check_here();
  void check_key_here();
  void check_certificate_here();
  void check_certificate_of(const Patient& patient);
  void check_model_here();
  void check_worker(Patient& patient);
  void check_machine_of(const Patient& patient);
  void check_links();

  const DoctorFlags& flags_;
  std::string here_ = "here";
  ClusterKey key_;
  bool key_is_bad_ = false;
  std::vector<std::string> model_names_;
  std::string model_hash_;
  std::vector<Patient> patients_;
  std::vector<Finding> findings_;
};

absl::Status Doctor::ask_coordinator() {
  ASSIGN_OR_RETURN(HttpClient client, HttpClient::FromUrl(flags_.url));
  client.set_api_key(flags_.api_key);
  const auto reply = client.get("/cluster/status", Deadline::after(kAnswerTimeout));
  if (!reply.ok()) {
    note({"coordinator", "http", CheckResult::kWrong, Message(reply.status()),
          "is `shoal serve` running there, and does it listen for others (--host 0.0.0.0)?"});
    return absl::OkStatus();
  }
  Json status;
  const absl::Status read = ReadJson(reply->body, {}, &status);
  if (reply->status != 200 || !read.ok() || !status.is_object() || !status.contains("nodes") ||
      !status["nodes"].is_array()) {
    return Unavailable("{}/cluster/status: expected the status of a shoal coordinator, got {} {}", flags_.url,
                       reply->status, reply->body.substr(0, 200));
  }
  const std::string state = TextOf(status, "status");
  const std::string error = TextOf(status, "error");
  note({"coordinator", "http", state == "up" ? CheckResult::kOk : CheckResult::kWrong,
        fmt::format("{} is {}{}{}", flags_.url, state, error.empty() ? "" : ": ", error),
        state == "up" ? "" : "see below what its nodes lack; `shoal plan` says what each would hold"});
  for (const Json& node : status["nodes"]) {
    if (!TextOf(node, "address").empty()) add(TextOf(node, "name"), TextOf(node, "address"));
  }
  model_hash_ = TextOf(MemberOf(status, "model"), "hash");
  return absl::OkStatus();
}

absl::Status Doctor::find_workers() {
  if (!flags_.url.empty()) return ask_coordinator();
  PlacementFlags placement;
  placement.workers = flags_.workers;
  placement.cluster = flags_.cluster;
  ASSIGN_OR_RETURN(const Placement placed, ReadPlacement(placement, ComputeFlags()));
  if (!flags_.workers.empty() || !flags_.cluster.empty()) here_ = placed.nodes[0].name;
  for (size_t i = 1; i < placed.nodes.size(); ++i) add(placed.nodes[i].name, placed.nodes[i].address);
  if (!placed.model_name.empty()) model_names_ = {placed.model_name};
  return absl::OkStatus();
}

void Doctor::check_model_here() {
  if (flags_.model.empty()) return;
  const auto model = OpenModel(flags_.model);
  if (!model.ok()) {
    note({here_, "model", CheckResult::kWrong, Message(model.status()),
          "`shoal inspect --model DIR` says more of its files"});
    return;
  }
  model_hash_ = model->facts.hash;
  model_names_ = ModelNames(flags_.model, model_names_.empty() ? "" : model_names_.front());
  note({here_, "model", CheckResult::kOk,
        fmt::format("{}, {} of tensors, hash {}", model->facts.name,
                    FormatBytes(model->checkpoint->total_bytes()), model_hash_),
        ""});
}

void Doctor::check_here() {
  const MachineReport machine = ReadMachine();
  note({here_, "version", CheckResult::kOk,
        fmt::format("shoal {}, wire version {}, {}", kShoalVersion, kWireVersion, CpuNumericsClass()), ""});
  for (Finding& finding : CheckMachine(here_, machine)) note(std::move(finding));
  check_key_here();
  check_certificate_here();
  check_model_here();
}

void Doctor::check_key_here() {
  const std::string& file = flags_.key.key_file;
  if (file.empty()) return;
  const auto key = KeyAuth::from_file(file);
  if (key.ok()) {
    key_.shared = *key;
    return note({here_, "key", CheckResult::kOk, file, ""});
  }
  key_is_bad_ = true;
  note({here_, "key", CheckResult::kWrong, Message(key.status()),
        fmt::format("make one: (umask 077; openssl rand -hex 32 > {}), and give all nodes the same", file)});
}

void Doctor::check_certificate_here() {
  if (flags_.key.tls_dir.empty()) return;
  const auto key = ClusterKeyFlags{.key_file = {}, .tls_dir = flags_.key.tls_dir}.read(here_);
  if (!key.ok()) {
    key_is_bad_ = true;
    return note({here_, "certificate", CheckResult::kWrong, Message(key.status()),
                 "`shoal cert show DIR` says whose it is, and until when it is good"});
  }
  key_.tls = key->tls;
  note(CheckCertificate(here_, key_.tls->facts(), UnixSeconds()));
}

void Doctor::check_certificate_of(const Patient& patient) {
  if (key_.tls == nullptr) return;
  // By its address: that it has another name than here is told as what it is.
  const auto facts = ProbeTls({patient.name, patient.address}, *key_.tls, Deadline::after(kAnswerTimeout));
  if (facts.ok()) return note(CheckCertificate(patient.name, *facts, UnixSeconds()));
  if (absl::IsFailedPrecondition(facts.status()))
    note({patient.name, "certificate", CheckResult::kWrong, Message(facts.status()), ""});
}

void Doctor::check_worker(Patient& patient) {
  patient.client = std::make_unique<WorkerClient>(patient.address, key_);
  auto facts = patient.client->describe(Deadline::after(kAnswerTimeout));
  if (facts.ok() && patient.name == patient.address && !facts->name.empty()) patient.name = facts->name;
  note(CheckAnswer(patient.name, patient.address, facts.status()));
  check_certificate_of(patient);
  if (!facts.ok()) return;
  patient.facts = *std::move(facts);
  note(CheckBuildOf(patient.name, patient.address, *patient.facts, {here_, CpuNumericsClass()}));
  check_machine_of(patient);
}

void Doctor::check_machine_of(const Patient& patient) {
  const int64_t sent_s = UnixSeconds();
  const auto machine = patient.client->examine(model_names_, Deadline::after(kLinkTimeout));
  const int64_t got_s = UnixSeconds();
  if (!machine.ok()) return note(CheckAnswer(patient.name, patient.address, machine.status()));
  // It was read somewhen between the two, in whole seconds.
  const int64_t ahead_s = machine->unix_s > got_s    ? machine->unix_s - got_s
                          : machine->unix_s < sent_s ? machine->unix_s - sent_s
                                                     : 0;
  note(CheckClock(patient.name, ahead_s));
  for (Finding& finding : CheckMachine(patient.name, *machine)) note(std::move(finding));
  if (!model_names_.empty()) note(CheckModel(patient.name, *machine, model_hash_));
}

void Doctor::check_links() {
  std::vector<PeerToCheck> peers;
  for (const Patient& patient : patients_) {
    if (patient.facts.has_value()) peers.push_back({patient.name, patient.address, patient.facts->instance});
  }
  // One after the other: links that are measured at the same time slow each other down.
  for (const PeerToCheck& peer : peers) {
    const PeerResult result = ProbePeer(peer, key_, kLinkBytes, Deadline::after(kLinkTimeout));
    note(CheckLink(here_, peer.name, peer.address, result));
  }
  for (const Patient& patient : patients_) {
    if (!patient.facts.has_value()) continue;
    for (const PeerToCheck& peer : peers) {
      if (peer.instance == patient.facts->instance) continue;
      const auto results = patient.client->check_peers({{peer}, kLinkBytes, kLinkTimeout});
      note(CheckLink(patient.name, peer.name, peer.address,
                     results.ok() ? results->front() : PeerResult{.status = results.status()}));
    }
  }
}

std::string FindingsJson(const std::vector<Finding>& findings) {
  Json list = Json::array();
  for (const Finding& one : findings) {
    list.push_back({{"node", one.node},
                    {"check", one.check},
                    {"verdict", Name(one.verdict)},
                    {"text", one.text},
                    {"remedy", one.remedy}});
  }
  const Json out = {{"ok", CountWrong(findings) == 0}, {"findings", std::move(list)}};
  return out.dump(2, ' ', false, Json::error_handler_t::replace);
}

absl::Status RunDoctor(const DoctorFlags& flags) {
  Doctor doctor(flags);
  RETURN_IF_ERROR(doctor.examine());
  const std::string text =
      flags.json ? FindingsJson(doctor.findings()) + "\n" : FindingsText(doctor.findings());
  std::fputs(text.c_str(), stdout);
  if (CountWrong(doctor.findings()) == 0) return absl::OkStatus();
  return FailedPrecondition("{} of {} checks found something wrong", CountWrong(doctor.findings()),
                            doctor.findings().size());
}

}  // namespace

Command AddDoctorCommand(Flags root) {
  auto flags = std::make_shared<DoctorFlags>();
  Flags app = root.add_subcommand(
      "doctor", "Look for what keeps a cluster from working, or slows it down, and say what to type");
  const Flag workers =
      app.add_option("--workers", flags->workers, "Addresses of the workers: HOST:PORT,HOST:PORT,...");
  const Flag cluster =
      app.add_option("--cluster", flags->cluster, "Cluster file (.json, .yaml)").excludes(workers);
  app.add_option("--url", flags->url, "A running coordinator, whose workers are looked at: http://HOST:8000")
      .excludes(workers)
      .excludes(cluster);
  app.add_option("--api-key", flags->api_key, "Of the coordinator at --url, where it asks for one")
      .envname("SHOAL_API_KEY");
  app.add_option("--model", flags->model, "Model folder or GGUF file: also looked for on the workers");
  flags->key.add_to(app);
  app.add_flag("--json", flags->json, "For scripts");
  return {app, [flags] { return RunDoctor(*flags); }};
}

}  // namespace shoal
