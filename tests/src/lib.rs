//! What the end-to-end suites share: a client of the real server, the binary, fixtures, random edits, scripts, and
//! a server with a scripted model.

pub mod binary;
pub mod client;
pub mod fixtures;
pub mod random;
pub mod script;
pub mod scripted;

pub use client::{Client, ClientOptions};
