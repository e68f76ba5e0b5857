//! `docs/configuration.md` lists the keys of the table, word for word.

use std::fs;
use std::path::Path;

const BEGIN: &str = "<!-- keys: written by the tests of leveret-config from its table -->\n";
const END: &str = "<!-- end of keys -->";

/// With `LEVERET_WRITE_DOCS=1` in the environment the page is rewritten instead of compared.
#[test]
fn the_page_is_the_table() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/configuration.md");
    let page = fs::read_to_string(&path).unwrap();
    let (before, rest) = page.split_once(BEGIN).expect("the page has the first mark");
    let (keys, after) = rest.split_once(END).expect("the page has the second mark");
    let expected = format!("\n{}", leveret_config::reference());
    if std::env::var_os("LEVERET_WRITE_DOCS").is_some() {
        fs::write(&path, format!("{before}{BEGIN}{expected}{END}{after}")).unwrap();
    } else if keys != expected {
        let differs = keys
            .lines()
            .zip(expected.lines())
            .find(|(page, table)| page != table);
        panic!("run this test with LEVERET_WRITE_DOCS=1; first difference: {differs:#?}");
    }
}
