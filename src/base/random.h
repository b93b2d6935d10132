// Counter-based random numbers: a value is a function of its key and counter alone, so it is the same on
// every machine, in any order, and after any replay.
// Source: the finaliser of SplitMix64, Steele, Lea, Flood 2014, doi 10.1145/2660193.2660195.
#pragma once

#include <cstdint>

namespace shoal {

constexpr uint64_t Mix64(uint64_t x) {
  x += 0x9e3779b97f4a7c15u;
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
  return x ^ (x >> 31);
}

/// 64 random bits for (seed, stream, counter).
constexpr uint64_t RandomBits(uint64_t seed, uint64_t stream, uint64_t counter) {
  return Mix64(Mix64(Mix64(seed) ^ stream) ^ counter);
}

/// Uniform in [0, 1) with 53 bits, for (seed, stream, counter).
constexpr double RandomUniform(uint64_t seed, uint64_t stream, uint64_t counter) {
  return static_cast<double>(RandomBits(seed, stream, counter) >> 11) * 0x1.0p-53;
}

/// A sequence of random values, for generating test data and checkpoints.
class RandomStream {
 public:
  explicit RandomStream(uint64_t seed, uint64_t stream = 0) : seed_(seed), stream_(stream) {}
  uint64_t bits() { return RandomBits(seed_, stream_, counter_++); }
  double uniform() { return static_cast<double>(bits() >> 11) * 0x1.0p-53; }
  /// Uniform integer in [0, n), n >= 1.
  uint64_t below(uint64_t n) {
    return static_cast<uint64_t>((static_cast<unsigned __int128>(bits()) * n) >> 64);
  }

 private:
  uint64_t seed_;
  uint64_t stream_;
  uint64_t counter_ = 0;
};

/// A seed from the operating system, for requests without one.
uint64_t EntropySeed();

}  // namespace shoal
