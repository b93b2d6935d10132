// Decides whether a process may listen on an address that other machines can reach.
#pragma once

#include <string>

#include "absl/status/status.h"

namespace shoal {

/// Whether only this machine can reach a listener on `host`: 127.0.0.0/8, ::1, or a name whose addresses are
/// all of these. False for a name that does not resolve.
bool IsLoopback(const std::string& host);

/// A port that is about to be opened.
struct Exposure {
  std::string what;  ///< The flag, for the message: "worker --listen".
  std::string host;  ///< As given, without the port.
  bool has_key =
      false;  ///< Clients must prove that they are of the cluster: by its key, or by a certificate.
  bool insecure = false;  ///< The operator allows clients without a key.
};

/// OK on loopback, with a key, or if the operator allows it. Otherwise FailedPrecondition, which says what to
/// do.
absl::Status CheckExposure(const Exposure& exposure);

}  // namespace shoal
