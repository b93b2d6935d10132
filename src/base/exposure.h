// Who may listen where other machines can reach it.
#pragma once

#include <string>

#include "absl/status/status.h"

namespace shoal {

/// Whether only this machine reaches what listens on `host`: 127.0.0.0/8, ::1, or a name that has such
/// addresses only. False for a name that does not resolve.
bool IsLoopback(const std::string& host);

/// A port that is about to be opened.
struct Exposure {
  std::string what;       ///< For the message: "worker --listen".
  std::string host;       ///< As given, without the port.
  bool has_key = false;   ///< Who connects must prove the cluster's key.
  bool insecure = false;  ///< The operator said that anybody may.
};

/// OK on loopback, with a key, or where the operator insists. Else FailedPrecondition, saying what to do.
absl::Status CheckExposure(const Exposure& exposure);

}  // namespace shoal
