// All experts of a model in this process, called one after another: the plainest ExpertExchange, against
// which exec's is held bit for bit. For tests.
#pragma once

#include <algorithm>
#include <cstring>
#include <map>
#include <span>
#include <utility>
#include <vector>

#include "base/check.h"
#include "base/status.h"
#include "compute/blocks/experts.h"
#include "compute/compute_context.h"
#include "compute/expert_exchange.h"

namespace shoal {

class LocalExchange final : public ExpertExchange {
 public:
  /// The context must outlive the exchange.
  LocalExchange(const ComputeContext& context, std::vector<ExpertSet> sets) : context_(context) {
    for (ExpertSet& set : sets) {
      const LayerId layer = set.layer();
      sets_.emplace(layer, std::move(set));
    }
  }

  absl::StatusOr<Ticket> dispatch(LayerId layer, const ExpertRows& rows, const Routing& routing) override {
    layer_ = layer;
    rows_ = rows;
    if (rows.quantized != nullptr) codes_ = *rows.quantized;
    routing_ = routing;
    return Ticket{++tickets_};
  }

  absl::Status combine(Ticket ticket, MatView<float> y) override {
    SHOAL_CHECK_EQ(ticket.value, tickets_);
    const ArenaScope scope(*context_.arena);
    const MatView<int64_t> acc = context_.arena->allocate_rows<int64_t>(y.rows, y.cols);
    std::fill_n(acc.data, y.rows * y.cols, int64_t{0});
    const ExpertSet& set = sets_.at(layer_);
    for (const ExpertId expert : set.experts()) RETURN_IF_ERROR(add(set, expert, acc));
    context_.kernels->fixed_to_float({.acc = acc, .y = y, .store = FixedStore::kAdd, .rows = {0, y.rows}});
    return absl::OkStatus();
  }

 private:
  /// One expert, row by row.
  absl::Status add(const ExpertSet& set, ExpertId expert, MatView<int64_t> acc) {
    for (int64_t t = 0; t < routing_.ids.rows; ++t) {
      for (int64_t k = 0; k < routing_.ids.cols; ++k) {
        if (routing_.ids.at(t, k) != expert.value) continue;
        const ArenaScope scope(*context_.arena);
        ExpertRows row{.x = rows_.x.rows_between(t, t + 1)};
        QuantizedRows codes;
        if (rows_.quantized != nullptr) {
          codes = codes_.rows_between({t, t + 1});
          row.quantized = &codes;
        }
        const MatView<float> y = context_.arena->allocate_rows<float>(1, acc.cols);
        RETURN_IF_ERROR(set.forward(context_, expert, row, y));
        const auto target = static_cast<int32_t>(t);
        if (!context_.kernels->accumulate_fixed({.y = y,
                                                 .weights = routing_.weights.row(t) + k,
                                                 .targets = &target,
                                                 .acc = acc,
                                                 .cols = {0, acc.cols}})) {
          return OutOfRange("expert {}: an output is beyond the fixed-point range", expert);
        }
      }
    }
    return absl::OkStatus();
  }

  const ComputeContext& context_;
  std::map<LayerId, ExpertSet> sets_;
  uint64_t tickets_ = 0;
  LayerId layer_;
  ExpertRows rows_;
  QuantizedRows codes_;
  Routing routing_;
};

}  // namespace shoal
