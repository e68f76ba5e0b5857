//! The web page: files that are part of the program, so that it works without a network and without an installation.
//!
//! The files say nothing of the broker: everything comes through the API, with the name and password that the page asks for and sends
//! with each request. There is no cookie, so nothing that another site makes a browser send is believed.

use axum::body::Body;
use axum::http::{HeaderMap, HeaderValue, Response, header};

use crate::reply::{empty, typed};

/// Nothing but this node's own files and API: no script of a queue's name, no frame of another site.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; \
     base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

const HTML: &str = "text/html; charset=utf-8";
const SCRIPT: &str = "text/javascript; charset=utf-8";
const STYLE: &str = "text/css; charset=utf-8";
const IMAGE: &str = "image/svg+xml";

/// A file: its path, its type, what is in it.
#[derive(Debug)]
pub struct File {
    /// Below the page's root; empty for the page itself.
    pub path: &'static str,
    kind: &'static str,
    body: &'static str,
}

macro_rules! files {
    ($($path:literal $kind:ident $name:literal),* $(,)?) => {
        &[$(File { path: $path, kind: $kind, body: include_str!(concat!("../page/", $name)) }),*]
    };
}

/// All files.
pub const FILES: &[File] = files![
    "" HTML "index.html",
    "style.css" STYLE "style.css",
    "icon.svg" IMAGE "icon.svg",
    "main.js" SCRIPT "main.js",
    "api.js" SCRIPT "api.js",
    "chart.js" SCRIPT "chart.js",
    "dom.js" SCRIPT "dom.js",
    "form.js" SCRIPT "form.js",
    "format.js" SCRIPT "format.js",
    "table.js" SCRIPT "table.js",
    "views/admin.js" SCRIPT "views/admin.js",
    "views/cluster.js" SCRIPT "views/cluster.js",
    "views/connections.js" SCRIPT "views/connections.js",
    "views/definitions.js" SCRIPT "views/definitions.js",
    "views/exchanges.js" SCRIPT "views/exchanges.js",
    "views/overview.js" SCRIPT "views/overview.js",
    "views/policies.js" SCRIPT "views/policies.js",
    "views/queues.js" SCRIPT "views/queues.js",
];

impl File {
    /// What a newer program has in place of it, it says otherwise.
    fn tag(&self) -> String {
        format!(
            "\"{:08x}-{:x}\"",
            crc32c::crc32c(self.body.as_bytes()),
            self.body.len()
        )
    }

    /// The file, unless the browser has it.
    pub fn serve(&self, headers: &HeaderMap) -> Response<Body> {
        let tag = self.tag();
        let known = headers.get(header::IF_NONE_MATCH);
        let mut response = match known.is_some_and(|known| known.as_bytes() == tag.as_bytes()) {
            true => empty(304),
            false => typed(200, self.kind, self.body.as_bytes().to_vec()),
        };
        let out = response.headers_mut();
        let mut set = |name, value: &'static str| out.insert(name, HeaderValue::from_static(value));
        set(header::CONTENT_SECURITY_POLICY, POLICY);
        set(header::X_CONTENT_TYPE_OPTIONS, "nosniff");
        set(header::REFERRER_POLICY, "no-referrer");
        set(header::CACHE_CONTROL, "no-cache");
        if let Ok(tag) = HeaderValue::from_str(&tag) {
            out.insert(header::ETAG, tag);
        }
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_file_that_is_imported_is_there() {
        for file in FILES.iter().filter(|f| f.kind == SCRIPT) {
            for line in file.body.lines().filter(|l| l.starts_with("import ")) {
                let name = line.rsplit('"').nth(1).unwrap_or_default();
                let inside = file.path.contains('/');
                let path = match (name.strip_prefix("../"), name.strip_prefix("./")) {
                    (Some(path), _) if inside => path.to_owned(),
                    (_, Some(path)) if inside => format!("views/{path}"),
                    (_, Some(path)) => path.to_owned(),
                    _ => panic!("{}: {line}", file.path),
                };
                assert!(
                    FILES.iter().any(|f| f.path == path),
                    "{}: {path}",
                    file.path
                );
            }
        }
    }

    #[test]
    fn what_a_browser_has_is_not_sent_again() {
        let file = &FILES[0];
        let first = file.serve(&HeaderMap::new());
        assert_eq!(first.status(), 200);
        let mut headers = HeaderMap::new();
        headers.insert(header::IF_NONE_MATCH, first.headers()[header::ETAG].clone());
        assert_eq!(file.serve(&headers).status(), 304);
    }

    #[test]
    fn nothing_is_made_markup() {
        for file in FILES {
            for word in [
                "innerHTML",
                "outerHTML",
                "insertAdjacentHTML",
                "document.write",
                "eval(",
            ] {
                assert!(!file.body.contains(word), "{}: {word}", file.path);
            }
        }
    }
}
