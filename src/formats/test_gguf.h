// GGUF files for tests, value by value.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace shoal {

class GgufBuilder {
 public:
  void add_int(std::string_view key, uint32_t value) { begin(key, 4) += number(value); }
  void add_float(std::string_view key, float value) { begin(key, 6) += number(value); }
  void add_bool(std::string_view key, bool value) { begin(key, 7) += static_cast<char>(value); }
  void add_string(std::string_view key, std::string_view value) { begin(key, 8) += text(value); }
  void add_strings(std::string_view key, const std::vector<std::string>& values) {
    std::string& out = begin_array(key, 8, values.size());
    for (const std::string& value : values) out += text(value);
  }
  void add_ints(std::string_view key, const std::vector<int32_t>& values) {
    std::string& out = begin_array(key, 5, values.size());
    for (const int32_t value : values) out += number(value);
  }
  void add_bools(std::string_view key, const std::vector<bool>& values) {
    std::string& out = begin_array(key, 7, values.size());
    for (const bool value : values) out += static_cast<char>(value);
  }
  void add_floats(std::string_view key, const std::vector<float>& values) {
    std::string& out = begin_array(key, 6, values.size());
    for (const float value : values) out += number(value);
  }
  /// dims: fastest first, as the file has them.
  void add_tensor(std::string_view name, uint32_t ggml_type, const std::vector<uint64_t>& dims,
                  uint64_t offset) {
    table_ += text(name) + number(static_cast<uint32_t>(dims.size()));
    for (const uint64_t dim : dims) table_ += number(dim);
    table_ += number(ggml_type) + number(offset);
    ++tensors_;
  }
  /// Header, metadata, table, padding to 32, then the data.
  std::string file(std::string_view data = "") const {
    std::string out = "GGUF" + number(uint32_t{3}) + number(tensors_) + number(keys_) + metadata_ + table_;
    out.append((32 - out.size() % 32) % 32, '\0');
    out += data;
    return out;
  }

  template <class T>
  static std::string number(T value) {
    return std::string(reinterpret_cast<const char*>(&value), sizeof(T));
  }
  static std::string text(std::string_view value) {
    return number(static_cast<uint64_t>(value.size())) + std::string(value);
  }

 private:
  std::string& begin(std::string_view key, uint32_t type) {
    ++keys_;
    return metadata_ += text(key) + number(type);
  }
  std::string& begin_array(std::string_view key, uint32_t type, size_t count) {
    return begin(key, 9) += number(type) + number(static_cast<uint64_t>(count));
  }

  std::string metadata_;
  std::string table_;
  uint64_t keys_ = 0;
  uint64_t tensors_ = 0;
};

}  // namespace shoal
