//! From files to settings: the main file, `conf.d` beside it, `include` and `$(<file)`.
//!
//! Everything read is bounded: bytes of a file, number of files, depth of inclusion.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use crate::error::Problem;
use crate::reader::{Item, Key, read};

/// Bytes of a configuration file, or of a file that holds a value.
const FILE_BYTES_MAX: u64 = 1 << 20;
/// Files of one configuration, included ones counted.
const FILES_MAX: usize = 256;
/// How deep files may include files. A file that includes itself ends here.
const INCLUDE_DEPTH_MAX: usize = 8;
const TEXT_ONLY: &str = "other files are not read here";
/// Problems after which no more are looked for.
pub(crate) const PROBLEMS_MAX: usize = 20;

/// A key with its value and where it was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Setting {
    pub(crate) key: Key,
    pub(crate) value: String,
    /// `file:line`, or `--set`.
    pub(crate) origin: String,
}

/// What was read so far, in the order in which later settings replace earlier ones.
#[derive(Debug, Default)]
pub(crate) struct Settings {
    pub(crate) all: Vec<Setting>,
    pub(crate) problems: Vec<Problem>,
    text_only: bool,
    files: usize,
}

impl Settings {
    /// Settings of a text alone: no file is read, whatever the text says.
    pub(crate) fn text_only() -> Self {
        Self {
            text_only: true,
            ..Self::default()
        }
    }

    /// Reads `path`, and then every `conf.d/*.conf` beside it in the order of their names. Of a
    /// directory, every `*.conf` in it.
    pub(crate) fn add_files(&mut self, path: &Path) {
        if path.is_dir() {
            self.add_matching(path, "*.conf", 0);
            return;
        }
        self.add_file(path, 0);
        self.add_matching(&directory_of(path).join("conf.d"), "*.conf", 0);
    }

    /// Adds `--set key=value` settings; they are literal, without comments and quotes.
    pub(crate) fn add_overrides(&mut self, overrides: &[(String, String)]) {
        for (key, value) in overrides {
            match Key::parse(key) {
                Some(key) => {
                    let origin = "--set".to_owned();
                    self.all.push(Setting {
                        key,
                        value: value.clone(),
                        origin,
                    });
                }
                None => self.problem("--set", format!("`{key}` is not a key")),
            }
        }
    }

    /// Adds the settings of a text. Files that it names are relative to the folder of `path`.
    pub(crate) fn add_text(&mut self, text: &str, path: &Path, depth: usize) {
        let (lines, errors) = read(text);
        for error in errors {
            self.problem(
                &format!("{}:{}", path.display(), error.line),
                error.reason.to_owned(),
            );
        }
        for line in lines {
            let origin = format!("{}:{}", path.display(), line.number);
            match line.item {
                Item::Setting(key, value) => match self.expand(value, path) {
                    Ok(value) => self.all.push(Setting { key, value, origin }),
                    Err(reason) => self.problem(&origin, format!("`{key}`: {reason}")),
                },
                Item::Include(_) if self.text_only => {
                    self.problem(&origin, TEXT_ONLY.to_owned());
                }
                Item::Include(_) if depth >= INCLUDE_DEPTH_MAX => {
                    self.problem(&origin, "files include each other too deeply".to_owned());
                }
                Item::Include(pattern) => {
                    let path = directory_of(path).join(pattern);
                    let name = path
                        .file_name()
                        .unwrap_or_default()
                        .to_string_lossy()
                        .into_owned();
                    self.add_matching(directory_of(&path), &name, depth + 1);
                }
            }
        }
    }

    pub(crate) fn problem(&mut self, origin: &str, message: String) {
        if self.problems.len() < PROBLEMS_MAX {
            self.problems.push(Problem {
                origin: origin.to_owned(),
                message,
            });
        }
    }

