//! The C ABI of `shoal_bridge.h`, which documents it.

use crate::end_of_text::end_of_text;
use crate::error::{caught, invalid, Fault, Outcome};
use crate::grammar::{Compiler, GrammarKind, GrammarMatcher};
use crate::meter::DEEP_STACK;
use crate::template::{ChatTemplates, Request, Settings};
use crate::tokenizer::TextTokenizer;

/// A view of the caller's bytes.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Slice {
    data: *const u8,
    size: usize,
}

/// Memory of ours, given back through `shoal_bytes_free`.
#[repr(C)]
pub struct Bytes {
    data: *mut u8,
    size: usize,
}

/// Memory of ours, given back through `shoal_ids_free`.
#[repr(C)]
pub struct Ids {
    data: *mut i32,
    size: usize,
}

#[repr(C)]
pub struct RenderRequest {
    messages: Slice,
    tools: Slice,
    kwargs: Slice,
    local_seconds: i64,
    add_generation_prompt: bool,
    continue_final_message: bool,
    reshape: bool,
}

impl RenderRequest {
    fn read(&self) -> Outcome<Request> {
        Ok(Request {
            messages: self.messages.text("messages")?.into(),
            tools: self.tools.text("tools")?.into(),
            kwargs: self.kwargs.text("chat_template_kwargs")?.into(),
            settings: Settings {
                add_generation_prompt: self.add_generation_prompt,
                continue_final_message: self.continue_final_message,
                local_seconds: self.local_seconds,
            },
            reshape: self.reshape,
        })
    }
}

impl Slice {
    /// SAFETY: the caller keeps `data` alive during the call; a null view has size 0.
    fn bytes(&self) -> &[u8] {
        match self.size {
            0 => &[],
            size => unsafe { std::slice::from_raw_parts(self.data, size) },
        }
    }

    fn text(&self, what: &str) -> Outcome<&str> {
        std::str::from_utf8(self.bytes())
            .map_err(|e| invalid!("{what} is not valid UTF-8: byte {} is wrong", e.valid_up_to()))
    }
}

impl Bytes {
    fn from_vec(bytes: Vec<u8>) -> Self {
        let boxed = bytes.into_boxed_slice();
        Bytes { size: boxed.len(), data: Box::into_raw(boxed).cast() }
    }
}

impl Ids {
    fn from_vec(ids: Vec<u32>) -> Self {
        let boxed: Box<[i32]> = ids.into_iter().map(|id| id as i32).collect();
        Ids { size: boxed.len(), data: Box::into_raw(boxed).cast() }
    }
}

/// SAFETY: `data` is null, or holds `size` values during the call.
unsafe fn view<'a, T>(data: *const T, size: usize) -> &'a [T] {
    if size == 0 {
        return &[];
    }
    std::slice::from_raw_parts(data, size)
}

/// Runs `body` on its own thread with a deep stack; starting the thread costs about ten microseconds.
fn deep<T: Send>(body: impl FnOnce() -> Outcome<T> + Send) -> Outcome<T> {
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().stack_size(DEEP_STACK).spawn_scoped(scope, || caught(body));
        match thread.map(|t| t.join()) {
            Ok(Ok(outcome)) => outcome,
            Ok(Err(_)) => Err(Fault::Internal("the text bridge failed: a thread died".into())),
            Err(e) => {
                Err(Fault::Internal(format!("the text bridge failed: no thread could be started: {e}")))
            }
        }
    })
}

/// Runs `body`; an error is written to `error`, and its code is returned.
///
/// SAFETY: `error` can be written to.
unsafe fn guard(error: *mut Bytes, body: impl FnOnce() -> Outcome<()>) -> i32 {
    let (code, text) = match caught(body) {
        Ok(()) => return 0,
        Err(Fault::Invalid(text)) => (1, text),
        Err(Fault::Raised(text)) => (2, text),
        Err(Fault::Internal(text)) => (3, text),
        Err(Fault::Missing(text)) => (4, text),
    };
    error.write(Bytes::from_vec(text.into_bytes()));
    code
}

/// SAFETY: for all below: pointers are those that `shoal_bridge.h` describes.
#[no_mangle]
pub unsafe extern "C" fn shoal_bytes_free(bytes: Bytes) {
    if !bytes.data.is_null() {
        drop(Box::from_raw(std::ptr::slice_from_raw_parts_mut(bytes.data, bytes.size)));
    }
}

#[no_mangle]
pub unsafe extern "C" fn shoal_ids_free(ids: Ids) {
    if !ids.data.is_null() {
        drop(Box::from_raw(std::ptr::slice_from_raw_parts_mut(ids.data, ids.size)));
    }
}

