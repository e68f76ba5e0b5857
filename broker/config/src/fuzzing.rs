//! What must hold for any bytes that are given as a configuration. Run by the fuzzer
//! (`fuzz/fuzz_targets/config.rs`) and, on its corpus, by the tests.

use crate::reader::{Item, read};
use crate::{Config, ConfigError};

/// Reads `data` as a configuration and checks what must hold of the result.
///
/// # Panics
/// When it does not.
pub fn config(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    let (lines, errors) = read(text);
    for line in &lines {
        let Item::Setting(key, value) = &line.item else {
            continue;
        };
        if value.contains('\'') || value.contains('\r') {
            continue;
        }
        let (again, wrong) = read(&format!("{key} = '{value}'"));
        assert!(wrong.is_empty(), "{wrong:?}");
        assert_eq!(again.first().map(|line| &line.item), Some(&line.item));
    }
    match Config::from_text(text, "fuzz.conf") {
        Ok(config) => {
            assert!(errors.is_empty(), "{errors:?} passed over");
            assert!(config.ignored.len() <= lines.len());
        }
        Err(ConfigError { problems }) => {
            assert!(!problems.is_empty());
            assert!(
                problems
                    .iter()
                    .all(|problem| problem.origin.starts_with("fuzz.conf:"))
            );
        }
    }
}
