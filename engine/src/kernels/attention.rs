//! Attention over the KV cache, one pass with an online softmax.
//!
//! Milakov and Gimelshein 2018, "Online normalizer calculation for softmax"; the blocks of the cache are the
//! tiles of Dao et al. 2022, "FlashAttention". Grouped heads share each key that was read. The slow reference
//! is `model/reference.rs`.
//!
//! What a row sees is always cut into blocks by order, not by slot: a node of a tree, whose ancestors stand
//! scattered, gathers them first. So a path through a tree has the bits of the same text decoded step by step.

use std::{cell::RefCell, ops::Range};

#[cfg(target_arch = "x86_64")]
use super::Integers;
use super::{
    Isa, SharedOut,
    float::{exp, largest, mul_add, sum},
    pool::ThreadPool,
    transpose::transpose,
};
use crate::{
    kv_cache::{BLOCK_LEN, KvCache},
    model::{Batch, CacheShape, Row},
};

/// Rows of one sequence that share each key and value read from the cache.
const TILE_ROWS: usize = 16;

/// Most query heads that share them. Where more have one key, the others read it again, on another thread.
const TILE_HEADS: usize = 8;

/// The shape of one attention layer.
#[derive(Debug, Clone, Copy)]
pub(crate) struct AttentionShape<'a> {
    pub(crate) n_heads: usize,
    pub(crate) cached: CacheShape,
    /// Multiplies every score; 1 / sqrt(key_dim) in most families.
    pub(crate) scale: f32,
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
    /// Keys of one block, `(key_dim, BLOCK_LEN)`.
    keys: Vec<f32>,
    /// Values of one block, `(BLOCK_LEN, value_dim)`.
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
                _ => attend_tile::<false, 2>(task, scratch),
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
    attend_tile::<true, 4>(task, scratch);
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma,f16c")]
fn attend_tile_avx2(task: Task<'_>, scratch: &mut Scratch) {
    attend_tile::<true, 2>(task, scratch);
}

/// `N` heads are worked on together, as far as the task has so many.
#[inline(always)]
fn attend_tile<const FMA: bool, const N: usize>(task: Task<'_>, scratch: &mut Scratch) {
    let Task {
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
    } = task;
    let AttentionShape { n_heads, cached, .. } = shape;
    let CacheShape {
        key_dim, value_dim, ..
    } = cached;
    let n_streams = tile.n_rows * heads.len();
    scratch.keys.resize(BLOCK_LEN * key_dim, 0.0);
    scratch.values.resize(BLOCK_LEN * value_dim, 0.0);
    scratch.sums.clear();
    scratch.sums.resize(n_streams * value_dim, 0.0);
    scratch.softmax.clear();
    match shape.sinks {
        None => scratch.softmax.resize(n_streams, (f32::NEG_INFINITY, 0.0)),
        Some(sinks) => {
            let sinks = sinks[heads.clone()].iter();
            let sinks = sinks.map(|sink| (*sink, 1.0)).cycle();
            scratch.softmax.extend(sinks.take(n_streams));
        }
    }
    let queries = |row: usize| {
        let first_head = (tile.first_row + row) * n_heads + heads.start;
        &queries[first_head * key_dim..][..heads.len() * key_dim]
    };

    // Rows of a tree share only the whole blocks of their context.
    let n_shared = match rows.last() {
        Some(row) if row.ancestors == 0 => row.context_len as usize,
        Some(row) => row.context_len as usize / BLOCK_LEN * BLOCK_LEN,
        None => 0,
    };
    let n_hidden_from_all = rows.iter().map(|row| shape.n_hidden(row)).min().unwrap_or(0);
    let shared = blocks[..n_shared.div_ceil(BLOCK_LEN)].iter().enumerate();
    for (block_idx, &block) in shared.skip(n_hidden_from_all / BLOCK_LEN) {
        let first_slot = block_idx * BLOCK_LEN;
        let n_slots = (n_shared - first_slot).min(BLOCK_LEN);
        cache.load_keys(isa, layer, block, kv_head, &mut scratch.keys);
        cache.load_values(isa, layer, block, kv_head, n_slots, &mut scratch.values);
        if cached.values_are_keys {
            transpose::<FMA>(&scratch.keys, BLOCK_LEN, &mut scratch.values, value_dim);
        }
        for (row_idx, row) in rows.iter().enumerate() {
            let n_visible = (row.context_len as usize)
                .saturating_sub(first_slot)
                .min(BLOCK_LEN);
            let n_hidden = shape.n_hidden(row).saturating_sub(first_slot);
            if n_visible > n_hidden {
                let first_stream = row_idx * heads.len();
                scratch.attend_block::<FMA, N>(shape, queries(row_idx), first_stream, n_hidden..n_visible);
            }
        }
    }
    for (row_idx, row) in rows.iter().enumerate().filter(|(_, row)| row.ancestors != 0) {
        let mut slots = row.visible_slots().skip(n_shared).peekable();
        let mut first_seen = n_shared;
        while slots.peek().is_some() {
            let mut n_visible = 0;
            for slot in slots.by_ref().take(BLOCK_LEN) {
                let place = (blocks[slot / BLOCK_LEN], slot % BLOCK_LEN);
                let Scratch { keys, values, .. } = &mut *scratch;
                cache.load_slot(layer, place, kv_head, n_visible, keys, values);
                n_visible += 1;
            }
            if cached.values_are_keys {
                transpose::<FMA>(&scratch.keys, BLOCK_LEN, &mut scratch.values, value_dim);
            }
            let n_hidden = shape.n_hidden(row).saturating_sub(first_seen);
            if n_visible > n_hidden {
                let first_stream = row_idx * heads.len();
                scratch.attend_block::<FMA, N>(shape, queries(row_idx), first_stream, n_hidden..n_visible);
            }
            first_seen += n_visible;
        }
    }

    for row in 0..tile.n_rows {
        let start = ((tile.first_row + row) * n_heads + heads.start) * value_dim;
        // SAFETY: the tiles and heads of the tasks cover disjoint parts of `out`.
        let out = unsafe { out.slice(start..start + heads.len() * value_dim) };
        for (head_idx, out) in out.chunks_exact_mut(value_dim).enumerate() {
            let stream = row * heads.len() + head_idx;
            let inverse = 1.0 / scratch.softmax[stream].1;
            for (out, sum) in out.iter_mut().zip(&scratch.sums[stream * value_dim..]) {
                *out = sum * inverse;
            }
        }
    }
}

