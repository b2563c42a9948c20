//! The arithmetic of a forward pass on a CPU: quantised products, attention, norms.
//!
//! Every kernel works on plain slices and says its shapes. A row's result never depends on which rows run
//! beside it: each (row, output) has its own accumulators and a fixed order of additions, so a step that
//! verifies drafts gives the same bits as steps of one token. Products of quantised weights go further: they
//! give the same bits on every machine, for all but a few of their operations are on integers (`panel.rs`).
//!
//! To read them: `quantized_rows.rs` is what is multiplied, `tiles.rs` where weights lie (`weights/panels.rs`: how), `formats.rs` how each type of block is taken apart,
//! `lanes.rs` the operations that a set of instructions gives (`avx2.rs`, `avx512.rs`, `neon.rs`; `vnni.rs` is
//! what the first two share), `panel.rs` the product made of them,
//! `scalar.rs` the slow one it must equal, `matmul.rs` the door to all of it.

pub(crate) mod activation;
pub(crate) mod affinity;
pub(crate) mod attention;
#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
pub mod delta_rule;
pub(crate) mod float;
mod float_product;
mod formats;
mod lanes;
pub(crate) mod matmul;
pub mod memory;
#[cfg(target_arch = "aarch64")]
mod neon;
pub(crate) mod norm;
mod panel;
pub(crate) mod pool;
mod quantized_rows;
mod scalar;
mod tiles;
mod transpose;
#[cfg(target_arch = "x86_64")]
mod vnni;

/// Which instructions the kernels may use. Only [`detect`](Self::detect) gives more than the portable ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Isa(pub(crate) Kind);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// AVX2, FMA and F16C, and what multiplies integers: made only where they were detected.
    #[cfg(target_arch = "x86_64")]
    Avx2(Integers),
    /// NEON with dot products of bytes, perhaps with products of matrices: made only where they were detected.
    #[cfg(target_arch = "aarch64")]
    Neon {
        i8mm: bool,
    },
    Portable,
}

/// Which instructions of an x86 processor multiply integers.
#[cfg(target_arch = "x86_64")]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Integers {
    Avx2,
    AvxVnni,
    /// AVX-512 F, BW, DQ, VL and VNNI.
    Avx512Vnni,
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
            && let Some(integers) = integers().next()
        {
            return Self(Kind::Avx2(integers));
        }
        #[cfg(target_arch = "aarch64")]
        if std::arch::is_aarch64_feature_detected!("dotprod") {
            return Self(Kind::Neon {
                i8mm: std::arch::is_aarch64_feature_detected!("i8mm"),
            });
        }
        Self::PORTABLE
    }

    /// Features that the kernels ask a processor for, those that this one has.
    pub fn features() -> Vec<&'static str> {
        #[cfg(target_arch = "x86_64")]
        let known = [
            ("avx2", is_x86_feature_detected!("avx2")),
            ("fma", is_x86_feature_detected!("fma")),
            ("f16c", is_x86_feature_detected!("f16c")),
            ("avxvnni", is_x86_feature_detected!("avxvnni")),
            ("avx512f", is_x86_feature_detected!("avx512f")),
            ("avx512bw", is_x86_feature_detected!("avx512bw")),
            ("avx512dq", is_x86_feature_detected!("avx512dq")),
            ("avx512vl", is_x86_feature_detected!("avx512vl")),
            ("avx512vnni", is_x86_feature_detected!("avx512vnni")),
        ];
        #[cfg(target_arch = "aarch64")]
        let known = [
            ("dotprod", std::arch::is_aarch64_feature_detected!("dotprod")),
            ("i8mm", std::arch::is_aarch64_feature_detected!("i8mm")),
        ];
        #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
        let known = [("", false)];
        known
            .into_iter()
            .filter(|(_, is_there)| *is_there)
            .map(|(name, _)| name)
            .collect()
    }

    /// Whether quantised weights are read in panels, not row by row.
    pub(crate) fn has_panels(self) -> bool {
        self.0 != Kind::Portable
    }

    /// Rows of activations that are multiplied together.
    pub(crate) fn max_rows(self) -> usize {
        match self.0 {
            #[cfg(target_arch = "x86_64")]
            Kind::Avx2(Integers::Avx512Vnni) => 12,
            _ => 8,
        }
    }

    /// All that this machine can run, the best first.
    pub fn all() -> Vec<Self> {
        let mut all = vec![Self::detect()];
        #[cfg(target_arch = "x86_64")]
        if matches!(Self::detect().0, Kind::Avx2(_)) {
            all.extend(integers().skip(1).map(|it| Self(Kind::Avx2(it))));
        }
        #[cfg(target_arch = "aarch64")]
        if Self::detect().0 == (Kind::Neon { i8mm: true }) {
            all.push(Self(Kind::Neon { i8mm: false }));
        }
        all.push(Self::PORTABLE);
        all.dedup();
        all
    }

    /// Name for people.
    pub fn name(self) -> &'static str {
        match self.0 {
            #[cfg(target_arch = "x86_64")]
            Kind::Avx2(Integers::Avx2) => "AVX2",
            #[cfg(target_arch = "x86_64")]
            Kind::Avx2(Integers::AvxVnni) => "AVX-VNNI",
            #[cfg(target_arch = "x86_64")]
            Kind::Avx2(Integers::Avx512Vnni) => "AVX-512 VNNI",
            #[cfg(target_arch = "aarch64")]
            Kind::Neon { i8mm: true } => "NEON i8mm",
            #[cfg(target_arch = "aarch64")]
            Kind::Neon { i8mm: false } => "NEON dotprod",
            Kind::Portable => "portable",
        }
    }
}

/// What multiplies integers on this machine, which has AVX2; the best first, and AVX2 itself at the end.
#[cfg(target_arch = "x86_64")]
fn integers() -> impl Iterator<Item = Integers> {
    let has_avx512 = is_x86_feature_detected!("avx512f")
        && is_x86_feature_detected!("avx512bw")
        && is_x86_feature_detected!("avx512dq")
        && is_x86_feature_detected!("avx512vl")
        && is_x86_feature_detected!("avx512vnni");
    [
        (Integers::Avx512Vnni, has_avx512),
        (Integers::AvxVnni, is_x86_feature_detected!("avxvnni")),
        (Integers::Avx2, true),
    ]
    .into_iter()
    .filter_map(|(integers, is_there)| is_there.then_some(integers))
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
