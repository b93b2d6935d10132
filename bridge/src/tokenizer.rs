//! Hugging Face's tokenizers, with two additions that a server needs: the bytes of a single token, and encoding in
//! which text that looks like a control token stays text.

use std::collections::HashMap;
use std::sync::OnceLock;

use tokenizers::{AddedToken, Tokenizer};

use crate::error::{invalid, Outcome};

/// How the vocabulary spells bytes, according to the decoder of tokenizer.json.
#[derive(Clone, Copy, PartialEq)]
enum Spelling {
    /// GPT-2's alphabet: every byte is a printable character ("Ġ" is a space).
    ByteLevel,
    /// SentencePiece: "▁" is a space, "<0x0A>" is a byte.
    ByteFallback,
    /// The token is its own text.
    Plain,
}

pub struct TextTokenizer {
    tokenizer: Tokenizer,
    /// The same tokenizer, but without recognising control tokens in text; made on first use.
    literal: OnceLock<Tokenizer>,
    added: HashMap<u32, AddedToken>,
    id_limit: u32,
    spelling: Spelling,
}

impl TextTokenizer {
    pub fn new(json: &[u8]) -> Outcome<Self> {
        let mut tokenizer = Tokenizer::from_bytes(json)
            .map_err(|e| invalid!("not a tokenizer.json of Hugging Face's tokenizers: {e}"))?;
        // A server never truncates or pads its input, whatever the file says.
        tokenizer.with_padding(None);
        tokenizer.with_truncation(None).map_err(|e| invalid!("tokenizer.json: {e}"))?;
        let largest = tokenizer.get_vocab(true).into_values().max();
        let id_limit = largest.map_or(0, |id| id.saturating_add(1));
        if id_limit > i32::MAX as u32 {
            return Err(invalid!("tokenizer.json: {} is no token id", id_limit - 1));
        }
        Ok(TextTokenizer {
            added: tokenizer.get_added_tokens_decoder().into_iter().collect(),
            spelling: spelling_of(&tokenizer)?,
            literal: OnceLock::new(),
            tokenizer,
            id_limit,
        })
    }

    pub fn inner(&self) -> &Tokenizer {
        &self.tokenizer
    }

    /// The largest id plus one.
    pub fn id_limit(&self) -> u32 {
        self.id_limit
    }

    pub fn encode(&self, text: &str, add_special: bool, parse_special: bool) -> Outcome<Vec<u32>> {
        let tokenizer = if parse_special {
            &self.tokenizer
        } else {
            self.literal.get_or_init(|| literal_copy(&self.tokenizer, &self.added))
        };
        let encoding = tokenizer
            .encode_fast(text, add_special)
            .map_err(|e| invalid!("the text cannot be tokenized: {e}"))?;
        Ok(encoding.get_ids().to_vec())
    }

    /// Ids that name no token decode to nothing: checkpoints pad their vocabulary.
    pub fn decode(&self, ids: &[u32], skip_special: bool) -> Outcome<String> {
        self.tokenizer.decode(ids, skip_special).map_err(|e| invalid!("the ids cannot be decoded: {e}"))
    }

    pub fn token_id(&self, token: &str) -> Option<u32> {
        self.tokenizer.token_to_id(token)
    }

    /// The name in the vocabulary ("Ġworld").
    pub fn token_name(&self, id: u32) -> Option<String> {
        self.tokenizer.id_to_token(id)
    }

    /// The bytes that the token adds to a text (" world"), not always whole characters.
    pub fn token_bytes(&self, id: u32) -> Option<Vec<u8>> {
        if let Some(token) = self.added.get(&id) {
            return Some(token.content.clone().into_bytes());
        }
        let name = self.token_name(id)?;
        Some(match self.spelling {
            Spelling::ByteLevel => {
                name.chars().map(byte_of).collect::<Option<Vec<u8>>>().unwrap_or_else(|| name.into_bytes())
            }
            Spelling::ByteFallback => match hex_byte(&name) {
                Some(byte) => vec![byte],
                None => name.replace('▁', " ").into_bytes(),
            },
            Spelling::Plain => name.into_bytes(),
        })
    }

    pub fn is_special(&self, id: u32) -> bool {
        self.added.get(&id).is_some_and(|token| token.special)
    }
}

fn spelling_of(tokenizer: &Tokenizer) -> Outcome<Spelling> {
    let decoder = serde_json::to_string(&tokenizer.get_decoder())
        .map_err(|e| invalid!("tokenizer.json: its decoder cannot be read back: {e}"))?;
    Ok(if decoder.contains("\"ByteLevel\"") {
        Spelling::ByteLevel
    } else if decoder.contains("\"ByteFallback\"") {
        Spelling::ByteFallback
    } else {
        Spelling::Plain
    })
}

/// A copy that treats control tokens in a text as text. Files mark some of them as not special ("<tool_call>"), so
/// their shape decides, too. Runs of spaces and the like, which are added tokens in some families, stay tokens.
fn literal_copy(tokenizer: &Tokenizer, added: &HashMap<u32, AddedToken>) -> Tokenizer {
    let mut copy = tokenizer.clone();
    let mut unmarked: Vec<(&u32, &AddedToken)> = added
        .iter()
        .filter(|(_, t)| !t.special && t.content.starts_with('<') && t.content.ends_with('>'))
        .collect();
    unmarked.sort_by_key(|(id, _)| **id);
    let marked: Vec<AddedToken> =
        unmarked.into_iter().map(|(_, t)| AddedToken { special: true, ..t.clone() }).collect();
    copy.add_special_tokens(&marked);
    copy.set_encode_special_tokens(true);
    copy
}

/// "<0x0A>" -> 10.
fn hex_byte(name: &str) -> Option<u8> {
    let digits = name.strip_prefix("<0x")?.strip_suffix('>')?;
    (digits.len() == 2).then(|| u8::from_str_radix(digits, 16).ok())?
}

/// The byte that a character of GPT-2's alphabet stands for. Printable bytes stand for themselves; the n-th other byte
/// is U+0100 + n.
fn byte_of(c: char) -> Option<u8> {
    let printable = |b: u32| matches!(b, 0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff);
    let code = c as u32;
    if code < 256 {
        return printable(code).then_some(code as u8);
    }
    (0..256u32).filter(|b| !printable(*b)).nth((code - 256) as usize).map(|b| b as u8)
}
