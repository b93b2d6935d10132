#include "text/end_of_text.h"

#include "text/bridge.h"

namespace shoal {

absl::StatusOr<std::vector<int32_t>> EndOfTextTokens(const Tokenizer& tokenizer, const ChatTemplate* chat,
                                                     std::string_view config) {
  ShoalIds ids{};
  ShoalBytes error{};
  const int32_t code = shoal_end_of_text(tokenizer.handle(), chat == nullptr ? nullptr : chat->handle(),
                                         bridge::Slice(config), &ids, &error);
  RETURN_IF_ERROR(bridge::Result(code, error));
  return bridge::Take(ids);
}

}  // namespace shoal