    /// `$(<name)` is the text of that file, without one line end at its end.
    fn expand(&self, value: String, path: &Path) -> Result<String, String> {
        let Some(name) = value
            .strip_prefix("$(<")
            .and_then(|rest| rest.strip_suffix(')'))
        else {
            return Ok(value);
        };
        if self.text_only {
            return Err(TEXT_ONLY.to_owned());
        }
        let path = directory_of(path).join(name.trim());
        let text = read_text(&path).map_err(|reason| format!("{}: {reason}", path.display()))?;
        let line = text.strip_suffix('\n').unwrap_or(&text);
        Ok(line.strip_suffix('\r').unwrap_or(line).to_owned())
    }

    fn add_file(&mut self, path: &Path, depth: usize) {
        self.files += 1;
        if self.files > FILES_MAX {
            return self.problem(
                &path.display().to_string(),
                format!("more than {FILES_MAX} files"),
            );
        }
        match read_text(path) {
            Ok(text) => self.add_text(&text, path, depth),
            Err(reason) => self.problem(&path.display().to_string(), reason),
        }
    }

    /// Adds the files of `directory` whose names match; none, and no directory, is no problem.
    fn add_matching(&mut self, directory: &Path, pattern: &str, depth: usize) {
        let Ok(entries) = std::fs::read_dir(directory) else {
            return;
        };
        let matching = entries.filter_map(|entry| {
            let path = entry.ok()?.path();
            let name = path.file_name()?.to_str()?;
            (matches(pattern.as_bytes(), name.as_bytes()) && path.is_file()).then_some(path)
        });
        let mut paths: Vec<PathBuf> = matching.take(FILES_MAX + 1).collect();
        paths.sort();
        for path in paths {
            if self.files > FILES_MAX {
                return;
            }
            self.add_file(&path, depth);
        }
    }
}

fn directory_of(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if parent.as_os_str().is_empty() => Path::new("."),
        Some(parent) => parent,
        None => path,
    }
}

fn read_text(path: &Path) -> Result<String, String> {
    let mut bytes = Vec::new();
    let file = File::open(path).map_err(|error| format!("cannot be read: {error}"))?;
    file.take(FILE_BYTES_MAX + 1)
        .read_to_end(&mut bytes)
        .map_err(|error| format!("cannot be read: {error}"))?;
    if u64::try_from(bytes.len()).map_or(true, |length| length > FILE_BYTES_MAX) {
        return Err(format!("longer than {FILE_BYTES_MAX} bytes"));
    }
    let text = String::from_utf8(bytes).map_err(|_| "is not UTF-8 text".to_owned())?;
    Ok(text
        .strip_prefix('\u{feff}')
        .map(str::to_owned)
        .unwrap_or(text))
}

/// Whether `name` matches `pattern`, in which `*` is any text.
fn matches(pattern: &[u8], name: &[u8]) -> bool {
    let (mut p, mut n) = (0, 0);
    let mut retry: Option<(usize, usize)> = None;
    while n < name.len() {
        if pattern.get(p) == Some(&b'*') {
            retry = Some((p + 1, n));
            p += 1;
        } else if pattern.get(p) == name.get(n) {
            (p, n) = (p + 1, n + 1);
        } else if let Some((star, taken)) = retry {
            retry = Some((star, taken + 1));
            (p, n) = (star, taken + 1);
        } else {
            return false;
        }
    }
    pattern.iter().skip(p).all(|b| *b == b'*')
}

#[cfg(test)]
mod tests {
    use super::matches;

    #[test]
    fn patterns_of_names() {
        for (pattern, name, expected) in [
            ("*.conf", "10-a.conf", true),
            ("*.conf", "a.conf.bak", false),
            ("*.conf", ".conf", true),
            ("a*b*c", "a-b-b-c", true),
            ("a*b*c", "a-c-b", false),
            ("*", "anything", true),
            ("exact", "exact", true),
            ("exact", "exactly", false),
            ("", "", true),
        ] {
            assert_eq!(
                matches(pattern.as_bytes(), name.as_bytes()),
                expected,
                "{pattern} {name}"
            );
        }
    }
}
