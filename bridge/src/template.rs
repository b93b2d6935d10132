//! Chat templates: render a conversation to the prompt that a model was trained on, as transformers'
//! `apply_chat_template` does.
//!
//! Remaining differences between minijinja and Jinja2, none of which matters to a known template: tuples print as
//! lists; `~` writes numbers and nested values as Rust does; `%` does not format strings; integers have at most 128
//! bits; `safe` does nothing, while Jinja2 escapes what is added to a safe text; generators are lists for `tojson`.

use std::cell::Cell;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::Arc;

use chrono::format::{Item, StrftimeItems};
use minijinja::value::ValueKind;
use minijinja::{AutoEscape, Environment, Error, ErrorKind, Value};
use serde_json::{Map, Value as Json};

use crate::conversation::{reshaped, role, SHAPES};
use crate::error::{caught, invalid, Fault, Outcome};
use crate::meter::{within, Bounded};
use crate::origin::{self, Conversation, Guard, Prompt, TemplateWords};
use crate::{jinja_source, python};

/// The most instructions of one rendering, under a second. A conversation of 10,000 messages takes a few millions.
const FUEL: u64 = 20_000_000;
/// Bytes of heap that one rendering may hold, and as many more for every byte of its request: a conversation is held
/// several times over, as text, as JSON and as values.
const HEAP: usize = 256 << 20;
const HEAP_PER_BYTE: usize = 64;
/// The largest known template has 17 KB.
const MAX_TEMPLATE_BYTES: usize = 1 << 16;
const CONTINUE_TAG: &str = "CONTINUE_FINAL_MESSAGE_TAG ";
/// The keys of a message's reasoning; templates read the first, gpt-oss the second.
const REASONING: [&str; 3] = ["reasoning_content", "thinking", "reasoning"];
/// The special tokens of tokenizer_config.json that templates may use.
const SPECIAL_TOKENS: [&str; 7] =
    ["bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"];

thread_local! {
    /// The time for `strftime_now` during a rendering: local time as seconds since 1970.
    static NOW: Cell<i64> = const { Cell::new(0) };
}

/// Everything that a rendering depends on: JSON texts, empty if absent.
pub struct Request {
    pub messages: String,
    pub tools: String,
    pub kwargs: String,
    pub settings: Settings,
    /// Renders a conversation that the template refuses in another shape, if it takes that.
    pub reshape: bool,
}

#[derive(Clone, Copy)]
pub struct Settings {
    pub add_generation_prompt: bool,
    pub continue_final_message: bool,
    pub local_seconds: i64,
}

/// The templates of a model. They are untrusted: their time and memory are bounded.
pub struct ChatTemplates {
    compiled: Arc<Compiled>,
    /// A rendering needed too much memory, and its thread is parked with it: further renderings are refused.
    exceeded: AtomicBool,
}

struct Compiled {
    environment: Environment<'static>,
    special_tokens: Map<String, Json>,
    sources: Vec<Source>,
}

/// A template as the file has it.
struct Source {
    name: String,
    text: String,
    words: TemplateWords,
}

/// `raise_exception`, carried through minijinja's error chain.
#[derive(Debug)]
struct Raised(String);

impl std::fmt::Display for Raised {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Raised {}

impl ChatTemplates {
    /// `jinja`: the text of chat_template.jinja, which overrides the template in `config`, or empty.
    /// `config`: the text of tokenizer_config.json, or empty.
    pub fn new(jinja: &str, config: &str) -> Outcome<Self> {
        let (jinja, config) = (jinja.to_string(), config.to_string());
        match bounded(jinja.len() + config.len(), move || Compiled::new(&jinja, &config))? {
            Bounded::Done(compiled) => {
                Ok(ChatTemplates { compiled: Arc::new(compiled), exceeded: AtomicBool::new(false) })
            }
            Bounded::Exceeded => Err(too_much()),
        }
    }

    pub fn render(&self, request: Request) -> Outcome<String> {
        self.prompt(request, None).map(|prompt| prompt.text)
    }

    /// The text, and with a guard what of it is the request's.
    pub fn prompt(&self, request: Request, guard: Option<Arc<Guard>>) -> Outcome<Prompt> {
        if self.exceeded.load(Ordering::Relaxed) {
            return Err(too_much());
        }
        let compiled = self.compiled.clone();
        let size = request.messages.len() + request.tools.len() + request.kwargs.len();
        match bounded(size, move || compiled.prompt(&request, guard.as_deref()))? {
            Bounded::Done(prompt) => Ok(prompt),
            Bounded::Exceeded => {
                self.exceeded.store(true, Ordering::Relaxed);
                Err(too_much())
            }
        }
    }
}

/// Runs `body` with the memory that an input of `size` bytes may take.
fn bounded<T: Send + 'static>(
    size: usize,
    body: impl FnOnce() -> Outcome<T> + Send + 'static,
) -> Outcome<Bounded<T>> {
    match within(HEAP.saturating_add(size.saturating_mul(HEAP_PER_BYTE)), || caught(body)) {
        Ok(Bounded::Done(outcome)) => outcome.map(Bounded::Done),
        Ok(Bounded::Exceeded) => Ok(Bounded::Exceeded),
        Err(e) => Err(Fault::Internal(format!("the text bridge failed: no thread for a template: {e}"))),
    }
}

