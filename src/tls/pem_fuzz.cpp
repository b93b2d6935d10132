// Any bytes as PEM, and as what a client begins a TLS connection with: facts or an error, and never a passphrase asked for.
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>

#include "base/check.h"
#include "tls/authority.h"
#include "tls/certificate.h"
#include "tls/session.h"

namespace shoal {
namespace {

const CertifiedKey& Authority() {
  static const CertifiedKey authority = *MakeAuthority();
  return authority;
}

std::shared_ptr<const TlsContext> ServerContext() {
  static const std::shared_ptr<const TlsContext> context = [] {
    const auto node = MakeNodeCertificate(Authority(), {.name = "node"});
    SHOAL_CHECK(node.ok());
    auto made = TlsContext::Server(node->certificate, node->key, "fuzz");
    SHOAL_CHECK(made.ok());
    return *std::move(made);
  }();
  return context;
}

}  // namespace
}  // namespace shoal

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace shoal;
  const std::string text(reinterpret_cast<const char*>(data), size);
  const auto facts = ReadCertificate(text, "fuzz");
  if (facts.ok()) (void)ExpiryWarning(*facts, 0);
  (void)TlsContext::Server(text, text, "fuzz");
  (void)TlsContext::Client(text);
  (void)SignCertificateRequest(Authority(), text, {.name = "fuzz"});
  (void)MakeNodeCertificate({text, text}, {.name = "fuzz"});  // An authority that others made.
  (void)PemOfCertificate(text, "fuzz");
  TlsSession session(ServerContext());
  std::string plain;
  (void)session.receive(text, plain);
  SHOAL_CHECK(!session.established());  // Nobody completes a handshake without hearing the other side.
  SHOAL_CHECK(plain.empty());
  (void)session.take_output();
  return 0;
}
