#include "text/fill_in_middle.h"

#include <array>
#include <optional>

namespace shoal {
namespace {

/// The names of the control tokens before the prefix, before the suffix and before the middle.
struct Markers {
  std::string_view prefix, suffix, middle;
  bool suffix_first = false;  ///< The model was trained with the suffix in front.
};

constexpr std::array kMarkers = {
    Markers{"<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>"},     // Qwen, CodeGemma.
    Markers{"<fim_prefix>", "<fim_suffix>", "<fim_middle>"},           // StarCoder 2, Granite, SmolLM.
    Markers{"<fim-prefix>", "<fim-suffix>", "<fim-middle>"},           // SantaCoder.
    Markers{"<|code_prefix|>", "<|code_suffix|>", "<|code_middle|>"},  // GLM 4.
    Markers{"<\uFF5Cfim\u2581begin\uFF5C>", "<\uFF5Cfim\u2581hole\uFF5C>",
            "<\uFF5Cfim\u2581end\uFF5C>"},                               // DeepSeek.
    Markers{"\u2581<PRE>", "\u2581<SUF>", "\u2581<MID>"},                // Code Llama.
    Markers{"[PREFIX]", "[SUFFIX]", "[MIDDLE]", /*suffix_first=*/true},  // Codestral.
};

/// Ends of a middle: of the file, of the repository, padding.
constexpr std::array<std::string_view, 8> kEnds = {"<|endoftext|>", "<|fim_pad|>", "<|repo_name|>",
                                                   "<|file_sep|>",  "<fim_pad>",   "<repo_name>",
                                                   "<file_sep>",    "\u2581<EOT>"};

/// The names of the control tokens before a repository's name, and before a file's.
struct FileMarkers {
  std::string_view repository, file;
};
constexpr std::array kFileMarkers = {FileMarkers{"<|repo_name|>", "<|file_sep|>"},  // Qwen.
                                     FileMarkers{"<repo_name>", "<file_sep>"},      // StarCoder 2.
                                     FileMarkers{"<reponame>", "<filename>"}};      // Granite.

absl::Status Append(const Tokenizer& tokenizer, std::string_view text, std::vector<int32_t>& out) {
  ASSIGN_OR_RETURN(const std::vector<int32_t> ids, tokenizer.encode(text, {}));
  out.insert(out.end(), ids.begin(), ids.end());
  return absl::OkStatus();
}

/// Appends the marker and the ids of `text`.
absl::Status Append(const Tokenizer& tokenizer, int32_t marker, std::string_view text,
                    std::vector<int32_t>& out) {
  out.push_back(marker);
  return Append(tokenizer, text, out);
}

/// Appends what goes before the text itself. The names of repository and file are those that llama-server writes, as
/// nobody says what they are.
absl::Status AppendFiles(const Tokenizer& tokenizer, const std::vector<ContextFile>& files,
                         std::vector<int32_t>& out) {
  if (files.empty()) return absl::OkStatus();
  for (const FileMarkers& markers : kFileMarkers) {
    const auto repository = tokenizer.token_id(markers.repository);
    const auto marker = tokenizer.token_id(markers.file);
    if (!repository.has_value() || !marker.has_value()) continue;
    RETURN_IF_ERROR(Append(tokenizer, *repository, "myproject\n", out));
    for (const ContextFile& file : files) {
      RETURN_IF_ERROR(Append(tokenizer, *marker, file.name + "\n" + file.text, out));
    }
    return Append(tokenizer, *marker, "filename\n", out);
  }
  for (const ContextFile& file : files) {
    RETURN_IF_ERROR(Append(tokenizer, "\n\n--- snippet ---\n\n" + file.text, out));
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<FillInMiddle> EncodeFillInMiddle(const Tokenizer& tokenizer, const AroundMiddle& around) {
  for (const Markers& markers : kMarkers) {
    const auto before_prefix = tokenizer.token_id(markers.prefix);
    const auto before_suffix = tokenizer.token_id(markers.suffix);
    const auto middle = tokenizer.token_id(markers.middle);
    if (!before_prefix.has_value() || !before_suffix.has_value()) continue;
    if (!middle.has_value() && !markers.suffix_first) continue;
    FillInMiddle out;
    // What the model expects before any text: BOS, where it does.
    ASSIGN_OR_RETURN(out.tokens, tokenizer.encode("", {.add_special = true}));
    RETURN_IF_ERROR(AppendFiles(tokenizer, around.files, out.tokens));
    if (markers.suffix_first) RETURN_IF_ERROR(Append(tokenizer, *before_suffix, around.suffix, out.tokens));
    RETURN_IF_ERROR(Append(tokenizer, *before_prefix, around.prefix, out.tokens));
    if (!markers.suffix_first) {
      RETURN_IF_ERROR(Append(tokenizer, *before_suffix, around.suffix, out.tokens));
      out.tokens.push_back(*middle);
    }
    RETURN_IF_ERROR(Append(tokenizer, around.begun, out.tokens));
    for (const std::string_view name : kEnds) {
      if (const auto id = tokenizer.token_id(name)) out.end_ids.push_back(*id);
    }
    return out;
  }
  return FailedPrecondition(
      "this model's tokenizer has no tokens for a prefix and a suffix (as <|fim_prefix|>); ask a model "
      "that was trained for it");
}

}  // namespace shoal
