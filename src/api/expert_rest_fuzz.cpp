// Any body of the expert API: an answer that is JSON, or a refusal with a message. The first byte picks the
// request.
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>

#include "api/expert_rest.h"
#include "api/json.h"
#include "base/check.h"
#include "base/status.h"

namespace shoal {
namespace {

constexpr int32_t kLayers = 3;
constexpr int32_t kWidth = 2;

/// Checks what the API promises of the rows that it hands on, and gives them back.
class EchoExperts : public ExpertService {
 public:
  Info info() const override {
    return {.initialized = true, .expert_ids = {0, 3, 5}, .layers = kLayers, .width = kWidth};
  }
  absl::StatusOr<int> initialize(std::span<const int32_t> expert_ids, const std::string&) override {
    for (size_t i = 1; i < expert_ids.size(); ++i) SHOAL_CHECK_LT(expert_ids[i - 1], expert_ids[i]);
    return static_cast<int>(expert_ids.size());
  }
  absl::StatusOr<std::vector<std::vector<float>>> compute(int32_t layer,
                                                          std::span<const ExpertRow> rows) override {
    SHOAL_CHECK(layer >= 0 && layer < kLayers && !rows.empty());
    if (layer == 2) return InvalidArgument("layer 2 has no experts");
    std::vector<std::vector<float>> out;
    for (const ExpertRow& row : rows) {
      SHOAL_CHECK(row.expert == 0 || row.expert == 3 || row.expert == 5);
      SHOAL_CHECK(out.empty() || rows[out.size() - 1].expert <= row.expert);
      SHOAL_CHECK_EQ(std::ssize(row.x), kWidth);
      for (const float x : row.x) SHOAL_CHECK(std::isfinite(x));
      out.push_back(row.x);
    }
    return out;
  }
};

void CheckAnswer(const absl::StatusOr<std::string>& answer) {
  if (!answer.ok()) {
    SHOAL_CHECK(answer.status().code() == absl::StatusCode::kInvalidArgument);
    SHOAL_CHECK(!Message(answer.status()).empty());
    SHOAL_CHECK(ParseJson(ExpertRestApi::ErrorBodyOf(400, Message(answer.status()))).has_value());
    return;
  }
  const auto json = ParseJson(*answer);
  SHOAL_CHECK(json.has_value() && (*json)["status"] == "success");
}

}  // namespace
}  // namespace shoal

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size == 0) return 0;
  shoal::EchoExperts experts;
  shoal::ExpertRestApi api(experts);
  const std::string body(reinterpret_cast<const char*>(data + 1), size - 1);
  shoal::CheckAnswer(data[0] % 2 == 0 ? api.compute(body) : api.initialize(body));
  return 0;
}