fn too_much() -> Fault {
    invalid!("chat template: it asked for more than {} MiB of memory and is not used again", HEAP >> 20)
}

impl Compiled {
    fn new(jinja: &str, config: &str) -> Outcome<Self> {
        let config: Json = match config {
            "" => Json::Object(Map::new()),
            text => serde_json::from_str(text).map_err(|e| invalid!("tokenizer_config.json: {e}"))?,
        };
        let named = match jinja {
            "" => named_templates(config.get("chat_template"))?,
            text => vec![("default".to_string(), text.to_string())],
        };
        let mut environment = environment();
        let mut sources = Vec::new();
        for (name, text) in named {
            if text.len() > MAX_TEMPLATE_BYTES {
                let size = text.len();
                return Err(invalid!(
                    "chat template {name:?}: {size} bytes are more than {MAX_TEMPLATE_BYTES}"
                ));
            }
            environment
                .add_template_owned(name.clone(), jinja_source::prepare(&text))
                .map_err(|e| describe(&e))?;
            sources.push(Source { name, words: TemplateWords::new(&text), text });
        }
        Ok(Compiled { environment, special_tokens: special_tokens(&config)?, sources })
    }

    fn prompt(&self, request: &Request, guard: Option<&Guard>) -> Outcome<Prompt> {
        let conversation = read(request)?;
        let raised = match self.prompt_of(&conversation, request.settings, guard) {
            Err(Fault::Raised(text)) if request.reshape => text,
            outcome => return outcome,
        };
        for shape in SHAPES {
            let messages = reshaped(&conversation.messages, shape);
            if messages == conversation.messages {
                continue;
            }
            let other = Conversation { messages, ..conversation.clone() };
            if let Ok(prompt) = self.prompt_of(&other, request.settings, guard) {
                return Ok(prompt);
            }
        }
        Err(Fault::Raised(self.refusal(conversation, request.settings, &raised)))
    }

    /// The text of the conversation as it is.
    fn prompt_of(
        &self,
        conversation: &Conversation,
        settings: Settings,
        guard: Option<&Guard>,
    ) -> Outcome<Prompt> {
        let mut plain = self.render(conversation, settings);
        let Some(guard) = guard.filter(|guard| !guard.controls.is_empty()) else {
            return plain.map(|text| Prompt { text, foreign: Vec::new() });
        };
        let words = &self.choose(conversation)?.words;
        if let Ok(text) = plain {
            let twins = self.render(&origin::with_twins(conversation, guard, words), settings);
            match twins.map(|twins| origin::compare(&text, &twins)) {
                Ok(Some(foreign)) => return Ok(Prompt { text, foreign }),
                _ => plain = Ok(text),
            }
        }
        let Some((marked, back)) = origin::with_marks(conversation, guard, words)? else {
            return plain.map(|text| Prompt { text, foreign: Vec::new() });
        };
        match self.render(&marked, settings) {
            Ok(text) => Ok(origin::without_marks(&text, &back)),
            Err(fault) => Err(plain.err().unwrap_or(fault)),
        }
    }

    fn render(&self, conversation: &Conversation, settings: Settings) -> Outcome<String> {
        let Conversation { mut messages, tools, kwargs } = conversation.clone();
        let source = self.choose(conversation)?;
        let continued = match settings.continue_final_message {
            true => Some(tag_final_message(&mut messages, &source.text)?),
            false => None,
        };

        let mut context = self.special_tokens.clone();
        context.insert("documents".into(), Json::Null);
        context.extend(kwargs);
        context.insert("messages".into(), Json::Array(messages));
        context.insert("tools".into(), tools);
        context.insert("add_generation_prompt".into(), settings.add_generation_prompt.into());

        NOW.set(settings.local_seconds);
        let text = self
            .environment
            .get_template(&source.name)
            .and_then(|template| template.render(Value::from_serialize(&context)))
            .map_err(|e| describe(&e))?;
        match continued {
            Some(message) => cut_after_final_message(text, &message),
            None => Ok(text),
        }
    }

