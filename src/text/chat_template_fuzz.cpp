// Any template with any conversation gives a text, FailedPrecondition, NotFound or InvalidArgument; never a
// crash and never Internal. The input is the template, a zero byte, and the messages.
#include <algorithm>

#include "base/check.h"
#include "text/chat_template.h"

namespace {

void CheckError(const absl::Status& status) {
  SHOAL_CHECK(status.code() == absl::StatusCode::kInvalidArgument ||
              status.code() == absl::StatusCode::kFailedPrecondition ||
              status.code() == absl::StatusCode::kNotFound);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view input(reinterpret_cast<const char*>(data), size);
  const size_t zero = std::min(input.find('\0'), size);
  const auto chat_template = shoal::ChatTemplate::FromText(input.substr(0, zero), R"({"bos_token": "<s>"})");
  if (!chat_template.ok()) {
    CheckError(chat_template.status());
    return 0;
  }
  std::string_view messages = input.substr(zero);
  messages.remove_prefix(std::min<size_t>(1, messages.size()));
  const auto text =
      chat_template->render({.messages = messages.empty() ? "[]" : messages, .local_seconds = 0});
  if (!text.ok()) CheckError(text.status());
  return 0;
}
