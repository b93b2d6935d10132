// A backend without arithmetic: its rows are hashes of tokens and positions, so that a cluster's plumbing can be
// tested in microseconds and a row, block or expert that went astray gives other tokens.
//   embedding   x[t, c] = 16 bits of hash(token, c)
//   layer       s = hash(row, s of the position before, read from the cache); x[t, c] = 16 bits of hash(s, c)
//   experts     the K from hash(row) on, each adds 8 bits of hash(row, layer, expert, c)
//   logits      16 bits of hash(row, id); greedy takes the largest that the mask allows, sampling hashes seed, choice,
//               position and how often which ids came, and takes the next id that the mask allows
// All values are small integers, which f32 and fixed-point sums hold exactly.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "compute/backend.h"

namespace shoal {

class FakeBackend final : public Backend {
 public:
  struct Options {
    std::string numerics_class = "shoal-fake/1";
    BackendLimits limits = {.rows_max = 1024, .logit_rows = 16, .head_dim_max = 1024, .states = false};
    DType refused = DType::kU8;  ///< takes() no matrix of these elements, or with scales of them.
    std::function<absl::Status(const BackendLoad&)> before_load;  ///< Its error is load()'s. May be empty.
  };
  FakeBackend() = default;
  explicit FakeBackend(Options options) : options_(std::move(options)) {}

  std::string numerics_class() const override { return options_.numerics_class; }
  BackendLimits limits() const override { return options_.limits; }
  bool takes(const PackedFormat& format) const override { return format.dtype != options_.refused; }
  /// Reads no weight; of the model it wants the spec.
  absl::StatusOr<std::unique_ptr<BackendModel>> load(const BackendLoad& load) override;

 private:
  const Options options_;
};

/// The `count` greedy tokens behind `prompt` that nodes with fakes must give, however many there are: computed
/// here in plain loops, without cache, exchange and batches.
std::vector<int32_t> FakeGreedy(const ModelSpec& spec, std::vector<int32_t> prompt, int count);

/// How a text is drawn.
struct FakeDraw {
  SamplingParams sampling;
  /// The mask of the token behind those that were generated so far; empty: every id may come.
  std::function<std::vector<uint32_t>(std::span<const int32_t> generated)> mask;
};
/// As FakeGreedy, drawn like this.
std::vector<int32_t> FakeText(const ModelSpec& spec, std::vector<int32_t> prompt, int count,
                              const FakeDraw& draw);

}  // namespace shoal
