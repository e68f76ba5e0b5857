//! From settings to a [`Config`]: later ones replace earlier ones, every key is known, every value has
//! its form, and what belongs together is together.

use std::collections::HashMap;
use std::path::Path;

use crate::config::{Config, IgnoredSetting};
use crate::error::ConfigError;
use crate::files::{Setting, Settings};
use crate::keys::{Effect, find, similar};

impl Config {
    /// Reads the configuration file at `path`, `conf.d/*.conf` beside it in the order of their names,
    /// and then `overrides` (the `--set key=value` of the command line). Later settings replace earlier
    /// ones. Without a path there are the defaults and the overrides.
    ///
    /// # Errors
    /// Everything that is wrong, each with its file and line: lines that cannot be read, unknown keys
    /// (with the key that may have been meant), values of the wrong form, settings that need others.
    pub fn load(path: Option<&Path>, overrides: &[(String, String)]) -> Result<Self, ConfigError> {
        let mut settings = Settings::default();
        if let Some(path) = path {
            settings.add_files(path);
        }
        settings.add_overrides(overrides);
        apply(settings)
    }

    /// Reads a configuration from `text`, as if it were the file `name`. Other files are not read:
    /// `include` and `$(<file)` are errors.
    ///
    /// # Errors
    /// As [`Config::load`].
    pub fn from_text(text: &str, name: &str) -> Result<Self, ConfigError> {
        let mut settings = Settings::text_only();
        settings.add_text(text, Path::new(name), 0);
        apply(settings)
    }

    /// Every setting with its value as it would be written: what was given, and the defaults of keys that were not. Keys that have no
    /// default are not there unless they were given.
    pub fn effective(&self) -> Vec<(String, String)> {
        let mut all = self.given.clone();
        for spec in crate::keys::all() {
            let free = spec.name.contains('$') || spec.name.ends_with("**");
            let known = || self.given.iter().any(|(key, _)| key == spec.name);
            if !free && !spec.default.is_empty() && !known() {
                all.push((spec.name.to_owned(), spec.default.to_owned()));
            }
        }
        all.sort();
        all
    }
}

fn apply(mut settings: Settings) -> Result<Config, ConfigError> {
    let mut config = Config::default();
    let mut known = Vec::new();
    for setting in last_of_each_key(std::mem::take(&mut settings.all)) {
        match find(&setting.key) {
            Some((place, spec)) => known.push((place, spec, setting)),
            None => settings.problem(&setting.origin, unknown(&setting)),
        }
        if settings.problems.len() >= crate::files::PROBLEMS_MAX {
            break;
        }
    }
    for (_, spec, setting) in &known {
        if spec.effect == Effect::NoEffect {
            config.ignored.push(IgnoredSetting {
                key: setting.key.to_string(),
                origin: setting.origin.clone(),
                why: spec.meaning,
            });
        }
    }
    known.sort_by_key(|(place, ..)| *place);
    let given = known.iter();
    config.given = given
        .map(|(.., setting)| (setting.key.to_string(), setting.value.clone()))
        .collect();
    let mut last_place = None;
    for (place, spec, setting) in &known {
        if let Some(reset) = spec.reset.filter(|_| last_place != Some(*place)) {
            reset(&mut config);
        }
        last_place = Some(*place);
        let name = spec.free_word(&setting.key);
        if spec.kind.set(&mut config, name, &setting.value).is_err() {
            let Setting { key, value, origin } = setting;
            let expected = spec.kind.expected();
            settings.problem(origin, format!("`{key} = {value}`: expected {expected}"));
        }
    }
    if settings.problems.is_empty() {
        check(&config, |key, message| {
            let origin = known.iter().find(|(_, spec, _)| spec.name == key);
            let origin = origin
                .map(|(.., setting)| setting.origin.as_str())
                .unwrap_or_default();
            settings.problem(origin, message.to_owned());
        });
    }
    match settings.problems.is_empty() {
        true => Ok(config),
        false => Err(ConfigError {
            problems: settings.problems,
        }),
    }
}

fn last_of_each_key(all: Vec<Setting>) -> Vec<Setting> {
    let mut last: Vec<Setting> = Vec::with_capacity(all.len());
    let mut places = HashMap::with_capacity(all.len());
    for setting in all {
        match places
            .get(&setting.key)
            .and_then(|place: &usize| last.get_mut(*place))
        {
            Some(earlier) => *earlier = setting,
            None => {
                places.insert(setting.key.clone(), last.len());
                last.push(setting);
            }
        }
    }
    last
}

fn unknown(setting: &Setting) -> String {
    match similar(&setting.key) {
        Some(meant) => format!("unknown key `{}`: did you mean `{meant}`?", setting.key),
        None => format!("unknown key `{}`", setting.key),
    }
}

/// What no single value can tell. `problem` takes the key that is at fault and a sentence.
fn check(config: &Config, mut problem: impl FnMut(&str, &str)) {
    let tls = &config.tls;
    if !config.net.tls_listeners.is_empty() {
        if tls.cert_file.is_none() {
            problem(
                "listeners.ssl.$name",
                "`listeners.ssl` needs `ssl_options.certfile`",
            );
        }
        if tls.key_file.is_none() {
            problem(
                "listeners.ssl.$name",
                "`listeners.ssl` needs `ssl_options.keyfile`",
            );
        }
    }
    if tls.verify_peer && tls.ca_file.is_none() {
        problem(
            "ssl_options.verify",
            "`ssl_options.verify = verify_peer` needs `ssl_options.cacertfile`",
        );
    }
    if tls.require_peer_cert && !tls.verify_peer {
        problem(
            "ssl_options.fail_if_no_peer_cert",
            "`ssl_options.fail_if_no_peer_cert` needs `ssl_options.verify = verify_peer`",
        );
    }
    if (1..4096).contains(&config.limits.frame_max) {
        problem(
            "frame_max",
            "`frame_max`: expected 0 (unlimited) or at least 4096 bytes",
        );
    }
    if config.access.default_user.is_empty() {
        problem("default_user", "`default_user` is empty");
    }
    if config.access.default_vhost.is_empty() {
        problem("default_vhost", "`default_vhost` is empty");
    }
}
