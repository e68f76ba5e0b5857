//! The text format: types, labels, values.

use std::fmt::{Display, Write};

use crate::broker::Histogram;

/// Series of the same name follow each other, after their type.
pub(super) struct Text {
    pub out: String,
    /// What names begin with.
    pub prefix: &'static str,
}

/// `name="value",...` with what would end a value escaped.
pub(super) fn labels(pairs: &[(&str, &str)]) -> String {
    let mut out = String::new();
    for (name, value) in pairs {
        if !out.is_empty() {
            out.push(',');
        }
        out.push_str(name);
        out.push_str("=\"");
        for c in value.chars() {
            match c {
                '\\' => out.push_str("\\\\"),
                '"' => out.push_str("\\\""),
                '\n' => out.push_str("\\n"),
                c => out.push(c),
            }
        }
        out.push('"');
    }
    out
}

impl Text {
    /// Leveret's own are not RabbitMQ's.
    fn prefix(&self, name: &str) -> &'static str {
        match name.starts_with("leveret_") {
            true => "",
            false => self.prefix,
        }
    }

    pub fn head(&mut self, name: &str, kind: &str, help: &str) {
        let prefix = self.prefix(name);
        // Writing to a string cannot fail.
        let _ = writeln!(self.out, "# TYPE {prefix}{name} {kind}");
        let _ = writeln!(self.out, "# HELP {prefix}{name} {help}");
    }

    pub fn line(&mut self, name: &str, labels: &str, value: impl Display) {
        let prefix = self.prefix(name);
        let _ = match labels.is_empty() {
            true => writeln!(self.out, "{prefix}{name} {value}"),
            false => writeln!(self.out, "{prefix}{name}{{{labels}}} {value}"),
        };
    }

    pub fn gauge(&mut self, name: &str, help: &str, value: impl Display) {
        self.head(name, "gauge", help);
        self.line(name, "", value);
    }

    pub fn counter(&mut self, name: &str, help: &str, value: impl Display) {
        self.head(name, "counter", help);
        self.line(name, "", value);
    }

    pub fn histogram(&mut self, name: &str, help: &str, histogram: &Histogram) {
        self.head(name, "histogram", help);
        let mut count = 0;
        for (bound, values) in &histogram.buckets {
            count += values;
            if bound.is_finite() {
                let le = bound.to_string();
                self.line(&format!("{name}_bucket"), &labels(&[("le", &le)]), count);
            }
        }
        self.line(&format!("{name}_bucket"), "le=\"+Inf\"", count);
        self.line(&format!("{name}_sum"), "", histogram.sum);
        self.line(&format!("{name}_count"), "", count);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hostile_names_stay_within_their_labels() {
        let name = "a\"} 1\nrabbitmq_x{b=\"\\";
        assert_eq!(
            labels(&[("queue", name)]),
            "queue=\"a\\\"} 1\\nrabbitmq_x{b=\\\"\\\\\""
        );
    }

    #[test]
    fn histograms_accumulate() {
        let mut text = Text {
            out: String::new(),
            prefix: "p_",
        };
        let histogram = Histogram {
            buckets: vec![(0.5, 2), (1.0, 0), (f64::INFINITY, 3)],
            sum: 7.5,
        };
        text.histogram("h", "help", &histogram);
        let expected = "# TYPE p_h histogram\n# HELP p_h help\np_h_bucket{le=\"0.5\"} 2\n\
             p_h_bucket{le=\"1\"} 2\np_h_bucket{le=\"+Inf\"} 5\np_h_sum 7.5\np_h_count 5\n";
        assert_eq!(text.out, expected);
    }
}
