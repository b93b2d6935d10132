//! Errors, as text for people.

use std::cell::RefCell;
use std::panic::{catch_unwind, AssertUnwindSafe};
use std::sync::Once;

/// An error on its way to the C++ side, which turns the kind into a status code.
#[derive(Debug)]
pub enum Fault {
    /// The input is wrong; the text says where and how.
    Invalid(String),
    /// The model has no chat template.
    Missing(String),
    /// The chat template refused the conversation with `raise_exception`; the text is the template's own.
    Raised(String),
    /// A bug of ours, or of a library: a caught panic.
    Internal(String),
}

pub type Outcome<T> = Result<T, Fault>;

/// `Invalid` with a formatted text.
macro_rules! invalid {
    ($($argument:tt)*) => { $crate::error::Fault::Invalid(format!($($argument)*)) };
}
pub(crate) use invalid;

thread_local! {
    /// Where and why this thread panicked last.
    static PANIC: RefCell<String> = const { RefCell::new(String::new()) };
}

/// Panics become `Fault::Internal`; their text is kept for the error rather than printed.
fn keep_panic_texts() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        std::panic::set_hook(Box::new(|info| {
            let text = info.to_string();
            let _ = PANIC.try_with(|cell| cell.replace(text));
        }));
    });
}

/// Runs `body`; a panic becomes an error.
pub fn caught<T>(body: impl FnOnce() -> Outcome<T>) -> Outcome<T> {
    keep_panic_texts();
    catch_unwind(AssertUnwindSafe(body)).unwrap_or_else(|_| {
        let text = PANIC.with(|cell| cell.take()).replace('\n', " ");
        Err(Fault::Internal(format!("the text bridge failed: {text}")))
    })
}
