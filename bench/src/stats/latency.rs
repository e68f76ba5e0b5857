//! Latency histograms (HdrHistogram), ns inside, µs in reports.

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

/// One hour: what lies above counts as this.
const LATENCY_MAX_NS: u64 = 3_600_000_000_000;
/// Resolution at the low end.
const LATENCY_UNIT_NS: u64 = 100;

/// A histogram that is cheap to feed with runs of equal values, as batches give them.
pub struct Latency {
    histogram: Histogram<u64>,
    value: u64,
    run: u64,
}

impl Latency {
    /// Three significant digits from 100 ns to an hour.
    pub fn new() -> Self {
        let bounds = Histogram::new_with_bounds(LATENCY_UNIT_NS, LATENCY_MAX_NS, 3);
        Latency {
            histogram: bounds.expect("constant bounds are valid"),
            value: 0,
            run: 0,
        }
    }

    /// Counts one value in ns.
    #[inline]
    pub fn record(&mut self, ns: u64) {
        if ns == self.value {
            self.run += 1;
            return;
        }
        self.settle();
        self.value = ns;
        self.run = 1;
    }

    fn settle(&mut self) {
        if self.run > 0 {
            self.histogram
                .saturating_record_n(self.value.min(LATENCY_MAX_NS), self.run);
            self.run = 0;
        }
    }

    /// Adds all values of `other`.
    pub fn add(&mut self, mut other: Latency) {
        self.settle();
        other.settle();
        // Both have the same bounds, so nothing can be out of range.
        let _ = self.histogram.add(&other.histogram);
    }

    /// The figures for a report; `None` if nothing was recorded.
    pub fn summary(mut self) -> Option<LatencySummary> {
        self.settle();
        let h = &self.histogram;
        let at = |q: f64| h.value_at_quantile(q) as f64 / 1e3;
        (!h.is_empty()).then(|| LatencySummary {
            count: h.len(),
            mean_us: h.mean() / 1e3,
            p50_us: at(0.5),
            p90_us: at(0.9),
            p99_us: at(0.99),
            p999_us: at(0.999),
            p9999_us: at(0.9999),
            max_us: h.max() as f64 / 1e3,
        })
    }
}

/// Percentiles in µs.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[allow(missing_docs)]
pub struct LatencySummary {
    pub count: u64,
    pub mean_us: f64,
    pub p50_us: f64,
    pub p90_us: f64,
    pub p99_us: f64,
    pub p999_us: f64,
    pub p9999_us: f64,
    pub max_us: f64,
}

impl LatencySummary {
    /// One line for people.
    pub fn line(&self) -> String {
        format!(
            "p50 {}  p90 {}  p99 {}  p99.9 {}  max {}",
            human(self.p50_us),
            human(self.p90_us),
            human(self.p99_us),
            human(self.p999_us),
            human(self.max_us)
        )
    }
}

/// A duration in µs with a fitting unit.
pub fn human(us: f64) -> String {
    match us {
        us if us < 1e3 => format!("{us:.0} µs"),
        us if us < 1e6 => format!("{:.2} ms", us / 1e3),
        us => format!("{:.2} s", us / 1e6),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_of_a_known_series() {
        let mut l = Latency::new();
        for ms in 1..=1000u64 {
            l.record(ms * 1_000_000);
        }
        let mut more = Latency::new();
        more.record(2_000_000_000);
        more.record(2_000_000_000);
        l.add(more);
        let s = l.summary().unwrap();
        assert_eq!(s.count, 1002);
        assert!((s.p50_us / 501e3 - 1.0).abs() < 0.002, "{}", s.p50_us);
        assert!((s.max_us / 2e6 - 1.0).abs() < 0.002);
        assert!(Latency::new().summary().is_none());
    }

    #[test]
    fn zero_and_absurd_values_are_kept() {
        let mut l = Latency::new();
        l.record(0);
        l.record(u64::MAX);
        assert_eq!(l.summary().unwrap().count, 2);
    }
}
