//! Tests of the machine as a whole.

mod captured;
mod lifecycle;
mod policies;
mod random;
mod sameness;
mod snapshots;
