#include <utility>

#include "base/status.h"
#include "cluster/registry.h"

namespace shoal {
namespace {

class StaticRegistry final : public Registry {
 public:
  explicit StaticRegistry(std::vector<std::string> addresses) : addresses_(std::move(addresses)) {}

  std::string what() const override { return "the addresses given"; }
  absl::StatusOr<std::vector<Rendezvous>> find(Deadline) override {
    return std::vector<Rendezvous>{{addresses_.front(), addresses_}};
  }
  absl::Status publish(const Rendezvous&, Deadline) override {
    return Unimplemented("addresses that are given to workers can't be changed by a coordinator");
  }
  void withdraw(Deadline) override {}

 private:
  const std::vector<std::string> addresses_;
};

}  // namespace

std::unique_ptr<Registry> MakeStaticRegistry(std::vector<std::string> addresses) {
  return std::make_unique<StaticRegistry>(std::move(addresses));
}

}  // namespace shoal
