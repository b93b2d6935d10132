#include "formats/gguf_text.h"

#include <algorithm>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <unordered_map>
#include <unordered_set>
#include <utility>

#include "base/status.h"
#include "formats/gguf_pre_tokenizers.h"
#include "formats/gguf_reader.h"
#include "formats/mapped_file.h"
#include "formats/strict_json.h"

namespace shoal {
namespace {

using Json = nlohmann::json;

/// tokenizer.ggml.token_type, from llama.cpp's enum llama_token_type.
enum TokenKind : int64_t {
  kNormal = 1,
  kUnknown = 2,
  kControl = 3,
  kUserDefined = 4,
  kUnused = 5,
  kByte = 6
};

/// Beyond any token: SentencePiece pieces are tried at every place where they can be cut in two.
constexpr size_t kTokenBytesMax = 4096;

/// The table of tokens, checked.
struct Vocabulary {
  std::vector<std::string_view> tokens;
  std::vector<int64_t> kinds;  ///< Empty: all normal.

  int64_t kind(size_t id) const { return kinds.empty() ? int64_t{kNormal} : kinds[id]; }
};

absl::StatusOr<Vocabulary> ReadVocabulary(const GgufKeys& keys) {
  constexpr std::string_view kTokens = "tokenizer.ggml.tokens";
  constexpr std::string_view kKinds = "tokenizer.ggml.token_type";
  Vocabulary vocabulary;
  const GgufValue* tokens = keys.find(kTokens);
  auto texts = tokens == nullptr ? std::nullopt : tokens->as_strings();
  if (!texts || texts->empty()) return keys.refuse(kTokens, "an array of strings");
  vocabulary.tokens = *std::move(texts);
  for (size_t id = 0; id < vocabulary.tokens.size(); ++id) {
    const std::string_view token = vocabulary.tokens[id];
    if (token.size() > kTokenBytesMax || !IsUtf8(token)) {
      return InvalidArgument(
          "checkpoint: {}: key '{}': token {}: expected at most {} bytes of UTF-8, found '{}'", keys.file(),
          kTokens, id, kTokenBytesMax, Printable(token, 40));
    }
  }
  if (const GgufValue* kinds = keys.find(kKinds)) {
    auto numbers = kinds->as_ints();
    if (!numbers || numbers->size() != vocabulary.tokens.size()) {
      return keys.refuse(kKinds, fmt::format("an array of {} integers", vocabulary.tokens.size()));
    }
    vocabulary.kinds = *std::move(numbers);
  }
  return vocabulary;
}

/// The token under a key such as tokenizer.ggml.bos_token_id; nullopt where there is none.
absl::StatusOr<std::optional<int64_t>> TokenAt(const GgufKeys& keys, std::string_view key, size_t tokens) {
  const auto last = static_cast<int64_t>(tokens) - 1;
  const GgufValue* value = keys.find(key);
  // Some converters write -1, or its bits as u32, for "none".
  if (value != nullptr && value->as_int() && (*value->as_int() == -1 || *value->as_int() == 0xffffffff)) {
    return std::optional<int64_t>();
  }
  return keys.optional_int(key, {0, last});
}

Json SplitAt(std::string_view pattern) {
  return {{"type", "Split"},
          {"pattern", {{"Regex", std::string(pattern)}}},
          {"behavior", "Isolated"},
          {"invert", false}};
}

Json AddedTokens(const Vocabulary& vocabulary) {
  Json added = Json::array();
  for (size_t id = 0; id < vocabulary.tokens.size(); ++id) {
    const int64_t kind = vocabulary.kind(id);
    if (kind != kControl && kind != kUserDefined && kind != kUnknown) continue;
    if (vocabulary.tokens[id].empty()) continue;
    added.push_back({{"id", id},
                     {"content", std::string(vocabulary.tokens[id])},
                     {"single_word", false},
                     {"lstrip", false},
                     {"rstrip", false},
                     {"normalized", false},
                     {"special", kind != kUserDefined}});
  }
  return added;
}

Json VocabularyJson(const Vocabulary& vocabulary) {
  Json vocab = Json::object();
  for (size_t id = 0; id < vocabulary.tokens.size(); ++id) {
    vocab.emplace(std::string(vocabulary.tokens[id]), id);  // Of equal tokens the first is the one.
  }
  return vocab;
}

/// merges as they are listed: "left right". A merge of strings that are no tokens can never apply and
/// is dropped, as llama.cpp does: the tokenizers library would refuse the whole list.
absl::StatusOr<Json> ReadMerges(const GgufKeys& keys, const Vocabulary& vocabulary) {
  constexpr std::string_view kMerges = "tokenizer.ggml.merges";
  const GgufValue* value = keys.find(kMerges);
  const auto lines = value == nullptr ? std::nullopt : value->as_strings();
  if (!lines) return keys.refuse(kMerges, "an array of strings");
  const std::unordered_set<std::string_view> tokens(vocabulary.tokens.begin(), vocabulary.tokens.end());
  Json merges = Json::array();
  for (const std::string_view line : *lines) {
    const size_t space = line.find(' ', line.empty() ? 0 : 1);  // A left half may itself begin with a space.
    if (space == std::string_view::npos || space + 1 == line.size() || !IsUtf8(line)) {
      return InvalidArgument("checkpoint: {}: key '{}': expected 'left right', found '{}'", keys.file(),
                             kMerges, Printable(line, 60));
    }
    const std::string left(line.substr(0, space));
    const std::string right(line.substr(space + 1));
    if (!tokens.contains(left) || !tokens.contains(right) || !tokens.contains(left + right)) continue;
    merges.push_back({left, right});
  }
  return merges;
}

/// SentencePiece merges the two neighbours that together are the token with the best score. As a list of
/// merges in order: every way to cut a token into two tokens, by falling score.
absl::StatusOr<Json> MergesByScore(const GgufKeys& keys, const Vocabulary& vocabulary) {
  constexpr std::string_view kScores = "tokenizer.ggml.scores";
  const GgufValue* value = keys.find(kScores);
  const auto scores = value == nullptr ? std::nullopt : value->as_numbers();
  if (!scores || scores->size() != vocabulary.tokens.size()) {
    return keys.refuse(kScores, fmt::format("an array of {} numbers", vocabulary.tokens.size()));
  }
  std::unordered_map<std::string_view, size_t> ids;
  for (size_t id = 0; id < vocabulary.tokens.size(); ++id) {
    if (vocabulary.kind(id) == kNormal) ids.emplace(vocabulary.tokens[id], id);
  }
  struct Merge {
    double score;
    size_t left, right;
    size_t order;  ///< As they were found: by the id of what they make.
  };
  std::vector<Merge> merges;
  for (size_t id = 0; id < vocabulary.tokens.size(); ++id) {
    const std::string_view token = vocabulary.tokens[id];
    if (vocabulary.kind(id) != kNormal) continue;
    for (size_t cut = 1; cut < token.size(); ++cut) {
      const auto left = ids.find(token.substr(0, cut));
      if (left == ids.end()) continue;
      const auto right = ids.find(token.substr(cut));
      if (right != ids.end()) merges.push_back({(*scores)[id], left->second, right->second, merges.size()});
    }
  }
  // NaN scores would make the order undefined; they sort as the worst.
  std::ranges::sort(merges, {}, [](const Merge& merge) {
    return std::pair(merge.score == merge.score ? -merge.score : 1e300, merge.order);
  });
  Json result = Json::array();
  for (const Merge& merge : merges) {
    result.push_back(
        {std::string(vocabulary.tokens[merge.left]), std::string(vocabulary.tokens[merge.right])});
  }
  return result;
}

Json BpeModel(const Vocabulary& vocabulary, Json merges) {
  return {{"type", "BPE"},
          {"dropout", nullptr},
          {"unk_token", nullptr},
          {"continuing_subword_prefix", nullptr},
          {"end_of_word_suffix", nullptr},
          {"fuse_unk", false},
          {"byte_fallback", false},
          {"ignore_merges", false},
          {"vocab", VocabularyJson(vocabulary)},
          {"merges", std::move(merges)}};
}

/// Puts BOS before and EOS after a text, as the file says.
absl::Status AddTemplate(const GgufKeys& keys, const Vocabulary& vocabulary, bool bos_by_default,
                         Json* tokenizer) {
  ASSIGN_OR_RETURN(const auto bos, TokenAt(keys, "tokenizer.ggml.bos_token_id", vocabulary.tokens.size()));
  ASSIGN_OR_RETURN(const auto eos, TokenAt(keys, "tokenizer.ggml.eos_token_id", vocabulary.tokens.size()));
  ASSIGN_OR_RETURN(const auto add_bos, keys.optional_bool("tokenizer.ggml.add_bos_token"));
  ASSIGN_OR_RETURN(const auto add_eos, keys.optional_bool("tokenizer.ggml.add_eos_token"));
  Json single = Json::array();
  Json special = Json::object();
  const auto put = [&](int64_t id) {
    const std::string text(vocabulary.tokens[static_cast<size_t>(id)]);
    single.push_back({{"SpecialToken", {{"id", text}, {"type_id", 0}}}});
    special[text] = {{"id", text}, {"ids", Json::array({id})}, {"tokens", Json::array({text})}};
  };
  if (bos && add_bos.value_or(bos_by_default)) put(*bos);
  single.push_back({{"Sequence", {{"id", "A"}, {"type_id", 0}}}});
  if (eos && add_eos.value_or(false)) put(*eos);
  if (single.size() == 1) return absl::OkStatus();
  Json pair = single;
  pair.push_back({{"Sequence", {{"id", "B"}, {"type_id", 0}}}});
  (*tokenizer)["post_processor"] = {
      {"type", "TemplateProcessing"}, {"single", single}, {"pair", pair}, {"special_tokens", special}};
  return absl::OkStatus();
}

Json EmptyTokenizer(const Vocabulary& vocabulary) {
  return {{"version", "1.0"},          {"truncation", nullptr},
          {"padding", nullptr},        {"added_tokens", AddedTokens(vocabulary)},
          {"normalizer", nullptr},     {"pre_tokenizer", nullptr},
          {"post_processor", nullptr}, {"decoder", nullptr}};
}

absl::StatusOr<Json> ByteLevelTokenizer(const GgufKeys& keys, const Vocabulary& vocabulary) {
  ASSIGN_OR_RETURN(const auto named, keys.optional_string("tokenizer.ggml.pre"));
  const std::string_view name = named.value_or("default");
  const auto all = PreTokenizers();
  const auto pre = std::ranges::find(all, name, &PreTokenizer::name);
  if (pre == all.end()) {
    std::vector<std::string_view> known;
    for (const PreTokenizer& each : all) known.push_back(each.name);
    return Unimplemented("checkpoint: {}: key 'tokenizer.ggml.pre': expected one of {}, found '{}'",
                         keys.file(), fmt::join(known, ", "), Printable(name, 60));
  }
  Json tokenizer = EmptyTokenizer(vocabulary);
  if (pre->nfc) tokenizer["normalizer"] = {{"type", "NFC"}};
  const Json byte_level = {
      {"type", "ByteLevel"}, {"add_prefix_space", false}, {"trim_offsets", true}, {"use_regex", false}};
  Json steps = Json::array();
  for (const std::string_view pattern : pre->patterns) steps.push_back(SplitAt(pattern));
  steps.push_back(byte_level);
  tokenizer["pre_tokenizer"] = {{"type", "Sequence"}, {"pretokenizers", std::move(steps)}};
  tokenizer["decoder"] = byte_level;
  ASSIGN_OR_RETURN(Json merges, ReadMerges(keys, vocabulary));
  tokenizer["model"] = BpeModel(vocabulary, std::move(merges));
  tokenizer["model"]["ignore_merges"] = pre->ignore_merges;
  RETURN_IF_ERROR(AddTemplate(keys, vocabulary, pre->add_bos, &tokenizer));
  return tokenizer;
}

/// Where the merges of a vocabulary of SentencePiece's spelling come from.
enum class MergeOrder : uint8_t { kScores, kListed };

absl::StatusOr<Json> SentencePieceTokenizer(const GgufKeys& keys, const Vocabulary& vocabulary,
                                            MergeOrder order) {
  ASSIGN_OR_RETURN(const auto prefix, keys.optional_bool("tokenizer.ggml.add_space_prefix"));
  const bool space_first = prefix.value_or(order == MergeOrder::kScores);
  const Json to_space = {{"type", "Replace"}, {"pattern", {{"String", "▁"}}}, {"content", " "}};
  const Json from_space = {{"type", "Replace"}, {"pattern", {{"String", " "}}}, {"content", "▁"}};
  Json tokenizer = EmptyTokenizer(vocabulary);
  Json normalizers = Json::array();
  if (space_first) normalizers.push_back({{"type", "Prepend"}, {"prepend", "▁"}});
  normalizers.push_back(from_space);
  tokenizer["normalizer"] = {{"type", "Sequence"}, {"normalizers", normalizers}};
  Json decoders = {to_space, {{"type", "ByteFallback"}}, {{"type", "Fuse"}}};
  if (space_first) decoders.push_back({{"type", "Strip"}, {"content", " "}, {"start", 1}, {"stop", 0}});
  tokenizer["decoder"] = {{"type", "Sequence"}, {"decoders", decoders}};
  ASSIGN_OR_RETURN(Json merges, order == MergeOrder::kScores ? MergesByScore(keys, vocabulary)
                                                             : ReadMerges(keys, vocabulary));
  tokenizer["model"] = BpeModel(vocabulary, std::move(merges));
  tokenizer["model"]["byte_fallback"] = true;
  tokenizer["model"]["fuse_unk"] = true;
  ASSIGN_OR_RETURN(const auto unknown,
                   TokenAt(keys, "tokenizer.ggml.unknown_token_id", vocabulary.tokens.size()));
  if (unknown) {
    tokenizer["model"]["unk_token"] = std::string(vocabulary.tokens[static_cast<size_t>(*unknown)]);
  }
  RETURN_IF_ERROR(AddTemplate(keys, vocabulary, true, &tokenizer));
  return tokenizer;
}

/// tokenizer_config.json: what templates may name, and the template.
absl::StatusOr<Json> TokenizerConfig(const GgufKeys& keys, const Vocabulary& vocabulary) {
  Json config = {{"tokenizer_class", "PreTrainedTokenizerFast"}};  // For whoever reads a converted folder.
  constexpr std::pair<const char*, const char*> kTokens[] = {
      {"bos_token", "tokenizer.ggml.bos_token_id"},
      {"eos_token", "tokenizer.ggml.eos_token_id"},
      {"unk_token", "tokenizer.ggml.unknown_token_id"},
      {"pad_token", "tokenizer.ggml.padding_token_id"}};
  for (const auto& [name, key] : kTokens) {
    ASSIGN_OR_RETURN(const auto id, TokenAt(keys, key, vocabulary.tokens.size()));
    if (id) config[name] = std::string(vocabulary.tokens[static_cast<size_t>(*id)]);
  }
  constexpr std::string_view kTemplate = "tokenizer.chat_template";
  ASSIGN_OR_RETURN(const auto chat, keys.optional_string(kTemplate));
  if (chat && !IsUtf8(*chat)) return keys.refuse(kTemplate, "UTF-8");
  if (chat) config["chat_template"] = std::string(*chat);
  return config;
}

}  // namespace

absl::StatusOr<GgufText> TextOfGguf(const GgufMetadata& metadata, std::string_view file_name) {
  const GgufKeys keys(metadata, "", file_name);
  ASSIGN_OR_RETURN(const std::string_view kind, keys.required_string("tokenizer.ggml.model"));
  ASSIGN_OR_RETURN(const Vocabulary vocabulary, ReadVocabulary(keys));
  absl::StatusOr<Json> tokenizer = Unimplemented(
      "checkpoint: {}: key 'tokenizer.ggml.model': expected \"gpt2\" (byte-level BPE), \"llama\" or "
      "\"gemma4\" "
      "(SentencePiece BPE by scores or by merges), found \"{}\"",
      file_name, Printable(kind, 60));
  if (kind == "gpt2") tokenizer = ByteLevelTokenizer(keys, vocabulary);
  if (kind == "llama") tokenizer = SentencePieceTokenizer(keys, vocabulary, MergeOrder::kScores);
  if (kind == "gemma4") tokenizer = SentencePieceTokenizer(keys, vocabulary, MergeOrder::kListed);
  if (!tokenizer.ok()) return tokenizer.status();
  ASSIGN_OR_RETURN(const Json config, TokenizerConfig(keys, vocabulary));
  return GgufText{tokenizer->dump(), config.dump()};
}

absl::StatusOr<GgufText> TextOfGgufFile(const std::string& path) {
  const std::string name = std::filesystem::path(path).filename().string();
  ASSIGN_OR_RETURN(const MappedFile file, MappedFile::Open(path));
  ASSIGN_OR_RETURN(const GgufHeader header, ParseGguf(file.bytes(), name));
  return TextOfGguf(header.metadata, name);
}

absl::Status AddTokenIds(const GgufKeys& keys, Json* config) {
  // A server must stop where the model ends its turn, which many files call neither eos nor eot.
  constexpr std::string_view kEnds[] = {
#include "formats/end_of_text_names.inc"
  };
  if (keys.find("tokenizer.ggml.tokens") == nullptr) return absl::OkStatus();
  ASSIGN_OR_RETURN(const Vocabulary vocabulary, ReadVocabulary(keys));
  const size_t count = vocabulary.tokens.size();
  std::vector<int64_t> ends;
  for (const char* key :
       {"tokenizer.ggml.eos_token_id", "tokenizer.ggml.eot_token_id", "tokenizer.ggml.eom_token_id"}) {
    ASSIGN_OR_RETURN(const auto id, TokenAt(keys, key, count));
    if (id) ends.push_back(*id);
  }
  const bool harmony = std::ranges::find(vocabulary.tokens, "<|return|>") != vocabulary.tokens.end();
  for (size_t id = 0; id < count; ++id) {
    if (vocabulary.kind(id) != kControl || std::ranges::find(kEnds, vocabulary.tokens[id]) == std::end(kEnds))
      continue;
    if (harmony && vocabulary.tokens[id] == "<|end|>") continue;  // Ends a message of several, not the turn.
    ends.push_back(static_cast<int64_t>(id));
  }
  std::ranges::sort(ends);
  ends.erase(std::ranges::unique(ends).begin(), ends.end());
  if (!ends.empty()) (*config)["eos_token_id"] = ends;
  ASSIGN_OR_RETURN(const auto bos, TokenAt(keys, "tokenizer.ggml.bos_token_id", count));
  if (bos) (*config)["bos_token_id"] = *bos;
  ASSIGN_OR_RETURN(const auto pad, TokenAt(keys, "tokenizer.ggml.padding_token_id", count));
  if (pad) (*config)["pad_token_id"] = *pad;
  return absl::OkStatus();
}

}  // namespace shoal
