#include "wire/grpc/credentials.h"

#include <grpc/grpc_security.h>

#include <mutex>
#include <optional>
#include <utility>

#include "base/status.h"
#include "base/text.h"
#include "tls/certificate.h"

namespace shoal {
namespace {

constexpr char kNamesProperty[] = "x509_subject_alternative_name";

/// What gRPC's C++ has no word for: before each handshake the identity is asked whether it has another certificate by now.
/// One for one port. gRPC's server keeps it for as long as it takes connections.
class RenewedCredentials final : public grpc::ServerCredentials {
 public:
  RenewedCredentials(std::shared_ptr<const TlsIdentity> identity, Callers callers)
      : identity_(std::move(identity)) {
    const auto request = callers == Callers::kCertified
                             ? GRPC_SSL_REQUEST_AND_REQUIRE_CLIENT_CERTIFICATE_AND_VERIFY
                             : GRPC_SSL_REQUEST_CLIENT_CERTIFICATE_AND_VERIFY;
    credentials_ = grpc_ssl_server_credentials_create_with_options(
        grpc_ssl_server_credentials_create_options_using_config_fetcher(request, &Fetch, this));
  }
  ~RenewedCredentials() override { grpc_server_credentials_release(credentials_); }

  void SetAuthMetadataProcessor(const std::shared_ptr<grpc::AuthMetadataProcessor>&) override {}

 private:
  int AddPortToServer(const std::string& address, grpc_server* server) override {
    return grpc_server_add_http2_port(server, address.c_str(), credentials_);
  }

  static grpc_ssl_certificate_config_reload_status Fetch(void* self,
                                                         grpc_ssl_server_certificate_config** config) {
    return static_cast<RenewedCredentials*>(self)->fetch(config);
  }
  grpc_ssl_certificate_config_reload_status fetch(grpc_ssl_server_certificate_config** config) {
    identity_->follow_files();
    const TlsIdentity::Pem pem = identity_->pem();
    const std::lock_guard lock(mutex_);
    if (reading_ == pem.reading) return GRPC_SSL_CERTIFICATE_CONFIG_RELOAD_UNCHANGED;
    reading_ = pem.reading;
    const grpc_ssl_pem_key_cert_pair pair = {pem.key.c_str(), pem.certificate.c_str()};
    *config = grpc_ssl_server_certificate_config_create(pem.authority.c_str(), &pair, 1);
    return GRPC_SSL_CERTIFICATE_CONFIG_RELOAD_NEW;
  }

  const std::shared_ptr<const TlsIdentity> identity_;
  grpc_server_credentials* credentials_ = nullptr;
  std::mutex mutex_;                 ///< Guards what follows.
  std::optional<uint64_t> reading_;  ///< Whose certificate gRPC has.
};

}  // namespace

std::shared_ptr<grpc::Channel> ChannelTo(const std::string& address, const ClusterKey& key,
                                         std::string_view node, grpc::ChannelArguments arguments) {
  if (key.tls == nullptr) {
    return grpc::CreateCustomChannel(address, grpc::InsecureChannelCredentials(), arguments);
  }
  arguments.SetSslTargetNameOverride(TlsNameOf(node));
  grpc::SslCredentialsOptions options;
  key.tls->follow_files();
  const TlsIdentity::Pem pem = key.tls->pem();
  options.pem_root_certs = pem.authority;
  options.pem_cert_chain = pem.certificate;
  options.pem_private_key = pem.key;
  return grpc::CreateCustomChannel(address, grpc::SslCredentials(options), arguments);
}

std::shared_ptr<grpc::ServerCredentials> ServerCredentialsOf(const ClusterKey& key, Callers callers) {
  if (key.tls == nullptr) return grpc::InsecureServerCredentials();
  return std::make_shared<RenewedCredentials>(key.tls, callers);
}

absl::Status CheckCaller(const grpc::AuthContext& caller, const ClusterKey& key, std::string_view node) {
  if (key.tls == nullptr) return absl::OkStatus();
  const std::string wanted = TlsNameOf(node);
  CertificateFacts shown;
  for (const grpc::string_ref& name : caller.FindPropertyValues(kNamesProperty))
    shown.names.emplace_back(name.data(), name.size());
  if (shown.has_name(wanted)) return absl::OkStatus();
  return FailedPrecondition(
      "the plan calls the caller '{}', its certificate is for {}: make one with shoal cert node {} --dir DIR "
      "and copy it "
      "to that node",
      wanted, shown.names.empty() ? "nobody" : Join(shown.names, ", "), wanted);
}

}  // namespace shoal
