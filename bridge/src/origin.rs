//! Which characters of a rendered prompt come from the request, and so cannot be part of a control token.
//!
//! A template may trim, cut and compare what it prints, so the origin of a character cannot be told from the text.
//! Instead the conversation is rendered again with the request's characters replaced by their twins, one private
//! character for each. Where that gives the same text but for twins, every character's origin is known. A template that
//! looks at the words of a message ("if 'json' in content") may give another text; then only the first characters of
//! what spells a control token are replaced, and this rendering is the prompt.

use std::collections::{HashMap, HashSet};
use std::ops::Range;

use serde_json::{Map, Value as Json};
use tokenizers::NormalizerWrapper;

use crate::control::{ControlTokens, Spelling};
use crate::error::{invalid, Outcome};

/// A text to tokenize, in which some bytes are the request's.
pub struct Prompt {
    pub text: String,
    /// Of the request; ascending, without overlap.
    pub foreign: Vec<Range<usize>>,
}

/// What is needed to tell forged control tokens from real ones.
pub struct Guard {
    pub controls: ControlTokens,
    pub normalizer: Option<NormalizerWrapper>,
}

impl Guard {
    pub fn find(&self, text: &str) -> Vec<Spelling> {
        self.controls.find(text, self.normalizer.as_ref())
    }
}

/// The texts of a request that a template renders.
#[derive(Clone)]
pub struct Conversation {
    pub messages: Vec<Json>,
    pub tools: Json,
    pub kwargs: Map<String, Json>,
}

/// What a template's source says about the words in it.
pub struct TemplateWords {
    /// What stands between quotes or behind a dot: a template may compare a text with it, or look up a key.
    named: HashSet<String>,
    source: String,
}

impl TemplateWords {
    pub fn new(source: &str) -> Self {
        let mut named = HashSet::new();
        for quote in ['\'', '"'] {
            named.extend(source.split(quote).filter(|text| text.len() <= 64).map(str::to_string));
        }
        let word = |text: &str| -> String {
            text.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect()
        };
        named.extend(source.split('.').skip(1).map(word));
        TemplateWords { named, source: source.to_string() }
    }

    /// Whether the template looks for `token` in a text, as in `content.split('</think>')`.
    fn looks_for(&self, token: &str) -> bool {
        ['\'', '"'].iter().any(|q| {
            [format!("({q}{token}{q})"), format!("{q}{token}{q} in "), format!("{q}{token}{q} not in ")]
                .iter()
                .any(|use_of| self.source.contains(use_of))
        })
    }
}

/// The twin of a character; none for those on which trimming, splitting into lines and quoting depend.
fn twin(c: char) -> Option<char> {
    if c.is_whitespace() || c.is_control() || matches!(c, '"' | '\'' | '\\') || c as u32 >= 0x1_0000 {
        return None;
    }
    char::from_u32(c as u32 + 0xF_0000)
}

/// How the request's characters are replaced.
enum Marks {
    /// All by their twins.
    Twins,
    /// The first of each spelling of a control token, by a private character that the request does not have.
    Spellings(HashMap<char, char>),
}

struct Marker<'a> {
    guard: &'a Guard,
    words: &'a TemplateWords,
    marks: Marks,
}

/// What stands around a text.
#[derive(Clone, Copy, PartialEq)]
enum Place {
    Anywhere,
    /// What an assistant said: it may think, call and stop thinking, but not end its turn.
    Assistant,
    /// A value that templates compare with words of their own: a role, a JSON type.
    Word,
}

/// `conversation` with the twins of its characters.
pub fn with_twins(conversation: &Conversation, guard: &Guard, words: &TemplateWords) -> Conversation {
    Marker { guard, words, marks: Marks::Twins }.conversation(conversation)
}

/// The request's bytes in `plain`, of which `twins` is the rendering with twins; nothing if they are different texts.
pub fn compare(plain: &str, twins: &str) -> Option<Vec<Range<usize>>> {
    let mut foreign: Vec<Range<usize>> = Vec::new();
    let mut others = twins.chars();
    for (at, c) in plain.char_indices() {
        match others.next() {
            Some(other) if other == c => {}
            Some(other) if twin(c) == Some(other) => push(&mut foreign, at..at + c.len_utf8()),
            _ => return None,
        }
    }
    others.next().is_none().then_some(foreign)
}

/// The conversation in which no text of the request spells a control token, and the replaced characters by their
/// replacements; nothing if none was there.
pub fn with_marks(
    conversation: &Conversation,
    guard: &Guard,
    words: &TemplateWords,
) -> Outcome<Option<(Conversation, HashMap<char, char>)>> {
    let mut first = HashSet::new();
    let mut taken = HashSet::new();
    each_text(conversation, &mut |text| {
        first.extend(guard.find(text).iter().filter_map(|s| text[s.range.clone()].chars().next()));
        taken.extend(text.chars().filter(|c| *c as u32 >= 0xF_0000));
    });
    if first.is_empty() {
        return Ok(None);
    }
    let marks = free_marks(first.into_iter(), |c| taken.contains(&c))?;
    let back = marks.iter().map(|(c, mark)| (*mark, *c)).collect();
    let marked = Marker { guard, words, marks: Marks::Spellings(marks) }.conversation(conversation);
    Ok(Some((marked, back)))
}

