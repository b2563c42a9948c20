//! The arithmetic of a forward pass on a CPU: quantised products, attention, norms.
//!
//! Every kernel works on plain slices and says its shapes. A row's result never depends on which rows run
//! beside it: each (row, output) has its own accumulators and a fixed order of additions, so a step that
//! verifies drafts gives the same bits as steps of one token.

pub(crate) mod activation;
pub(crate) mod attention;
#[cfg(target_arch = "x86_64")]
mod avx2;
pub(crate) mod float;
pub(crate) mod matmul;
pub(crate) mod norm;
pub(crate) mod pool;

/// Which instructions the kernels may use. Only [`detect`](Self::detect) gives more than the portable ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Isa(pub(crate) Kind);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// AVX2, FMA and F16C: made only where they were detected.
    #[cfg(target_arch = "x86_64")]
    Avx2,
    Portable,
}

impl Isa {
    /// Whatever the compiler's target guarantees.
    pub const PORTABLE: Self = Self(Kind::Portable);

    /// The best that this machine offers.
    pub fn detect() -> Self {
        #[cfg(target_arch = "x86_64")]
        if is_x86_feature_detected!("avx2")
            && is_x86_feature_detected!("fma")
            && is_x86_feature_detected!("f16c")
        {
            return Self(Kind::Avx2);
        }
        Self::PORTABLE
    }

    /// Name for people.
    pub fn name(self) -> &'static str {
        match self.0 {
            #[cfg(target_arch = "x86_64")]
            Kind::Avx2 => "AVX2",
            Kind::Portable => "portable",
        }
    }
}

/// A mutable buffer that threads write in disjoint places.
#[derive(Clone, Copy)]
pub(crate) struct SharedOut<'a, T> {
    start: *mut T,
    len: usize,
    buffer: std::marker::PhantomData<&'a mut [T]>,
}

// SAFETY: the only access is `slice`, whose callers promise disjoint ranges.
unsafe impl<T: Send> Send for SharedOut<'_, T> {}
// SAFETY: as above.
unsafe impl<T: Send> Sync for SharedOut<'_, T> {}

impl<'a, T> SharedOut<'a, T> {
    pub(crate) fn new(buffer: &'a mut [T]) -> Self {
        Self {
            start: buffer.as_mut_ptr(),
            len: buffer.len(),
            buffer: std::marker::PhantomData,
        }
    }

    /// A part of the buffer.
    ///
    /// # Safety
    /// No other thread may touch the range while the slice lives.
    pub(crate) unsafe fn slice(&self, range: std::ops::Range<usize>) -> &'a mut [T] {
        assert!(range.start <= range.end && range.end <= self.len);
        // SAFETY: inside the buffer by the assertion, and not aliased by the caller's promise.
        unsafe { std::slice::from_raw_parts_mut(self.start.add(range.start), range.len()) }
    }
}
