//! Writes the logits of a text: `logits MODEL ID...`.
//!
//! MODEL is a GGUF file or a folder, each ID a token. The logits after every token go to the standard output, `(tokens,
//! vocab)`, as little-endian single precision; keys and values are kept in single precision. For scripts that compare engines.

use std::{
    error::Error,
    io::{self, Write},
    path::PathBuf,
};

use surmise_engine::{
    WeightSource,
    kv_cache::{BLOCK_LEN, CacheType, CachedSequence, KvCache},
    model::{Batch, Checkpoint, Model, Row, load_model},
    weights::Gguf,
};

fn main() -> Result<(), Box<dyn Error>> {
    let mut args = std::env::args().skip(1);
    let path = PathBuf::from(args.next().ok_or("which model?")?);
    let tokens = args.map(|it| it.parse()).collect::<Result<Vec<u32>, _>>()?;
    let checkpoint = match path.is_dir() {
        true => Checkpoint::from_folder(&path)?,
        false => Checkpoint::from_gguf(&Gguf::open(WeightSource::File(path))?)?,
    };
    let mut model = load_model(&checkpoint, 2)?;
    let n_blocks = tokens.len().div_ceil(BLOCK_LEN);
    let mut cache = KvCache::with_type(model.config(), n_blocks, CacheType::F32);
    let mut sequence = CachedSequence::default();
    cache.reserve(&mut sequence, tokens.len())?;
    let row = |(position, &token): (usize, &u32)| Row::chain(token, position, 0, true);
    let batch = Batch {
        rows: &tokens.iter().enumerate().map(row).collect::<Vec<_>>(),
        sequences: &[&sequence],
    };
    let mut logits = Vec::new();
    model.forward(batch, &mut cache, &mut logits)?;
    let bytes: Vec<u8> = logits.iter().flat_map(|it| it.to_le_bytes()).collect();
    io::stdout().lock().write_all(&bytes)?;
    Ok(())
}
