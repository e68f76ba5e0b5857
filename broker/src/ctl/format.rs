//! What is written to standard output: tables with tabs, boxes, CSV, JSON.

use serde_json::{Value, json};

use super::protocol::Output;

/// `--formatter`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// Columns with tabs between them.
    Table,
    /// A box.
    PrettyTable,
    /// Comma-separated values (RFC 4180).
    Csv,
    /// JSON.
    Json,
}

impl Format {
    /// The formatter of this name.
    pub fn from_name(name: &str) -> Option<Format> {
        Some(match name {
            "table" => Format::Table,
            "pretty_table" => Format::PrettyTable,
            "csv" => Format::Csv,
            "json" => Format::Json,
            _ => return None,
        })
    }

    /// Whether programs read it: then nothing but the result is written.
    pub fn is_for_programs(self) -> bool {
        matches!(self, Format::Csv | Format::Json)
    }
}

/// How a result is shown.
#[derive(Debug, Clone, Copy)]
pub struct Style<'a> {
    /// The formatter.
    pub format: Format,
    /// Whether a table has a line of headers.
    pub headers: bool,
    /// Whether a table without rows is an empty line; nothing otherwise.
    pub line_when_empty: bool,
    /// The name of the node.
    pub node: &'a str,
}

/// The text of a result, with its line end.
pub fn render(output: &Output, style: Style<'_>) -> String {
    match (output, style.format) {
        (Output::Done, Format::Json) => {
            format!("{}\n", json!({"node": style.node, "result": "ok"}))
        }
        (Output::Done, _) => String::new(),
        (Output::Message(text), Format::Json) => format!("{}\n", json!({"message": text})),
        (Output::Value(text), Format::Json) => {
            let value = json!({"node": style.node, "result": "ok", "value": text});
            format!("{value}\n")
        }
        (Output::Message(text) | Output::Value(text), _) => format!("{text}\n"),
        (Output::Report { value, .. }, Format::Json) => format!("{value}\n"),
        (Output::Report { text, .. }, _) => text.clone(),
        (Output::Rows { columns, rows }, Format::Json) => json_rows(columns, rows),
        (Output::Rows { columns, rows }, Format::Csv) => csv(columns, rows, style.headers),
        (Output::Rows { rows, .. }, _) if rows.is_empty() => {
            if style.line_when_empty { "\n" } else { "" }.to_owned()
        }
        (Output::Rows { columns, rows }, Format::PrettyTable) => pretty(columns, rows),
        (Output::Rows { columns, rows }, Format::Table) => table(columns, rows, style.headers),
    }
}

/// A cell for people.
fn text(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => escaped(text),
        Value::Array(items) => {
            let items: Vec<String> = items.iter().map(text).collect();
            format!("[{}]", items.join(", "))
        }
        Value::Object(fields) => match fields.get("text") {
            Some(Value::String(text)) => escaped(text),
            _ => value.to_string(),
        },
        other => other.to_string(),
    }
}

/// Control characters as `\ooo`: a name must not break the table.
fn escaped(text: &str) -> String {
    if !text.contains(|c: char| c.is_control()) {
        return text.to_owned();
    }
    let mut out = String::with_capacity(text.len() + 8);
    for c in text.chars() {
        if c.is_control() {
            out.push_str(&format!("\\{:03o}", u32::from(c)));
        } else {
            out.push(c);
        }
    }
    out
}

/// A cell for programs.
fn plain(value: &Value) -> Value {
    match value.as_object().and_then(|fields| fields.get("value")) {
        Some(inner) => inner.clone(),
        None => value.clone(),
    }
}

fn json_rows(columns: &[String], rows: &[Vec<Value>]) -> String {
    if rows.is_empty() {
        return "[]\n".to_owned();
    }
    let mut out = "[\n".to_owned();
    for (at, row) in rows.iter().enumerate() {
        // By hand: a map would not keep the order of the columns.
        let fields: Vec<String> = columns
            .iter()
            .zip(row)
            .map(|(name, value)| format!("{}:{}", Value::from(name.as_str()), plain(value)))
            .collect();
        let comma = if at > 0 { "," } else { "" };
        out.push_str(&format!("{comma}{{{}}}\n", fields.join(",")));
    }
    out.push_str("]\n");
    out
}

fn csv(columns: &[String], rows: &[Vec<Value>], headers: bool) -> String {
    let field = |value: &Value| match value {
        Value::Number(_) | Value::Bool(_) => value.to_string(),
        _ => format!("\"{}\"", text(value).replace('"', "\"\"")),
    };
    let line = |cells: Vec<String>| format!("{}\n", cells.join(","));
    let header = columns.iter().map(|c| field(&Value::from(c.as_str())));
    let mut out = String::new();
    if headers {
        out.push_str(&line(header.collect()));
    }
    for row in rows {
        out.push_str(&line(row.iter().map(field).collect()));
    }
    out
}

fn table(columns: &[String], rows: &[Vec<Value>], headers: bool) -> String {
    let mut out = String::new();
    if headers {
        out.push_str(&columns.join("\t"));
        out.push('\n');
    }
    for row in rows {
        let cells: Vec<String> = row.iter().map(text).collect();
        out.push_str(&cells.join("\t"));
        out.push('\n');
    }
    out
}