impl Scratch {
    /// Takes in the slots `visible` of the block at hand for one row: its `queries`, `(heads, key_dim)`, and the streams
    /// from `first_stream` on.
    #[inline(always)]
    fn attend_block<const FMA: bool, const N: usize>(
        &mut self,
        shape: AttentionShape<'_>,
        queries: &[f32],
        first_stream: usize,
        visible: Range<usize>,
    ) {
        let key_dim = shape.cached.key_dim;
        let together = queries.chunks_exact(N * key_dim);
        let alone = together.remainder().chunks_exact(key_dim);
        let n_together = together.len() * N;
        for (idx, queries) in together.enumerate() {
            self.attend_streams::<FMA, N>(shape, queries, first_stream + idx * N, visible.clone());
        }
        for (idx, query) in alone.enumerate() {
            self.attend_streams::<FMA, 1>(shape, query, first_stream + n_together + idx, visible.clone());
        }
    }

    /// The same for `N` streams. What comes out for each does not depend on how many they are.
    #[inline(always)]
    fn attend_streams<const FMA: bool, const N: usize>(
        &mut self,
        shape: AttentionShape<'_>,
        queries: &[f32],
        first_stream: usize,
        visible: Range<usize>,
    ) {
        let value_dim = shape.cached.value_dim;
        let mut weights = [[0.0; BLOCK_LEN]; N];
        scores::<FMA, N>(queries, &self.keys, &mut weights);
        let streams = &mut self.softmax[first_stream..][..N];
        // As wide as a register, so that what is done once for each stream is done for all at once.
        let (mut shrunk, mut totals) = ([0.0; MAX_STREAMS], [0.0; MAX_STREAMS]);
        for stream in 0..N {
            let scores = &mut weights[stream];
            for (slot, score) in scores.iter_mut().enumerate() {
                *score = if visible.contains(&slot) {
                    *score * shape.scale
                } else {
                    f32::NEG_INFINITY
                };
            }
            let old_max = streams[stream].0;
            let max = largest(scores).max(old_max);
            for score in scores.iter_mut() {
                *score = exp::<FMA>(*score - max);
            }
            totals[stream] = sum(scores);
            shrunk[stream] = old_max - max;
            streams[stream].0 = max;
        }
        let rescale = shrunk.map(exp::<FMA>);
        for stream in 0..N {
            streams[stream].1 = streams[stream].1 * rescale[stream] + totals[stream];
        }
        let sums = &mut self.sums[first_stream * value_dim..][..N * value_dim];
        add_values::<FMA, N>(sums, &rescale, &weights, &self.values, visible);
    }
}

