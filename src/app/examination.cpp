#include "app/examination.h"

#include <algorithm>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <utility>

#include "app/command.h"
#include "app/machine_report.h"
#include "base/status.h"
#include "numeric/version.h"
#include "tls/probe.h"

namespace shoal {
namespace {

constexpr Duration kAnswerMax = std::chrono::seconds(3);
constexpr Duration kLinkMax = std::chrono::seconds(20);

/// A worker that is looked at.
struct Patient {
  std::string name;
  std::string address;
  std::unique_ptr<WorkerClient> client;
  std::optional<WorkerFacts> facts;
};

class Examiner {
 public:
  explicit Examiner(const Examination& task) : task_(task) {
    for (const MemberAddress& worker : task.workers)
      patients_.push_back({worker.name, worker.address, nullptr, {}});
  }

  std::vector<Finding> examine() {
    for (Patient& patient : patients_) check_worker(patient);
    check_links();
    if (skipped_ > 0) {
      note({task_.here, "time", CheckResult::kAdvice,
            fmt::format("{} workers or links were not looked at: the others took all the time there was",
                        skipped_),
            "`shoal doctor --url` takes the time that it needs"});
    }
    return std::move(findings_);
  }

 private:
  void note(Finding finding) { findings_.push_back(std::move(finding)); }
  bool in_time() {
    if (!task_.deadline.expired()) return true;
    ++skipped_;
    return false;
  }
  Deadline within(Duration most) const { return Deadline::min(task_.deadline, Deadline::after(most)); }
  void check_certificate_of(const Patient& patient);
  void check_worker(Patient& patient);
  void check_machine_of(const Patient& patient);
  void check_links();
  void check_link(const Patient& from, const PeerToCheck& to);

  const Examination& task_;
  std::vector<Patient> patients_;
  std::vector<Finding> findings_;
  int64_t skipped_ = 0;
};

void Examiner::check_certificate_of(const Patient& patient) {
  if (task_.key.tls == nullptr) return;
  // By its address: that it has another name than here is told as what it is.
  const auto facts = ProbeTls({patient.name, patient.address}, *task_.key.tls, within(kAnswerMax));
  if (facts.ok()) return note(CheckCertificate(patient.name, *facts, UnixSeconds()));
  if (absl::IsFailedPrecondition(facts.status()))
    note({patient.name, "certificate", CheckResult::kWrong, Message(facts.status()), ""});
}

void Examiner::check_worker(Patient& patient) {
  if (!in_time()) return;
  patient.client = std::make_unique<WorkerClient>(patient.address, task_.key);
  auto facts = patient.client->describe(within(kAnswerMax));
  if (facts.ok() && patient.name == patient.address && !facts->name.empty()) patient.name = facts->name;
  note(CheckAnswer(patient.name, patient.address, facts.status()));
  check_certificate_of(patient);
  if (!facts.ok()) return;
  patient.facts = *std::move(facts);
  note(CheckBuildOf(patient.name, patient.address, *patient.facts, {task_.here, CpuNumericsClass()}));
  check_machine_of(patient);
}

void Examiner::check_machine_of(const Patient& patient) {
  const int64_t sent_s = UnixSeconds();
  const auto machine = patient.client->examine(task_.model_names, within(kLinkMax));
  const int64_t got_s = UnixSeconds();
  if (!machine.ok()) return note(CheckAnswer(patient.name, patient.address, machine.status()));
  // It was read somewhen between the two, in whole seconds.
  const int64_t ahead_s = machine->unix_s > got_s    ? machine->unix_s - got_s
                          : machine->unix_s < sent_s ? machine->unix_s - sent_s
                                                     : 0;
  note(CheckClock(patient.name, ahead_s));
  for (Finding& finding : CheckMachine(patient.name, *machine)) note(std::move(finding));
  if (!task_.model_names.empty()) note(CheckModel(patient.name, *machine, task_.model_hash));
}

void Examiner::check_link(const Patient& from, const PeerToCheck& to) {
  if (!in_time()) return;
  const auto results = from.client->check_peers(
      {{to}, task_.link_bytes, std::min<Duration>(kLinkMax, task_.deadline.remaining())});
  note(CheckLink(from.name, to.name, to.address,
                 results.ok() ? results->front() : PeerResult{.status = results.status()}));
}

void Examiner::check_links() {
  std::vector<PeerToCheck> peers;
  for (const Patient& patient : patients_) {
    if (patient.facts.has_value()) peers.push_back({patient.name, patient.address, patient.facts->instance});
  }
  // One after the other: links that are measured at the same time slow each other down.
  for (const PeerToCheck& peer : peers) {
    if (!in_time()) continue;
    const PeerResult result = ProbePeer(peer, task_.key, task_.link_bytes, within(kLinkMax));
    note(CheckLink(task_.here, peer.name, peer.address, result));
  }
  for (const Patient& patient : patients_) {
    if (!patient.facts.has_value()) continue;
    for (const PeerToCheck& peer : peers) {
      if (peer.instance != patient.facts->instance) check_link(patient, peer);
    }
  }
}

}  // namespace

std::vector<Finding> ExamineHere(const std::string& here) {
  std::vector<Finding> findings = {
      {here, "version", CheckResult::kOk,
       fmt::format("shoal {}, wire version {}, {}", kShoalVersion, kWireVersion, CpuNumericsClass()), ""}};
  for (Finding& finding : CheckMachine(here, ReadMachine())) findings.push_back(std::move(finding));
  return findings;
}

std::vector<Finding> ExamineWorkers(const Examination& examination) {
  return Examiner(examination).examine();
}

std::string FindingsJson(const std::vector<Finding>& findings, int64_t at) {
  using Json = nlohmann::ordered_json;
  Json list = Json::array();
  for (const Finding& one : findings) {
    list.push_back({{"node", one.node},
                    {"check", one.check},
                    {"verdict", Name(one.verdict)},
                    {"text", one.text},
                    {"remedy", one.remedy}});
  }
  Json out;
  if (at != 0) out["at"] = at;
  out["ok"] = CountWrong(findings) == 0;
  out["findings"] = std::move(list);
  return out.dump(2, ' ', false, Json::error_handler_t::replace);
}

std::string ClusterDoctor::last() const {
  const std::lock_guard lock(mutex_);
  return last_.empty() ? R"({"at":0,"ok":null,"findings":null})" : last_;
}

absl::StatusOr<std::string> ClusterDoctor::run() {
  const std::unique_lock turn(running_, std::try_to_lock);
  if (!turn.owns_lock()) return Unavailable("the cluster is being examined already: ask again in a moment");
  std::string report = FindingsJson(examine_(), UnixSeconds());
  const std::lock_guard lock(mutex_);
  last_ = report;
  return report;
}

}  // namespace shoal
