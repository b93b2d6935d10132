//! What goes wrong, as text for people.

/// An error on its way to the C++ side, which turns the kind into a status code.
#[derive(Debug)]
pub enum Fault {
    /// The input is wrong; the text says where and how.
    Invalid(String),
    /// The model has no such part.
    Missing(String),
    /// The chat template refused the conversation with `raise_exception`; the text is the template's own.
    Raised(String),
    /// Our own bug, or a library's: a panic that was caught.
    Internal(String),
}

pub type Outcome<T> = Result<T, Fault>;

/// `Invalid` with a formatted text.
macro_rules! invalid {
    ($($argument:tt)*) => { $crate::error::Fault::Invalid(format!($($argument)*)) };
}
pub(crate) use invalid;
