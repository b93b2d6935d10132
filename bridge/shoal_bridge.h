// The C ABI of the Rust crate in this folder: tokenizers, chat templates, constrained decoding.
//
// Rules:
//   errors    A call returns 0, or a ShoalFault and a text in *error, which the caller frees. Outputs are
//             written only if it returns 0. No panic crosses the ABI.
//   texts     UTF-8, which is checked.
//   threads   Many threads may use a tokenizer, template or compiler at once; a matcher only one at a time.
//   memory    A handle may not be used after its _free. Every _free accepts null.
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

enum ShoalFault {
  kShoalInvalid = 1,   // The input is wrong.
  kShoalRaised = 2,    // The chat template raised an exception; the text is the template's message.
  kShoalInternal = 3,  // A bug on the Rust side.
  kShoalMissing = 4,   // The model has no chat template.
};

enum ShoalGrammarKind { kShoalJsonSchema = 0, kShoalRegex = 1, kShoalLark = 2 };

// Memory of the caller, which stays valid during the call.
typedef struct {
  const char* data;
  size_t size;
} ShoalView;

// Memory of the bridge, which the caller frees once.
typedef struct {
  char* data;
  size_t size;
} ShoalBytes;
typedef struct {
  int32_t* data;
  size_t size;
} ShoalIds;
void shoal_bytes_free(ShoalBytes bytes);
void shoal_ids_free(ShoalIds ids);

// ---- Tokenizers ----

typedef struct ShoalTokenizer ShoalTokenizer;
int32_t shoal_tokenizer_new(ShoalView json, ShoalTokenizer** out, ShoalBytes* error);
void shoal_tokenizer_free(ShoalTokenizer* tokenizer);
// The largest id plus one.
uint32_t shoal_tokenizer_id_limit(const ShoalTokenizer* tokenizer);
int32_t shoal_tokenizer_encode(const ShoalTokenizer* tokenizer, ShoalView text, bool add_special,
                               bool parse_special, ShoalIds* out, ShoalBytes* error);
int32_t shoal_tokenizer_decode(const ShoalTokenizer* tokenizer, const uint32_t* ids, size_t count,
                               bool skip_special, ShoalBytes* out, ShoalBytes* error);
// The id of a token by its name, or -1.
int64_t shoal_tokenizer_token_id(const ShoalTokenizer* tokenizer, ShoalView token);
bool shoal_tokenizer_is_special(const ShoalTokenizer* tokenizer, uint32_t id);
// The name of a token in the vocabulary, or the bytes that it stands for.
int32_t shoal_tokenizer_token(const ShoalTokenizer* tokenizer, uint32_t id, bool as_bytes, ShoalBytes* out,
                              ShoalBytes* error);

// ---- Chat templates ----

typedef struct ShoalTemplate ShoalTemplate;
// The texts are JSON; an empty text means that there is none. local_seconds: the time for strftime_now, in
// seconds since 1970 of local time.
typedef struct {
  ShoalView messages;
  ShoalView tools;
  ShoalView kwargs;
  int64_t local_seconds;
  bool add_generation_prompt;
  bool continue_final_message;
  // Renders a conversation that the template refuses in another shape, if it takes that.
  bool reshape;
} ShoalRenderRequest;
// From the texts of chat_template.jinja and tokenizer_config.json; a missing file is an empty text.
int32_t shoal_template_new(ShoalView jinja, ShoalView config, ShoalTemplate** out, ShoalBytes* error);
void shoal_template_free(ShoalTemplate* chat_template);
int32_t shoal_template_render(const ShoalTemplate* chat_template, const ShoalRenderRequest* request,
                              ShoalBytes* out, ShoalBytes* error);
// The rendered text and its ids. Control tokens come from the template alone: what the request's texts spell
// becomes the ids of its characters.
int32_t shoal_template_encode(const ShoalTemplate* chat_template, const ShoalTokenizer* tokenizer,
                              const ShoalRenderRequest* request, ShoalBytes* text, ShoalIds* ids,
                              ShoalBytes* error);
// The tokens that end what a model says, ascending: eos_token of the text of tokenizer_config.json, which may
// be empty, what the template (or null) writes behind an assistant's text, and well-known names.
int32_t shoal_end_of_text(const ShoalTokenizer* tokenizer, const ShoalTemplate* chat_template,
                          ShoalView config, ShoalIds* out, ShoalBytes* error);

// ---- Constrained decoding ----

typedef struct ShoalCompiler ShoalCompiler;
typedef struct ShoalMatcher ShoalMatcher;
int32_t shoal_compiler_new(const ShoalTokenizer* tokenizer, size_t vocab_size, const uint32_t* eos,
                           size_t eos_count, ShoalCompiler** out, ShoalBytes* error);
void shoal_compiler_free(ShoalCompiler* compiler);
int32_t shoal_compiler_compile(const ShoalCompiler* compiler, int32_t kind, ShoalView text,
                               ShoalMatcher** out, ShoalBytes* error);
void shoal_matcher_free(ShoalMatcher* matcher);
int32_t shoal_matcher_copy(const ShoalMatcher* matcher, ShoalMatcher** out, ShoalBytes* error);
// words: ceil(vocab_size / 32) words; token i is bit i % 32 of word i / 32.
int32_t shoal_matcher_mask(ShoalMatcher* matcher, uint32_t* words, size_t count, ShoalBytes* error);
int32_t shoal_matcher_consume(ShoalMatcher* matcher, uint32_t token, ShoalBytes* error);
// Takes back the latest `count` consumed tokens.
int32_t shoal_matcher_rewind(ShoalMatcher* matcher, size_t count, ShoalBytes* error);
// The tokens that must come next, often none.
int32_t shoal_matcher_forced_tokens(ShoalMatcher* matcher, ShoalIds* out, ShoalBytes* error);
int32_t shoal_matcher_is_accepting(ShoalMatcher* matcher, bool* out, ShoalBytes* error);
bool shoal_matcher_is_stopped(const ShoalMatcher* matcher);
int32_t shoal_matcher_forced_text(ShoalMatcher* matcher, ShoalBytes* out, ShoalBytes* error);

// Panics in Rust, for the test that no panic crosses the ABI.
int32_t shoal_bridge_panic(ShoalBytes* error);

#ifdef __cplusplus
}
#endif
