#include "text/tokenizer.h"

#include "base/file.h"
#include "text/bridge.h"

namespace shoal {
namespace {

/// The largest tokenizer.json known, Gemma's, has 33 MB.
constexpr int64_t kTokenizerBytesMax = 256 << 20;

}  // namespace

void Tokenizer::Free::operator()(ShoalTokenizer* tokenizer) const { shoal_tokenizer_free(tokenizer); }

Tokenizer::Tokenizer(ShoalTokenizer* handle)
    : handle_(handle), vocab_size_(static_cast<int32_t>(shoal_tokenizer_id_limit(handle))) {}

absl::StatusOr<Tokenizer> Tokenizer::Load(const std::filesystem::path& folder) {
  const std::filesystem::path path = folder / "tokenizer.json";
  auto json = ReadTextFile(path, kTokenizerBytesMax);
  if (absl::IsNotFound(json.status())) {
    return NotFound("{}: no such file; a model folder needs the tokenizer.json of Hugging Face's tokenizers",
                    path.string());
  }
  RETURN_IF_ERROR(json.status());
  auto tokenizer = FromJson(*json);
  if (!tokenizer.ok()) return Annotate(tokenizer.status(), path.string());
  return tokenizer;
}

absl::StatusOr<Tokenizer> Tokenizer::FromJson(std::string_view json) {
  ShoalTokenizer* handle = nullptr;
  ShoalBytes error{};
  RETURN_IF_ERROR(bridge::Result(shoal_tokenizer_new(bridge::Slice(json), &handle, &error), error));
  return Tokenizer(handle);
}

absl::StatusOr<std::vector<int32_t>> Tokenizer::encode(std::string_view text, EncodeOptions options) const {
  ShoalIds ids{};
  ShoalBytes error{};
  RETURN_IF_ERROR(
      bridge::Result(shoal_tokenizer_encode(handle_.get(), bridge::Slice(text), options.add_special,
                                            options.parse_special, &ids, &error),
                     error));
  return bridge::Take(ids);
}

absl::StatusOr<std::vector<int32_t>> Tokenizer::encode_prompt(std::string_view text) const {
  ASSIGN_OR_RETURN(std::vector<int32_t> ids, encode(text, {.add_special = true, .parse_special = true}));
  const bool twice = ids.size() > 1 && ids[0] == ids[1] && is_special(ids[0]);
  if (!twice) return ids;
  // Twice because of what was added, or because the text itself has it twice?
  ASSIGN_OR_RETURN(const std::vector<int32_t> own, encode(text, {.parse_special = true}));
  if (own.size() < ids.size() && own[0] == ids[0]) ids.erase(ids.begin());
  return ids;
}

absl::StatusOr<std::string> Tokenizer::decode(std::span<const int32_t> ids, bool skip_special) const {
  for (size_t i = 0; i < ids.size(); ++i) {
    if (ids[i] < 0) return InvalidArgument("ids[{}]: {} is no token id", i, ids[i]);
  }
  ShoalBytes text{};
  ShoalBytes error{};
  const auto* unsigned_ids = reinterpret_cast<const uint32_t*>(ids.data());
  RETURN_IF_ERROR(bridge::Result(
      shoal_tokenizer_decode(handle_.get(), unsigned_ids, ids.size(), skip_special, &text, &error), error));
  return bridge::Take(text);
}

std::optional<int32_t> Tokenizer::token_id(std::string_view name) const {
  const int64_t id = shoal_tokenizer_token_id(handle_.get(), bridge::Slice(name));
  return id < 0 ? std::nullopt : std::optional<int32_t>(static_cast<int32_t>(id));
}

absl::StatusOr<std::string> Tokenizer::token_name(int32_t id) const { return token(id, false); }

absl::StatusOr<std::string> Tokenizer::token_bytes(int32_t id) const { return token(id, true); }

absl::StatusOr<std::string> Tokenizer::token(int32_t id, bool as_bytes) const {
  ShoalBytes text{};
  ShoalBytes error{};
  const auto unsigned_id = static_cast<uint32_t>(id);
  const int32_t code = shoal_tokenizer_token(handle_.get(), unsigned_id, as_bytes, &text, &error);
  RETURN_IF_ERROR(bridge::Result(code, error));
  return bridge::Take(text);
}

bool Tokenizer::is_special(int32_t id) const {
  return shoal_tokenizer_is_special(handle_.get(), static_cast<uint32_t>(id));
}

}  // namespace shoal
