//! Prints how long vocabularies take to load, and how long code takes to encode.
//!
//!     cargo run --release --example tokenizer_times -- FILE.gguf...

use std::{error::Error, path::PathBuf, time::Instant};

use surmise_engine::{WeightSource, tokenizer::Tokenizer, weights::Gguf};

fn main() -> Result<(), Box<dyn Error>> {
    let code = concat!(
        include_str!("../src/tokenizer.rs"),
        include_str!("../src/weights/gguf.rs")
    );
    for path in std::env::args_os().skip(1).map(PathBuf::from) {
        let start = Instant::now();
        let gguf = Gguf::open(WeightSource::File(path.clone()))?;
        let opened = start.elapsed();
        let tokenizer = Tokenizer::from_gguf(&gguf)?;
        let built = start.elapsed() - opened;
        let mut microseconds = [0.0; 2];
        for time in &mut microseconds {
            let start = Instant::now();
            let n_tokens = tokenizer.encode(code, false)?.len();
            *time = start.elapsed().as_secs_f64() * 1e6 * 2000.0 / n_tokens as f64;
        }
        let [first, again] = microseconds;
        println!(
            "{}: {} tokens; open {opened:.1?}, build {built:.1?}; 2,000 tokens of code {first:.0} us at first, {again:.0} us again",
            path.display(),
            tokenizer.vocab_size(),
        );
    }
    Ok(())
}