fn pretty(columns: &[String], rows: &[Vec<Value>]) -> String {
    let cells: Vec<Vec<String>> = rows.iter().map(|r| r.iter().map(text).collect()).collect();
    let width = |at: usize| {
        let header = columns.get(at).map_or(0, |c| c.chars().count());
        let widest = cells.iter().filter_map(|row| row.get(at));
        widest
            .map(|cell| cell.chars().count())
            .fold(header, usize::max)
    };
    let widths: Vec<usize> = (0..columns.len()).map(width).collect();
    let rule = |left: char, middle: &str, right: char| {
        let bars: Vec<String> = widths.iter().map(|w| "─".repeat(w + 2)).collect();
        format!("{left}{}{right}\n", bars.join(middle))
    };
    let line = |row: &[String]| {
        let padded: Vec<String> = row
            .iter()
            .zip(&widths)
            .map(|(cell, width)| format!(" {cell}{} ", " ".repeat(width - cell.chars().count())))
            .collect();
        format!("│{}│\n", padded.join("│"))
    };
    let mut out = rule('┌', "┬", '┐');
    out.push_str(&line(columns));
    for row in &cells {
        out.push_str(&rule('├', "┼", '┤'));
        out.push_str(&line(row));
    }
    out.push_str(&rule('└', "┴", '┘'));
    out
}

#[cfg(test)]
mod tests {
    use super::super::protocol::cell;
    use super::*;

    fn users() -> Output {
        Output::Rows {
            columns: vec!["user".into(), "tags".into()],
            rows: vec![
                vec![json!("cid"), json!([])],
                vec![json!("ann"), json!(["administrator", "monitoring"])],
            ],
        }
    }

    fn shown(output: &Output, format: &str) -> String {
        let style = Style {
            format: Format::from_name(format).unwrap(),
            headers: true,
            line_when_empty: true,
            node: "leveret@h",
        };
        render(output, style)
    }

    // The expectations are what rabbitmqctl 3.10.8 prints.

    #[test]
    fn tables() {
        let expected = "user\ttags\ncid\t[]\nann\t[administrator, monitoring]\n";
        assert_eq!(shown(&users(), "table"), expected);
        let expected =
            "\"user\",\"tags\"\n\"cid\",\"[]\"\n\"ann\",\"[administrator, monitoring]\"\n";
        assert_eq!(shown(&users(), "csv"), expected);
        let expected = "[\n{\"user\":\"cid\",\"tags\":[]}\n,{\"user\":\"ann\",\"tags\":[\"administrator\",\"monitoring\"]}\n]\n";
        assert_eq!(shown(&users(), "json"), expected);
    }

    #[test]
    fn boxes() {
        let expected = "\
┌──────┬─────────────────────────────┐
│ user │ tags                        │
├──────┼─────────────────────────────┤
│ cid  │ []                          │
├──────┼─────────────────────────────┤
│ ann  │ [administrator, monitoring] │
└──────┴─────────────────────────────┘
";
        assert_eq!(shown(&users(), "pretty_table"), expected);
    }

    #[test]
    fn arguments_differ_between_table_and_json() {
        let arguments = cell(
            "[{\"x-max-length\",100}]",
            json!([["x-max-length", "long", 100]]),
        );
        let output = Output::Rows {
            columns: vec!["name".into(), "arguments".into()],
            rows: vec![vec![json!("q"), arguments]],
        };
        assert_eq!(
            shown(&output, "table"),
            "name\targuments\nq\t[{\"x-max-length\",100}]\n"
        );
        assert_eq!(
            shown(&output, "csv"),
            "\"name\",\"arguments\"\n\"q\",\"[{\"\"x-max-length\"\",100}]\"\n"
        );
        assert_eq!(
            shown(&output, "json"),
            "[\n{\"name\":\"q\",\"arguments\":[[\"x-max-length\",\"long\",100]]}\n]\n"
        );
    }

    #[test]
    fn names_do_not_break_a_table() {
        let output = Output::Rows {
            columns: vec!["name".into()],
            rows: vec![vec![json!("a\tb\nc")]],
        };
        assert_eq!(shown(&output, "table"), "name\na\\011b\\012c\n");
    }

    #[test]
    fn no_rows() {
        let none = Output::Rows {
            columns: vec!["name".into()],
            rows: Vec::new(),
        };
        assert_eq!(shown(&none, "table"), "\n");
        assert_eq!(shown(&none, "json"), "[]\n");
    }

    #[test]
    fn messages() {
        let message = Output::Message("Ping succeeded".into());
        assert_eq!(shown(&message, "table"), "Ping succeeded\n");
        assert_eq!(
            shown(&message, "json"),
            "{\"message\":\"Ping succeeded\"}\n"
        );
        let value = Output::Value("{}".into());
        assert_eq!(
            shown(&value, "json"),
            "{\"node\":\"leveret@h\",\"result\":\"ok\",\"value\":\"{}\"}\n"
        );
    }
}
