//! How fast this machine reads memory: the ceiling under which decoding lives.

use std::{hint::black_box, io, sync::Barrier, thread, time::Instant};

use memmap2::MmapMut;
use surmise_engine::kernels::{Isa, memory::sum_words};

/// Memory that several threads read, each a part of its own, in pages as large as those of the engine's weights.
pub(super) struct Bandwidth {
    parts: Vec<MmapMut>,
}

impl Bandwidth {
    /// Takes `n_bytes` of memory, or a little less, for `n_threads` threads.
    ///
    /// # Errors
    /// The system's, where there is too little of it.
    pub(super) fn new(n_bytes: usize, n_threads: usize) -> io::Result<Self> {
        let part = |_| {
            let mut memory = MmapMut::map_anon(n_bytes / n_threads)?;
            #[cfg(target_os = "linux")]
            let _ = memory.advise(memmap2::Advice::HugePage);
            // Not zeros: the system would back those with a single page.
            let (words, _) = memory.as_chunks_mut::<8>();
            for (word, idx) in words.iter_mut().zip(1u64..) {
                *word = idx.to_ne_bytes();
            }
            Ok(memory)
        };
        let parts = (0..n_threads).map(part).collect::<io::Result<_>>()?;
        Ok(Self { parts })
    }

    /// Bytes of it.
    pub(super) fn n_bytes(&self) -> usize {
        self.parts.iter().map(|part| part.len()).sum()
    }

    /// Reads all of it `n_passes` times on all threads at once; bytes per second.
    pub(super) fn measure(&self, n_passes: usize) -> f64 {
        let isa = Isa::detect();
        let start_line = Barrier::new(self.parts.len());
        let seconds = thread::scope(|scope| {
            let runners: Vec<_> = self
                .parts
                .iter()
                .map(|part| {
                    scope.spawn(|| {
                        black_box(sum_words(isa, part));
                        start_line.wait();
                        let started = Instant::now();
                        for _ in 0..n_passes {
                            black_box(sum_words(isa, black_box(part)));
                        }
                        started.elapsed().as_secs_f64()
                    })
                })
                .collect();
            let seconds = runners
                .into_iter()
                .map(|runner| runner.join().unwrap_or(f64::INFINITY));
            seconds.fold(f64::MIN_POSITIVE, f64::max)
        });
        (self.n_bytes() * n_passes) as f64 / seconds
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_divided_among_threads() {
        let bandwidth = Bandwidth::new(1 << 20, 2).unwrap();
        assert_eq!(bandwidth.n_bytes(), 1 << 20);
        assert!(bandwidth.measure(1) > 0.0);
    }
}
