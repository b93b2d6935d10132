#include "api/ollama/embed_api.h"

#include <nlohmann/json.hpp>
#include <utility>

#include "api/answer/whole_writer.h"
#include "api/field_reader.h"
#include "api/json.h"
#include "api/ollama/request.h"
#include "api/ollama/writer.h"

namespace shoal {
namespace {

constexpr int64_t kInputsMax = 1024;

void ReadShared(FieldReader& fields, OllamaEmbedRequest& out) {
  if (const auto model = fields.text("model"); model.has_value() && !model->empty()) {
    out.model = *model;
  }
  // Options say how Ollama runs and samples; nothing is sampled here.
  fields.find_object("options");
  fields.harmless("keep_alive");
  out.priority = ReadPriority(fields);
}

void ReadInputs(FieldReader& fields, std::vector<std::string>& out) {
  const Json* input = fields.find("input");
  if (input == nullptr || FieldReader::IsEmpty(*input)) return;
  if (input->is_string()) return out.push_back(input->get<std::string>());
  if (!input->is_array()) return fields.fail_type("input", "a string or an array of strings", *input);
  if (std::ssize(*input) > kInputsMax) {
    return fields.fail("input",
                       fmt::format("'input' has {} texts; send at most {}", input->size(), kInputsMax),
                       "too_many_choices");
  }
  for (size_t i = 0; i < input->size(); ++i) {
    if (!(*input)[i].is_string())
      return fields.fail_type(fmt::format("input[{}]", i), "a string", (*input)[i]);
    out.push_back((*input)[i].get<std::string>());
  }
}

std::string ListBody(const Embeddings& embeddings, const std::string& model, int64_t started_ns) {
  return DumpJson({{"model", model},
                   {"embeddings", embeddings.vectors},
                   {"total_duration", NowNs() - started_ns},
                   {"load_duration", 0},
                   {"prompt_eval_count", embeddings.prompt_tokens}});
}

std::string OneBody(const Embeddings& embeddings) {
  const Json none = Json::array();
  return DumpJson({{"embedding", embeddings.vectors.empty() ? none : Json(embeddings.vectors.front())}});
}

}  // namespace

ApiResult<OllamaEmbedRequest> ParseOllamaEmbed(std::string_view body) {
  const auto object = ParseBody(body);
  if (!object.has_value()) return std::unexpected(object.error());
  OllamaEmbedRequest out;
  std::optional<ApiError> error;
  FieldReader fields(*object, "", error);
  ReadShared(fields, out);
  ReadInputs(fields, out.inputs);
  out.truncate = fields.boolean("truncate").value_or(true);
  out.dimensions = fields.integer("dimensions", 0, INT32_MAX);
  if (out.dimensions == 0) out.dimensions.reset();
  fields.refuse_others();
  if (error.has_value()) return std::unexpected(*std::move(error));
  return out;
}

ApiResult<OllamaEmbedRequest> ParseOllamaEmbeddings(std::string_view body) {
  const auto object = ParseBody(body);
  if (!object.has_value()) return std::unexpected(object.error());
  OllamaEmbedRequest out;
  std::optional<ApiError> error;
  FieldReader fields(*object, "", error);
  ReadShared(fields, out);
  if (auto prompt = fields.text("prompt"); prompt.has_value() && !prompt->empty()) {
    out.inputs.push_back(*std::move(prompt));
  }
  fields.refuse_others();
  if (error.has_value()) return std::unexpected(*std::move(error));
  return out;
}

std::vector<HttpRoute> OllamaEmbedApi::RoutesOf(OllamaEmbedApi* api) {
  using Writer = std::shared_ptr<ResponseWriter>;
  return {{"POST", "/api/embed",
           [api](const HttpRequest& request, const Writer& writer) {
             api->answer(ParseOllamaEmbed(request.body), Shape::kList, writer);
           }},
          {"POST", "/api/embeddings", [api](const HttpRequest& request, const Writer& writer) {
             api->answer(ParseOllamaEmbeddings(request.body), Shape::kOne, writer);
           }}};
}

void OllamaEmbedApi::answer(const ApiResult<OllamaEmbedRequest>& parsed, Shape shape,
                            const std::shared_ptr<ResponseWriter>& writer) {
  if (!parsed.has_value()) return SendOllamaError(*writer, parsed.error());
  AnswerService& service = embeddings_.service();
  if (const auto wrong = service.check_model(parsed->model)) return SendOllamaError(*writer, *wrong);
  const char* field = shape == Shape::kList ? "input" : "prompt";
  auto done = [writer, shape, model = service.model_names().front(),
               started_ns = NowNs()](const ApiResult<Embeddings>& embeddings) {
    if (!embeddings.has_value()) return SendOllamaError(*writer, embeddings.error());
    writer->send(
        {.body = shape == Shape::kList ? ListBody(*embeddings, model, started_ns) : OneBody(*embeddings)});
  };
  if (parsed->inputs.empty()) return done(Embeddings());
  EmbeddingOrder order{.id = NewAnswerId("ollama-", *writer),
                       .prompt_field = field,
                       .priority = parsed->priority,
                       .truncate = parsed->truncate,
                       .dimensions = parsed->dimensions};
  for (const std::string& input : parsed->inputs) {
    auto tokens = service.text_prompt(input, field);
    if (!tokens.has_value()) return SendOllamaError(*writer, tokens.error());
    order.prompts.push_back(*std::move(tokens));
  }
  if (const auto error = embeddings_.start(std::move(order), std::move(done), writer))
    SendOllamaError(*writer, *error);
}

}  // namespace shoal
