//! The tokens that end what a model says, as its tokenizer, its tokenizer_config.json and its chat template tell.

use serde_json::{json, Value as Json};

use crate::error::{invalid, Outcome};
use crate::template::{ChatTemplates, Request, Settings};
use crate::tokenizer::TextTokenizer;

/// Names that released models give the token at the end of a text, of a turn, or of a call of tools: one in quotes a
/// line, for the reader of GGUF files, too.
const ENDS: &str = include_str!("../../src/formats/end_of_text_names.inc");
/// What the assistant says in the conversations below; no template has it.
const ANSWER: &str = "3f9a0c57e1b2d486";

/// The ids, ascending. `config`: the text of tokenizer_config.json, or empty.
pub fn end_of_text(
    tokenizer: &TextTokenizer,
    templates: Option<&ChatTemplates>,
    config: &str,
) -> Outcome<Vec<u32>> {
    let names = ENDS.lines().filter_map(|line| line.strip_prefix('"')?.strip_suffix("\","));
    let mut ends: Vec<u32> = names
        .filter_map(|name| tokenizer.token_id(name))
        .filter(|id| tokenizer.is_special(*id))
        .collect();
    if !config.is_empty() {
        let config: Json =
            serde_json::from_str(config).map_err(|e| invalid!("tokenizer_config.json: {e}"))?;
        let eos = &config["eos_token"];
        let name = eos.as_str().or(eos["content"].as_str());
        ends.extend(name.and_then(|name| tokenizer.token_id(name)));
    }
    if let Some(templates) = templates {
        ends.extend(turn_ends(tokenizer, templates));
    }
    // gpt-oss ends each message of an answer with <|end|>, and the answer with <|return|> or <|call|>.
    if tokenizer.token_id("<|return|>").is_some() {
        let message_end = tokenizer.token_id("<|end|>");
        ends.retain(|id| Some(*id) != message_end);
    }
    ends.sort_unstable();
    ends.dedup();
    Ok(ends)
}

/// The control tokens that the template writes right behind what an assistant said, as the last of a conversation and
/// before another turn. A template that refuses such conversations, or ends them otherwise, tells nothing.
fn turn_ends(tokenizer: &TextTokenizer, templates: &ChatTemplates) -> Vec<u32> {
    let user = json!({"role": "user", "content": "Hi"});
    let assistant = json!({"role": "assistant", "content": ANSWER});
    let ended = json!([user, assistant]);
    let continued = json!([user, assistant, user]);
    [ended, continued].iter().filter_map(|messages| turn_end(tokenizer, templates, messages)).collect()
}

fn turn_end(tokenizer: &TextTokenizer, templates: &ChatTemplates, messages: &Json) -> Option<u32> {
    let request = Request {
        messages: messages.to_string(),
        tools: String::new(),
        kwargs: String::new(),
        settings: Settings { add_generation_prompt: false, continue_final_message: false, local_seconds: 0 },
        reshape: false,
    };
    let text = templates.render(request).ok()?;
    let rest = text[text.rfind(ANSWER)? + ANSWER.len()..].trim_start();
    let guard = tokenizer.guard();
    let longest =
        guard.find(rest).into_iter().take_while(|s| s.range.start == 0).max_by_key(|s| s.range.end)?;
    guard.controls.content(&longest).and_then(|token| tokenizer.token_id(token))
}
