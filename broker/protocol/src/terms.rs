//! Octets as RabbitMQ prints them in reply texts: as Erlang terms.
//!
//! Clients and operators know these texts, so they are kept to the letter:
//! [`octets`] is Erlang's `~w` of a binary, [`pretty`] its `~p`. One deviation:
//! an octet from 160 up that Erlang would put into the text as it is appears
//! as the character of that number in UTF-8, because a reply text must be UTF-8.

use std::fmt::{self, Write};

/// The type octet of a frame and the first 16 octets of its payload, printed
/// like `type 3, first 16 octets = <<"...">>`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Snippet {
    kind: u8,
    head: [u8; Snippet::LEN_MAX],
    len: u8,
    whole: bool,
}

impl Snippet {
    /// Most octets of a payload that are shown.
    pub const LEN_MAX: usize = 16;

    pub(crate) fn new(kind: u8, payload: &[u8]) -> Snippet {
        let mut head = [0; Self::LEN_MAX];
        let mut len = 0;
        for (slot, octet) in head.iter_mut().zip(payload) {
            *slot = *octet;
            len += 1;
        }
        Snippet {
            kind,
            head,
            len,
            whole: payload.len() <= Self::LEN_MAX,
        }
    }
}

impl fmt::Display for Snippet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let which = if self.whole { "all" } else { "first 16" };
        let label = format!("type {}, {which} octets = ", self.kind);
        let shown = self.head.get(..usize::from(self.len)).unwrap_or_default();
        write!(f, "{label}{}", pretty(shown, label.len()))
    }
}

/// `~w` of a binary: `<<1,2,3>>`. At most as many octets as a reply text of 255
/// can show are written.
pub(crate) fn octets(bytes: &[u8]) -> String {
    let mut out = String::from("<<");
    for (index, octet) in bytes
        .iter()
        .take(crate::constants::REPLY_TEXT_MAX)
        .enumerate()
    {
        if index > 0 {
            out.push(',');
        }
        // Writing to a string cannot fail.
        let _ = write!(out, "{octet}");
    }
    out.push_str(">>");
    out
}

/// `~p` of a binary that starts at `column` of its line: a string when every
/// octet is printable, else numbers, broken into lines of 80 columns.
pub(crate) fn pretty(bytes: &[u8], column: usize) -> String {
    if bytes.is_empty() {
        return "<<>>".to_owned();
    }
    if bytes.iter().all(|octet| printable(*octet)) {
        return format!("<<{}>>", quoted(bytes));
    }
    let plain = octets(bytes);
    if column + plain.len() <= LINE_WHOLE_MAX {
        return plain;
    }
    let mut out = String::from("<<");
    let mut at = column + 2;
    for (index, octet) in bytes.iter().enumerate() {
        let last = index + 1 == bytes.len();
        let item = format!("{octet}{}", if last { ">>" } else { "," });
        if at + item.len() > LINE_PART_MAX && !last {
            out.push('\n');
            out.push_str(&" ".repeat(column + 2));
            at = column + 2;
        }
        at += item.len();
        out.push_str(&item);
    }
    out
}

/// A float as Erlang's `~p` prints it (OTP 25): the fewest digits that mean it, in the shorter of the two notations, from 2^53 on
/// always with an exponent.
pub(crate) fn float(value: f64) -> String {
    /// Above it not every integer is a float.
    const DECIMAL_MAX: f64 = (1_u64 << 53) as f64;
    let scientific = format!("{value:e}");
    let Some((mantissa, exponent)) = scientific.split_once('e') else {
        // Not finite: Erlang has no such floats.
        return scientific;
    };
    let exponent: i32 = exponent.parse().unwrap_or_default();
    let (sign, mantissa) = match mantissa.strip_prefix('-') {
        Some(rest) => ("-", rest),
        None => ("", mantissa),
    };
    let (first, rest) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let count = 1 + rest.len() as i32;
    // What each notation needs besides the digits.
    let exponent_cost = exponent.to_string().len() as i32 + if rest.is_empty() { 3 } else { 2 };
    let is_decimal = value == 0.0
        || value.abs() < DECIMAL_MAX
            && match exponent + 1 {
                place if place < 0 => 2 - place <= exponent_cost,
                place if place >= count => place - count + 2 <= exponent_cost,
                _ => true,
            };
    if is_decimal {
        return format!("{value:?}");
    }
    let rest = if rest.is_empty() { "0" } else { rest };
    format!("{sign}{first}.{rest}e{exponent}")
}

/// Columns up to which Erlang leaves a term on one line.
const LINE_WHOLE_MAX: usize = 81;
/// Columns up to which Erlang fills a line of a term that it breaks.
const LINE_PART_MAX: usize = 79;

