// llama-server's POST /infill: what stands between two texts, for editors.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "api/api_error.h"
#include "api/openai/common_fields.h"
#include "text/fill_in_middle.h"

namespace shoal {

struct InfillRequest {
  CommonFields common;  ///< max_tokens is "n_predict".
  std::string prefix;
  std::string suffix;
  std::string begun;  ///< "prompt": the middle begins so.
  std::vector<ContextFile> files;
  int64_t indent = 0;  ///< "n_indent": the text ends before a line that is indented less.
  bool return_tokens = false;
  std::vector<std::string> response_fields;  ///< All that the answer shows; empty: everything.
};

ApiResult<InfillRequest> ParseInfill(std::string_view body, const RequestLimits& limits);

}  // namespace shoal
