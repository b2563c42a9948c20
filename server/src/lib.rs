//! The language server and the command line of Surmise, as a library.
//!
//! [`completion`] is the product: a pipeline from a place in a document to a suggestion. [`lsp`] and [`cli`]
//! are two ways to it. This is the only crate that knows wire formats.

pub mod actions;
pub mod background;
pub mod bench;
pub mod cli;
pub mod completion;
pub mod config;
pub mod document;
pub mod documents;
pub mod eval;
pub mod lsp;
pub mod model;
pub mod models;
pub mod position;
pub mod repository;
pub mod rewrite;
pub mod transport;
