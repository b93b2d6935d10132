// The experts of a worker as JSON over HTTP: for programs that bring their own router. The binary path of the
// cluster serves from the same experts.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "api/http/server.h"

namespace shoal {

/// One row for one expert.
struct ExpertRow {
  int32_t expert = 0;
  std::vector<float> x;  ///< [D], finite.
};

/// The experts behind the API. Called from several threads at once.
class ExpertService {
 public:
  virtual ~ExpertService() = default;

  struct Info {
    bool initialized = false;
    std::string model_path;
    std::vector<int32_t> expert_ids;  ///< Ascending; held in every MoE layer.
    int32_t layers = 0;               ///< Layers of the model; only MoE layers can be asked.
    int32_t width = 0;                ///< D.
    int64_t memory_bytes = 0;
  };
  virtual Info info() const = 0;

  /// Loads these experts of a model below a model root, in place of those held before; how many there are
  /// now. Errors as of the checkpoint (which file, expected, got), PermissionDenied outside the roots.
  virtual absl::StatusOr<int> initialize(std::span<const int32_t> expert_ids,
                                         const std::string& model_path) = 0;

  /// Each expert's own output [D], one per row and in their order, unweighted. `rows` are grouped by expert.
  /// InvalidArgument if the layer has no experts. FailedPrecondition where another model was loaded since the
  /// rows were checked: it has another width, or such an expert is not held.
  virtual absl::StatusOr<std::vector<std::vector<float>>> compute(int32_t layer,
                                                                  std::span<const ExpertRow> rows) = 0;
};

/// Whether who sent `token` knows the cluster's key: it proves `context`. Unauthenticated says why not.
using Authorize = std::function<absl::Status(std::string_view token, std::string_view context)>;
/// What the next token is to answer.
using Challenge = std::function<std::string()>;

/// POST /initialize, POST /compute_experts, GET /status, GET /health. Errors are
/// {"status": "error", "message": ...}, with 400 for whatever the caller can mend.
class ExpertRestApi {
 public:
  /// `service` must outlive it, and it must outlive the HttpServer that has its routes. With `authorize`, all
  /// but /health want "Authorization: Bearer TOKEN", where TOKEN proves "METHOD PATH\nBODY": else 401. Every answer then
  /// says in "Shoal-Challenge" what the next token is to answer.
  explicit ExpertRestApi(ExpertService& service, Authorize authorize = nullptr, Challenge challenge = nullptr)
      : service_(service), authorize_(std::move(authorize)), challenge_(std::move(challenge)) {}

  std::vector<HttpRoute> routes();

  /// The answers to POST /initialize and POST /compute_experts; a Status of a fault is answered in their
  /// place.
  absl::StatusOr<std::string> initialize(const std::string& body);
  absl::StatusOr<std::string> compute(const std::string& body);

  /// For HttpServerOptions::error_body.
  static std::string ErrorBodyOf(int status, const std::string& message);

 private:
  using Writer = std::shared_ptr<ResponseWriter>;
  struct Totals {
    int64_t calls = 0;
    int64_t requests = 0;
    int64_t errors = 0;
    double compute_seconds = 0;
  };

  std::string status() const;
  absl::Status check(const HttpRequest& request) const;
  void answer(const absl::StatusOr<std::string>& result, ResponseWriter& writer);
  HttpHeaders challenge_headers() const;

  ExpertService& service_;
  const Authorize authorize_;
  const Challenge challenge_;
  mutable std::mutex mutex_;
  Totals totals_;
};

}  // namespace shoal
