//! Tests that cross crates: real clients, crashes, interoperability.
