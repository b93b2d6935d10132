#include "api/llamacpp/infill_request.h"

#include <fmt/format.h>

#include <array>
#include <nlohmann/json.hpp>
#include <utility>

#include "api/field_reader.h"
#include "api/json.h"

namespace shoal {
namespace {

constexpr int64_t kIndentMax = 1 << 16;

/// How llama-server itself runs and schedules a request, and how long it may take there.
constexpr std::array kOfItsRuns = {"samplers",      "t_max_prompt_ms", "t_max_predict_ms",
                                   "n_cache_reuse", "n_keep",          "n_discard",
                                   "repeat_last_n", "penalize_nl",     "min_keep"};

std::vector<ContextFile> ReadFiles(FieldReader& fields, std::optional<ApiError>& error) {
  std::vector<ContextFile> files;
  const Json* list = fields.find_array("input_extra");
  if (list == nullptr) return files;
  EachObject(*list, "input_extra", error, [&](FieldReader& file) {
    ContextFile one{.name = file.text("filename").value_or("tmp"), .text = file.required_text("text")};
    file.harmless("time");
    file.refuse_others();
    files.push_back(std::move(one));
  });
  return files;
}

std::vector<std::string> ReadResponseFields(FieldReader& fields) {
  std::vector<std::string> names;
  const Json* list = fields.find_array("response_fields");
  if (list == nullptr) return names;
  for (const Json& name : *list) {
    if (!name.is_string()) {
      fields.fail_type("response_fields", "an array of strings", name);
      break;
    }
    names.push_back(name.get<std::string>());
  }
  return names;
}

}  // namespace

ApiResult<InfillRequest> ParseInfill(std::string_view body, const RequestLimits& limits) {
  const auto object = ParseBody(body);
  if (!object.has_value()) return std::unexpected(object.error());
  InfillRequest out;
  std::optional<ApiError> error;
  FieldReader fields(*object, "", error);
  out.prefix = fields.text("input_prefix").value_or("");
  out.suffix = fields.text("input_suffix").value_or("");
  out.begun = fields.text("prompt").value_or("");
  out.files = ReadFiles(fields, error);
  out.indent = fields.integer("n_indent", 0, kIndentMax).value_or(0);
  out.return_tokens = fields.boolean("return_tokens").value_or(false);
  out.response_fields = ReadResponseFields(fields);
  ReadCommon(fields, limits, error, out.common);
  // llama-server's name of it, with its default: no limit.
  if (const auto limit = ReadTokenLimit(fields, "n_predict")) out.common.max_tokens = limit;
  fields.only("n", {1});
  fields.only("n_probs", {0});
  fields.only("return_progress", {false});
  fields.only("timings_per_token", {false});
  for (const char* name : kOfItsRuns) fields.harmless(name);
  if (fields.ok() && out.prefix.empty() && out.suffix.empty()) {
    fields.fail("input_prefix",
                "'input_prefix' and 'input_suffix' are both empty: expected text around the middle",
                "missing_parameter");
  }
  fields.refuse_others();
  if (error.has_value()) return std::unexpected(*std::move(error));
  return out;
}

}  // namespace shoal
