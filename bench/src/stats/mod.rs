//! Figures: latencies, what processes cost, and how both are shown.

mod latency;
pub mod procfs;

pub use latency::{Latency, LatencySummary, human};
