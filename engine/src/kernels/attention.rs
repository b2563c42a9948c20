//! Attention over the KV cache, one pass with an online softmax.
//!
//! Milakov and Gimelshein 2018, "Online normalizer calculation for softmax"; spans of a few blocks of the cache are the
//! tiles of Dao et al. 2022, "FlashAttention". Rows and grouped heads share each key that was read. The slow reference
//! is `model/reference.rs`.
//!
//! What a row sees is always cut into spans by order, not by slot: a node of a tree, whose ancestors stand
//! scattered, gathers them first. So a path through a tree has the bits of the same text decoded step by step.

use std::{cell::RefCell, ops::Range};

#[cfg(target_arch = "x86_64")]
use super::Integers;
use super::{
    Isa, SharedOut,
    activation::cap_generic as cap,
    float::{exp, largest, sum},
    lanes::{Floats, PlainFloats},
    pool::ThreadPool,
    transpose::transpose,
};
use crate::{
    kv_cache::{BLOCK_LEN, KvCache},
    model::{Batch, CacheShape, Row},
};

/// Rows of one sequence that share each key and value read from the cache.
const TILE_ROWS: usize = 16;

/// Slots that go through the softmax together, so that what is done once for all of them is little: whole blocks.
const SPAN_LEN: usize = 4 * BLOCK_LEN;

/// Most query heads that share them. Where more have one key, the others read it again, on another thread.
const TILE_HEADS: usize = 8;

/// The shape of one attention layer.
#[derive(Debug, Clone, Copy)]
pub(crate) struct AttentionShape<'a> {
    pub(crate) n_heads: usize,
    pub(crate) cached: CacheShape,
    /// Multiplies every score; 1 / sqrt(key_dim) in most families.
    pub(crate) scale: f32,
    /// Bound that scaled scores come near but do not reach.
    pub(crate) cap: Option<f32>,
    /// A row sees only so many of the last slots that it would see, its own included.
    pub(crate) window: Option<usize>,
    /// For each head, a score that takes part in the softmax without a value (Xiao et al. 2023, "Efficient Streaming
    /// Language Models with Attention Sinks", as GPT-OSS learns them).
    pub(crate) sinks: Option<&'a [f32]>,
}

impl AttentionShape<'_> {
    /// How many of the first slots that `row` would see its window hides.
    fn n_hidden(&self, row: &Row) -> usize {
        let n_seen = row.position() + 1;
        self.window.map_or(0, |window| n_seen.saturating_sub(window))
    }
}

/// Some rows of one sequence: either at consecutive positions, or nodes of one tree.
#[derive(Debug, Clone, Copy)]
struct Tile {
    first_row: usize,
    n_rows: usize,
    sequence_idx: usize,
}

/// What a thread needs for a tile, kept between calls.
#[derive(Default)]
struct Scratch {
    /// Keys of one span, `(blocks, key_dim, BLOCK_LEN)`.
    keys: Vec<f32>,
    /// Values of one span, `(SPAN_LEN, value_dim)`.
    values: Vec<f32>,
    /// For each (row, head of the task): weighted sum of values, `value_dim`.
    sums: Vec<f32>,
    /// For each (row, head of the task): largest score so far, sum of exponentials.
    softmax: Vec<(f32, f32)>,
}

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::default();
    /// Kept between calls for its memory.
    static TILES: RefCell<Vec<Tile>> = RefCell::default();
}

