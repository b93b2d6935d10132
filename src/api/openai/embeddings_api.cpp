#include "api/openai/embeddings_api.h"

#include <bit>
#include <nlohmann/json.hpp>
#include <utility>

#include "absl/strings/escaping.h"
#include "api/answer/whole_writer.h"
#include "api/field_reader.h"
#include "api/json.h"
#include "api/openai/chat_order.h"

namespace shoal {
namespace {

static_assert(std::endian::native == std::endian::little);  // As base64 has the values.

std::string Base64(const std::vector<float>& values) {
  const std::string bytes(reinterpret_cast<const char*>(values.data()), values.size() * sizeof(float));
  return absl::Base64Escape(bytes);
}

std::string Body(const Embeddings& embeddings, EmbeddingsRequest::Encoding encoding,
                 const std::string& model) {
  Json data = Json::array();
  for (size_t i = 0; i < embeddings.vectors.size(); ++i) {
    const std::vector<float>& values = embeddings.vectors[i];
    const bool text = encoding == EmbeddingsRequest::Encoding::kBase64;
    data.push_back(
        {{"object", "embedding"}, {"index", i}, {"embedding", text ? Json(Base64(values)) : Json(values)}});
  }
  return DumpJson(
      {{"object", "list"},
       {"data", std::move(data)},
       {"model", model},
       {"usage", {{"prompt_tokens", embeddings.prompt_tokens}, {"total_tokens", embeddings.prompt_tokens}}}});
}

}  // namespace

ApiResult<EmbeddingsRequest> ParseEmbeddings(std::string_view body, const RequestLimits& limits) {
  const auto object = ParseBody(body);
  if (!object.has_value()) return std::unexpected(object.error());
  EmbeddingsRequest out;
  std::optional<ApiError> error;
  FieldReader fields(*object, "", error);
  out.model = fields.text("model");
  if (out.model == "") out.model.reset();
  out.inputs = ReadPrompts(fields, limits, "input");
  const std::string encoding = fields.text("encoding_format").value_or("float");
  if (encoding == "base64") out.encoding = EmbeddingsRequest::Encoding::kBase64;
  if (encoding != "base64" && encoding != "float") {
    fields.fail("encoding_format",
                fmt::format("'encoding_format' must be \"float\" or \"base64\", got \"{}\"", encoding),
                "invalid_value");
  }
  out.dimensions = fields.integer("dimensions", 1, INT32_MAX);
  out.priority = ReadPriority(fields);
  for (const char* name : {"user", "metadata", "request_id"}) fields.harmless(name);
  fields.refuse_others();
  if (error.has_value()) return std::unexpected(*std::move(error));
  return out;
}

std::vector<HttpRoute> EmbeddingsApi::RoutesOf(EmbeddingsApi* api) {
  return {{"POST", "/v1/embeddings",
           [api](const HttpRequest& request, const std::shared_ptr<ResponseWriter>& writer) {
             api->answer(request, writer);
           }}};
}

void EmbeddingsApi::answer(const HttpRequest& request, const std::shared_ptr<ResponseWriter>& writer) {
  AnswerService& service = embeddings_.service();
  const auto parsed = ParseEmbeddings(request.body, {.vocabulary = service.vocabulary()});
  if (!parsed.has_value()) return SendError(*writer, parsed.error());
  if (const auto wrong = service.check_model(parsed->model)) return SendError(*writer, *wrong);
  EmbeddingOrder order{
      .id = NewAnswerId("embd-", *writer), .priority = parsed->priority, .dimensions = parsed->dimensions};
  for (const PromptField& input : parsed->inputs) {
    auto tokens = PromptTokens(service, input, "input");
    if (!tokens.has_value()) return SendError(*writer, tokens.error());
    order.prompts.push_back(*std::move(tokens));
  }
  auto done = [writer, encoding = parsed->encoding,
               model = service.model_names().front()](const ApiResult<Embeddings>& embeddings) {
    if (!embeddings.has_value()) return SendError(*writer, embeddings.error());
    writer->send({.body = Body(*embeddings, encoding, model)});
  };
  if (const auto error = embeddings_.start(std::move(order), std::move(done), writer))
    SendError(*writer, *error);
}

}  // namespace shoal
