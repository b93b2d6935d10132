#include <cstdio>
#include <filesystem>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>

#include "api/http/client.h"
#include "app/command.h"
#include "app/examination.h"
#include "app/tls_flags.h"
#include "base/json.h"
#include "base/log.h"
#include "base/status.h"
#include "base/text.h"
#include "cluster/model_locator.h"
#include "exec/model_facts.h"
#include "wire/key_auth.h"

namespace shoal {
namespace {

using Json = nlohmann::ordered_json;

constexpr Duration kAnswerTimeout = std::chrono::seconds(3);
constexpr Duration kAllMax = std::chrono::minutes(10);  ///< A link that hangs takes twenty seconds.
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

class Doctor {
 public:
  explicit Doctor(const DoctorFlags& flags) : flags_(flags) {}

  absl::Status examine() {
    RETURN_IF_ERROR(find_workers());
    check_here();
    if (key_is_bad_) return absl::OkStatus();
    for (Finding& finding : ExamineWorkers({.here = here_,
                            .key = key_,
                            .model_names = model_names_,
                            .model_hash = model_hash_,
                            .workers = workers_,
                            .link_bytes = kLinkBytes,
                            .deadline = Deadline::after(kAllMax)}))
      note(std::move(finding));
    return absl::OkStatus();
  }
  const std::vector<Finding>& findings() const { return findings_; }

 private:
  absl::Status find_workers();
  absl::Status ask_coordinator();
  void add(std::string name, std::string address) {
    workers_.push_back({std::move(name), std::move(address)});
  }
  void note(Finding finding) { findings_.push_back(std::move(finding)); }
  void check_here();
  void check_key_here();
  void check_certificate_here();
  void check_model_here();

  const DoctorFlags& flags_;
  std::string here_ = "here";
  ClusterKey key_;
  bool key_is_bad_ = false;
  std::vector<std::string> model_names_;
  std::string model_hash_;
  std::vector<MemberAddress> workers_;
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
  for (Finding& finding : ExamineHere(here_)) note(std::move(finding));
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