fn printable(octet: u8) -> bool {
    matches!(octet, 8..=13 | 27 | 32..=126 | 160..)
}

fn quoted(bytes: &[u8]) -> String {
    let mut out = String::from("\"");
    for octet in bytes {
        match octet {
            b'"' => out.push_str("\\\""),
            b'\\' => out.push_str("\\\\"),
            8 => out.push_str("\\b"),
            9 => out.push_str("\\t"),
            10 => out.push_str("\\n"),
            11 => out.push_str("\\v"),
            12 => out.push_str("\\f"),
            13 => out.push_str("\\r"),
            27 => out.push_str("\\e"),
            _ => out.push(char::from(*octet)),
        }
    }
    out.push('"');
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    // Expected texts come from io_lib:format of Erlang/OTP 25.

    /// As `io:format("~p", [F])` of Erlang/OTP 25 printed them.
    #[test]
    fn floats_are_printed_as_erlang_does() {
        for (bits, printed) in [
            (0x0_u64, "0.0"),
            (0x8000000000000000_u64, "-0.0"),
            (0x3ff0000000000000_u64, "1.0"),
            (0x3fb999999999999a_u64, "0.1"),
            (0x4059000000000000_u64, "100.0"),
            (0x408f400000000000_u64, "1.0e3"),
            (0x40fe240000000000_u64, "123456.0"),
            (0x4092c00000000000_u64, "1.2e3"),
            (0xc13b774000000000_u64, "-1.8e6"),
            (0x4132c4b000000000_u64, "1.23e6"),
            (0x419d6f3454000000_u64, "123456789.0"),
            (0x3f50624dd2f1a9fc_u64, "0.001"),
            (0x3f1a36e2eb1c432d_u64, "0.0001"),
            (0x3ee4f8b588e368f1_u64, "1.0e-5"),
            (0x3f5426fe718a86d7_u64, "0.00123"),
            (0x3f201f31f46ed246_u64, "1.23e-4"),
            (0x433fffffffffffff_u64, "9007199254740991.0"),
            (0x4340000000000000_u64, "9.007199254740992e15"),
            (0x444b1ae4d6e2ef50_u64, "1.0e21"),
            (0x7fefffffffffffff_u64, "1.7976931348623157e308"),
            (0x1_u64, "5.0e-324"),
        ] {
            assert_eq!(float(f64::from_bits(bits)), printed);
        }
    }

    #[test]
    fn printable_payloads_are_quoted() {
        assert_eq!(
            Snippet::new(3, b"GET / HTTP").to_string(),
            "type 3, all octets = <<\"GET / HTTP\">>"
        );
        assert_eq!(
            Snippet::new(3, b"").to_string(),
            "type 3, all octets = <<>>"
        );
        assert_eq!(
            pretty(b"a\"\\b\n\r\t\x1b\x0b\x0c\x08", 0),
            r#"<<"a\"\\b\n\r\t\e\v\f\b">>"#
        );
        assert_eq!(pretty(b"a\x7f", 0), "<<97,127>>");
        assert_eq!(pretty(&[159], 0), "<<159>>");
        assert_eq!(pretty(b"h\xe9y", 0), "<<\"h\u{e9}y\">>");
    }

    #[test]
    fn numbers_break_at_80_columns() {
        assert_eq!(
            Snippet::new(3, &[130; 17]).to_string(),
            "type 3, first 16 octets = <<130,130,130,130,130,130,130,130,130,130,130,130,\n\
             \x20                           130,130,130,130>>"
        );
        assert_eq!(
            Snippet::new(3, &[130; 16]).to_string(),
            "type 3, all octets = <<130,130,130,130,130,130,130,130,130,130,130,130,130,130,\n\
             \x20                      130,130>>"
        );
        assert_eq!(
            Snippet::new(3, &[130; 14]).to_string(),
            "type 3, all octets = <<130,130,130,130,130,130,130,130,130,130,130,130,130,130>>"
        );
        let mut mixed = [128; 17];
        mixed[..3].copy_from_slice(&[0, 1, 2]);
        assert_eq!(
            Snippet::new(255, &mixed).to_string(),
            "type 255, first 16 octets = <<0,1,2,128,128,128,128,128,128,128,128,128,128,\n\
             \x20                             128,128,128>>"
        );
    }

    #[test]
    fn plain_octets_are_bounded() {
        assert_eq!(octets(&[1, 2, 3]), "<<1,2,3>>");
        assert!(octets(&[200; 10_000]).len() < 1100);
    }
}