/// Most streams that are worked on together.
const MAX_STREAMS: usize = 4;

/// Repeats a block with the names of as many arrays as there are streams: only as variables of their own do they stay in
/// registers.
macro_rules! for_streams {
    ($n:ident, |$stream:ident, $array:ident| $body:block; $a:ident $b:ident $c:ident $d:ident) => {
        for_streams!(@ $n, 0, $stream, $array, $body, $a);
        for_streams!(@ $n, 1, $stream, $array, $body, $b);
        for_streams!(@ $n, 2, $stream, $array, $body, $c);
        for_streams!(@ $n, 3, $stream, $array, $body, $d);
    };
    (@ $n:ident, $idx:literal, $stream:ident, $array:ident, $body:block, $name:ident) => {
        if $idx < $n {
            let $stream = $idx;
            let $array = &mut $name;
            $body
        }
    };
}

/// Scores of `N` queries, `(N, key_dim)`, with all keys of a block, `(key_dim, BLOCK_LEN)`.
#[inline(always)]
fn scores<const FMA: bool, const N: usize>(
    queries: &[f32],
    keys: &[f32],
    scores: &mut [[f32; BLOCK_LEN]; N],
) {
    let key_dim = queries.len() / N;
    let (mut a, mut b, mut c, mut d) = (
        [0.0; BLOCK_LEN],
        [0.0; BLOCK_LEN],
        [0.0; BLOCK_LEN],
        [0.0; BLOCK_LEN],
    );
    for (column, keys) in keys.as_chunks::<BLOCK_LEN>().0.iter().take(key_dim).enumerate() {
        for_streams!(N, |stream, sums| {
            let query = queries[stream * key_dim + column];
            for slot in 0..BLOCK_LEN {
                sums[slot] = mul_add::<FMA>(query, keys[slot], sums[slot]);
            }
        }; a b c d);
    }
    for_streams!(N, |stream, sums| { scores[stream] = *sums; }; a b c d);
}

/// `sums = rescale * sums + weights * values` for the visible slots of `N` streams: sums `(N, value_dim)`, values
/// `(slots, value_dim)`.
#[inline(always)]
fn add_values<const FMA: bool, const N: usize>(
    sums: &mut [f32],
    rescale: &[f32; MAX_STREAMS],
    weights: &[[f32; BLOCK_LEN]; N],
    values: &[f32],
    visible: Range<usize>,
) {
    /// Columns that stay in registers while the slots pass by.
    const COLUMNS: usize = 32;
    let value_dim = sums.len() / N;
    let n_whole = value_dim / COLUMNS * COLUMNS;
    for first in (0..n_whole).step_by(COLUMNS) {
        let (mut a, mut b, mut c, mut d) = ([0.0; COLUMNS], [0.0; COLUMNS], [0.0; COLUMNS], [0.0; COLUMNS]);
        for_streams!(N, |stream, columns| {
            let sums = &sums[stream * value_dim + first..][..COLUMNS];
            for column in 0..COLUMNS {
                columns[column] = sums[column] * rescale[stream];
            }
        }; a b c d);
        for slot in visible.clone() {
            let values = &values[slot * value_dim + first..][..COLUMNS];
            for_streams!(N, |stream, columns| {
                let weight = weights[stream][slot];
                for column in 0..COLUMNS {
                    columns[column] = mul_add::<FMA>(weight, values[column], columns[column]);
                }
            }; a b c d);
        }
        for_streams!(N, |stream, columns| {
            sums[stream * value_dim + first..][..COLUMNS].copy_from_slice(columns);
        }; a b c d);
    }
    for stream in 0..N {
        for column in n_whole..value_dim {
            let mut sum = sums[stream * value_dim + column] * rescale[stream];
            for slot in visible.clone() {
                sum = mul_add::<FMA>(weights[stream][slot], values[slot * value_dim + column], sum);
            }
            sums[stream * value_dim + column] = sum;
        }
    }
}