/// Attends every row of `batch` to the slots of its sequence that it sees.
///
/// `queries` is `(rows, n_heads, key_dim)`, `out` `(rows, n_heads, value_dim)`, f32; keys and values of the rows are in
/// `cache` already.
pub(crate) fn attend(
    isa: Isa,
    pool: &mut ThreadPool,
    shape: AttentionShape<'_>,
    batch: Batch<'_>,
    (cache, layer): (&KvCache, usize),
    queries: &[f32],
    out: &mut [f32],
) {
    let mut tiles = TILES.take();
    tiles.clear();
    tiles.extend(tiles_of(batch));
    let out = SharedOut::new(out);
    let group = shape.n_heads / shape.cached.n_heads;
    let n_parts = group.div_ceil(TILE_HEADS);
    let n_tasks = shape.cached.n_heads * n_parts;
    pool.run(tiles.len() * n_tasks, &|task_idx| {
        // The last tiles of a prompt see the most positions: first come the expensive ones.
        let tile = tiles[tiles.len() - 1 - task_idx / n_tasks];
        let (kv_head, part) = (task_idx % n_tasks / n_parts, task_idx % n_parts);
        let first_head = kv_head * group;
        let heads = first_head + group * part / n_parts..first_head + group * (part + 1) / n_parts;
        let blocks = batch.sequences[tile.sequence_idx].blocks();
        let rows = &batch.rows[tile.first_row..][..tile.n_rows];
        SCRATCH.with_borrow_mut(|scratch| {
            let task = Task {
                isa,
                shape,
                tile,
                rows,
                kv_head,
                heads,
                blocks,
                cache,
                layer,
                queries,
                out,
            };
            match isa.0 {
                #[cfg(target_arch = "x86_64")]
                // SAFETY: the kind is only made where the instructions were detected.
                super::Kind::Avx2(Integers::Avx512Vnni) => unsafe { attend_tile_avx512(task, scratch) },
                #[cfg(target_arch = "x86_64")]
                // SAFETY: as above.
                super::Kind::Avx2(_) => unsafe { attend_tile_avx2(task, scratch) },
                #[cfg(target_arch = "aarch64")]
                // SAFETY: every such processor has these instructions.
                _ => unsafe { attend_tile::<super::neon::Neon<false>, true>(task, scratch) },
                #[cfg(not(target_arch = "aarch64"))]
                // SAFETY: the compiler's own instructions.
                super::Kind::Portable => unsafe { attend_tile::<PlainFloats<4>, false>(task, scratch) },
            }
        });
    });
    TILES.set(tiles);
}

fn tiles_of(batch: Batch<'_>) -> impl Iterator<Item = Tile> {
    let rows = batch.rows;
    let mut at = 0;
    std::iter::from_fn(move || {
        let first = rows.get(at)?;
        let n_rows = rows[at..]
            .iter()
            .take(TILE_ROWS)
            .take_while(|row| row.sequence_idx == first.sequence_idx)
            .take_while(|row| (row.ancestors == 0) == (first.ancestors == 0))
            .count();
        let tile = Tile {
            first_row: at,
            n_rows,
            sequence_idx: first.sequence_idx as usize,
        };
        at += n_rows;
        Some(tile)
    })
}

