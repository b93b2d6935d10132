// The JSON expert API of a worker: the experts of a model below the worker's roots, for programs that bring
// their own router.
#pragma once

#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "api/expert_rest.h"
#include "api/http/server.h"
#include "compute/cpu_backend.h"
#include "exec/model_facts.h"
#include "exec/node_model.h"
#include "tls/identity.h"
#include "wire/key_auth.h"

namespace shoal {

/// Serves with the same ExpertBank as the binary path, from weights of its own.
class BankExpertService final : public ExpertService {
 public:
  struct Options {
    std::vector<std::string> model_roots;
    int threads = 1;
    std::vector<int> cpus;  ///< As for ThreadPool.
    Isa isa = Isa::kReference;
    std::shared_ptr<const PackedCache> packed_cache;  ///< nullptr: none.
    int64_t expert_memory = 0;                        ///< As BackendLoad's.
  };
  explicit BankExpertService(Options options);

  Info info() const override;
  absl::StatusOr<int> initialize(std::span<const int32_t> expert_ids, const std::string& model_path) override;
  absl::StatusOr<std::vector<std::vector<float>>> compute(int32_t layer,
                                                          std::span<const ExpertRow> rows) override;

 private:
  const Options options_;
  mutable std::mutex mutex_;  ///< One computation, or one load, at a time.
  CpuBackend backend_;
  Info info_;
  OpenedModel model_;
  std::unique_ptr<NodeModel> node_;  ///< Experts alone, without layers.
  std::unique_ptr<BackendSession> session_;
};

/// The service behind an HTTP port.
class ExpertRestServer {
 public:
  struct Options {
    std::string host;
    int port = 0;
    std::optional<KeyAuth> key;              ///< Callers must prove that they have it.
    std::shared_ptr<const TlsIdentity> tls;  ///< The port speaks HTTPS with this certificate; nullptr: HTTP.
    BankExpertService::Options service;
  };
  static absl::StatusOr<std::unique_ptr<ExpertRestServer>> Start(Options options);
  int port() const { return http_->port(); }

 private:
  explicit ExpertRestServer(Options options);
  std::unique_ptr<TokenChecker> checker_;  ///< nullptr without a key.
  BankExpertService service_;
  ExpertRestApi api_;
  std::unique_ptr<HttpServer> http_;
};

}  // namespace shoal
