//! Benchmarks that anybody can run: each measures on this machine, in this process or a fresh one, and gives plain data.
//!
//! One file for each question. How the answers are printed is the command line's business.

mod bandwidth;
pub mod chart;
pub mod kernels;
pub mod latency;
mod resident_memory;
pub mod speculation;
pub mod speed;
pub mod spread;
pub mod startup;