/// What one task of [`attend`] works on.
struct Task<'a> {
    isa: Isa,
    shape: AttentionShape<'a>,
    tile: Tile,
    /// The tile's.
    rows: &'a [Row],
    kv_head: usize,
    /// Query heads that go with it, or some of them.
    heads: Range<usize>,
    /// The sequence's.
    blocks: &'a [u32],
    cache: &'a KvCache,
    layer: usize,
    queries: &'a [f32],
    out: SharedOut<'a, f32>,
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")]
fn attend_tile_avx512(task: Task<'_>, scratch: &mut Scratch) {
    // SAFETY: the instructions are there.
    unsafe { attend_tile::<super::avx512::Avx512, true>(task, scratch) };
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma,f16c")]
fn attend_tile_avx2(task: Task<'_>, scratch: &mut Scratch) {
    // SAFETY: the instructions are there.
    unsafe { attend_tile::<super::avx2::Avx2<false>, true>(task, scratch) };
}

/// # Safety
/// The instructions of `L` are there.
#[inline(always)]
unsafe fn attend_tile<L: Floats, const FMA: bool>(task: Task<'_>, scratch: &mut Scratch) {
    let AttentionShape { n_heads, cached, .. } = task.shape;
    let CacheShape {
        key_dim, value_dim, ..
    } = cached;
    let n_task_heads = task.heads.len();
    scratch.keys.resize(SPAN_LEN * key_dim, 0.0);
    scratch.values.resize(SPAN_LEN * value_dim, 0.0);
    scratch.begin(&task);

    // Rows of a tree share only the whole spans of their context.
    let n_shared = match task.rows.last() {
        Some(row) if row.ancestors == 0 => row.context_len as usize,
        Some(row) => row.context_len as usize / SPAN_LEN * SPAN_LEN,
        None => 0,
    };
    let hidden = task.rows.iter().map(|row| task.shape.n_hidden(row));
    let n_hidden_from_all = hidden.min().unwrap_or(0) / SPAN_LEN * SPAN_LEN;
    for first_slot in (n_hidden_from_all..n_shared).step_by(SPAN_LEN) {
        for first in (first_slot..n_shared.min(first_slot + SPAN_LEN)).step_by(BLOCK_LEN) {
            let n_slots = BLOCK_LEN.min(n_shared - first);
            scratch.load_block::<FMA>(&task, first - first_slot, task.blocks[first / BLOCK_LEN], n_slots);
        }
        let visible = |row: &Row| {
            let n_visible = (row.context_len as usize).saturating_sub(first_slot);
            task.shape.n_hidden(row).saturating_sub(first_slot)..n_visible.min(SPAN_LEN)
        };
        // Mostly one run of rows: a later one sees later slots.
        let mut seeing = (0..task.rows.len()).filter(|row| !visible(&task.rows[*row]).is_empty());
        if let Some(first) = seeing.next() {
            let last = seeing.next_back().unwrap_or(first);
            let streams = first * n_task_heads..(last + 1) * n_task_heads;
            // SAFETY: the caller's promise.
            unsafe { scratch.attend_span::<L, FMA>(&task, streams, visible) };
        }
    }
    for (row_idx, row) in task.rows.iter().enumerate().filter(|(_, row)| row.ancestors != 0) {
        let n_seen = row.position() + 1;
        let n_whole = row.context_len as usize / BLOCK_LEN * BLOCK_LEN;
        let mut scattered = row.visible_slots().skip(n_whole);
        for first_slot in (n_shared..n_seen).step_by(SPAN_LEN) {
            let n_visible = SPAN_LEN.min(n_seen - first_slot);
            for first in (0..n_visible).step_by(BLOCK_LEN) {
                if first_slot + first < n_whole {
                    let block = task.blocks[(first_slot + first) / BLOCK_LEN];
                    scratch.load_block::<FMA>(&task, first, block, BLOCK_LEN);
                } else {
                    let slots = scattered.by_ref().take(BLOCK_LEN);
                    scratch.load_slots::<FMA>(&task, first, slots);
                }
            }
            let n_hidden = task.shape.n_hidden(row).saturating_sub(first_slot);
            if n_visible > n_hidden {
                let streams = row_idx * n_task_heads..(row_idx + 1) * n_task_heads;
                // SAFETY: the caller's promise.
                unsafe { scratch.attend_span::<L, FMA>(&task, streams, |_| n_hidden..n_visible) };
            }
        }
    }

    for row in 0..task.rows.len() {
        let start = ((task.tile.first_row + row) * n_heads + task.heads.start) * value_dim;
        // SAFETY: the tiles and heads of the tasks cover disjoint parts of `out`.
        let out = unsafe { task.out.slice(start..start + n_task_heads * value_dim) };
        for (head_idx, out) in out.chunks_exact_mut(value_dim).enumerate() {
            let stream = row * n_task_heads + head_idx;
            let inverse = 1.0 / scratch.softmax[stream].1;
            for (out, sum) in out.iter_mut().zip(&scratch.sums[stream * value_dim..]) {
                *out = sum * inverse;
            }
        }
    }
}

impl Task<'_> {
    /// The query of a stream: the streams are the heads of the first row, then those of the second one...
    fn query(&self, stream: usize) -> &[f32] {
        let (row, head) = (stream / self.heads.len(), stream % self.heads.len());
        let key_dim = self.shape.cached.key_dim;
        let at = (self.tile.first_row + row) * self.shape.n_heads + self.heads.start + head;
        &self.queries[at * key_dim..][..key_dim]
    }
}

