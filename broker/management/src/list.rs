//! Lists as they are asked for: sorted, filtered by name, in pages, with some columns.

use std::cmp::Ordering;

use fancy_regex::{Regex, RegexBuilder};
use serde_json::{Map, Value, json};

use crate::reply::{Failure, Result};

/// Items of a page if its size is not said.
const PAGE_SIZE_DEFAULT: usize = 100;
/// Most items of a page.
const PAGE_SIZE_MAX: usize = 500;
/// Steps that a name may cost a pattern.
const BACKTRACK_MAX: usize = 10_000;

/// A page.
#[derive(Debug)]
struct Page {
    number: usize,
    size: usize,
    name: Option<Filter>,
}

#[derive(Debug)]
enum Filter {
    Part(String),
    Pattern(Box<Regex>),
}

impl Filter {
    fn takes(&self, name: &str) -> bool {
        match self {
            Filter::Part(part) => name.to_lowercase().contains(part),
            Filter::Pattern(pattern) => pattern.is_match(name).unwrap_or(false),
        }
    }
}

/// What a query says of a list.
#[derive(Debug)]
pub struct View {
    page: Option<Page>,
    /// `None`: in the default order.
    sort: Option<String>,
    reverse: bool,
    columns: Option<Columns>,
}

fn value<'a>(query: &'a [(String, String)], name: &str) -> Option<&'a str> {
    let found = query.iter().find(|(key, _)| key == name)?;
    Some(&found.1)
}

impl View {
    /// Reads a query.
    ///
    /// # Errors
    /// 400, as RabbitMQ has them.
    pub fn of(query: &[(String, String)]) -> Result<View> {
        let sort = value(query, "sort").filter(|sort| !sort.is_empty());
        Ok(View {
            page: page(query)?,
            sort: sort.map(str::to_owned),
            reverse: value(query, "sort_reverse") == Some("true"),
            columns: Columns::of(query),
        })
    }

    /// A list of what is there already, in the order of these columns unless the query says another.
    ///
    /// # Errors
    /// 400 for a page that is out of range.
    pub fn list(&self, items: Vec<Value>, order: &[&str]) -> Result<Value> {
        self.lazy(items, order, &[], |items| items)
    }

    /// The same for a list whose items are made in two steps: `basic` names the columns that they have already, and `more` adds the
    /// others, to one page only if neither order nor filter need them for all.
    ///
    /// # Errors
    /// 400 for a page that is out of range.
    pub fn lazy(
        &self,
        mut items: Vec<Value>,
        order: &[&str],
        basic: &[&str],
        more: impl FnOnce(Vec<Value>) -> Vec<Value>,
    ) -> Result<Value> {
        let has = |column: &str| basic.contains(&column.split('.').next().unwrap_or(column));
        let is_basic = self.columns.as_ref().is_some_and(|c| c.all(has));
        let early = self.sort.as_deref().is_none_or(has);
        let mut more = Some(more);
        if !early && let Some(more) = more.take() {
            items = more(items);
        }
        self.sort(&mut items, order);
        let whole = items.len();
        let Some(page) = &self.page else {
            if let Some(more) = more.filter(|_| !is_basic) {
                items = more(items);
            }
            return Ok(Value::Array(self.pick(items)));
        };
        if let Some(filter) = &page.name {
            items.retain(|item| {
                let name = item.get("name").and_then(Value::as_str);
                filter.takes(name.unwrap_or_default())
            });
        }
        let filtered = items.len();
        let start = page.size.saturating_mul(page.number - 1);
        if start > 0 && start >= filtered {
            let reason = format!(
                "Page out of range, page: {} page size: {}, len: {filtered}",
                page.number, page.size
            );
            return Err(Failure::new(400, "page_out_of_range", reason));
        }
        let mut items: Vec<Value> = items.into_iter().skip(start).take(page.size).collect();
        if let Some(more) = more.filter(|_| !is_basic) {
            items = more(items);
        }
        Ok(json!({
            "filtered_count": filtered,
            "item_count": items.len(),
            "items": self.pick(items),
            "page": page.number,
            "page_count": filtered.div_ceil(page.size),
            "page_size": page.size,
            "total_count": whole,
        }))
    }

