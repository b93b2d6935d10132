// The exchange of a session that has all experts itself. For tests of backends.
#pragma once

#include <cstdint>
#include <vector>

#include "base/status.h"
#include "compute/backend.h"
#include "compute/expert_exchange.h"

namespace shoal {

/// Asks the session itself for experts.
class SessionExperts final : public ExpertExchange {
 public:
  explicit SessionExperts(BackendSession& session) : session_(session) {}

  absl::StatusOr<Ticket> dispatch(LayerId layer, const ExpertRows& rows, const Routing& routing) override {
    layer_ = layer;
    rows_ = rows;
    calls_.clear();
    for (int64_t t = 0; t < routing.ids.rows; ++t) {
      for (int64_t k = 0; k < routing.ids.cols; ++k) {
        if (routing.ids.at(t, k) == kNoExpert) continue;
        calls_.push_back({static_cast<int32_t>(t), ExpertId{routing.ids.at(t, k)}, routing.weights.at(t, k)});
      }
    }
    session_.expect_experts(layer, calls_);
    return Ticket{};
  }
  absl::Status combine(Ticket /*ticket*/, MatView<float> y) override {
    std::vector<int64_t> sums(static_cast<size_t>(y.rows * y.cols));
    const MatView<int64_t> acc(sums.data(), y.rows, y.cols);
    RETURN_IF_ERROR(session_.run_experts(layer_, rows_, calls_, acc));
    session_.add_sums(acc, y);
    return absl::OkStatus();
  }

 private:
  BackendSession& session_;
  LayerId layer_;
  ExpertRows rows_;
  std::vector<ExpertCall> calls_;
};

}  // namespace shoal
