// The backend of the machine's CPUs: our kernels on a team of threads.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "compute/backend.h"
#include "cpu/pool.h"
#include "kernels/kernels.h"

namespace shoal {

class PackedStore;

class CpuBackend final : public Backend {
 public:
  struct Options {
    Isa isa = Isa::kReference;  ///< One that this CPU has (CHECKed).
    int threads = 1;
    std::vector<int> cpus;  ///< As for ThreadPool.
  };
  explicit CpuBackend(Options options);

  /// CpuNumericsClass(), whatever the instruction set: all kernels give the bits of reference.cpp.
  std::string numerics_class() const override;
  BackendLimits limits() const override;
  bool takes(const PackedFormat& format) const override;
  uint64_t progress() const override { return pool_.progress(); }
  /// Has the thread stay on worker 0's CPU.
  void enter_thread() override { pool_.pin_caller(); }
  /// Beside a session one thread of low priority loads, else all do. What earlier models of the same content have is
  /// held once.
  absl::StatusOr<std::unique_ptr<BackendModel>> load(const BackendLoad& load) override;

 private:
  struct Held {
    std::weak_ptr<const PackedStore> store;
    std::string content;  ///< Checkpoint::content_identity().
  };

  const Kernels& kernels_;
  ThreadPool pool_;
  std::vector<Held> held_;  ///< Of load()'s thread.
};

}  // namespace shoal
