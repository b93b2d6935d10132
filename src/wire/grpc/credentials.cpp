#include "wire/grpc/credentials.h"

#include "base/status.h"
#include "base/text.h"
#include "tls/certificate.h"

namespace shoal {
namespace {

constexpr char kNamesProperty[] = "x509_subject_alternative_name";

}  // namespace

std::shared_ptr<grpc::Channel> ChannelTo(const std::string& address, const ClusterKey& key,
                                         std::string_view node, grpc::ChannelArguments arguments) {
  if (key.tls == nullptr) {
    return grpc::CreateCustomChannel(address, grpc::InsecureChannelCredentials(), arguments);
  }
  arguments.SetSslTargetNameOverride(TlsNameOf(node));
  grpc::SslCredentialsOptions options;
  options.pem_root_certs = key.tls->authority();
  options.pem_cert_chain = key.tls->certificate();
  options.pem_private_key = key.tls->key();
  return grpc::CreateCustomChannel(address, grpc::SslCredentials(options), arguments);
}

std::shared_ptr<grpc::ServerCredentials> ServerCredentialsOf(const ClusterKey& key) {
  if (key.tls == nullptr) return grpc::InsecureServerCredentials();
  grpc::SslServerCredentialsOptions options(GRPC_SSL_REQUEST_AND_REQUIRE_CLIENT_CERTIFICATE_AND_VERIFY);
  options.pem_root_certs = key.tls->authority();
  options.pem_key_cert_pairs.push_back({key.tls->key(), key.tls->certificate()});
  return grpc::SslServerCredentials(options);
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