#[no_mangle]
pub unsafe extern "C" fn shoal_tokenizer_new(
    json: Slice,
    out: *mut *mut TextTokenizer,
    error: *mut Bytes,
) -> i32 {
    guard(error, || {
        out.write(Box::into_raw(Box::new(TextTokenizer::new(json.bytes())?)));
        Ok(())
    })
}

#[no_mangle]
pub unsafe extern "C" fn shoal_tokenizer_free(tokenizer: *mut TextTokenizer) {
    if !tokenizer.is_null() {
        drop(Box::from_raw(tokenizer));
    }
}

#[no_mangle]
pub unsafe extern "C" fn shoal_tokenizer_id_limit(tokenizer: &TextTokenizer) -> u32 {
    tokenizer.id_limit()
}

#[no_mangle]
pub unsafe extern "C" fn shoal_tokenizer_encode(
    tokenizer: &TextTokenizer,
    text: Slice,
    add_special: bool,
    parse_special: bool,
    out: *mut Ids,
    error: *mut Bytes,
) -> i32 {
    guard(error, || {
        let ids = tokenizer.encode(text.text("the text")?, add_special, parse_special)?;
        out.write(Ids::from_vec(ids));
        Ok(())
    })
}

#[no_mangle]
pub unsafe extern "C" fn shoal_tokenizer_decode(
    tokenizer: &TextTokenizer,
    ids: *const u32,
    count: usize,
    skip_special: bool,
    out: *mut Bytes,
    error: *mut Bytes,
) -> i32 {
    guard(error, || {
        let text = tokenizer.decode(view(ids, count), skip_special)?;
        out.write(Bytes::from_vec(text.into_bytes()));
        Ok(())
    })
}

#[no_mangle]
pub unsafe extern "C" fn shoal_tokenizer_token_id(tokenizer: &TextTokenizer, token: Slice) -> i64 {
    let found = token.text("the token").ok().and_then(|text| tokenizer.token_id(text));
    found.map_or(-1, i64::from)
}

#[no_mangle]
pub unsafe extern "C" fn shoal_tokenizer_is_special(tokenizer: &TextTokenizer, id: u32) -> bool {
    tokenizer.is_special(id)
}

#[no_mangle]
pub unsafe extern "C" fn shoal_tokenizer_token(
    tokenizer: &TextTokenizer,
    id: u32,
    as_bytes: bool,
    out: *mut Bytes,
    error: *mut Bytes,
) -> i32 {
    guard(error, || {
        let found = match as_bytes {
            true => tokenizer.token_bytes(id),
            false => tokenizer.token_name(id).map(String::into_bytes),
        };
        let bytes = found.ok_or_else(|| {
            invalid!("no token has id {id}; the largest is {}", tokenizer.id_limit() as i64 - 1)
        })?;
        out.write(Bytes::from_vec(bytes));
        Ok(())
    })
}

#[no_mangle]
pub unsafe extern "C" fn shoal_template_new(
    jinja: Slice,
    config: Slice,
    out: *mut *mut ChatTemplates,
    error: *mut Bytes,
) -> i32 {
    guard(error, || {
        let (jinja, config) = (jinja.text("chat_template.jinja")?, config.text("tokenizer_config.json")?);
        let templates = ChatTemplates::new(jinja, config)?;
        out.write(Box::into_raw(Box::new(templates)));
        Ok(())
    })
}

#[no_mangle]
pub unsafe extern "C" fn shoal_template_free(templates: *mut ChatTemplates) {
    if !templates.is_null() {
        drop(Box::from_raw(templates));
    }
}

#[no_mangle]
pub unsafe extern "C" fn shoal_template_render(
    templates: &ChatTemplates,
    request: &RenderRequest,
    out: *mut Bytes,
    error: *mut Bytes,
) -> i32 {
    guard(error, || {
        let text = templates.render(request.read()?)?;
        out.write(Bytes::from_vec(text.into_bytes()));
        Ok(())
    })
}

#[no_mangle]
pub unsafe extern "C" fn shoal_template_encode(
    templates: &ChatTemplates,
    tokenizer: &TextTokenizer,
    request: &RenderRequest,
    text: *mut Bytes,
    ids: *mut Ids,
    error: *mut Bytes,
) -> i32 {
    guard(error, || {
        let prompt = templates.prompt(request.read()?, Some(tokenizer.guard().clone()))?;
        ids.write(Ids::from_vec(tokenizer.encode_prompt(&prompt)?));
        text.write(Bytes::from_vec(prompt.text.into_bytes()));
        Ok(())
    })
}

