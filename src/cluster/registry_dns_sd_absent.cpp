// In place of registry_dns_sd.cpp where there is no Avahi to build with.
#include "base/status.h"
#include "cluster/registry.h"

namespace shoal {
namespace {

class NoDnsSd final : public Registry {
 public:
  std::string what() const override { return "dns-sd"; }
  absl::StatusOr<std::vector<Rendezvous>> find(Deadline) override { return absent(); }
  absl::Status publish(const Rendezvous&, Deadline) override { return absent(); }
  void withdraw(Deadline) override {}

 private:
  static absl::Status absent() {
    return Unimplemented(
        "dns-sd: this shoal was built without Avahi: give the coordinator's address: --join HOST:PORT");
  }
};

}  // namespace

std::unique_ptr<Registry> MakeDnsSdRegistry() { return std::make_unique<NoDnsSd>(); }

}  // namespace shoal
