// Looks at what speaks TLS at an address: gRPC says little of why a connection does not come about.
#pragma once

#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/clock.h"
#include "tls/certificate.h"
#include "tls/identity.h"

namespace shoal {

struct TlsPeer {
  std::string name;     ///< As plans name the node; may be unknown.
  std::string address;  ///< HOST:PORT.
};

/// Shakes hands with a node as its peers do. The certificate that it shows, or why the two don't get on, and what to type:
/// FailedPrecondition: it speaks no TLS, or the certificate of either side has ended, is of another authority, or names
/// another node. Unavailable: nobody answers in time; times are whole seconds, at least one.
absl::StatusOr<CertificateFacts> ProbeTls(const TlsPeer& peer, const TlsIdentity& own, Deadline deadline);

}  // namespace shoal
