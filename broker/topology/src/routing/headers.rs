//! Headers exchanges (AMQP 0-9-1 section 3.1.3.4, with RabbitMQ's four values
//! of `x-match` and its comparison of values).

use std::cmp::Ordering;

use leveret_protocol::{FieldTable, FieldValue, ShortStr};

use super::Target;

/// How many fields of a binding have to match, and whether those whose names
/// begin with `x-` count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Match {
    All,
    Any,
    AllWithX,
    AnyWithX,
}

impl Match {
    /// Anything that is not one of the four is `all`, as RabbitMQ has it.
    fn of(arguments: &FieldTable) -> Match {
        match arguments.get("x-match").and_then(FieldValue::as_longstr) {
            Some(b"any") => Match::Any,
            Some(b"all-with-x") => Match::AllWithX,
            Some(b"any-with-x") => Match::AnyWithX,
            _ => Match::All,
        }
    }

    fn counts(self, name: &[u8]) -> bool {
        name != b"x-match"
            && (matches!(self, Match::AllWithX | Match::AnyWithX) || !name.starts_with(b"x-"))
    }

    fn is_any(self) -> bool {
        matches!(self, Match::Any | Match::AnyWithX)
    }
}

/// The bindings, in no particular order.
#[derive(Debug, Default)]
pub(crate) struct Headers(Vec<Spec>);

#[derive(Debug, PartialEq)]
struct Spec {
    target: Target,
    mode: Match,
    /// The fields that count, sorted by name.
    fields: Box<[(ShortStr, FieldValue)]>,
}

impl Spec {
    fn new(arguments: &FieldTable, target: Target) -> Spec {
        let mode = Match::of(arguments);
        let mut fields: Vec<_> = arguments
            .iter()
            .filter(|(name, _)| mode.counts(name.as_bytes()))
            .cloned()
            .collect();
        fields.sort_by(|a, b| a.0.cmp(&b.0));
        Spec {
            target,
            mode,
            fields: fields.into(),
        }
    }

    /// Walks the two sorted lists side by side. A field of the message is used
    /// up by the first field of the binding that has its name.
    fn matches(&self, headers: &[&(ShortStr, FieldValue)]) -> bool {
        let any = self.mode.is_any();
        let mut headers = headers.iter().peekable();
        for (name, wanted) in &self.fields {
            while headers.next_if(|header| header.0 < *name).is_some() {}
            let header = headers.next_if(|header| header.0 == *name);
            let matched = header.is_some_and(|(_, value)| {
                matches!(wanted, FieldValue::Void) || same_value(wanted, value)
            });
            if matched == any {
                return any;
            }
        }
        !any
    }
}

/// Whether RabbitMQ takes the two for the same: the types do not matter, but
/// numbers equal numbers only, and texts texts. Inside of tables and arrays the
/// types matter too.
fn same_value(a: &FieldValue, b: &FieldValue) -> bool {
    use FieldValue::*;
    match (a, b) {
        (LongStr(a) | Binary(a), LongStr(b) | Binary(b)) => a == b,
        (Bool(a), Bool(b)) => a == b,
        (Void, Void) => true,
        (Decimal { scale: s, value: a }, Decimal { scale: t, value: b }) => (s, a) == (t, b),
        (Array(a), Array(b)) => {
            a.len() == b.len() && a.iter().zip(b).all(|(a, b)| same_typed_value(a, b))
        }
        (Table(a), Table(b)) => {
            let same = |(a, b): (&(ShortStr, FieldValue), &(ShortStr, FieldValue))| {
                a.0 == b.0 && same_typed_value(&a.1, &b.1)
            };
            a.len() == b.len() && a.iter().zip(b).all(same)
        }
        // Both are the empty list to RabbitMQ.
        (Array(a), Table(b)) => a.is_empty() && b.is_empty(),
        (Table(a), Array(b)) => a.is_empty() && b.is_empty(),
        (a, b) => match (Number::of(a), Number::of(b)) {
            (Some(a), Some(b)) => a.cmp(b) == Some(Ordering::Equal),
            _ => false,
        },
    }
}

fn same_typed_value(a: &FieldValue, b: &FieldValue) -> bool {
    a.type_name() == b.type_name() && same_value(a, b)
}

/// A number of whatever type.
#[derive(Clone, Copy)]
enum Number {
    Integer(i128),
    Float(f64),
}

impl Number {
    fn of(value: &FieldValue) -> Option<Number> {
        match value {
            FieldValue::Timestamp(value) => Some(Number::Integer(i128::from(*value))),
            FieldValue::Float(value) => Some(Number::Float(f64::from(*value))),
            FieldValue::Double(value) => Some(Number::Float(*value)),
            value => value
                .as_integer()
                .map(|value| Number::Integer(i128::from(value))),
        }
    }

