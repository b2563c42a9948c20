//! The `surmise` binary.

fn main() {}
