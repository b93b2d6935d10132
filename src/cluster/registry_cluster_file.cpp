#include <utility>

#include "base/status.h"
#include "cluster/registry.h"
#include "plan/cluster_file.h"

namespace shoal {
namespace {

/// Read anew each time: a person may have changed it.
class ClusterFileRegistry final : public Registry {
 public:
  explicit ClusterFileRegistry(std::string path) : path_(std::move(path)) {}

  std::string what() const override { return "cluster file " + path_; }
  absl::StatusOr<std::vector<Rendezvous>> find(Deadline) override {
    ASSIGN_OR_RETURN(const ClusterFile file, ReadClusterFile(path_));
    const NodeFacts& coordinator = file.nodes.front();
    if (coordinator.address.empty()) {
      return InvalidArgument("{}: the coordinator '{}' has no hostname and port: workers join there", path_,
                             coordinator.name);
    }
    return std::vector<Rendezvous>{{coordinator.name, {coordinator.address}}};
  }
  absl::Status publish(const Rendezvous&, Deadline) override {
    return Unimplemented("{}: a cluster file is written by a person", path_);
  }
  void withdraw(Deadline) override {}

 private:
  const std::string path_;
};

}  // namespace

std::unique_ptr<Registry> MakeClusterFileRegistry(std::string path) {
  return std::make_unique<ClusterFileRegistry>(std::move(path));
}

}  // namespace shoal