    /// What to tell of a conversation that the template refuses in every shape. The message at fault ends the shortest
    /// beginning of the conversation that is refused with the same words.
    fn refusal(&self, conversation: Conversation, settings: Settings, raised: &str) -> String {
        let settings = Settings { continue_final_message: false, ..settings };
        let refused = |count: usize| {
            let messages = conversation.messages[..count].to_vec();
            let outcome = self.render(&Conversation { messages, ..conversation.clone() }, settings);
            matches!(outcome, Err(Fault::Raised(text)) if text == raised)
        };
        let (mut taken, mut count) = (0, conversation.messages.len());
        while taken + 1 < count {
            let middle = (taken + count) / 2;
            match refused(middle) {
                true => count = middle,
                false => taken = middle,
            }
        }
        let Some(last) = count.checked_sub(1) else { return raised.to_string() };
        format!(
            "messages[{last}] (role {:?}): {raised}; merging the system texts in front and joining neighbours of one \
             role did not help. Change that message as the template asks: most take system first, then user and \
             assistant in turn, beginning with user",
            role(&conversation.messages[last])
        )
    }

    /// The template "tool_use" if there are tools and such a template, else "default".
    fn choose(&self, conversation: &Conversation) -> Outcome<&Source> {
        let find = |wanted: &str| self.sources.iter().find(|source| source.name == wanted);
        let with_tools = !conversation.tools.is_null();
        let found = if with_tools { find("tool_use").or(find("default")) } else { find("default") };
        found.ok_or_else(|| {
            let names: Vec<&str> = self.sources.iter().map(|source| source.name.as_str()).collect();
            invalid!("chat template: none is named \"default\", only: {}", names.join(", "))
        })
    }
}

/// `chat_template` of tokenizer_config.json: one template, or a list of named ones.
fn named_templates(value: Option<&Json>) -> Outcome<Vec<(String, String)>> {
    match value {
        Some(Json::String(text)) => Ok(vec![("default".to_string(), text.clone())]),
        Some(Json::Array(list)) if !list.is_empty() => list
            .iter()
            .map(|entry| match (entry["name"].as_str(), entry["template"].as_str()) {
                (Some(name), Some(template)) => Ok((name.to_string(), template.to_string())),
                _ => Err(invalid!("tokenizer_config.json: chat_template: expected {{\"name\", \"template\"}}, got {entry}")),
            })
            .collect(),
        None | Some(Json::Null) => Err(Fault::Missing(
            "no chat template: the model has neither chat_template.jinja nor chat_template in tokenizer_config.json"
                .to_string(),
        )),
        Some(_) => Err(invalid!("tokenizer_config.json: chat_template: expected a text or a list of named templates")),
    }
}

/// The special tokens that the file names, as texts.
fn special_tokens(config: &Json) -> Outcome<Map<String, Json>> {
    let mut tokens = Map::new();
    let mut add = |name: &str, value: &Json| match value.as_str().or(value["content"].as_str()) {
        Some(text) => {
            tokens.insert(name.to_string(), text.into());
            Ok(())
        }
        None if value.is_null() => Ok(()),
        None => Err(invalid!("tokenizer_config.json: {name}: expected a text, got {value}")),
    };
    for name in SPECIAL_TOKENS {
        add(name, &config[name])?;
    }
    if let Some(named) = config["extra_special_tokens"].as_object() {
        named.iter().try_for_each(|(name, value)| add(name, value))?;
    }
    Ok(tokens)
}

/// A Jinja2 environment with the settings of transformers.
fn environment() -> Environment<'static> {
    let mut env = Environment::new();
    env.set_trim_blocks(true);
    env.set_lstrip_blocks(true);
    env.set_auto_escape_callback(|_| AutoEscape::None);
    env.set_fuel(Some(FUEL));
    env.set_unknown_method_callback(python::method);
    env.set_formatter(|out, _, value| out.write_str(&python::to_str(value)?).map_err(Error::from));
    env.add_filter("tojson", python::tojson);
    env.add_filter("string", |value: &Value| python::to_str(value));
    env.add_filter("trim", python::trim);
    env.add_filter("e", python::escape);
    env.add_filter("escape", python::escape);
    // Templates do not escape on their own, so that safe text is like any other.
    env.add_filter("safe", |value: Value| value);
    env.add_filter(jinja_source::CHECK_ITERABLE, |value: Value| match value.kind() {
        ValueKind::None => Err(Error::new(ErrorKind::InvalidOperation, "None is not iterable")),
        _ => Ok(value),
    });
    // As in Python: a value with a length and an index, which includes undefined.
    env.add_test("sequence", |value: &Value| {
        use ValueKind::{Iterable, Map, Seq, String, Undefined};
        matches!(value.kind(), Seq | Iterable | String | Map | Undefined)
    });
    env.add_test("iterable", |value: &Value| !value.is_none() && value.try_iter().is_ok());
    env.add_function("raise_exception", |message: &Value| -> Result<Value, Error> {
        let text = python::to_str(message)?;
        Err(Error::new(ErrorKind::InvalidOperation, text.clone()).with_source(Raised(text)))
    });
    env.add_function("strftime_now", strftime_now);
    env
}

