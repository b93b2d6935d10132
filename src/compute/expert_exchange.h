// What a mixture-of-experts block asks for: rows to their experts and back; and what a feed-forward asks for whose segments
// several nodes hold. The block never learns where they live; exec/ answers over one node or many.
#pragma once

#include <cstdint>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/ids.h"
#include "compute/segments.h"
#include "kernels/kernels.h"
#include "numeric/view.h"

namespace shoal {

/// In the place of an expert's id: the row goes nowhere for it.
inline constexpr int32_t kNoExpert = -1;

/// The router's choice: row t goes to experts ids[t, k] with weights[t, k]. Both [T, K]; ids of a row are
/// distinct but for kNoExpert.
struct Routing {
  MatView<const int32_t> ids;
  MatView<const float> weights;
};

/// Rows on their way to experts: [T, D] f32, and the same rows quantized where the experts' format is
/// int8-activated (then experts use those codes, so that a remote expert sees exactly what a local one sees).
struct ExpertRows {
  MatView<const float> x;
  const QuantizedRows* quantized = nullptr;
};

/// One expert applied to one row: row `row` of the rows given, times `weight`.
struct ExpertCall {
  int32_t row = 0;
  ExpertId expert;
  float weight = 0;
};

class ExpertExchange {
 public:
  struct Ticket {
    uint64_t value = 0;
  };
  virtual ~ExpertExchange() = default;

  /// Groups rows by owner and sends those of remote owners. Returns at once; the rows may not change before
  /// combine().
  virtual absl::StatusOr<Ticket> dispatch(LayerId layer, const ExpertRows& rows, const Routing& routing) = 0;

  /// Runs what is owned here, collects the rest, and adds the sum over k of weights[t, k] * expert(ids[t,
  /// k])(x[t, :]) to y [T, D] f32. The sum is order-free fixed point (numeric/fixed_sum.h): placement cannot
  /// change a bit. While waiting, requests of other nodes are served. Unavailable names the owner and layer
  /// that is late or gone; OutOfRange: a value left the fixed-point range. On any error y is unchanged.
  virtual absl::Status combine(Ticket ticket, MatView<float> y) = 0;

  /// y [T, D] = the dense feed-forward or the shared expert of a layer that has segments (compute/segments.h), of rows
  /// [T, D]; also between dispatch() and combine(), whose replies come in meanwhile. Errors as combine(); Unimplemented: an exchange of experts only.
  virtual absl::Status feed_forward(LayerId /*layer*/, const SegmentRows& /*rows*/, MatView<float> /*y*/) {
    return absl::UnimplementedError("this exchange has no segments of feed-forwards");
  }
};

}  // namespace shoal