impl Scratch {
    /// Nothing was seen yet.
    fn begin(&mut self, task: &Task<'_>) {
        let n_streams = task.rows.len() * task.heads.len();
        self.sums.clear();
        self.sums.resize(n_streams * task.shape.cached.value_dim, 0.0);
        self.softmax.clear();
        match task.shape.sinks {
            None => self.softmax.resize(n_streams, (f32::NEG_INFINITY, 0.0)),
            Some(sinks) => {
                let sinks = sinks[task.heads.clone()].iter();
                let sinks = sinks.map(|sink| (*sink, 1.0)).cycle();
                self.softmax.extend(sinks.take(n_streams));
            }
        }
    }

    /// Keys and values of the block that begins at slot `first` of the span.
    #[inline(always)]
    fn block_at(&mut self, shape: CacheShape, first: usize) -> (&mut [f32], &mut [f32]) {
        let keys = &mut self.keys[first * shape.key_dim..][..BLOCK_LEN * shape.key_dim];
        let values = &mut self.values[first * shape.value_dim..][..BLOCK_LEN * shape.value_dim];
        (keys, values)
    }

    /// Reads `n_slots` slots of a block from the cache, to slot `first` of the span and those after it.
    #[inline(always)]
    fn load_block<const FMA: bool>(&mut self, task: &Task<'_>, first: usize, block: u32, n_slots: usize) {
        let shape = task.shape.cached;
        let (keys, values) = self.block_at(shape, first);
        task.cache
            .load_keys(task.isa, task.layer, block, task.kv_head, keys);
        task.cache
            .load_values(task.isa, task.layer, block, task.kv_head, n_slots, values);
        if shape.values_are_keys {
            transpose::<FMA>(keys, BLOCK_LEN, values, shape.value_dim);
        }
    }

    /// Reads at most [`BLOCK_LEN`] slots that stand anywhere.
    #[inline(always)]
    fn load_slots<const FMA: bool>(
        &mut self,
        task: &Task<'_>,
        first: usize,
        slots: impl Iterator<Item = usize>,
    ) {
        let shape = task.shape.cached;
        let (keys, values) = self.block_at(shape, first);
        for (to, slot) in slots.enumerate() {
            let place = (task.blocks[slot / BLOCK_LEN], slot % BLOCK_LEN);
            task.cache
                .load_slot(task.layer, place, task.kv_head, to, keys, values);
        }
        if shape.values_are_keys {
            transpose::<FMA>(keys, BLOCK_LEN, values, shape.value_dim);
        }
    }

    /// Takes in the span at hand for some streams, each of which sees `visible` slots of it.
    ///
    /// # Safety
    /// The instructions of `L` are there.
    #[inline(always)]
    unsafe fn attend_span<L: Floats, const FMA: bool>(
        &mut self,
        task: &Task<'_>,
        streams: Range<usize>,
        visible: impl Fn(&Row) -> Range<usize>,
    ) {
        let n_heads = task.heads.len();
        let visible = |stream: usize| visible(&task.rows[stream / n_heads]);
        let mut at = streams.start;
        // SAFETY: the caller's promise.
        unsafe {
            while at + 4 <= streams.end {
                self.attend_streams::<L, FMA, 4, 2>(task, at, [0, 1, 2, 3].map(|it| visible(at + it)));
                at += 4;
            }
            if at + 2 <= streams.end {
                self.attend_streams::<L, FMA, 2, 4>(task, at, [0, 1].map(|it| visible(at + it)));
                at += 2;
            }
            if at < streams.end {
                self.attend_streams::<L, FMA, 1, 4>(task, at, [visible(at)]);
            }
        }
    }

