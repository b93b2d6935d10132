// Random inputs of recurrent layers for kernel tests, which may be cut anywhere.
#pragma once

#include <cmath>
#include <cstdint>
#include <vector>

#include "base/random.h"
#include "base/range.h"
#include "kernels/kernels.h"
#include "kernels/test_data.h"

namespace shoal {

/// The rows of one head within wider matrices, and the state before them.
struct DeltaProblem {
  int64_t rows, keys, values;
  std::vector<float> mixed;  ///< [T, 2 I + J + 3]: query, key, value.
  std::vector<float> gates;  ///< [T, I + 1]: decays, beta.
  std::vector<float> state;  ///< [I, J]
  bool by_channel = false;
  StateRule rule = StateRule::kDelta;

  DeltaProblem(RandomStream& random, int64_t rows_in, int64_t keys_in, int64_t values_in, Values kind)
      : rows(rows_in), keys(keys_in), values(values_in) {
    mixed = RandomFloats(random, rows * (2 * keys + values + 3), kind);
    for (int64_t i = 0; i < (keys + 1) * rows; ++i) gates.push_back(static_cast<float>(random.uniform()));
    state = RandomFloats(random, keys * values, kind);
  }
  /// Runs rows [0, cut), then the others. Returns the outputs, followed by the state.
  std::vector<float> run(const Kernels& kernels, int64_t cut) const {
    std::vector<float> out(static_cast<size_t>(rows * values));
    std::vector<float> between = state, after = state;
    const MatView<const float> all = ConstView(mixed, 2 * keys + values + 3);
    const MatView<const float> scales = ConstView(gates, keys + 1);
    for (const Range part : {Range{0, cut}, Range{cut, rows}}) {
      if (part.empty()) continue;
      const MatView<const float> x = all.rows_between(part.begin, part.end);
      const MatView<const float> g = scales.rows_between(part.begin, part.end);
      kernels.delta_rule({.query = x.cols_between(0, keys),
                          .key = x.cols_between(keys, 2 * keys),
                          .value = x.cols_between(2 * keys, 2 * keys + values),
                          .decay = g.cols_between(0, by_channel ? keys : 1),
                          .beta = g.cols_between(keys, keys + 1),
                          .state_in = part.begin == 0 ? state.data() : between.data(),
                          .state_out = part.end == rows ? after.data() : between.data(),
                          .out = View(out, values).rows_between(part.begin, part.end),
                          .rule = rule});
    }
    out.insert(out.end(), after.begin(), after.end());
    return out;
  }
};

/// The rows of a selective scan within wider matrices, and the state before them.
struct ScanProblem {
  int64_t rows, channels, state_dim;
  std::vector<float> mixed;  ///< [T, C + 2 N + 3]: x, key, query.
  std::vector<float> steps;  ///< [T, C], not negative.
  std::vector<float> rate;   ///< [N, C], not positive.
  std::vector<float> skip, state;

  ScanProblem(RandomStream& random, int64_t rows_in, int64_t channels_in, int64_t state_dim_in, Values kind)
      : rows(rows_in), channels(channels_in), state_dim(state_dim_in) {
    mixed = RandomFloats(random, rows * (channels + 2 * state_dim + 3), kind);
    for (const float step : RandomFloats(random, rows * channels, kind)) steps.push_back(std::fabs(step));
    for (const float rate_of : RandomFloats(random, state_dim * channels, kind))
      rate.push_back(-std::fabs(rate_of));
    skip = RandomFloats(random, channels, kind);
    state = RandomFloats(random, state_dim * channels, kind);
  }
  /// Runs rows [0, cut), then the others, in `parts` ranges of channels. Returns the outputs, followed by the state.
  std::vector<float> run(const Kernels& kernels, int64_t cut, int parts) const {
    std::vector<float> out = steps;  // As in place of the steps.
    std::vector<float> between = state, after = state;
    const MatView<const float> all = ConstView(mixed, channels + 2 * state_dim + 3);
    for (const Range part : {Range{0, cut}, Range{cut, rows}}) {
      for (int i = 0; i < parts && !part.empty(); ++i) {
        const MatView<const float> x = all.rows_between(part.begin, part.end);
        const MatView<float> y = View(out, channels).rows_between(part.begin, part.end);
        kernels.selective_scan({.x = x.cols_between(0, channels),
                                .step = y,
                                .key = x.cols_between(channels, channels + state_dim),
                                .query = x.cols_between(channels + state_dim, channels + 2 * state_dim),
                                .rate = rate.data(),
                                .skip = skip.data(),
                                .state_in = part.begin == 0 ? state.data() : between.data(),
                                .state_out = part.end == rows ? after.data() : between.data(),
                                .out = y,
                                .cols = StaticRange(channels, 1, i, parts)});
      }
    }
    out.insert(out.end(), after.begin(), after.end());
    return out;
  }
};

}  // namespace shoal
