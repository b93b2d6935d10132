// What a load test asks for: each request is a function of the seed and its number, so that two servers get the same.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/random.h"

namespace shoal {

/// A distribution of lengths: ranges with weights, uniform within each.
class LengthMix {
 public:
  /// "128", "64-512", "64-256:0.7,2048:0.3". InvalidArgument names what is wrong.
  static absl::StatusOr<LengthMix> Parse(std::string_view text);

  int64_t draw(RandomStream& random) const;

 private:
  struct Range {
    int64_t low = 0;
    int64_t high = 0;  ///< Inclusive.
    double weight = 1;
  };
  std::vector<Range> ranges_;
};

enum class LoadEndpoint : uint8_t { kChat, kCompletions };

struct WorkloadOptions {
  LoadEndpoint endpoint = LoadEndpoint::kChat;
  std::string model;
  std::string prompt_words = "64-256";   ///< As LengthMix; a common word is about one token.
  std::string output_tokens = "32-128";  ///< As LengthMix.
  int64_t prefix_words = 0;              ///< Of a head that requests share, before their own words.
  int64_t prefixes = 1;                  ///< Different heads; each request draws one.
  double temperature = 0;
  std::string extra;  ///< A JSON object whose fields are added to each request, or replace them.
  int64_t token_ids =
      0;  ///< If positive, prompts of completions are so many random ids below this instead of words.
  uint64_t seed = 0;
};

class Workload {
 public:
  static absl::StatusOr<Workload> Create(WorkloadOptions options);

  /// The path of all requests.
  std::string path() const;
  /// The JSON of request `index`.
  std::string body(int64_t index) const;

 private:
  Workload() = default;

  WorkloadOptions options_;
  LengthMix prompt_;
  LengthMix output_;
  std::vector<std::string> heads_;
};

/// When requests of an open loop are due, in seconds from the start: a Poisson process of `rate` requests a second.
class PoissonArrivals {
 public:
  PoissonArrivals(double rate, uint64_t seed);
  double next();

 private:
  double rate_;
  double at_ = 0;
  RandomStream random_;
};

}  // namespace shoal