    fn sort(&self, items: &mut [Value], order: &[&str]) {
        let mut columns: Vec<&str> = self.sort.as_deref().into_iter().collect();
        columns.extend(order.iter().filter(|c| self.sort.as_deref() != Some(**c)));
        items.sort_by(|a, b| {
            let of = |column: &&str| compare(dotted(a, column), dotted(b, column));
            let unequal = columns.iter().map(of).find(|order| order.is_ne());
            unequal.unwrap_or(Ordering::Equal)
        });
        if self.reverse {
            items.reverse();
        }
    }

    fn pick(&self, mut items: Vec<Value>) -> Vec<Value> {
        if let Some(columns) = &self.columns {
            items.iter_mut().for_each(|item| columns.pick(item));
        }
        items
    }
}

fn dotted<'a>(item: &'a Value, column: &str) -> Option<&'a Value> {
    column.split('.').try_fold(item, |at, name| at.get(name))
}

/// Erlang's order of what JSON is there: numbers, then words, lists, texts. What is missing counts as 0.
fn compare(a: Option<&Value>, b: Option<&Value>) -> Ordering {
    fn rank(value: &Value) -> u8 {
        match value {
            Value::Number(_) => 0,
            Value::Null | Value::Bool(_) => 1,
            Value::Object(_) => 2,
            Value::Array(_) => 3,
            Value::String(_) => 4,
        }
    }
    let zero = Value::from(0);
    let (a, b) = (a.unwrap_or(&zero), b.unwrap_or(&zero));
    match (a, b) {
        (Value::Number(a), Value::Number(b)) => {
            let (a, b) = (a.as_f64().unwrap_or(0.0), b.as_f64().unwrap_or(0.0));
            a.total_cmp(&b)
        }
        (Value::String(a), Value::String(b)) => a.cmp(b),
        (Value::Bool(a), Value::Bool(b)) => a.cmp(b),
        _ => rank(a).cmp(&rank(b)),
    }
}

fn page(query: &[(String, String)]) -> Result<Option<Page>> {
    let invalid = || Failure::bad_request("Pagination parameters are invalid");
    let number = |name: &str| -> Result<Option<i64>> {
        let text = value(query, name);
        text.map(|text| text.parse().map_err(|_| invalid()))
            .transpose()
    };
    let (page, size) = (number("page")?, number("page_size")?);
    let Some(page) = page else { return Ok(None) };
    let bounded = |n: i64, max: usize| usize::try_from(n).ok().filter(|n| (1..=max).contains(n));
    let given = size.unwrap_or(PAGE_SIZE_DEFAULT as i64);
    let (Some(number), Some(size)) = (bounded(page, usize::MAX), bounded(given, PAGE_SIZE_MAX))
    else {
        let size = size.map_or("undefined".to_owned(), |size| size.to_string());
        let reason = format!("Invalid pagination parameters: page number {page}, page size {size}");
        return Err(Failure::new(400, "invalid_pagination_parameters", reason));
    };
    let name = value(query, "name").filter(|name| !name.is_empty());
    let name = match name {
        None => None,
        Some(pattern) if value(query, "use_regex") == Some("true") => {
            let mut builder = RegexBuilder::new(pattern);
            let regex = builder
                .case_insensitive(true)
                .backtrack_limit(BACKTRACK_MAX)
                .delegate_size_limit(1 << 20)
                .build();
            Some(Filter::Pattern(Box::new(regex.map_err(|_| invalid())?)))
        }
        Some(part) => Some(Filter::Part(part.to_lowercase())),
    };
    Ok(Some(Page { number, size, name }))
}

/// The columns that are asked for, each a path of names.
#[derive(Debug)]
pub struct Columns(Vec<Vec<String>>);

impl Columns {
    /// Those of a query; `None` is all.
    pub fn of(query: &[(String, String)]) -> Option<Columns> {
        let text = value(query, "columns")?;
        let path = |column: &str| column.split('.').map(str::to_owned).collect();
        let columns = text.split(',').filter(|column| !column.is_empty());
        Some(Columns(columns.map(path).collect()))
    }

    fn all(&self, mut has: impl FnMut(&str) -> bool) -> bool {
        self.0
            .iter()
            .all(|path| path.first().is_none_or(|c| has(c)))
    }

