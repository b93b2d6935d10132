#include "cluster/enrolment.h"

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <system_error>
#include <utility>

#include "base/log.h"
#include "base/process.h"
#include "base/status.h"
#include "cluster/control.h"
#include "tls/authority.h"
#include "tls/private_file.h"

namespace shoal {
namespace {

constexpr Duration kLook = std::chrono::hours(1);
constexpr Duration kAgain = std::chrono::minutes(5);  ///< After an attempt that failed.
constexpr Duration kEnrolMax = std::chrono::seconds(20);

/// Takes the place of what is there: never half a file.
absl::Status PutPrivateFile(const std::string& path, const std::string& text) {
  const std::string fresh = path + ".new";
  std::error_code ignored;
  std::filesystem::remove(fresh, ignored);
  RETURN_IF_ERROR(WritePrivateFile(fresh, text));
  if (std::rename(fresh.c_str(), path.c_str()) == 0) return absl::OkStatus();
  return ResourceExhausted("'{}' cannot be written: {}", path, std::strerror(errno));
}

}  // namespace

bool WantsRenewal(const CertificateFacts& facts, int64_t now_s) {
  const int64_t life_s = facts.ends_s - facts.begins_s;
  return facts.ends_s - now_s < std::max(life_s / 3, std::min(kExpiryWarningSeconds, life_s / 2));
}

Enrolment::~Enrolment() {
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  wake_.notify_all();
  if (thread_.joinable()) thread_.join();
}

absl::StatusOr<std::shared_ptr<const TlsIdentity>> Enrolment::identity(Deadline deadline) {
  const TlsFiles files = TlsFiles::In(options_.folder);
  auto there = TlsIdentity::Load(files);
  if (there.ok() && (*there)->pem().authority == options_.authority && (*there)->name() == options_.name)
    return identity_ = *std::move(there);
  RETURN_IF_ERROR(enrol(deadline));
  ASSIGN_OR_RETURN(identity_, TlsIdentity::Load(files));
  LogInfo("got a certificate for '{}' until {}: {}", options_.name, DayOf(identity_->facts().ends_s),
          files.certificate);
  return identity_;
}

absl::StatusOr<std::string> Enrolment::ask(const std::string& request, Deadline deadline) {
  ASSIGN_OR_RETURN(const std::vector<std::string> addresses, options_.find(deadline));
  absl::Status error = NotFound("no address of a coordinator is known");
  const auto own = identity_ != nullptr ? identity_ : TlsIdentity::Believing(options_.authority);
  for (const std::string& address : addresses) {
    JoinClient client(address, ClusterKey(options_.key, own));
    auto certificate = client.enrol(options_.name, request, deadline);
    if (certificate.ok()) return certificate;
    // A coordinator that answers says more than one that does not.
    if (!absl::IsUnavailable(certificate.status()) || absl::IsNotFound(error)) error = certificate.status();
  }
  return error;
}

absl::Status Enrolment::enrol(Deadline deadline) {
  const CertifiedKey request = MakeCertificateRequest(options_.name);
  ASSIGN_OR_RETURN(const std::string certificate, ask(request.certificate, deadline));
  std::error_code error;
  if (std::filesystem::create_directories(options_.folder, error))
    std::filesystem::permissions(options_.folder, std::filesystem::perms::owner_all, error);
  if (error) return InvalidArgument("'{}' cannot be made: {}", options_.folder, error.message());
  const TlsFiles files = TlsFiles::In(options_.folder);
  RETURN_IF_ERROR(PutPrivateFile(files.authority, options_.authority));
  RETURN_IF_ERROR(PutPrivateFile(files.key, request.key));
  return PutPrivateFile(files.certificate, certificate);
}

void Enrolment::keep() {
  thread_ = std::thread([this] { run(); });
}

void Enrolment::renew() {
  {
    const std::lock_guard lock(mutex_);
    at_once_ = true;
  }
  wake_.notify_all();
}

void Enrolment::run() {
  NameThread("enrolment");
  Duration pause = kLook;
  while (true) {
    bool asked = false;
    {
      std::unique_lock lock(mutex_);
      wake_.wait_for(lock, pause, [this] { return at_once_ || stopping_; });
      if (stopping_) return;
      asked = std::exchange(at_once_, false);
    }
    pause = kLook;
    if (!asked && !WantsRenewal(identity_->facts(), UnixSeconds())) continue;
    absl::Status renewed = enrol(Deadline::after(kEnrolMax));
    if (renewed.ok()) renewed = identity_->reload();
    if (renewed.ok()) {
      LogInfo("got another certificate, until {}", DayOf(identity_->facts().ends_s));
    } else {
      LogWarning("no other certificate yet, this one ends on {}: {}", DayOf(identity_->facts().ends_s),
                 Message(renewed));
      pause = kAgain;
    }
  }
}

}  // namespace shoal