/// Undoes `with_marks` in a rendered text.
pub fn without_marks(marked: &str, back: &HashMap<char, char>) -> Prompt {
    let mut prompt = Prompt { text: String::with_capacity(marked.len()), foreign: Vec::new() };
    for c in marked.chars() {
        let at = prompt.text.len();
        match back.get(&c) {
            Some(original) => {
                prompt.text.push(*original);
                push(&mut prompt.foreign, at..at + original.len_utf8());
            }
            None => prompt.text.push(c),
        }
    }
    prompt
}

/// A private character for each of `chars`, none of which is taken.
pub fn free_marks(
    chars: impl Iterator<Item = char>,
    taken: impl Fn(char) -> bool,
) -> Outcome<HashMap<char, char>> {
    let mut free = ('\u{10_0000}'..='\u{10_FFFD}').filter(|c| !taken(*c));
    let mut marks = HashMap::new();
    for c in chars {
        if marks.contains_key(&c) {
            continue;
        }
        let mark = free.next().ok_or_else(|| {
            invalid!("the text has every character from U+100000 to U+10FFFD; leave some out")
        })?;
        marks.insert(c, mark);
    }
    Ok(marks)
}

fn push(ranges: &mut Vec<Range<usize>>, range: Range<usize>) {
    match ranges.last_mut() {
        Some(last) if last.end == range.start => last.end = range.end,
        _ => ranges.push(range),
    }
}

/// Calls `visit` with every text and every key of the request.
fn each_text(conversation: &Conversation, visit: &mut impl FnMut(&str)) {
    fn walk(value: &Json, visit: &mut impl FnMut(&str)) {
        match value {
            Json::String(text) => visit(text),
            Json::Array(list) => list.iter().for_each(|item| walk(item, visit)),
            Json::Object(map) => map.iter().for_each(|(key, value)| {
                visit(key);
                walk(value, visit);
            }),
            _ => {}
        }
    }
    conversation.messages.iter().for_each(|message| walk(message, visit));
    walk(&conversation.tools, visit);
    conversation.kwargs.values().for_each(|value| walk(value, visit));
}

impl Marker<'_> {
    fn conversation(&self, conversation: &Conversation) -> Conversation {
        let messages = conversation.messages.iter().map(|message| self.message(message)).collect();
        let kwargs = conversation.kwargs.iter();
        Conversation {
            messages,
            tools: self.value(&conversation.tools, Place::Anywhere),
            kwargs: kwargs.map(|(key, value)| (key.clone(), self.value(value, Place::Anywhere))).collect(),
        }
    }

    fn message(&self, message: &Json) -> Json {
        let Json::Object(fields) = message else { return message.clone() };
        let assistant = fields.get("role").and_then(Json::as_str) == Some("assistant");
        let place = |key: &str| match key {
            "role" => Place::Word,
            "content" | "reasoning_content" | "thinking" | "reasoning" if assistant => Place::Assistant,
            _ => Place::Anywhere,
        };
        // The keys of a message are names that the API gave them, or unread.
        Json::Object(fields.iter().map(|(key, value)| (key.clone(), self.value(value, place(key)))).collect())
    }

    fn value(&self, value: &Json, place: Place) -> Json {
        match value {
            Json::String(text) => Json::String(self.text(text, place)),
            Json::Array(list) => list.iter().map(|item| self.value(item, place)).collect(),
            Json::Object(map) => {
                let field = |(key, value): (&String, &Json)| {
                    let inner = if key == "type" { Place::Word } else { place };
                    (self.text(key, Place::Anywhere), self.value(value, inner))
                };
                Json::Object(map.iter().map(field).collect())
            }
            other => other.clone(),
        }
    }

    fn text(&self, text: &str, place: Place) -> String {
        let allowed = |spelling: &Spelling| place == Place::Assistant && self.may_say(spelling);
        let (left, forged): (Vec<Spelling>, Vec<Spelling>) =
            self.guard.find(text).into_iter().partition(allowed);
        match &self.marks {
            Marks::Spellings(marks) => replace_first(text, &forged, |c| marks.get(&c).copied()),
            Marks::Twins if place == Place::Word || self.words.named.contains(text) => {
                replace_first(text, &forged, twin)
            }
            Marks::Twins => replace_all_but(text, &left),
        }
    }

    /// Whether an assistant's text may have this token: marks of thinking and calls, as models write them. Their
    /// templates look for these, and what a client sends back has the tokens that the model wrote.
    fn may_say(&self, spelling: &Spelling) -> bool {
        let token = self.guard.controls.content(spelling);
        !spelling.special || token.is_some_and(|token| self.words.looks_for(token))
    }
}

fn replace_first(text: &str, spellings: &[Spelling], mark: impl Fn(char) -> Option<char>) -> String {
    let starts: HashSet<usize> = spellings.iter().map(|spelling| spelling.range.start).collect();
    let replaced = |(at, c): (usize, char)| if starts.contains(&at) { mark(c).unwrap_or(c) } else { c };
    text.char_indices().map(replaced).collect()
}

/// The twins of `text`, but for what is in the ranges of `left`, which are in order.
fn replace_all_but(text: &str, left: &[Spelling]) -> String {
    let mut left = left.iter().peekable();
    let mut inside = 0;
    let replaced = |(at, c): (usize, char)| {
        while let Some(spelling) = left.next_if(|spelling| spelling.range.start <= at) {
            inside = inside.max(spelling.range.end);
        }
        if at < inside {
            c
        } else {
            twin(c).unwrap_or(c)
        }
    };
    text.char_indices().map(replaced).collect()
}
