#include "app/expert_service.h"

#include <algorithm>
#include <map>
#include <utility>

#include "base/log.h"
#include "base/status.h"
#include "base/text.h"
#include "cluster/model_locator.h"

namespace shoal {

BankExpertService::BankExpertService(Options options)
    : options_(std::move(options)), backend_({options_.isa, options_.threads, options_.cpus}) {}

ExpertService::Info BankExpertService::info() const {
  const std::lock_guard lock(mutex_);
  return info_;
}

absl::StatusOr<int> BankExpertService::initialize(std::span<const int32_t> expert_ids,
                                                  const std::string& model_path) {
  ASSIGN_OR_RETURN(const std::string folder, FindModel(options_.model_roots, model_path));
  ASSIGN_OR_RETURN(OpenedModel model, OpenModel(folder));
  std::vector<int32_t> ids(expert_ids.begin(), expert_ids.end());
  std::sort(ids.begin(), ids.end());
  ids.erase(std::unique(ids.begin(), ids.end()), ids.end());

  std::vector<std::vector<ExpertId>> held(model.spec.layers.size());
  const auto layers = static_cast<int32_t>(held.size());
  int moe_layers = 0;
  for (size_t layer = 0; layer < held.size(); ++layer) {
    const int32_t experts = model.facts.layers[layer].experts;
    if (experts == 0) continue;
    ++moe_layers;
    for (const int32_t id : ids) {
      if (id < 0 || id >= experts) {
        return InvalidArgument("expert_ids: {} is outside [0, {}), the experts of layer {}", id, experts,
                               layer);
      }
      held[layer].push_back(ExpertId{id});
    }
  }
  if (moe_layers == 0) return InvalidArgument("model_path: {} is a dense model, it has no experts", folder);

  const std::lock_guard lock(mutex_);
  backend_
      .enter_thread();  // As in compute(): this thread works, too, and memory is near to who touches it first.
  ASSIGN_OR_RETURN(
      std::unique_ptr<NodeModel> node,
      NodeModel::Load(model.weights, {.layers = {}, .experts = std::move(held)}, backend_, nullptr,
                      {.cache = options_.packed_cache, .expert_memory = options_.expert_memory}));
  ASSIGN_OR_RETURN(std::unique_ptr<BackendSession> session, node->held().open({}));
  session_ = std::move(session);  // Before the weights that the old one runs on go.
  node_ = std::move(node);
  model_ = std::move(model);
  info_ = {true, folder, ids, layers, static_cast<int32_t>(model_.spec.width), node_->bytes()};
  LogInfo("expert API: {} experts of {} layers of {}: {}", ids.size(), moe_layers, folder,
          node_->load_stats().text());
  return static_cast<int>(ids.size());
}

absl::StatusOr<std::vector<std::vector<float>>> BankExpertService::compute(int32_t layer,
                                                                           std::span<const ExpertRow> rows) {
  const std::lock_guard lock(mutex_);
  if (node_ == nullptr) return FailedPrecondition("Worker not initialized");
  if (layer < 0 || layer >= info_.layers || model_.facts.layers[static_cast<size_t>(layer)].experts == 0) {
    return InvalidArgument("layer_idx: layer {} has no experts; the model has {} layers", layer,
                           info_.layers);
  }
  // The request was checked against the model of its time: another may have taken its place since.
  for (const ExpertRow& row : rows) {
    if (std::ssize(row.x) == info_.width) continue;
    return FailedPrecondition("a row has {} numbers, but the model loaded meanwhile has the width {}",
                              row.x.size(), info_.width);
  }
  backend_.enter_thread();
  std::map<int32_t, std::vector<size_t>> by_expert;
  for (size_t i = 0; i < rows.size(); ++i) by_expert[rows[i].expert].push_back(i);

  std::vector<std::vector<float>> outputs(rows.size());
  for (const auto& [expert, members] : by_expert) {
    const auto count = std::ssize(members);
    std::vector<float> given(static_cast<size_t>(count * info_.width));
    std::vector<float> got(given.size());
    const MatView<float> x(given.data(), count, info_.width);
    const MatView<float> y(got.data(), count, info_.width);
    for (int64_t r = 0; r < count; ++r) {
      const std::vector<float>& from = rows[members[static_cast<size_t>(r)]].x;
      std::copy(from.begin(), from.end(), x.row(r));
    }
    RETURN_IF_ERROR(session_->run_expert(LayerId{layer}, ExpertId{expert}, {x, nullptr}, y));
    for (int64_t r = 0; r < count; ++r) {
      outputs[members[static_cast<size_t>(r)]].assign(y.row(r), y.row(r) + info_.width);
    }
  }
  return outputs;
}

ExpertRestServer::ExpertRestServer(Options options)
    : checker_(options.key.has_value() ? std::make_unique<TokenChecker>(*std::move(options.key)) : nullptr),
      service_(std::move(options.service)),
      api_(
          service_,
          checker_ == nullptr ? Authorize()
                              : [this](std::string_view token,
                                       std::string_view context) { return checker_->check(token, context); },
          checker_ == nullptr ? Challenge() : [this] { return checker_->challenge(); }) {}

absl::StatusOr<std::unique_ptr<ExpertRestServer>> ExpertRestServer::Start(Options options) {
  std::unique_ptr<ExpertRestServer> server(new ExpertRestServer(options));
  HttpServerOptions http;
  http.hosts = {options.host};
  http.port = options.port;
  http.body_bytes_max = int64_t{64} << 20;  // Rows as decimal text take ten bytes a value.
  http.error_body = &ExpertRestApi::ErrorBodyOf;
  if (options.tls != nullptr) {
    ASSIGN_OR_RETURN(http.tls, HttpsCertificate::Of(options.tls));
  }
  ASSIGN_OR_RETURN(server->http_, HttpServer::Start(std::move(http), server->api_.routes()));
  return server;
}

}  // namespace shoal
