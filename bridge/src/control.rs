//! The control tokens of a tokenizer ("<|im_end|>"), which the text of a message must not be able to forge.

use std::collections::HashMap;
use std::ops::Range;

use aho_corasick::AhoCorasick;
use tokenizers::{AddedToken, NormalizedString, Normalizer, NormalizerWrapper, Token};

use crate::error::{invalid, Outcome};

pub struct ControlTokens {
    /// Finds the spellings of all tokens, overlapping ones too.
    spellings: AhoCorasick,
    /// For each pattern: whether the tokenizer marks the token as special.
    special: Vec<bool>,
    contents: Vec<String>,
    /// Spellings of the tokens that are recognised in normalized text only, as normalized.
    normalized: Option<AhoCorasick>,
    by_id: HashMap<u32, String>,
}

/// An occurrence of a control token's spelling in a text.
pub struct Spelling {
    pub range: Range<usize>,
    pub special: bool,
    token: Option<usize>,
}

impl ControlTokens {
    pub fn new(added: &HashMap<u32, AddedToken>, normalizer: Option<&NormalizerWrapper>) -> Outcome<Self> {
        let mut tokens: Vec<(&u32, &AddedToken)> = added.iter().filter(|(_, t)| is_control(t)).collect();
        tokens.sort_by_key(|(id, _)| **id);
        let contents: Vec<String> = tokens.iter().map(|(_, t)| t.content.clone()).collect();
        let mut normalized = Vec::new();
        if let Some(normalizer) = normalizer {
            for (_, token) in tokens.iter().filter(|(_, t)| t.normalized) {
                let mut content = NormalizedString::from(token.content.as_str());
                let changed = normalizer.normalize(&mut content);
                changed.map_err(|e| invalid!("tokenizer.json: added token {:?}: {e}", token.content))?;
                normalized.push(content.get().to_string());
            }
        }
        let build = |patterns: &[String]| {
            AhoCorasick::new(patterns).map_err(|e| invalid!("tokenizer.json: its added tokens: {e}"))
        };
        Ok(ControlTokens {
            spellings: build(&contents)?,
            special: tokens.iter().map(|(_, t)| t.special).collect(),
            normalized: if normalized.is_empty() { None } else { Some(build(&normalized)?) },
            by_id: tokens.iter().map(|(id, t)| (**id, t.content.clone())).collect(),
            contents,
        })
    }

    pub fn is_empty(&self) -> bool {
        self.contents.is_empty()
    }

    /// Every occurrence of a spelling in `text`, by position; occurrences may overlap.
    pub fn find(&self, text: &str, normalizer: Option<&NormalizerWrapper>) -> Vec<Spelling> {
        let mut found: Vec<Spelling> = self
            .spellings
            .find_overlapping_iter(text)
            .map(|at| {
                let token = at.pattern().as_usize();
                Spelling { range: at.range(), special: self.special[token], token: Some(token) }
            })
            .collect();
        if let (Some(spellings), Some(normalizer)) = (&self.normalized, normalizer) {
            let mut normalized = NormalizedString::from(text);
            if normalizer.normalize(&mut normalized).is_ok() {
                let originals = spellings.find_overlapping_iter(normalized.get()).filter_map(|at| {
                    normalized.convert_offsets(tokenizers::normalizer::Range::Normalized(at.range()))
                });
                found.extend(originals.map(|range| Spelling { range, special: true, token: None }));
            }
        }
        found.sort_by_key(|spelling| (spelling.range.start, spelling.range.end));
        found
    }

    /// The token that `spelling`, found by `find`, spells; nothing where it does so only once normalized.
    pub fn content(&self, spelling: &Spelling) -> Option<&str> {
        spelling.token.map(|token| self.contents[token].as_str())
    }

    /// Whether the tokenizer's model itself made a control token of `text`: some vocabularies list them as words.
    pub fn forged(&self, tokens: &[Token], text: &str) -> bool {
        tokens.iter().any(|token| self.by_id.get(&token.id).is_some_and(|content| text.contains(content)))
    }
}

/// Files mark some control tokens as not special ("<tool_call>"), so the shape decides, too. Runs of spaces and the
/// like, which are added tokens in some families, stay tokens.
pub fn is_control(token: &AddedToken) -> bool {
    let text = token.content.as_str();
    let inner = text.strip_prefix('[').and_then(|t| t.strip_suffix(']')).unwrap_or("");
    let bracketed = !inner.is_empty()
        && inner.chars().all(|c| c.is_ascii_uppercase() || c.is_ascii_digit() || "_/|".contains(c));
    let tagged = text.starts_with('<') && text.ends_with('>');
    !text.trim().is_empty() && (token.special || tagged || bracketed)
}
