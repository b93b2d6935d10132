//! Constrained decoding: which tokens may come next, so that the text matches a JSON schema, a regular expression or a
//! Lark grammar (llguidance).

use std::sync::Arc;

use llguidance::api::TopLevelGrammar;
use llguidance::toktrie::InferenceCapabilities;
use llguidance::{Matcher, ParserFactory};
use toktrie_hf_tokenizers::ByteTokenizer;

use crate::error::{invalid, Outcome};
use crate::tokenizer::TextTokenizer;

/// Any grammar of this size compiles in seconds: some compilation steps take quadratic time.
const MAX_GRAMMAR_BYTES: usize = 1 << 18;
const MAX_SYMBOLS: usize = 30_000;

#[derive(Clone, Copy)]
pub enum GrammarKind {
    JsonSchema,
    Regex,
    Lark,
}

/// The vocabulary as a trie, shared by all grammars over it.
pub struct Compiler {
    factory: ParserFactory,
    vocab_size: usize,
    eos: Arc<[u32]>,
}

pub struct GrammarMatcher {
    matcher: Matcher,
    vocab_size: usize,
    eos: Arc<[u32]>,
    /// End-of-text tokens taken behind the end, of which `matcher` does not know.
    ends: usize,
}

impl Compiler {
    /// `vocab_size`: number of logits of the model, at least the tokenizer's; `eos`: tokens that end the text.
    pub fn new(tokenizer: &TextTokenizer, vocab_size: usize, eos: &[u32]) -> Outcome<Self> {
        let known = tokenizer.id_limit();
        if eos.is_empty() {
            return Err(invalid!("a grammar needs an end-of-text token, but none was given"));
        }
        if let Some(id) = eos.iter().find(|id| **id >= known) {
            return Err(invalid!("end-of-text token {id} is not in the vocabulary of {known}"));
        }
        if vocab_size < known as usize {
            return Err(invalid!(
                "the model has {vocab_size} logits, fewer than the {known} tokens of its tokenizer"
            ));
        }
        let describe = |e| invalid!("this tokenizer cannot be used with grammars: {}", readable(e));
        let mut bytes = ByteTokenizer::from_tokenizer(tokenizer.inner().clone()).map_err(describe)?;
        bytes.set_eos_tokens(eos);
        let environment = bytes.into_tok_env(Some(vocab_size)).map_err(describe)?;
        let mut factory = ParserFactory::new(
            &environment,
            InferenceCapabilities { ff_tokens: true, ..Default::default() },
            &llguidance::earley::SlicedBiasComputer::general_slices(),
        )
        .map_err(describe)?;
        factory.quiet();
        factory.limits_mut().verbose_errors = false;
        factory.limits_mut().max_grammar_size = MAX_SYMBOLS;
        Ok(Compiler { factory, vocab_size, eos: eos.into() })
    }

    pub fn compile(&self, kind: GrammarKind, text: &str) -> Outcome<GrammarMatcher> {
        check_size(text)?;
        let grammar = match kind {
            GrammarKind::JsonSchema => TopLevelGrammar::from_json_schema(
                serde_json::from_str(text).map_err(|e| invalid!("JSON schema: {e}"))?,
            ),
            GrammarKind::Regex => TopLevelGrammar::from_regex(text),
            GrammarKind::Lark => TopLevelGrammar::from_lark(text.to_string()),
        };
        let matcher = Matcher::new(self.factory.create_parser(grammar));
        match matcher.get_error() {
            Some(error) => Err(invalid!("{}: {}", kind.name(), readable(error))),
            None => {
                Ok(GrammarMatcher { matcher, vocab_size: self.vocab_size, eos: self.eos.clone(), ends: 0 })
            }
        }
    }
}

impl GrammarKind {
    fn name(self) -> &'static str {
        match self {
            GrammarKind::JsonSchema => "JSON schema",
            GrammarKind::Regex => "regular expression",
            GrammarKind::Lark => "Lark grammar",
        }
    }
}

impl GrammarMatcher {
    /// Number of 32-bit words of a mask.
    pub fn mask_words(&self) -> usize {
        self.vocab_size.div_ceil(32)
    }

    /// Bit i of word i / 32: token i may come next. Once the text is complete, only the end-of-text tokens may.
    pub fn mask(&mut self, words: &mut [u32]) -> Outcome<()> {
        let mask = self.matcher.compute_mask_or_eos().map_err(|e| invalid!("grammar: {}", readable(e)))?;
        let bits = mask.as_slice();
        for (i, word) in words.iter_mut().enumerate() {
            *word = bits.get(i).copied().unwrap_or(0);
        }
        Ok(())
    }

    /// On an error (the token may not come next) the matcher is unchanged.
    pub fn consume(&mut self, token: u32) -> Outcome<()> {
        // A text that cannot continue has ended; its end-of-text token is still accepted.
        if self.matcher.is_stopped() && !self.matcher.is_error() && self.eos.contains(&token) {
            self.ends += 1;
            return Ok(());
        }
        let taken =
            self.matcher.try_consume_tokens(&[token]).map_err(|e| invalid!("grammar: {}", readable(e)))?;
        if taken == 0 {
            return Err(invalid!("token {token} cannot come next in this grammar"));
        }
        Ok(())
    }

    /// Takes back the latest `count` consumed tokens.
    pub fn rewind(&mut self, count: usize) -> Outcome<()> {
        let ends = count.min(self.ends);
        self.matcher.rollback(count - ends).map_err(|e| invalid!("grammar: {}", readable(e)))?;
        self.ends -= ends;
        Ok(())
    }

    pub fn is_accepting(&mut self) -> Outcome<bool> {
        self.matcher.is_accepting().map_err(|e| invalid!("grammar: {}", readable(e)))
    }

    pub fn is_stopped(&self) -> bool {
        self.matcher.is_stopped()
    }

    /// The bytes that the grammar forces next.
    pub fn forced_text(&mut self) -> Vec<u8> {
        self.matcher.compute_ff_bytes()
    }

    /// The tokens that must come next, whatever the model says: under each of their masks one token is allowed.
    pub fn forced_tokens(&mut self) -> Vec<u32> {
        self.matcher.compute_ff_tokens()
    }

    pub fn duplicate(&self) -> Self {
        GrammarMatcher {
            matcher: self.matcher.deep_clone(),
            vocab_size: self.vocab_size,
            eos: self.eos.clone(),
            ends: self.ends,
        }
    }
}

fn check_size(text: &str) -> Outcome<()> {
    if text.len() > MAX_GRAMMAR_BYTES {
        return Err(invalid!("the grammar has {} bytes, more than {MAX_GRAMMAR_BYTES}", text.len()));
    }
    Ok(())
}

/// llguidance's text, without its backtraces and marks, and cut where it repeats a large grammar.
fn readable(error: impl std::fmt::Display) -> String {
    const MAX_CHARS: usize = 400;
    let text = error.to_string();
    let text = text.split("\n<").next().unwrap_or_default().trim();
    match text.char_indices().nth(MAX_CHARS) {
        Some((end, _)) => format!("{} ...", &text[..end]),
        None => text.to_string(),
    }
}
