#include "api/plan_question.h"

#include <fmt/format.h>

#include <nlohmann/json.hpp>
#include <string_view>

#include "api/field_reader.h"
#include "api/json.h"

namespace shoal {
namespace {

constexpr size_t kMachinesMax = 16;
constexpr size_t kNameBytesMax = 128;
/// Lists of ids such as 0-4095 take thousands of times as much memory as text.
constexpr size_t kExpertsBytesMax = 16 << 10;
constexpr int64_t kLayersMax = 4096;
constexpr int64_t kMemoryMax = int64_t{1} << 48;
constexpr NumberRange kRate = {.min = 0, .max = 1e9};

void CheckLength(FieldReader& fields, std::string_view name, std::string_view value, size_t bytes_max) {
  if (value.size() <= bytes_max) return;
  fields.fail(
      name, fmt::format("'{}' has {} bytes, {} are the most", fields.path_of(name), value.size(), bytes_max),
      "invalid_value");
}

PlanQuestion::Machine ReadMachine(FieldReader& fields) {
  PlanQuestion::Machine machine;
  machine.name = fields.required_text("name");
  CheckLength(fields, "name", machine.name, kNameBytesMax);
  machine.memory_bytes = fields.integer("memory_bytes", 1, kMemoryMax).value_or(0);
  if (fields.ok() && machine.memory_bytes == 0)
    fields.fail("memory_bytes", fmt::format("'{}' is missing", fields.path_of("memory_bytes")),
                "missing_required_parameter");
  for (const auto& [name, rate] : {std::pair{"read_gbs", &machine.read_gbs},
                                   {"int8_gops", &machine.int8_gops},
                                   {"f32_gflops", &machine.f32_gflops},
                                   {"rtt_us", &machine.rtt_us},
                                   {"mbs", &machine.mbs}}) {
    *rate = fields.number(name, kRate).value_or(0);
  }
  fields.refuse_others();
  return machine;
}

}  // namespace

ApiResult<PlanQuestion> ParsePlanQuestion(const std::string& text) {
  const auto body = ParseBody(text);
  if (!body.has_value()) return std::unexpected(body.error());
  std::optional<ApiError> error;
  FieldReader fields(*body, "", error);
  PlanQuestion question;
  question.model = fields.text("model").value_or("");
  question.experts = fields.text("experts").value_or("");
  CheckLength(fields, "experts", question.experts, kExpertsBytesMax);
  question.compare = fields.boolean("compare").value_or(false);
  question.apply = fields.boolean("apply").value_or(false);
  if (const Json* layers = fields.find_object("layers")) {
    FieldReader counts(*layers, "layers.", error);
    for (const auto& [name, ignored] : layers->items()) {
      question.layers.emplace_back(name, counts.integer(name, 0, kLayersMax).value_or(0));
    }
  }
  if (const Json* add = fields.find_array("add")) {
    if (add->size() > kMachinesMax)
      fields.fail("add", fmt::format("'add' has {} machines, {} are the most", add->size(), kMachinesMax));
    EachObject(*add, "add", error,
               [&](FieldReader& machine) { question.add.push_back(ReadMachine(machine)); });
  }
  if (question.apply && (!question.add.empty() || !question.experts.empty()))
    fields.fail("apply",
                "'apply' is for 'layers' of the machines that are there: without 'add', and without "
                "'experts', which stay as the server was asked");
  fields.refuse_others();
  if (error.has_value()) return std::unexpected(*std::move(error));
  return question;
}

}  // namespace shoal
