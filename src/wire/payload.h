// Writing and reading the inside of a payload: little-endian fields, strings, and bulk data at aligned
// offsets.
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <type_traits>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "wire/buffer.h"

namespace shoal {

static_assert(std::endian::native == std::endian::little,
              "the wire is little-endian, and bulk data is not swapped");

/// What may be copied to and from the wire as it lies in memory.
template <typename T>
concept WireScalar = std::is_arithmetic_v<T> && !std::is_same_v<T, bool>;

/// Appends fields; finish() hands the bytes over. Padding is zero, so equal fields give equal bytes.
class PayloadWriter {
 public:
  PayloadWriter() = default;
  explicit PayloadWriter(size_t capacity_bytes) { reserve(capacity_bytes); }

  void reserve(size_t capacity_bytes);

  void u8(uint8_t value) { scalar(value); }
  void u32(uint32_t value) { scalar(value); }
  void i32(int32_t value) { scalar(value); }
  void u64(uint64_t value) { scalar(value); }
  void i64(int64_t value) { scalar(value); }
  void f32(float value) { scalar(value); }
  void f64(double value) { scalar(value); }
  template <WireScalar T>
  void scalar(T value) {
    std::memcpy(grow(sizeof(T)).data(), &value, sizeof(T));
  }
  /// u32 length, then the bytes.
  void string(std::string_view text);
  /// Bulk data without a count (write it before, or let header.rows x cols say it), at a multiple of
  /// kWireAlignment.
  template <WireScalar T>
  void array(std::span<const T> values) {
    const auto target = this->template reserve_array<T>(values.size());
    if (!values.empty()) std::memcpy(target.data(), values.data(), values.size_bytes());
  }
  /// As array(), for the caller to fill in place: valid until the next call. The values start uninitialised.
  template <WireScalar T>
  std::span<T> reserve_array(size_t count) {
    align(kWireAlignment);
    return {reinterpret_cast<T*>(grow(count * sizeof(T)).data()), count};
  }

  size_t size() const { return size_; }
  /// The payload; the writer is empty afterwards.
  Buffer finish();

 private:
  std::span<std::byte> grow(size_t bytes);
  void align(size_t alignment);

  std::shared_ptr<std::byte[]> bytes_;
  size_t size_ = 0;
  size_t capacity_ = 0;
};

/// Reads what PayloadWriter wrote, from a peer that may lie: every read checks what remains, and counts are
/// bounded by it before anybody allocates. `field` names what is read in errors: InvalidArgument
/// "step.sequences: ...".
class PayloadReader {
 public:
  /// Spans handed out live as long as `payload`, whose start is aligned to kWireAlignment (decoders see to
  /// it).
  explicit PayloadReader(const Buffer& payload) : bytes_(payload.bytes()) {}

  absl::StatusOr<uint8_t> u8(std::string_view field) { return scalar<uint8_t>(field); }
  absl::StatusOr<uint32_t> u32(std::string_view field) { return scalar<uint32_t>(field); }
  absl::StatusOr<int32_t> i32(std::string_view field) { return scalar<int32_t>(field); }
  absl::StatusOr<uint64_t> u64(std::string_view field) { return scalar<uint64_t>(field); }
  absl::StatusOr<int64_t> i64(std::string_view field) { return scalar<int64_t>(field); }
  absl::StatusOr<float> f32(std::string_view field) { return scalar<float>(field); }
  absl::StatusOr<double> f64(std::string_view field) { return scalar<double>(field); }
  template <WireScalar T>
  absl::StatusOr<T> scalar(std::string_view field) {
    auto taken = take(field, sizeof(T));
    if (!taken.ok()) return taken.status();
    T value;
    std::memcpy(&value, taken->data(), sizeof(T));
    return value;
  }
  /// A u32 count of elements that need at least `bytes_each` (>= 1) more bytes apiece.
  absl::StatusOr<uint32_t> count(std::string_view field, size_t bytes_each);
  absl::StatusOr<std::string> string(std::string_view field);
  /// `count` values at the next multiple of kWireAlignment, in place.
  template <WireScalar T>
  absl::StatusOr<std::span<const T>> array(std::string_view field, uint64_t count) {
    auto taken = take_array(field, count, sizeof(T));
    if (!taken.ok()) return taken.status();
    return std::span<const T>(reinterpret_cast<const T*>(taken->data()), count);
  }
  /// InvalidArgument where bytes are left over.
  absl::Status finish(std::string_view what) const;

  size_t remaining() const { return bytes_.size() - position_; }

 private:
  absl::StatusOr<std::span<const std::byte>> take(std::string_view field, uint64_t bytes);
  absl::StatusOr<std::span<const std::byte>> take_array(std::string_view field, uint64_t count,
                                                        size_t bytes_each);

  std::span<const std::byte> bytes_;
  size_t position_ = 0;
};

}  // namespace shoal