    /// The same for `N` streams, with `R` registers for each. What comes out for one does not depend on the others.
    #[inline(always)]
    unsafe fn attend_streams<L: Floats, const FMA: bool, const N: usize, const R: usize>(
        &mut self,
        task: &Task<'_>,
        first_stream: usize,
        visible: [Range<usize>; N],
    ) {
        let CacheShape {
            key_dim, value_dim, ..
        } = task.shape.cached;
        let mut weights = [[0.0; SPAN_LEN]; N];
        let mut queries: [&[f32]; N] = [&[]; N];
        for (stream, query) in queries.iter_mut().enumerate() {
            *query = task.query(first_stream + stream);
        }
        // SAFETY: the caller's promise.
        unsafe { scores::<L, N, R>(queries, &self.keys[..SPAN_LEN * key_dim], &mut weights) };
        let softmax = &mut self.softmax[first_stream..][..N];
        // As wide as a register, so that what is done once for each stream is done for all at once.
        let (mut shrunk, mut totals) = ([0.0; MAX_STREAMS], [0.0; MAX_STREAMS]);
        for stream in 0..N {
            let scores = &mut weights[stream];
            let (start, end) = (visible[stream].start, visible[stream].end);
            for (slot, score) in scores.iter_mut().enumerate() {
                *score = if slot >= start && slot < end {
                    *score * task.shape.scale
                } else {
                    f32::NEG_INFINITY
                };
            }
            if let (Some(limit), Some(seen)) = (task.shape.cap, scores.get_mut(start..end)) {
                cap::<FMA>(seen, limit);
            }
            let old_max = softmax[stream].0;
            let max = largest(scores).max(old_max);
            softmax[stream].0 = max;
            // One that has seen nothing yet has a largest score of its own: none. It still takes nothing in.
            let max = if max == f32::NEG_INFINITY { 0.0 } else { max };
            for score in scores.iter_mut() {
                *score = exp::<FMA>(*score - max);
            }
            totals[stream] = sum(scores);
            shrunk[stream] = old_max - max;
        }
        let mut rescale = [0.0; MAX_STREAMS];
        for stream in 0..MAX_STREAMS {
            rescale[stream] = exp::<FMA>(shrunk[stream]);
        }
        for stream in 0..N {
            softmax[stream].1 = softmax[stream].1 * rescale[stream] + totals[stream];
        }
        let (mut first, mut end) = (SPAN_LEN, 0);
        for visible in &visible {
            (first, end) = (first.min(visible.start), end.max(visible.end));
        }
        let sums = &mut self.sums[first_stream * value_dim..][..N * value_dim];
        // SAFETY: the caller's promise.
        unsafe { add_values::<L, N, R>(sums, &rescale, &weights, &self.values, first..end) };
    }
}

/// Most streams that are worked on together.
const MAX_STREAMS: usize = 4;

/// Scores of `N` queries, `key_dim` each, with all keys of a span, `(blocks, key_dim, BLOCK_LEN)`: as many slots at a time
/// as `R` registers hold.
///
/// # Safety
/// The instructions of `L` are there.
#[inline(always)]
unsafe fn scores<L: Floats, const N: usize, const R: usize>(
    queries: [&[f32]; N],
    keys: &[f32],
    scores: &mut [[f32; SPAN_LEN]; N],
) {
    let key_dim = keys.len() / SPAN_LEN;
    assert!(queries.iter().all(|it| it.len() == key_dim) && SPAN_LEN.is_multiple_of(R * L::N));
    for first in (0..SPAN_LEN).step_by(R * L::N) {
        // SAFETY: the caller's promise; slots and columns lie within the span, by the assertion.
        unsafe {
            let mut starts = [keys.as_ptr(); R];
            for (register, start) in starts.iter_mut().enumerate() {
                let slot = first + register * L::N;
                *start = start.add(slot / BLOCK_LEN * BLOCK_LEN * key_dim + slot % BLOCK_LEN);
            }
            let mut sums = [[L::splat_float(0.0); R]; N];
            for column in 0..key_dim {
                let mut keys = [L::splat_float(0.0); R];
                for register in 0..R {
                    keys[register] = L::load(starts[register].add(column * BLOCK_LEN));
                }
                for stream in 0..N {
                    let query = L::splat_float(*queries[stream].get_unchecked(column));
                    for register in 0..R {
                        sums[stream][register] = L::mul_add(query, keys[register], sums[stream][register]);
                    }
                }
            }
            for (scores, sums) in scores.iter_mut().zip(sums) {
                for (register, sums) in sums.into_iter().enumerate() {
                    L::store(scores.as_mut_ptr().add(first + register * L::N), sums);
                }
            }
        }
    }
}

