//! Text for shoal: Hugging Face tokenizers, chat templates and constrained decoding behind a C ABI
//! (`shoal_bridge.h`). The only global state is the panic hook and the allocator, which counts what a thread
//! holds if that is bounded. Nothing here reads a file, a clock or the environment.

mod abi;
mod control;
mod conversation;
mod end_of_text;
mod error;
mod grammar;
mod jinja_source;
mod meter;
mod origin;
mod python;
mod template;
mod tokenizer;
