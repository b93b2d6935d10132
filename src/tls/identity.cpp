#include "tls/identity.h"

#include <filesystem>
#include <system_error>
#include <utility>

#include "base/file.h"
#include "base/log.h"
#include "base/status.h"
#include "tls/authority.h"
#include "tls/certificate_facts.h"
#include "tls/openssl.h"
#include "tls/private_file.h"

namespace shoal {
namespace {

constexpr char kMakeFiles[] =
    "make the files with: shoal cert init DIR --node NAME, and copy DIR/NAME to the node";

/// When the files were written, and how large they are.
std::string StampOf(const TlsFiles& files) {
  std::string stamp;
  for (const std::string& path : {files.authority, files.certificate, files.key}) {
    std::error_code none;
    const auto at = std::filesystem::last_write_time(path, none).time_since_epoch().count();
    stamp += fmt::format("{} {};", at, std::filesystem::file_size(path, none));
  }
  return stamp;
}

/// Why the authority does not vouch for the certificate; X509_V_OK where it does.
int VerifyNow(X509* certificate, X509* authority, int64_t now_s) {
  const std::unique_ptr<X509_STORE, OpenSslFree<X509_STORE_free>> store(X509_STORE_new());
  const std::unique_ptr<X509_STORE_CTX, OpenSslFree<X509_STORE_CTX_free>> context(X509_STORE_CTX_new());
  if (store == nullptr || context == nullptr || X509_STORE_add_cert(store.get(), authority) != 1 ||
      X509_STORE_CTX_init(context.get(), store.get(), certificate, nullptr) != 1) {
    return X509_V_ERR_UNSPECIFIED;
  }
  X509_STORE_CTX_set_time(context.get(), 0, now_s);
  if (X509_verify_cert(context.get()) == 1) return X509_V_OK;
  (void)OpenSslErrors();
  return X509_STORE_CTX_get_error(context.get());
}

absl::Status CheckIdentity(const TlsFiles& files, X509* certificate, X509* authority, int64_t now_s) {
  const int verdict = VerifyNow(certificate, authority, now_s);
  if (verdict == X509_V_OK) return absl::OkStatus();
  const CertificateFacts facts = FactsOf(certificate);
  if (verdict == X509_V_ERR_CERT_HAS_EXPIRED) {
    const CertificateFacts its_authority = FactsOf(authority);
    const bool own = facts.ends_s <= now_s;
    return FailedPrecondition(
        "'{}' ended on {}: {}", own ? files.certificate : files.authority,
        DayOf(own ? facts.ends_s : its_authority.ends_s),
        own ? fmt::format("make another with: shoal cert node {} --dir DIR", facts.subject)
            : "make another authority with: shoal cert init DIR --node NAME ...");
  }
  if (verdict == X509_V_ERR_CERT_NOT_YET_VALID) {
    return FailedPrecondition("'{}' begins on {}: is this machine's clock right? (date; timedatectl)",
                              files.certificate, DayOf(facts.begins_s));
  }
  return InvalidArgument("'{}' is not signed by '{}' ({}): give files of one `shoal cert init`",
                         files.certificate, files.authority, X509_verify_cert_error_string(verdict));
}

}  // namespace

TlsFiles TlsFiles::In(const std::string& folder) {
  return {folder + "/ca.pem", folder + "/cert.pem", folder + "/key.pem"};
}

TlsFiles TlsFiles::Find(const std::string& folder, const std::string& node) {
  const TlsFiles own = In(folder);
  if (node.empty()) return own;
  for (const TlsFiles& files :
       {own, In(folder + "/" + node),
        TlsFiles{fmt::format("{}/{}-ca.pem", folder, node), fmt::format("{}/{}-cert.pem", folder, node),
                 fmt::format("{}/{}-key.pem", folder, node)}}) {
    std::error_code ignored;
    if (std::filesystem::exists(files.certificate, ignored)) return files;
  }
  return own;
}

absl::StatusOr<TlsIdentity::Reading> TlsIdentity::Read(const TlsFiles& files, int64_t now_s) {
  Reading reading{.pem = {}, .facts = {}, .stamp = StampOf(files)};
  for (const auto& [file, text] : {std::pair(&files.authority, &reading.pem.authority),
                                   std::pair(&files.certificate, &reading.pem.certificate)}) {
    auto read = ReadTextFile(*file, kPemBytesMax);
    if (!read.ok()) return MakeError(read.status().code(), "{}; {}", Message(read.status()), kMakeFiles);
    *text = *std::move(read);
  }
  auto key_text = ReadPrivateFile(files.key);
  if (!key_text.ok())
    return MakeError(key_text.status().code(), "{}; {}", Message(key_text.status()), kMakeFiles);
  reading.pem.key = *std::move(key_text);
  ASSIGN_OR_RETURN(const CertificatePtr authority, ParseCertificate(reading.pem.authority, files.authority));
  ASSIGN_OR_RETURN(const CertificatePtr certificate,
                   ParseCertificate(reading.pem.certificate, files.certificate));
  ASSIGN_OR_RETURN(const KeyPtr key, ParsePrivateKey(reading.pem.key, files.key));
  if (X509_check_private_key(certificate.get(), key.get()) != 1) {
    (void)OpenSslErrors();
    return InvalidArgument("'{}' is not the key of '{}': copy both from one folder of `shoal cert`",
                           files.key, files.certificate);
  }
  RETURN_IF_ERROR(CheckIdentity(files, certificate.get(), authority.get(), now_s));
  reading.facts = FactsOf(certificate.get());
  return reading;
}

absl::StatusOr<std::shared_ptr<const TlsIdentity>> TlsIdentity::Load(const TlsFiles& files, int64_t now_s) {
  std::shared_ptr<TlsIdentity> identity(new TlsIdentity());
  identity->files_ = files;
  ASSIGN_OR_RETURN(identity->reading_, Read(files, now_s));
  identity->name_ = identity->reading_.facts.subject;
  identity->warn_if_it_ends(now_s);
  return std::shared_ptr<const TlsIdentity>(std::move(identity));
}

std::shared_ptr<const TlsIdentity> TlsIdentity::Believing(std::string authority) {
  std::shared_ptr<TlsIdentity> identity(new TlsIdentity());
  identity->reading_.pem.authority = std::move(authority);
  return identity;
}

TlsIdentity::Pem TlsIdentity::pem() const {
  const std::lock_guard lock(mutex_);
  return reading_.pem;
}

CertificateFacts TlsIdentity::facts() const {
  const std::lock_guard lock(mutex_);
  return reading_.facts;
}

absl::Status TlsIdentity::reload(int64_t now_s) const {
  const std::string stamp = StampOf(files_);
  absl::StatusOr<Reading> reading = Read(files_, now_s);
  const std::lock_guard lock(mutex_);
  refused_ = stamp;
  RETURN_IF_ERROR(reading.status());
  if (reading->facts.subject != name_) {
    return FailedPrecondition("'{}' is for '{}' now, this node is '{}': start it again if that is meant",
                              files_.certificate, reading->facts.subject, name_);
  }
  reading->pem.reading = reading_.pem.reading + 1;
  reading_ = *std::move(reading);
  refused_.clear();
  warned_s_ = 0;
  return absl::OkStatus();
}

void TlsIdentity::follow_files() const {
  int64_t last = followed_ns_;
  const int64_t now = NowNs();
  if (!certified() || now - last < kFollowPause.count()) return;
  if (!followed_ns_.compare_exchange_strong(last, now)) return;
  {
    const std::string stamp = StampOf(files_);
    const std::lock_guard lock(mutex_);
    if (stamp == reading_.stamp || stamp == refused_) return;
  }
  const absl::Status read = reload();
  if (read.ok()) {
    LogInfo("'{}' is another certificate now, until {}: connections from now on show it", files_.certificate,
            DayOf(facts().ends_s));
  } else {
    LogError("'{}' was renewed, and stays as it was: {}", files_.certificate, Message(read));
  }
}

absl::Status TlsIdentity::check_name(std::string_view name) const {
  if (TlsNameOf(name) == kAnyNodeName || facts().has_name(name)) return absl::OkStatus();
  return FailedPrecondition(
      "plans call this node '{}', its certificate '{}' is for '{}': make one with shoal cert node {} --dir "
      "DIR, or start "
      "the node with --name {}",
      name, files_.certificate, name_, name, name_);
}

void TlsIdentity::warn_if_it_ends(int64_t now_s) const {
  int64_t last = warned_s_;
  if (now_s - last < kSecondsPerDay || !warned_s_.compare_exchange_strong(last, now_s)) return;
  const std::string warning = certified() ? ExpiryWarning(facts(), now_s) : "";
  if (warning.empty()) return;
  LogWarning("{}: make another with: shoal cert node {} --dir DIR, and copy it here: it is followed", warning,
             name_);
}

std::string TlsNameOf(std::string_view node) {
  return IsCertifiableName(node) ? std::string(node) : kAnyNodeName;
}

}  // namespace shoal
