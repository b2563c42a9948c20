//! What the end-to-end suites share: a client of the real server, the binary, fixtures, users' homes, random edits,
//! scripts, edits as editors apply them, and a server with a scripted model.

pub mod binary;
pub mod client;
pub mod edits;
pub mod fixtures;
pub mod home;
pub mod random;
pub mod script;
pub mod scripted;

pub use client::{Client, ClientOptions};
pub use home::Home;
