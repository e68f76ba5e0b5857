//! The reference part of `docs/configuration.md`.

use std::fmt::Write;

use crate::keys::{Effect, sections};

/// The reference of all keys, as Markdown tables, one for each section.
pub fn reference() -> String {
    let mut page = String::new();
    for (title, keys) in sections() {
        // Writing to a String cannot fail.
        let _ = writeln!(page, "### {title}\n");
        let _ = writeln!(
            page,
            "| key | value | default | effect | meaning |\n|---|---|---|---|---|"
        );
        for key in keys {
            let effect = match key.effect {
                Effect::Used => "used",
                Effect::NoEffect => "none",
            };
            let default = match key.default {
                "" => String::new(),
                default => format!("`{default}`"),
            };
            let (name, form, meaning) = (key.name, key.form(), key.meaning);
            let _ = writeln!(
                page,
                "| `{name}` | {form} | {default} | {effect} | {meaning} |"
            );
        }
        page.push('\n');
    }
    page
}