    /// Leaves the columns of an object, and of the objects of a list.
    pub fn pick(&self, item: &mut Value) {
        let paths: Vec<&[String]> = self.0.iter().map(Vec::as_slice).collect();
        pick(item, &paths);
    }
}

fn pick(item: &mut Value, paths: &[&[String]]) {
    match item {
        Value::Object(fields) => {
            let kept = std::mem::take(fields);
            let wanted = |(name, mut value): (String, Value)| {
                let of_name = paths.iter().filter(|path| path.first() == Some(&name));
                let rests: Vec<&[String]> = of_name.filter_map(|path| path.get(1..)).collect();
                if rests.is_empty() {
                    return None;
                }
                if !rests.iter().any(|rest| rest.is_empty()) {
                    pick(&mut value, &rests);
                }
                Some((name, value))
            };
            *fields = kept.into_iter().filter_map(wanted).collect::<Map<_, _>>();
        }
        Value::Array(items) => items.iter_mut().for_each(|item| pick(item, paths)),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn view(query: &str) -> Result<View> {
        View::of(&crate::text::query(query))
    }

    fn items() -> Vec<Value> {
        vec![
            json!({"name": "Qb", "n": 3, "s": {"r": 1, "t": 2}}),
            json!({"name": "qa", "s": {"r": 5, "t": 2}}),
            json!({"name": "x", "n": 1}),
        ]
    }

    fn names(value: &Value) -> Vec<&str> {
        let items = value.get("items").unwrap_or(value).as_array().unwrap();
        items.iter().map(|i| i["name"].as_str().unwrap()).collect()
    }

    #[test]
    fn the_default_order_is_by_name() {
        let list = view("").unwrap().list(items(), &["name"]).unwrap();
        assert_eq!(names(&list), ["Qb", "qa", "x"]);
    }

    #[test]
    fn any_column_sorts_and_what_is_missing_is_nothing() {
        for (query, sorted) in [
            ("sort=n", ["qa", "x", "Qb"]),
            ("sort=n&sort_reverse=true", ["Qb", "x", "qa"]),
            ("sort=s.r", ["x", "Qb", "qa"]),
        ] {
            let list = view(query).unwrap().list(items(), &["name"]).unwrap();
            assert_eq!(names(&list), sorted, "{query}");
        }
    }

    #[test]
    fn columns_go_down_into_objects() {
        let list = view("columns=name,s.r").unwrap();
        let list = list.list(items(), &["name"]).unwrap();
        assert_eq!(list[0], json!({"name": "Qb", "s": {"r": 1}}));
        assert_eq!(list[2], json!({"name": "x"}));
    }

    #[test]
    fn pages_tell_of_the_whole() {
        let list = view("page=1&page_size=1&name=Q").unwrap();
        let list = list.list(items(), &["name"]).unwrap();
        assert_eq!(names(&list), ["Qb"]);
        assert_eq!(list["total_count"], 3);
        assert_eq!(list["filtered_count"], 2);
        assert_eq!(list["page_count"], 2);
        let list = view("page=1&name=%5Eq(?!a)&use_regex=true").unwrap();
        assert_eq!(names(&list.list(items(), &["name"]).unwrap()), ["Qb"]);
        let none = view("page=1&name=zzz").unwrap();
        assert_eq!(none.list(items(), &["name"]).unwrap()["page_count"], 0);
    }

    #[test]
    fn bad_pages_are_refused() {
        for (query, error) in [
            ("page=0", "invalid_pagination_parameters"),
            ("page=1&page_size=501", "invalid_pagination_parameters"),
            ("page=1&page_size=0", "invalid_pagination_parameters"),
            ("page=x", "bad_request"),
            ("page=1&name=(&use_regex=true", "bad_request"),
        ] {
            assert_eq!(view(query).unwrap_err().error, error, "{query}");
        }
        let beyond = view("page=4&page_size=1").unwrap();
        let failure = beyond.list(items(), &["name"]).unwrap_err();
        assert_eq!(failure.error, "page_out_of_range");
    }

    #[test]
    fn only_a_page_is_made_whole() {
        let mut made = 0;
        let more = |items: Vec<Value>| {
            made += items.len();
            items
        };
        let view = view("page=1&page_size=2").unwrap();
        view.lazy(items(), &["name"], &["name"], more).unwrap();
        assert_eq!(made, 2);
    }
}