/// `sums = rescale * sums + weights * values` for some slots and `N` streams: sums `(N, value_dim)`, values
/// `(SPAN_LEN, value_dim)`. Works on as many columns at a time as `R` registers hold.
///
/// # Safety
/// The instructions of `L` are there.
#[inline(always)]
unsafe fn add_values<L: Floats, const N: usize, const R: usize>(
    sums: &mut [f32],
    rescale: &[f32; MAX_STREAMS],
    weights: &[[f32; SPAN_LEN]; N],
    values: &[f32],
    slots: Range<usize>,
) {
    let value_dim = sums.len() / N;
    assert!(values.len() >= SPAN_LEN * value_dim && slots.end <= SPAN_LEN);
    let mut first = 0;
    // SAFETY: the caller's promise; columns and slots lie within the arrays, by the assertion.
    unsafe {
        while first + R * L::N <= value_dim {
            add_columns::<L, N, R>(sums, rescale, weights, values, slots.clone(), first);
            first += R * L::N;
        }
        while first + L::N <= value_dim {
            add_columns::<L, N, 1>(sums, rescale, weights, values, slots.clone(), first);
            first += L::N;
        }
        while first < value_dim {
            add_columns::<PlainFloats<1>, N, 1>(sums, rescale, weights, values, slots.clone(), first);
            first += 1;
        }
    }
}

/// [`add_values`] for the columns that `R` registers hold, from `first` on.
///
/// # Safety
/// The instructions of `L` are there, and so many columns and slots.
#[inline(always)]
unsafe fn add_columns<L: Floats, const N: usize, const R: usize>(
    sums: &mut [f32],
    rescale: &[f32; MAX_STREAMS],
    weights: &[[f32; SPAN_LEN]; N],
    values: &[f32],
    slots: Range<usize>,
    first: usize,
) {
    let value_dim = sums.len() / N;
    let values = values.as_ptr().wrapping_add(first);
    let sums = sums.as_mut_ptr().wrapping_add(first);
    // SAFETY: the caller's promise.
    unsafe {
        let mut columns = [[L::splat_float(0.0); R]; N];
        for (stream, columns) in columns.iter_mut().enumerate() {
            for (register, column) in columns.iter_mut().enumerate() {
                let old = L::load(sums.add(stream * value_dim + register * L::N));
                *column = L::mul(old, L::splat_float(rescale[stream]));
            }
        }
        for slot in slots {
            let mut row = [L::splat_float(0.0); R];
            for (register, value) in row.iter_mut().enumerate() {
                *value = L::load(values.add(slot * value_dim + register * L::N));
            }
            for stream in 0..N {
                let weight = L::splat_float(*weights[stream].get_unchecked(slot));
                for register in 0..R {
                    columns[stream][register] = L::mul_add(weight, row[register], columns[stream][register]);
                }
            }
        }
        for (stream, columns) in columns.into_iter().enumerate() {
            for (register, column) in columns.into_iter().enumerate() {
                L::store(sums.add(stream * value_dim + register * L::N), column);
            }
        }
    }
}
