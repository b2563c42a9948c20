//! What the end-to-end suites share: a client of the real server, the binary, fixtures, random edits.

pub mod binary;
pub mod client;
pub mod fixtures;
pub mod random;

pub use client::{Client, ClientOptions};
