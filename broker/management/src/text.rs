//! Names in paths, and times, as RabbitMQ writes them.

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};

const KEPT: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_');

/// A segment of a path, as the API's own answers have it: a space becomes `+`.
pub fn quote(text: &str) -> String {
    let encoded = utf8_percent_encode(text, KEPT).to_string();
    encoded.replace("%20", "+")
}

/// What [`quote`] made this of; `None` if it is not UTF-8.
pub fn unquote(text: &str) -> Option<String> {
    let spaced = text.replace('+', " ");
    let decoded = percent_decode_str(&spaced).decode_utf8().ok()?;
    Some(decoded.into_owned())
}

/// The parameters of a query, in order. What is not UTF-8 gets replacement characters.
pub fn query(text: &str) -> Vec<(String, String)> {
    let decode = |part: &str| {
        let spaced = part.replace('+', " ");
        percent_decode_str(&spaced).decode_utf8_lossy().into_owned()
    };
    let pairs = text.split('&').filter(|pair| !pair.is_empty());
    pairs
        .map(|pair| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            (decode(name), decode(value))
        })
        .collect()
}

/// Year, month, day of a day counted from the beginning of 1970 (Howard Hinnant's `civil_from_days`).
fn date(days: i64) -> (i64, u32, u32) {
    let shifted = days + 719_468;
    let era = shifted.div_euclid(146_097);
    let day_of_era = shifted.rem_euclid(146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = (day_of_year - (153 * month_from_march + 2) / 5 + 1) as u32;
    let month = if month_from_march < 10 {
        month_from_march + 3
    } else {
        month_from_march - 9
    } as u32;
    (year_of_era + era * 400 + i64::from(month <= 2), month, day)
}

/// A time in milliseconds since 1970 as `2026-11-21T16:55:14.929+00:00`.
pub fn timestamp(ms: u64) -> String {
    let (seconds, millis) = (ms / 1000, ms % 1000);
    let (year, month, day) = date((seconds / 86_400) as i64);
    let second = seconds % 86_400;
    format!(
        "{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}.{millis:03}+00:00",
        second / 3600,
        second / 60 % 60,
        second % 60
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_go_through_paths() {
        assert_eq!(quote("a b/~c%"), "a+b%2F%7Ec%25");
        for name in ["", "a b/~c%", "ü+", "#/?&", "a.%23"] {
            assert_eq!(unquote(&quote(name)).as_deref(), Some(name));
        }
        assert_eq!(unquote("%ff"), None);
    }

    #[test]
    fn queries_are_read() {
        let pair = |a: &str, b: &str| (a.to_owned(), b.to_owned());
        assert_eq!(
            query("page=1&name=%5Ea+b&x&&c=d=e"),
            [
                pair("page", "1"),
                pair("name", "^a b"),
                pair("x", ""),
                pair("c", "d=e")
            ]
        );
    }

    #[test]
    fn times_are_written() {
        assert_eq!(timestamp(0), "1970-01-01T00:00:00.000+00:00");
        assert_eq!(timestamp(951_782_400_000), "2000-02-29T00:00:00.000+00:00");
        assert_eq!(
            timestamp(1_795_280_114_929),
            "2026-11-21T16:55:14.929+00:00"
        );
        assert_eq!(
            timestamp(4_107_542_399_999),
            "2100-02-28T23:59:59.999+00:00"
        );
    }
}
