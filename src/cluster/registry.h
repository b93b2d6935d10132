// Where the coordinators of a cluster are: a worker that joins asks, a coordinator says so. A file for each kind.
#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/clock.h"

namespace shoal {

/// A coordinator at which workers join.
struct Rendezvous {
  std::string name;                    ///< For people, and to tell coordinators apart.
  std::vector<std::string> addresses;  ///< HOST:PORT of its join port, the best first.
  bool operator==(const Rendezvous&) const = default;
};

/// Called by one thread at a time.
class Registry {
 public:
  virtual ~Registry() = default;

  /// For messages: "etcd at 10.0.0.1:2379".
  virtual std::string what() const = 0;
  /// The coordinators that are there, by name; none is an empty list. Unavailable where the registry can't be asked.
  virtual absl::StatusOr<std::vector<Rendezvous>> find(Deadline deadline) = 0;
  /// Says that this coordinator is there, until withdraw(), or for as long as it is said again: every kRepublish. Replaces
  /// what was said before. Unimplemented where others write the registry.
  virtual absl::Status publish(const Rendezvous& self, Deadline deadline) = 0;
  virtual void withdraw(Deadline deadline) = 0;

  static constexpr Duration kRepublish = std::chrono::seconds(3);
};

/// The registry that a text names:
///   "HOST:PORT,HOST:PORT"      addresses of one coordinator
///   "FILE.json", "FILE.yaml"   the coordinator of a cluster file, at its address
///   "etcd://HOST:PORT/PREFIX"
///   "dns-sd"                   the local network, through Avahi's daemon
/// InvalidArgument for any other.
absl::StatusOr<std::unique_ptr<Registry>> OpenRegistry(std::string_view text);

std::unique_ptr<Registry> MakeStaticRegistry(std::vector<std::string> addresses);
std::unique_ptr<Registry> MakeClusterFileRegistry(std::string path);
/// address: HOST:PORT; prefix: of the keys, without a "/" at either end; may be empty.
std::unique_ptr<Registry> MakeEtcdRegistry(const std::string& address, std::string prefix);
std::unique_ptr<Registry> MakeDnsSdRegistry();

/// Addresses as a registry keeps them as text: "A,B". Those that are none are left out.
std::vector<std::string> AddressesOf(std::string_view text);

}  // namespace shoal
