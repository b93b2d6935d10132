// What makes a process one of a cluster: the pre-shared key, a certificate of the cluster's authority, or both.
#pragma once

#include <memory>
#include <optional>
#include <utility>

#include "tls/identity.h"
#include "wire/key_auth.h"

namespace shoal {

/// Cheap to copy. Implicit from a key, as most code and most tests know nothing of certificates.
struct ClusterKey {
  std::optional<KeyAuth> shared;  ///< Calls and streams prove it.
  std::shared_ptr<const TlsIdentity>
      tls;  ///< Connections are encrypted, and both ends show certificates; nullptr: not.

  ClusterKey() = default;
  ClusterKey(std::nullopt_t) {}                                       // NOLINT(google-explicit-constructor)
  ClusterKey(KeyAuth key) : shared(std::move(key)) {}                 // NOLINT(google-explicit-constructor)
  ClusterKey(std::optional<KeyAuth> key) : shared(std::move(key)) {}  // NOLINT(google-explicit-constructor)
  ClusterKey(std::optional<KeyAuth> key, std::shared_ptr<const TlsIdentity> identity)
      : shared(std::move(key)), tls(std::move(identity)) {}

  /// Whether strangers are kept out.
  bool has_value() const { return shared.has_value() || tls != nullptr; }
};

}  // namespace shoal
