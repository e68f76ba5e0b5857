//! Logins that were tried: counted by source as RabbitMQ shows them, and slowed down where they fail.

use std::net::IpAddr;

use parking_lot::Mutex;
use rustc_hash::FxHashMap;
use serde_json::{Value, json};

/// Failures of one user from one address within [`WINDOW_MS`] before more are refused unseen.
pub const FAILURES_MAX: u32 = 10;
/// How long failures count.
const WINDOW_MS: u64 = 30_000;
/// Pairs of address and user that are remembered at a time.
const KNOWN_MAX: usize = 10_000;

#[derive(Debug, Default, Clone, Copy)]
struct Counts {
    attempts: u64,
    succeeded: u64,
    failed: u64,
    /// Failures since `since_ms`.
    recent: u32,
    since_ms: u64,
}

/// See the module.
#[derive(Debug, Default)]
pub struct Attempts {
    known: Mutex<FxHashMap<(IpAddr, String), Counts>>,
    all: Mutex<Counts>,
}

impl Attempts {
    /// Whether this user may try from this address now.
    pub fn may_try(&self, from: IpAddr, user: &str, now_ms: u64) -> bool {
        let known = self.known.lock();
        known.get(&(from, user.to_owned())).is_none_or(|counts| {
            counts.recent < FAILURES_MAX || now_ms.saturating_sub(counts.since_ms) >= WINDOW_MS
        })
    }

    /// A login was tried.
    pub fn tried(&self, from: IpAddr, user: &str, ok: bool, now_ms: u64) {
        let count = |counts: &mut Counts| {
            counts.attempts += 1;
            counts.succeeded += u64::from(ok);
            counts.failed += u64::from(!ok);
        };
        count(&mut self.all.lock());
        let mut known = self.known.lock();
        let key = (from, user.to_owned());
        if known.len() >= KNOWN_MAX && !known.contains_key(&key) {
            known.retain(|_, counts| now_ms.saturating_sub(counts.since_ms) < WINDOW_MS);
            if known.len() >= KNOWN_MAX {
                known.clear();
            }
        }
        let counts = known.entry(key).or_default();
        count(counts);
        if ok {
            counts.recent = 0;
        } else if counts.recent == 0 || now_ms.saturating_sub(counts.since_ms) >= WINDOW_MS {
            (counts.recent, counts.since_ms) = (1, now_ms);
        } else {
            counts.recent += 1;
        }
    }

    /// All attempts, those that succeeded, those that failed.
    pub fn totals(&self) -> (u64, u64, u64) {
        let all = *self.all.lock();
        (all.attempts, all.succeeded, all.failed)
    }

    /// As `auth/attempts/:node` shows them.
    pub fn value(&self) -> Value {
        let all = *self.all.lock();
        json!([{
            "protocol": "http", "auth_attempts": all.attempts,
            "auth_attempts_failed": all.failed, "auth_attempts_succeeded": all.succeeded,
        }])
    }

    /// As `auth/attempts/:node/source` shows them.
    pub fn value_by_source(&self) -> Value {
        let known = self.known.lock();
        let one = |((from, user), counts): (&(IpAddr, String), &Counts)| {
            json!({
                "protocol": "http", "remote_address": from.to_string(), "username": user,
                "auth_attempts": counts.attempts, "auth_attempts_failed": counts.failed,
                "auth_attempts_succeeded": counts.succeeded,
            })
        };
        known.iter().map(one).collect()
    }

    /// Forgets all counts; who failed too often stays shut out.
    pub fn reset(&self) {
        *self.all.lock() = Counts::default();
        for counts in self.known.lock().values_mut() {
            (counts.attempts, counts.succeeded, counts.failed) = (0, 0, 0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_fails_too_often_has_to_wait() {
        let attempts = Attempts::default();
        let here = IpAddr::from([127, 0, 0, 1]);
        for _ in 0..FAILURES_MAX {
            assert!(attempts.may_try(here, "a", 1000));
            attempts.tried(here, "a", false, 1000);
        }
        assert!(!attempts.may_try(here, "a", 1000 + WINDOW_MS - 1));
        assert!(attempts.may_try(here, "b", 1000));
        assert!(attempts.may_try(IpAddr::from([127, 0, 0, 2]), "a", 1000));
        assert!(attempts.may_try(here, "a", 1000 + WINDOW_MS));
        attempts.tried(here, "a", true, 1000 + WINDOW_MS);
        assert!(attempts.may_try(here, "a", 1000));
        assert_eq!(attempts.totals(), (11, 1, 10));
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let attempts = Attempts::default();
        let here = IpAddr::from([127, 0, 0, 1]);
        for n in 0..KNOWN_MAX + 10 {
            attempts.tried(here, &n.to_string(), false, 0);
        }
        assert!(attempts.known.lock().len() <= KNOWN_MAX);
    }
}
