//! The log.

use super::KeySpec;
use crate::config::{Config, LogConfig, LogFormat, LogLevel};
use crate::kind::Kind;

pub(super) const KEYS: &[KeySpec] = &[
    KeySpec::used(
        "log.console",
        "true",
        Kind::Flag(|c, on| c.log.console = on),
        "Log to the console. RabbitMQ's default is a file.",
    ),
    KeySpec::used(
        "log.console.level",
        "info",
        Kind::Level(|c, level| c.log.console_level = level),
        "Least severe level that the console shows.",
    ),
    KeySpec::used(
        "log.console.stdio",
        "stdout",
        Kind::Choice(&[
            ("stdout", |c| c.log.console_stderr = false),
            ("stderr", |c| c.log.console_stderr = true),
        ]),
        "Which stream the console is.",
    ),
    KeySpec::used(
        "log.console.use_colors",
        "on",
        Kind::Flag(|c, on| c.log.console_colors = on),
        "Colours, when the console is a terminal.",
    ),
    KeySpec::used(
        "log.console.formatter",
        "plaintext",
        Kind::Choice(&[
            ("plaintext", |c| c.log.console_format = LogFormat::Text),
            ("json", |c| c.log.console_format = LogFormat::Json),
        ]),
        "How lines look on the console.",
    ),
    KeySpec::used(
        "log.dir",
        "",
        Kind::Path(|c, path| c.log.dir = Some(path)),
        "The directory that `log.file` is relative to.",
    ),
    KeySpec::used(
        "log.file",
        "false",
        Kind::Path(|c, path| c.log.file = (path.as_os_str() != "false").then_some(path)),
        "A file to log to, or `false`.",
    ),
    KeySpec::used(
        "log.file.level",
        "info",
        Kind::Level(|c, level| c.log.file_level = level),
        "Least severe level that the file gets.",
    ),
    KeySpec::used(
        "log.file.formatter",
        "plaintext",
        Kind::Choice(&[
            ("plaintext", |c| c.log.file_format = LogFormat::Text),
            ("json", |c| c.log.file_format = LogFormat::Json),
        ]),
        "How lines look in the file.",
    ),
    KeySpec::used(
        "log.default.level",
        "info",
        Kind::Level(|c, level| c.log.level = level),
        "Level of what has no category of its own.",
    ),
    category("log.connection.level", |c, level| {
        c.log.set_category("connection", level)
    }),
    category("log.channel.level", |c, level| {
        c.log.set_category("channel", level)
    }),
    category("log.queue.level", |c, level| {
        c.log.set_category("queue", level)
    }),
    category("log.mirroring.level", |c, level| {
        c.log.set_category("mirroring", level)
    }),
    category("log.federation.level", |c, level| {
        c.log.set_category("federation", level)
    }),
    category("log.upgrade.level", |c, level| {
        c.log.set_category("upgrade", level)
    }),
    category("log.ra.level", |c, level| c.log.set_category("ra", level)),
    category("log.user.level", |c, level| {
        c.log.set_category("user", level)
    }),
];

const fn category(name: &'static str, set: fn(&mut Config, LogLevel)) -> KeySpec {
    KeySpec::used(
        name,
        "",
        Kind::Level(set),
        "Level of this category; as `log.default.level` when not given.",
    )
}

impl LogConfig {
    fn set_category(&mut self, category: &'static str, level: LogLevel) {
        self.categories.push((category, level));
    }
}
