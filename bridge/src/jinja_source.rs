//! Rewrites a template's source before minijinja compiles it. Line numbers stay the same, so errors name the right
//! line.
//!
//! * `{% generation %}` ... `{% endgeneration %}` (transformers' mark of what the assistant says) become a plain scope.
//! * `y[::-1]` becomes a method: minijinja's slice panics where `y` is empty.
//! * `{% for x in y %}` checks `y`: Jinja2 refuses to iterate over None, minijinja treats it as an empty list.

use std::borrow::Cow;

/// Name of the filter that checks what a loop iterates over.
pub const CHECK_ITERABLE: &str = "_loop_over";

/// Name of the method that reverses a list or a text.
pub const REVERSED: &str = "__reversed__";

pub fn prepare(source: &str) -> String {
    let mut out = String::with_capacity(source.len() + 64);
    let mut rest = source;
    while let Some(at) = rest.find('{') {
        out.push_str(&rest[..at]);
        rest = &rest[at..];
        let length = match rest.as_bytes().get(1) {
            Some(b'#') => rest.find("#}").map(|end| end + 2),
            Some(b'{') => tag_end(rest, "}}"),
            Some(b'%') => tag_end(rest, "%}"),
            _ => Some(1),
        };
        // minijinja reports an unclosed tag.
        let length = length.unwrap_or(rest.len());
        let tag = match rest.as_bytes().get(1) {
            Some(b'{' | b'%') => reversed_slices(&rest[..length]),
            _ => Cow::Borrowed(&rest[..length]),
        };
        rest = &rest[length..];
        if !tag.starts_with("{%") || !tag.ends_with("%}") || tag.len() < 4 {
            out.push_str(&tag);
        } else if push_statement(&mut out, &tag) {
            let end = end_of_raw(rest);
            out.push_str(&rest[..end]);
            rest = &rest[end..];
        }
    }
    out.push_str(rest);
    out
}

/// "y[::-1]" -> "y.__reversed__()", outside of strings.
fn reversed_slices(tag: &str) -> Cow<'_, str> {
    const SLICE: &str = "[::-1]";
    if !tag.contains(SLICE) {
        return Cow::Borrowed(tag);
    }
    let mut out = String::with_capacity(tag.len() + 16);
    let mut quoted = Quotes::default();
    let mut skip_until = 0;
    for (i, c) in tag.char_indices() {
        if i < skip_until {
            continue;
        }
        if !quoted.inside(c) && tag[i..].starts_with(SLICE) {
            out.push_str(&format!(".{REVERSED}()"));
            skip_until = i + SLICE.len();
        } else {
            out.push(c);
        }
    }
    Cow::Owned(out)
}

/// The end of the tag that `text` starts with; quoted strings are skipped.
fn tag_end(text: &str, close: &str) -> Option<usize> {
    let mut quoted = Quotes::default();
    text.char_indices()
        .skip(2)
        .find(|(i, c)| !quoted.inside(*c) && text[*i..].starts_with(close))
        .map(|(i, _)| i + close.len())
}

/// Writes `{% ... %}`, rewritten if necessary. Returns true if it opens a raw block.
fn push_statement(out: &mut String, tag: &str) -> bool {
    let body = &tag[2..tag.len() - 2];
    let start = body.len() - body.trim_start_matches(['-', '+']).trim_start().len();
    let end = body.trim_end_matches(['-', '+']).trim_end().len().max(start);
    let (before, statement, after) = (&body[..start], &body[start..end], &body[end..]);
    let word = statement.split(|c: char| !is_word(c)).next().unwrap_or("");
    out.push_str("{%");
    out.push_str(before);
    match statement {
        "generation" => out.push_str("with"),
        "endgeneration" => out.push_str("endwith"),
        _ if word == "for" => push_for(out, statement),
        _ => out.push_str(statement),
    }
    out.push_str(after);
    out.push_str("%}");
    statement == "raw"
}

/// "for x in y if z" -> "for x in (y)|check if z".
fn push_for(out: &mut String, statement: &str) {
    let words = outer_words(statement);
    let Some(walked) = words.iter().find(|(_, word)| *word == "in").map(|(at, _)| at + 2) else {
        out.push_str(statement);
        return;
    };
    let end = words
        .iter()
        .find(|(at, word)| *at > walked && matches!(*word, "if" | "recursive"))
        .map_or(statement.len(), |(at, _)| *at);
    let expression = &statement[walked..end];
    let trimmed = expression.trim_end();
    out.push_str(&statement[..walked]);
    out.push_str(&format!("({trimmed})|{CHECK_ITERABLE}"));
    out.push_str(&expression[trimmed.len()..]);
    out.push_str(&statement[end..]);
}

/// The words outside of brackets and strings, with their positions.
fn outer_words(text: &str) -> Vec<(usize, &str)> {
    let mut words = Vec::new();
    let mut quoted = Quotes::default();
    let mut depth = 0i32;
    let mut begin = None;
    for (i, c) in text.char_indices().chain([(text.len(), ' ')]) {
        let outside = !quoted.inside(c);
        if outside && is_word(c) {
            begin.get_or_insert(i);
            continue;
        }
        if let Some(start) = begin.take() {
            if depth == 0 {
                words.push((start, &text[start..i]));
            }
        }
        match c {
            '(' | '[' | '{' if outside => depth += 1,
            ')' | ']' | '}' if outside => depth -= 1,
            _ => {}
        }
    }
    words
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

/// Length of a raw block's text and its end tag.
fn end_of_raw(text: &str) -> usize {
    let mut from = 0;
    while let Some(at) = text[from..].find("{%") {
        let tag = from + at;
        let Some(close) = text[tag..].find("%}") else { break };
        let body =
            text[tag + 2..tag + close].trim_matches(|c: char| c.is_whitespace() || c == '-' || c == '+');
        if body == "endraw" {
            return tag + close + 2;
        }
        from = tag + 2;
    }
    text.len()
}

/// Whether a walk over characters is inside a quoted string.
#[derive(Default)]
struct Quotes {
    open: Option<char>,
    escaped: bool,
}

impl Quotes {
    /// Whether `c` belongs to a string, including its quotes.
    fn inside(&mut self, c: char) -> bool {
        match self.open {
            Some(_) if self.escaped => self.escaped = false,
            Some(_) if c == '\\' => self.escaped = true,
            Some(quote) if c == quote => self.open = None,
            Some(_) => {}
            None if c == '\'' || c == '"' => self.open = Some(c),
            None => return false,
        }
        true
    }
}
