#include "numeric/dtype.h"

#include <cstddef>
#include <iterator>

#include "base/check.h"

namespace shoal {
namespace {

struct DTypeRow {
  DType dtype;
  int bytes;
  std::string_view name;
  std::string_view safetensors;
};

// In the order of the enum.
constexpr DTypeRow kDTypes[] = {
    {DType::kBool, 1, "bool", "BOOL"},
    {DType::kU8, 1, "u8", "U8"},
    {DType::kI8, 1, "i8", "I8"},
    {DType::kF8E4M3, 1, "f8_e4m3", "F8_E4M3"},
    {DType::kF8E5M2, 1, "f8_e5m2", "F8_E5M2"},
    {DType::kF8E8M0, 1, "f8_e8m0", "F8_E8M0"},
    {DType::kU16, 2, "u16", "U16"},
    {DType::kI16, 2, "i16", "I16"},
    {DType::kF16, 2, "f16", "F16"},
    {DType::kBF16, 2, "bf16", "BF16"},
    {DType::kU32, 4, "u32", "U32"},
    {DType::kI32, 4, "i32", "I32"},
    {DType::kF32, 4, "f32", "F32"},
    {DType::kU64, 8, "u64", "U64"},
    {DType::kI64, 8, "i64", "I64"},
    {DType::kF64, 8, "f64", "F64"},
};

const DTypeRow& RowOf(DType dtype) {
  const auto index = static_cast<size_t>(dtype);
  SHOAL_CHECK_LT(index, std::size(kDTypes));
  SHOAL_CHECK(kDTypes[index].dtype == dtype);
  return kDTypes[index];
}

}  // namespace

int DTypeBytes(DType dtype) { return RowOf(dtype).bytes; }
std::string_view DTypeName(DType dtype) { return RowOf(dtype).name; }
std::string_view SafetensorsName(DType dtype) { return RowOf(dtype).safetensors; }

std::optional<DType> DTypeFromSafetensors(std::string_view name) {
  for (const DTypeRow& row : kDTypes) {
    if (row.safetensors == name) return row.dtype;
  }
  return std::nullopt;
}

}  // namespace shoal
