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

absl::StatusOr<std::shared_ptr<HttpsCertificate>> HttpsCertificate::Of(const TlsIdentity& identity) {
  const TlsFiles& files = identity.files();
  std::shared_ptr<HttpsCertificate> https(new HttpsCertificate(Files{files.certificate, files.key}));
  ASSIGN_OR_RETURN(https->context_,
                   TlsContext::Server(identity.certificate(), identity.key(), files.certificate));
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
  const std::lock_guard lock(mutex_);
  return context_;
}

}  // namespace shoal
