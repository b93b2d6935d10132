// The C ABI of the Rust crate in this folder: tokenizers, chat templates, constrained decoding.
//
// Rules: a call returns 0, or a code from ShoalFault and a text in *error (to be freed). Outputs are written
// only where 0 is returned. Texts are UTF-8 and are checked. No panic crosses. Handles of tokenizers,
// templates and compilers may be used by many threads at once, a matcher by one at a time; none may be used
// after its _free, which takes null too.
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

enum ShoalFault {
  kShoalInvalid = 1,   // The input is wrong.
  kShoalRaised = 2,    // The chat template refused the conversation; the text is its own.
  kShoalInternal = 3,  // A bug on the Rust side.
  kShoalMissing = 4,   // The model has no such part.
};

enum ShoalGrammarKind { kShoalJsonSchema = 0, kShoalRegex = 1, kShoalLark = 2 };

// The caller's bytes, alive during the call.
typedef struct {
  const char* data;
  size_t size;
} ShoalSlice;

// The bridge's memory, to be freed once.
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

// -------------------------------------------------------------------------------------------------
// tokenizers

typedef struct ShoalTokenizer ShoalTokenizer;
int32_t shoal_tokenizer_new(ShoalSlice json, ShoalTokenizer** out, ShoalBytes* error);
void shoal_tokenizer_free(ShoalTokenizer* tokenizer);
// One above the largest id.
uint32_t shoal_tokenizer_id_limit(const ShoalTokenizer* tokenizer);
int32_t shoal_tokenizer_encode(const ShoalTokenizer* tokenizer, ShoalSlice text, bool add_special,
                               bool parse_special, ShoalIds* out, ShoalBytes* error);
int32_t shoal_tokenizer_decode(const ShoalTokenizer* tokenizer, const uint32_t* ids, size_t count,
                               bool skip_special, ShoalBytes* out, ShoalBytes* error);
// -1 where there is none.
int64_t shoal_tokenizer_token_id(const ShoalTokenizer* tokenizer, ShoalSlice token);
bool shoal_tokenizer_is_special(const ShoalTokenizer* tokenizer, uint32_t id);
// The token's name in the vocabulary, or the bytes it stands for.
int32_t shoal_tokenizer_token(const ShoalTokenizer* tokenizer, uint32_t id, bool as_bytes, ShoalBytes* out,
                              ShoalBytes* error);

// --------------------------------------------------------------------------------------------- chat
// templates

typedef struct ShoalTemplate ShoalTemplate;
// JSON texts; an empty one is an absent one. local_seconds: seconds since 1970 as the wall shows them, for
// strftime_now.
typedef struct {
  ShoalSlice messages;
  ShoalSlice tools;
  ShoalSlice kwargs;
  int64_t local_seconds;
  bool add_generation_prompt;
  bool continue_final_message;
} ShoalRenderRequest;
// From chat_template.jinja and tokenizer_config.json, each empty where absent.
int32_t shoal_template_new(ShoalSlice jinja, ShoalSlice config, ShoalTemplate** out, ShoalBytes* error);
void shoal_template_free(ShoalTemplate* chat_template);
int32_t shoal_template_render(const ShoalTemplate* chat_template, const ShoalRenderRequest* request,
                              ShoalBytes* out, ShoalBytes* error);

// ---------------------------------------------------------------------------------------- constrained
// decoding

typedef struct ShoalCompiler ShoalCompiler;
typedef struct ShoalMatcher ShoalMatcher;
int32_t shoal_compiler_new(const ShoalTokenizer* tokenizer, size_t vocab_size, const uint32_t* eos,
                           size_t eos_count, ShoalCompiler** out, ShoalBytes* error);
void shoal_compiler_free(ShoalCompiler* compiler);
int32_t shoal_compiler_compile(const ShoalCompiler* compiler, int32_t kind, ShoalSlice text,
                               ShoalMatcher** out, ShoalBytes* error);
void shoal_matcher_free(ShoalMatcher* matcher);
int32_t shoal_matcher_copy(const ShoalMatcher* matcher, ShoalMatcher** out, ShoalBytes* error);
// words: ceil(vocab_size / 32), bit i of word i / 32 for token i.
int32_t shoal_matcher_mask(ShoalMatcher* matcher, uint32_t* words, size_t count, ShoalBytes* error);
int32_t shoal_matcher_consume(ShoalMatcher* matcher, uint32_t token, ShoalBytes* error);
int32_t shoal_matcher_is_accepting(ShoalMatcher* matcher, bool* out, ShoalBytes* error);
bool shoal_matcher_is_stopped(const ShoalMatcher* matcher);
int32_t shoal_matcher_forced_text(ShoalMatcher* matcher, ShoalBytes* out, ShoalBytes* error);

// Panics inside, for the test that none crosses.
int32_t shoal_bridge_panic(ShoalBytes* error);

#ifdef __cplusplus
}
#endif
