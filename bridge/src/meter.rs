//! Runs work with a bounded amount of memory. What a chat template allocates depends on untrusted text, and the
//! template engine bounds only the number of steps: doubling a text forty times fills any machine.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::Thread;

/// The system's allocator; counts the bytes that a thread holds, for threads that `within` started.
struct Metered;

#[global_allocator]
static ALLOCATOR: Metered = Metered;

/// Shared by the thread that works and the one that waits for it.
struct Watch {
    waiting: Thread,
    state: AtomicU8,
}
const RUNNING: u8 = 0;
const ENDED: u8 = 1;
const EXCEEDED: u8 = 2;

impl Watch {
    fn say(&self, state: u8) {
        self.state.store(state, Ordering::Release);
        self.waiting.unpark();
    }
}

thread_local! {
    /// Bytes that this thread may still allocate; isize::MAX if it is not counted.
    static LEFT: Cell<isize> = const { Cell::new(isize::MAX) };
    static WATCH: Cell<*const Watch> = const { Cell::new(std::ptr::null()) };
}

fn take(size: usize) {
    let left = LEFT.get();
    if left == isize::MAX {
        return;
    }
    match left.checked_sub_unsigned(size) {
        Some(left) if left >= 0 => LEFT.set(left),
        _ => stop_here(),
    }
}

fn give(size: usize) {
    let left = LEFT.get();
    if left != isize::MAX {
        LEFT.set(left.saturating_add_unsigned(size).min(isize::MAX - 1));
    }
}

/// If an allocator unwinds or returns null, the process ends; but it need not return at all. So the thread is parked
/// for ever, with the memory that it holds.
fn stop_here() -> ! {
    LEFT.set(isize::MAX);
    // SAFETY: set by `within`, whose thread keeps a reference to it for as long as LEFT counts.
    unsafe { (*WATCH.get()).say(EXCEEDED) };
    loop {
        std::thread::park();
    }
}

// SAFETY: all calls go to the system's allocator; counting touches only thread-local cells and does not allocate.
unsafe impl GlobalAlloc for Metered {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        take(layout.size());
        System.alloc(layout)
    }
    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        take(layout.size());
        System.alloc_zeroed(layout)
    }
    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        give(layout.size());
        System.dealloc(memory, layout)
    }
    unsafe fn realloc(&self, memory: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // Only the difference is counted. If memory moves, both copies exist for a moment, so the process may then hold
        // twice the bound.
        match size.checked_sub(layout.size()) {
            Some(more) => take(more),
            None => give(layout.size() - size),
        }
        System.realloc(memory, layout, size)
    }
}

/// The outcome of bounded work.
pub enum Bounded<T> {
    Done(T),
    /// It needed more memory. Its thread is parked for ever and keeps its memory: do not run such work again.
    Exceeded,
}

/// A stack size that no input within the size limits can exhaust. The compilers of templates and grammars recurse as
/// deeply as their input nests, and a stack overflow ends the process. Only touched pages cost memory.
pub const DEEP_STACK: usize = 1 << 28;

/// Runs `body` on its own thread, with a deep stack and at most `bytes_max` bytes of heap at once. Returns the system's
/// error if no thread can be started.
pub fn within<T: Send + 'static>(
    bytes_max: usize,
    body: impl FnOnce() -> T + Send + 'static,
) -> std::io::Result<Bounded<T>> {
    let watch = Arc::new(Watch { waiting: std::thread::current(), state: AtomicU8::new(RUNNING) });
    let result = Arc::new(Mutex::new(None));
    let thread = std::thread::Builder::new().stack_size(DEEP_STACK).spawn({
        let (watch, result) = (watch.clone(), result.clone());
        move || {
            // A thread's handle is created on first use: create it before the allocator needs it to park.
            let _ = std::thread::current();
            WATCH.set(&*watch);
            LEFT.set(bytes_max.min(isize::MAX as usize - 1) as isize);
            let value = body();
            LEFT.set(isize::MAX);
            *result.lock().unwrap_or_else(PoisonError::into_inner) = Some(value);
            watch.say(ENDED);
        }
    })?;
    loop {
        match watch.state.load(Ordering::Acquire) {
            EXCEEDED => return Ok(Bounded::Exceeded),
            ENDED => break,
            // A thread whose body panicked has ended without saying so.
            _ if thread.is_finished() => break,
            _ => std::thread::park_timeout(std::time::Duration::from_millis(100)),
        }
    }
    let _ = thread.join();
    let value = result.lock().unwrap_or_else(PoisonError::into_inner).take();
    value.map(Bounded::Done).ok_or_else(|| std::io::Error::other("a thread died"))
}