fn strftime_now(format: &str) -> Result<String, Error> {
    let wrong = |text: String| Error::new(ErrorKind::InvalidOperation, text);
    let now = chrono::DateTime::from_timestamp(NOW.get(), 0)
        .ok_or_else(|| wrong(format!("strftime_now: {} seconds are no time", NOW.get())))?;
    let items: Vec<Item> = StrftimeItems::new(format).collect();
    if items.contains(&Item::Error) {
        return Err(wrong(format!("strftime_now: unknown format {format:?}")));
    }
    Ok(now.naive_utc().format_with_items(items.iter()).to_string())
}

fn read(request: &Request) -> Outcome<Conversation> {
    let messages = parse_messages(&request.messages)?;
    let tools = match parse("tools", &request.tools)? {
        tools @ (Json::Null | Json::Array(_)) => tools,
        _ => return Err(invalid!("tools: expected a list")),
    };
    let kwargs = match parse("chat_template_kwargs", &request.kwargs)? {
        Json::Null => Map::new(),
        Json::Object(map) => map,
        _ => return Err(invalid!("chat_template_kwargs: expected an object")),
    };
    Ok(Conversation { messages, tools, kwargs })
}

fn parse(what: &str, text: &str) -> Outcome<Json> {
    match text {
        "" => Ok(Json::Null),
        text => serde_json::from_str(text).map_err(|e| invalid!("{what}: {e}")),
    }
}

fn parse_messages(text: &str) -> Outcome<Vec<Json>> {
    let Json::Array(mut messages) = parse("messages", text)? else {
        return Err(invalid!("messages: expected a list"));
    };
    for (i, message) in messages.iter_mut().enumerate() {
        let Json::Object(map) = message else {
            return Err(invalid!("messages[{i}]: expected an object"));
        };
        let reasoning = REASONING.iter().find_map(|name| map.get(*name).filter(|v| !v.is_null())).cloned();
        if let Some(reasoning) = reasoning {
            map.entry("thinking").or_insert(reasoning.clone());
            map.insert("reasoning_content".into(), reasoning);
        }
    }
    Ok(messages)
}

/// Marks the end of the final message's text, and returns that text.
fn tag_final_message(messages: &mut [Json], source: &str) -> Outcome<String> {
    let Some(last) = messages.last_mut() else {
        return Err(invalid!("continue_final_message: the conversation is empty"));
    };
    if !source.contains("content") {
        return Err(invalid!("continue_final_message: the chat template does not read \"content\""));
    }
    let text = match &mut last["content"] {
        Json::String(text) => Some(text),
        Json::Array(parts) => parts.iter_mut().rev().find_map(|part| match part.get_mut("text") {
            Some(Json::String(text)) => Some(text),
            _ => None,
        }),
        _ => None,
    };
    let Some(text) = text else {
        return Err(invalid!("continue_final_message: the final message has no text to continue"));
    };
    let original = text.clone();
    text.push_str(CONTINUE_TAG);
    Ok(original)
}

fn cut_after_final_message(rendered: String, message: &str) -> Outcome<String> {
    let tag = CONTINUE_TAG.trim_end();
    let Some(at) = rendered.rfind(tag).filter(|_| rendered.contains(python::strip(message))) else {
        return Err(invalid!(
            "continue_final_message: the final message does not appear in the text that the chat template makes"
        ));
    };
    let kept = &rendered[..at];
    // If the template trimmed the message, its trailing space is dropped, too.
    Ok(match rendered[at..].starts_with(CONTINUE_TAG) {
        true => kept.to_string(),
        false => python::rstrip(kept).to_string(),
    })
}

fn describe(error: &Error) -> Fault {
    let mut source: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(cause) = source {
        if let Some(Raised(text)) = cause.downcast_ref::<Raised>() {
            return Fault::Raised(text.clone());
        }
        source = cause.source();
    }
    let place = error.line().map_or(String::new(), |line| format!(" line {line}"));
    let detail = match (error.kind(), error.detail()) {
        (ErrorKind::OutOfFuel, _) => "it does not come to an end".to_string(),
        (kind, Some(detail)) => format!("{kind}: {detail}"),
        (kind, None) => kind.to_string(),
    };
    invalid!("chat template{place}: {detail}")
}
