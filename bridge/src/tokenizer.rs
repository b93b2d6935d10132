//! Hugging Face's tokenizers, with two additions that a server needs: the bytes of a single token, and encoding in
//! which text that looks like a control token stays text.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, OnceLock};

use tokenizers::{AddedToken, Model, OffsetType, PreTokenizer, Token, Tokenizer};

use crate::control::{is_control, ControlTokens};
use crate::error::{invalid, Outcome};
use crate::origin::{free_marks, Guard, Prompt};

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
    guard: Arc<Guard>,
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
        let added: HashMap<u32, AddedToken> = tokenizer.get_added_tokens_decoder().into_iter().collect();
        let normalizer = tokenizer.get_normalizer().cloned();
        let controls = ControlTokens::new(&added, normalizer.as_ref())?;
        Ok(TextTokenizer {
            added,
            guard: Arc::new(Guard { controls, normalizer }),
            spelling: spelling_of(&tokenizer)?,
            literal: OnceLock::new(),
            tokenizer,
            id_limit,
        })
    }

    pub fn inner(&self) -> &Tokenizer {
        &self.tokenizer
    }

    /// What chat templates need to keep the texts of messages from forging control tokens.
    pub fn guard(&self) -> &Arc<Guard> {
        &self.guard
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

    /// The ids of a prompt, with control tokens only where no character of their spelling is the request's. All else is
    /// as in `encode`: text on both sides of such a border is cut and merged as one text.
    pub fn encode_prompt(&self, prompt: &Prompt) -> Outcome<Vec<u32>> {
        let forged = self.forged(prompt);
        if forged.is_empty() {
            return self.encode(&prompt.text, false, true);
        }
        let text = prompt.text.as_str();
        let taken: HashSet<char> = text.chars().filter(|c| *c as u32 >= 0x10_0000).collect();
        let first = forged.iter().filter_map(|at| text[*at..].chars().next());
        let marks = free_marks(first, |c| taken.contains(&c))?;
        let marked = |(at, c): (usize, char)| if forged.contains(&at) { marks[&c] } else { c };
        let marked: String = text.char_indices().map(marked).collect();
        let back: HashMap<char, char> = marks.iter().map(|(c, mark)| (*mark, *c)).collect();
        self.encode_marked(&marked, &back).map_err(|e| invalid!("the text cannot be tokenized: {e}"))
    }

    /// As `encode` with control tokens, which marks keep from being recognised; what they stand for is put back before
    /// the text is cut into words.
    fn encode_marked(&self, marked: &str, back: &HashMap<char, char>) -> tokenizers::Result<Vec<u32>> {
        let added = self.tokenizer.get_added_vocabulary();
        let mut pieces = added.extract_and_normalize(self.tokenizer.get_normalizer(), marked);
        pieces.normalize(|piece| {
            piece.map(|c| *back.get(&c).unwrap_or(&c));
            Ok(())
        })?;
        if let Some(cutter) = self.tokenizer.get_pre_tokenizer() {
            cutter.pre_tokenize(&mut pieces)?;
        }
        pieces.tokenize(|piece| self.tokenize_word(piece.get()))?;
        Ok(pieces.into_encoding(None, 0, OffsetType::None)?.get_ids().to_vec())
    }

    fn tokenize_word(&self, word: &str) -> tokenizers::Result<Vec<Token>> {
        let model = self.tokenizer.get_model();
        let tokens = model.tokenize(word)?;
        if !self.guard.controls.forged(&tokens, word) {
            return Ok(tokens);
        }
        let mut buffer = [0; 4];
        let each = word.chars().map(|c| model.tokenize(c.encode_utf8(&mut buffer)));
        Ok(each.collect::<tokenizers::Result<Vec<_>>>()?.concat())
    }

    /// Where to mark the text so that no control token is recognised that the request had a part in.
    fn forged(&self, prompt: &Prompt) -> HashSet<usize> {
        if prompt.foreign.is_empty() {
            return HashSet::new();
        }
        let first_foreign = |range: &std::ops::Range<usize>| {
            let next = prompt.foreign.partition_point(|foreign| foreign.end <= range.start);
            let foreign = prompt.foreign.get(next)?;
            (foreign.start < range.end).then(|| foreign.start.max(range.start))
        };
        self.guard.find(&prompt.text).iter().filter_map(|spelling| first_foreign(&spelling.range)).collect()
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

/// A copy that treats control tokens in a text as text.
fn literal_copy(tokenizer: &Tokenizer, added: &HashMap<u32, AddedToken>) -> Tokenizer {
    let mut copy = tokenizer.clone();
    let mut unmarked: Vec<(&u32, &AddedToken)> =
        added.iter().filter(|(_, token)| !token.special && is_control(token)).collect();
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
