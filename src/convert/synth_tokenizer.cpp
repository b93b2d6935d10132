#include "convert/synth_tokenizer.h"

#include <fmt/format.h>

#include <nlohmann/json.hpp>

namespace shoal {
namespace {

using Json = nlohmann::json;  // Sorted keys: the ordered one searches 151,936 tokens one by one.

std::string Utf8(uint32_t code_point) {  // Below U+0800, which is all that byte-level BPE uses.
  if (code_point < 0x80) return {static_cast<char>(code_point)};
  return {static_cast<char>(0xc0 | (code_point >> 6)), static_cast<char>(0x80 | (code_point & 0x3f))};
}

/// GPT-2's printable stand-ins for the bytes (openai/gpt-2, encoder.py, bytes_to_unicode).
std::string StandIn(int byte) {
  const auto printable = [](int b) {
    return (b >= '!' && b <= '~') || (b >= 0xa1 && b <= 0xac) || (b >= 0xae && b <= 0xff);
  };
  if (printable(byte)) return Utf8(static_cast<uint32_t>(byte));
  uint32_t rank = 0;
  for (int b = 0; b < byte; ++b) rank += printable(b) ? 0 : 1;
  return Utf8(256 + rank);
}

constexpr const char* kSpecials[] = {"<|endoftext|>", "<|im_start|>", "<|im_end|>"};

}  // namespace

std::string SynthTokenizerJson(int64_t vocab_size) {
  Json vocab = Json::object();
  for (int byte = 0; byte < 256; ++byte) vocab[StandIn(byte)] = byte;
  Json added = Json::array();
  for (int64_t id = kSynthEndOfText; id < kSynthVocabMin; ++id) {
    const char* content = kSpecials[id - kSynthEndOfText];
    vocab[content] = id;
    added.push_back({{"id", id},
                     {"content", content},
                     {"single_word", false},
                     {"lstrip", false},
                     {"rstrip", false},
                     {"normalized", false},
                     {"special", true}});
  }
  const std::string space = StandIn(' ');
  for (int64_t id = kSynthVocabMin; id < vocab_size; ++id) vocab[fmt::format("{}w{}", space, id)] = id;
  Json byte_level = {
      {"type", "ByteLevel"}, {"add_prefix_space", false}, {"trim_offsets", true}, {"use_regex", true}};
  Json model = {{"type", "BPE"},
                {"dropout", nullptr},
                {"unk_token", nullptr},
                {"continuing_subword_prefix", ""},
                {"end_of_word_suffix", ""},
                {"fuse_unk", false},
                {"byte_fallback", false},
                {"ignore_merges", false},
                {"vocab", std::move(vocab)},
                {"merges", Json::array()}};
  Json tokenizer = {{"version", "1.0"},          {"truncation", nullptr},
                    {"padding", nullptr},        {"added_tokens", std::move(added)},
                    {"normalizer", nullptr},     {"pre_tokenizer", byte_level},
                    {"post_processor", nullptr}, {"decoder", byte_level},
                    {"model", std::move(model)}};
  return tokenizer.dump();
}

std::string SynthTokenizerConfigJson() {
  const Json config = {
      {"tokenizer_class", "PreTrainedTokenizerFast"},
      {"bos_token", nullptr},
      {"eos_token", "<|im_end|>"},
      {"pad_token", "<|endoftext|>"},
      {"chat_template",
       "{% for message in messages %}{{ '<|im_start|>' + message.role + '\\n' + message.content + "
       "'<|im_end|>\\n' }}"
       "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"}};
  return config.dump(2);
}

}  // namespace shoal
