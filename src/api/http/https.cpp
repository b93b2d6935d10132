#include "api/http/https.h"

#include <utility>

#include "base/clock.h"
#include "base/file.h"
#include "base/log.h"
#include "base/status.h"
#include "tls/certificate.h"
#include "tls/identity.h"
#include "tls/private_file.h"

namespace shoal {

absl::StatusOr<std::shared_ptr<HttpsCertificate>> HttpsCertificate::Load(Files files) {
  std::shared_ptr<HttpsCertificate> https(new HttpsCertificate(std::move(files)));
  RETURN_IF_ERROR(https->reload());
  return https;
}

absl::StatusOr<std::shared_ptr<HttpsCertificate>> HttpsCertificate::Of(
    std::shared_ptr<const TlsIdentity> identity) {
  const TlsFiles& files = identity->files();
  std::shared_ptr<HttpsCertificate> https(new HttpsCertificate(Files{files.certificate, files.key}));
  const TlsIdentity::Pem pem = identity->pem();
  ASSIGN_OR_RETURN(https->context_, TlsContext::Server(pem.certificate, pem.key, files.certificate));
  https->reading_ = pem.reading;
  https->identity_ = std::move(identity);
  return https;
}

absl::Status HttpsCertificate::reload() {
  ASSIGN_OR_RETURN(const std::string certificate, ReadTextFile(files_.certificate, kPemBytesMax));
  ASSIGN_OR_RETURN(const std::string key, ReadPrivateFile(files_.key));
  const std::string place = fmt::format("'{}' and '{}'", files_.certificate, files_.key);
  ASSIGN_OR_RETURN(std::shared_ptr<const TlsContext> context, TlsContext::Server(certificate, key, place));
  // Clients judge it; that it has ended is their error, and this line its cause.
  ASSIGN_OR_RETURN(const CertificateFacts facts, ReadCertificate(certificate, files_.certificate));
  const std::string warning = ExpiryWarning(facts, UnixSeconds());
  if (!warning.empty()) LogWarning("https: {}: renew '{}', then send SIGHUP", warning, files_.certificate);
  const std::lock_guard lock(mutex_);
  context_ = std::move(context);
  return absl::OkStatus();
}

std::shared_ptr<const TlsContext> HttpsCertificate::context() const {
  if (identity_ != nullptr) identity_->follow_files();
  const std::lock_guard lock(mutex_);
  if (identity_ == nullptr) return context_;
  const TlsIdentity::Pem pem = identity_->pem();
  if (pem.reading == reading_) return context_;
  auto renewed = TlsContext::Server(pem.certificate, pem.key, files_.certificate);
  reading_ = pem.reading;
  if (renewed.ok()) context_ = *std::move(renewed);
  return context_;
}

}  // namespace shoal
