//! Most time and memory that something broken may take: what allocates is counted.

use std::{
    alloc::{GlobalAlloc, Layout, System},
    panic::catch_unwind,
    sync::atomic::{AtomicUsize, Ordering},
    time::{Duration, Instant},
};

const MAX_TIME: Duration = Duration::from_secs(1);
const MAX_BYTES: usize = 100 << 20;

/// Counts what is allocated: live bytes, and their peak.
struct Counting;

static LIVE: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);

// SAFETY: everything is handed on to the system's allocator; the counters do not touch the memory.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let live = LIVE.fetch_add(layout.size(), Ordering::Relaxed) + layout.size();
        PEAK.fetch_max(live, Ordering::Relaxed);
        // SAFETY: the caller's promise.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        LIVE.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller's promise.
        unsafe { System.dealloc(memory, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// What `action` gives, which must come without a panic within the limits; `at` tells the damage. Nothing else may allocate
/// meanwhile.
pub(crate) fn within_limits<T>(at: &str, action: impl Fn() -> T + std::panic::RefUnwindSafe) -> T {
    let (mut outcome, mut elapsed) = measured(at, &action);
    if elapsed > MAX_TIME {
        // Somebody else may have had the processor.
        (outcome, elapsed) = measured(at, &action);
    }
    assert!(elapsed < MAX_TIME, "{at}: took {elapsed:?}");
    outcome
}

fn measured<T>(at: &str, action: &(impl Fn() -> T + std::panic::RefUnwindSafe)) -> (T, Duration) {
    let (before, started) = (LIVE.load(Ordering::Relaxed), Instant::now());
    PEAK.store(before, Ordering::Relaxed);
    let outcome = catch_unwind(action).unwrap_or_else(|_| panic!("{at}: panicked"));
    let (elapsed, peak) = (started.elapsed(), PEAK.load(Ordering::Relaxed));
    let n_bytes = peak.saturating_sub(before);
    assert!(n_bytes < MAX_BYTES, "{at}: took {n_bytes} bytes");
    (outcome, elapsed)
}