    /// An integer and a float are equal when the float is exactly that integer.
    fn cmp(self, other: Number) -> Option<Ordering> {
        match (self, other) {
            (Number::Integer(a), Number::Integer(b)) => Some(a.cmp(&b)),
            (Number::Float(a), Number::Float(b)) => a.partial_cmp(&b),
            (Number::Float(_), Number::Integer(_)) => other.cmp(self).map(Ordering::reverse),
            (Number::Integer(a), Number::Float(b)) => {
                let whole = b.is_finite() && b.fract() == 0.0;
                whole.then(|| a.cmp(&(b as i128)))
            }
        }
    }
}

impl Headers {
    pub fn add(&mut self, arguments: &FieldTable, target: Target) {
        self.0.push(Spec::new(arguments, target));
    }

    pub fn remove(&mut self, arguments: &FieldTable, target: Target) {
        let spec = Spec::new(arguments, target);
        if let Some(at) = self.0.iter().position(|other| *other == spec) {
            self.0.swap_remove(at);
        }
    }

    pub fn route(&self, headers: Option<&FieldTable>, found: &mut impl FnMut(Target)) {
        let mut sorted: Vec<_> = headers.into_iter().flatten().collect();
        sorted.sort_by(|a, b| a.0.cmp(&b.0));
        self.0
            .iter()
            .filter(|spec| spec.matches(&sorted))
            .for_each(|spec| found(spec.target));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(fields: &[(&str, FieldValue)]) -> FieldTable {
        fields
            .iter()
            .map(|(name, value)| (ShortStr::truncated(name.as_bytes()), value.clone()))
            .collect()
    }

    fn matches(binding: &[(&str, FieldValue)], message: &[(&str, FieldValue)]) -> bool {
        let mut headers = Headers::default();
        headers.add(&table(binding), Target::Queue(0));
        let mut found = false;
        headers.route(Some(&table(message)), &mut |_| found = true);
        found
    }

    fn text(text: &str) -> FieldValue {
        FieldValue::from(text)
    }

    /// As `matches`, of texts: `a=1 b=2`.
    fn texts_match(binding: &str, message: &str) -> bool {
        let parse = |spec: &str| -> FieldTable {
            let pairs = spec.split(' ').filter_map(|pair| pair.split_once('='));
            pairs
                .map(|(k, v)| (ShortStr::truncated(k.as_bytes()), text(v)))
                .collect()
        };
        let mut headers = Headers::default();
        headers.add(&parse(binding), Target::Queue(0));
        let mut found = false;
        headers.route(Some(&parse(message)), &mut |_| found = true);
        found
    }

    #[test]
    fn all_and_any() {
        assert!(texts_match("a=1 b=2", "b=2 a=1 c=3"));
        assert!(!texts_match("a=1 b=2", "a=1"));
        assert!(texts_match("x-match=any a=1 b=2", "b=2"));
        assert!(!texts_match("x-match=any a=1", "b=2"));
        assert!(texts_match("", "a=1"));
        assert!(texts_match("", ""));
        assert!(!texts_match("x-match=any", "a=1"));
    }

    #[test]
    fn x_fields_count_only_when_asked_for() {
        assert!(texts_match("x-a=1 a=1", "a=1"));
        assert!(!texts_match("x-match=all-with-x x-a=1 a=1", "a=1"));
        assert!(texts_match("x-match=all-with-x x-a=1 a=1", "a=1 x-a=1"));
        assert!(!texts_match("x-match=any x-a=1", "x-a=1"));
        assert!(texts_match("x-match=any-with-x x-a=1 a=1", "x-a=1"));
    }

    #[test]
    fn values_are_compared_across_types() {
        let equal = [
            (FieldValue::Int(5), FieldValue::Long(5)),
            (FieldValue::Int(5), FieldValue::Double(5.0)),
            (FieldValue::Timestamp(5), FieldValue::Byte(5)),
            (text("a"), FieldValue::Binary(b"a".to_vec())),
            (FieldValue::Void, text("anything")),
            (
                FieldValue::Array(vec![]),
                FieldValue::Table(FieldTable::new()),
            ),
        ];
        for (wanted, value) in equal {
            assert!(
                matches(&[("k", wanted.clone())], &[("k", value)]),
                "{wanted:?}"
            );
        }
        let different = [
            (FieldValue::Int(5), text("5")),
            (FieldValue::Int(1), FieldValue::Bool(true)),
            (FieldValue::Int(5), FieldValue::Double(5.5)),
            (
                FieldValue::Long((1 << 53) + 1),
                FieldValue::Double(9007199254740992.0),
            ),
            (text("a"), FieldValue::Void),
            (
                FieldValue::Array(vec![FieldValue::Int(5)]),
                FieldValue::Array(vec![FieldValue::Long(5)]),
            ),
        ];
        for (wanted, value) in different {
            assert!(
                !matches(&[("k", wanted.clone())], &[("k", value)]),
                "{wanted:?}"
            );
        }
    }

    #[test]
    fn removal_takes_one_of_two_equal_bindings() {
        let arguments = table(&[("a", text("1"))]);
        let mut headers = Headers::default();
        headers.add(&arguments, Target::Queue(0));
        headers.add(&arguments, Target::Queue(0));
        headers.remove(&arguments, Target::Queue(0));
        assert_eq!(headers.0.len(), 1);
    }
}