#[no_mangle]
pub unsafe extern "C" fn shoal_end_of_text(
    tokenizer: &TextTokenizer,
    templates: Option<&ChatTemplates>,
    config: Slice,
    out: *mut Ids,
    error: *mut Bytes,
) -> i32 {
    guard(error, || {
        out.write(Ids::from_vec(end_of_text(tokenizer, templates, config.text("tokenizer_config.json")?)?));
        Ok(())
    })
}

#[no_mangle]
pub unsafe extern "C" fn shoal_compiler_new(
    tokenizer: &TextTokenizer,
    vocab_size: usize,
    eos: *const u32,
    eos_count: usize,
    out: *mut *mut Compiler,
    error: *mut Bytes,
) -> i32 {
    guard(error, || {
        let compiler = Compiler::new(tokenizer, vocab_size, view(eos, eos_count))?;
        out.write(Box::into_raw(Box::new(compiler)));
        Ok(())
    })
}

#[no_mangle]
pub unsafe extern "C" fn shoal_compiler_free(compiler: *mut Compiler) {
    if !compiler.is_null() {
        drop(Box::from_raw(compiler));
    }
}

#[no_mangle]
pub unsafe extern "C" fn shoal_compiler_compile(
    compiler: &Compiler,
    kind: i32,
    text: Slice,
    out: *mut *mut GrammarMatcher,
    error: *mut Bytes,
) -> i32 {
    guard(error, || {
        let kind = match kind {
            0 => GrammarKind::JsonSchema,
            1 => GrammarKind::Regex,
            2 => GrammarKind::Lark,
            other => return Err(invalid!("no kind of grammar has number {other}")),
        };
        let text = text.text("the grammar")?;
        let matcher = deep(|| compiler.compile(kind, text))?;
        out.write(Box::into_raw(Box::new(matcher)));
        Ok(())
    })
}

#[no_mangle]
pub unsafe extern "C" fn shoal_matcher_free(matcher: *mut GrammarMatcher) {
    if !matcher.is_null() {
        drop(Box::from_raw(matcher));
    }
}

#[no_mangle]
pub unsafe extern "C" fn shoal_matcher_copy(
    matcher: &GrammarMatcher,
    out: *mut *mut GrammarMatcher,
    error: *mut Bytes,
) -> i32 {
    guard(error, || {
        out.write(Box::into_raw(Box::new(matcher.duplicate())));
        Ok(())
    })
}

#[no_mangle]
pub unsafe extern "C" fn shoal_matcher_mask(
    matcher: &mut GrammarMatcher,
    words: *mut u32,
    count: usize,
    error: *mut Bytes,
) -> i32 {
    guard(error, || {
        if count != matcher.mask_words() {
            return Err(invalid!("a mask has {} words, got room for {count}", matcher.mask_words()));
        }
        matcher.mask(std::slice::from_raw_parts_mut(words, count))
    })
}

#[no_mangle]
pub unsafe extern "C" fn shoal_matcher_consume(
    matcher: &mut GrammarMatcher,
    token: u32,
    error: *mut Bytes,
) -> i32 {
    guard(error, || matcher.consume(token))
}

#[no_mangle]
pub unsafe extern "C" fn shoal_matcher_rewind(
    matcher: &mut GrammarMatcher,
    count: usize,
    error: *mut Bytes,
) -> i32 {
    guard(error, || matcher.rewind(count))
}

#[no_mangle]
pub unsafe extern "C" fn shoal_matcher_forced_tokens(
    matcher: &mut GrammarMatcher,
    out: *mut Ids,
    error: *mut Bytes,
) -> i32 {
    guard(error, || {
        out.write(Ids::from_vec(matcher.forced_tokens()));
        Ok(())
    })
}

#[no_mangle]
pub unsafe extern "C" fn shoal_matcher_is_accepting(
    matcher: &mut GrammarMatcher,
    out: *mut bool,
    error: *mut Bytes,
) -> i32 {
    guard(error, || {
        out.write(matcher.is_accepting()?);
        Ok(())
    })
}

#[no_mangle]
pub unsafe extern "C" fn shoal_matcher_is_stopped(matcher: &GrammarMatcher) -> bool {
    matcher.is_stopped()
}

#[no_mangle]
pub unsafe extern "C" fn shoal_matcher_forced_text(
    matcher: &mut GrammarMatcher,
    out: *mut Bytes,
    error: *mut Bytes,
) -> i32 {
    guard(error, || {
        out.write(Bytes::from_vec(matcher.forced_text()));
        Ok(())
    })
}

/// Panics, for the test that no panic crosses the ABI.
#[no_mangle]
pub unsafe extern "C" fn shoal_bridge_panic(error: *mut Bytes) -> i32 {
    guard(error, || panic!("on purpose"))
}
