//! The language server and the command line of Surmise, as a library.
pub mod config;
pub mod position;
pub mod transport;
