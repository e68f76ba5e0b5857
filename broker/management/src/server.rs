//! HTTP over a connection that was accepted: bounds, then the router.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::{RawPathParams, Request};
use axum::http::{HeaderMap, HeaderValue, Method, Response, header};
use axum::routing::{any, get};
use bytes::Bytes;
use http_body_util::{BodyExt, LengthLimitError, Limited};
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use parking_lot::{Mutex, MutexGuard};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::runtime::Handle;
use tower_service::Service;

use crate::attempts::Attempts;
use crate::broker::Broker;
use crate::call::Call;
use crate::login::{check, log_in};
use crate::metrics;
use crate::openapi;
use crate::page;
use crate::rates::{INTERVAL_MS, Samples};
use crate::reply::{Failure, empty, json_response, typed};
use crate::routes::{ROUTES, Route};
use crate::text;

/// Longest body of a request: RabbitMQ's `management.http.max_body_size` is 20 MB.
pub const BODY_BYTES_MAX: usize = 20_000_000;
/// How long a client may take for the head of a request, and how long a connection may idle between requests.
const HEAD_TIMEOUT: Duration = Duration::from_secs(30);
/// How long a client may take for a body.
const BODY_TIMEOUT: Duration = Duration::from_secs(60);
/// Bytes of a request's head at most.
const HEAD_BYTES_MAX: usize = 64 << 10;

/// What requests share.
pub struct Api {
    broker: Arc<dyn Broker>,
    attempts: Attempts,
    samples: Mutex<Samples>,
}

impl std::fmt::Debug for Api {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Api({})", self.broker.node_name())
    }
}

impl Api {
    /// Of a broker.
    pub fn new(broker: Arc<dyn Broker>) -> Arc<Api> {
        Arc::new(Api {
            broker,
            attempts: Attempts::default(),
            samples: Mutex::default(),
        })
    }

    /// The broker.
    pub fn broker(&self) -> &dyn Broker {
        &*self.broker
    }

    /// Logins.
    pub(crate) fn attempts(&self) -> &Attempts {
        &self.attempts
    }

    /// What was seen every five seconds.
    pub(crate) fn samples(&self) -> MutexGuard<'_, Samples> {
        self.samples.lock()
    }

    /// Looks at everything every five seconds, for rates. Never ends.
    pub async fn sample(self: Arc<Self>) {
        let mut ticks = tokio::time::interval(Duration::from_millis(INTERVAL_MS));
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            let api = Arc::clone(&self);
            let look = move || {
                let seen = Samples::look(api.broker());
                api.samples.lock().take(seen);
            };
            if tokio::task::spawn_blocking(look).await.is_err() {
                tracing::warn!("statistics were not taken");
            }
        }
    }
}

/// What connections speak: the API, or metrics.
#[derive(Debug, Clone)]
pub struct Http {
    router: Router,
}

impl Http {
    /// The API, below `prefix` (RabbitMQ's `management.path_prefix`; mostly empty).
    pub fn api(api: &Arc<Api>, prefix: &str) -> Http {
        let mut router = Router::new();
        for route in ROUTES {
            let api = Arc::clone(api);
            let handler = move |params: RawPathParams, request: Request| {
                let params = params
                    .iter()
                    .map(|(name, value)| (name.to_owned(), value.to_owned()))
                    .collect();
                answer(Arc::clone(&api), route, params, request)
            };
            router = router.route(&format!("/api{}", route.path), any(handler));
        }
        let description = || async { json_response(200, &openapi::description()) };
        router = router.route("/api/openapi.json", get(description));
        for file in page::FILES {
            let serve = move |headers: HeaderMap| async move { file.serve(&headers) };
            router = router.route(&format!("/{}", file.path), get(serve));
        }
        let missing = || async { Failure::missing().into_response() };
        let router = match prefix.trim_matches('/') {
            "" => router,
            prefix => {
                // The page's own addresses are relative to it.
                let page = format!("/{prefix}/");
                let front = HeaderValue::from_str(&page).ok();
                let to_page = move || async move {
                    let mut response = empty(301);
                    response
                        .headers_mut()
                        .extend(front.map(|to| (header::LOCATION, to)));
                    response
                };
                let nested = Router::new().nest(&page, router);
                nested.route(&format!("/{prefix}"), get(to_page))
            }
        };
        Http {
            router: router.fallback(missing),
        }
    }

    /// Metrics for Prometheus, below `path`.
    pub fn metrics(api: &Arc<Api>, path: &str) -> Http {
        let mut router = Router::new();
        let root = format!("/{}", path.trim_matches('/'));
        for (end, scope) in metrics::SCOPES {
            let api = Arc::clone(api);
            let handler = move |request: Request| scrape(Arc::clone(&api), *scope, request);
            router = router.route(&format!("{root}{end}"), get(handler));
        }
        let missing = || async { Failure::missing().into_response() };
        Http {
            router: router.fallback(missing),
        }
    }

    /// Serves a connection until it is over.
    pub async fn serve(&self, io: impl AsyncRead + AsyncWrite + Unpin + Send, peer: SocketAddr) {
        let router = self.router.clone();
        let service = hyper::service::service_fn(move |request: hyper::Request<_>| {
            let mut request = request.map(Body::new);
            request.extensions_mut().insert(Peer(peer));
            // A router is always ready.
            router.clone().call(request)
        });
        let served = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEAD_TIMEOUT)
            .max_buf_size(HEAD_BYTES_MAX)
            .serve_connection(TokioIo::new(io), service)
            .await;
        if let Err(error) = served {
            tracing::debug!(%peer, %error, "HTTP connection ended");
        }
    }
}

/// Where a request came from.
#[derive(Debug, Clone, Copy)]
struct Peer(SocketAddr);

fn allow(route: &Route) -> String {
    let mut methods = Vec::new();
    for op in route.ops {
        if op.method == "GET" {
            methods.push("HEAD");
        }
        methods.push(op.method);
    }
    methods.push("OPTIONS");
    methods.join(", ")
}

/// The body; it is read whole, or the request is refused.
async fn body_of(request: Request) -> Result<Bytes, Failure> {
    let too_long = || Failure::new(400, "bad_request", "Exceeded HTTP request body size limit");
    let limited = Limited::new(request.into_body(), BODY_BYTES_MAX);
    match tokio::time::timeout(BODY_TIMEOUT, limited.collect()).await {
        Ok(Ok(collected)) => Ok(collected.to_bytes()),
        Ok(Err(error)) if error.is::<LengthLimitError>() => Err(too_long()),
        Ok(Err(_)) => Err(Failure::bad_request("the body was not read")),
        Err(_) => Err(Failure::new(
            408,
            "timeout",
            "the body did not come in time",
        )),
    }
}

/// Whether a browser sends this for a page of another site: it may add a name and password that it remembers, without asking
/// (Fetch Metadata, `Sec-Fetch-Site`). Who is no browser does not say.
fn is_foreign(headers: &HeaderMap) -> bool {
    let site = headers.get("sec-fetch-site");
    site.is_some_and(|site| !matches!(site.as_bytes(), b"same-origin" | b"none"))
}

async fn answer(
    api: Arc<Api>,
    route: &'static Route,
    params: Vec<(String, String)>,
    request: Request,
) -> Response<Body> {
    let allowed = |status| {
        let mut response = empty(status);
        if let Ok(value) = HeaderValue::from_str(&allow(route)) {
            response.headers_mut().insert(header::ALLOW, value);
        }
        response
    };
    let method = match *request.method() {
        Method::OPTIONS => return allowed(200),
        Method::HEAD => "GET",
        Method::GET => "GET",
        Method::PUT => "PUT",
        Method::POST => "POST",
        Method::DELETE => "DELETE",
        _ => return allowed(405),
    };
    let Some(op) = route.ops.iter().find(|op| op.method == method) else {
        return allowed(405);
    };
    let Some(Peer(peer)) = request.extensions().get().copied() else {
        return empty(500);
    };
    let headers = request.headers().clone();
    if method != "GET" && is_foreign(&headers) {
        let reason = "requests of other sites change nothing here";
        return Failure::new(403, "forbidden", reason).into_response();
    }
    let path = request.uri().path().to_owned();
    let query = text::query(request.uri().query().unwrap_or_default());
    // Log in first: nobody else's body is read.
    let logging_in = {
        let (api, params) = (Arc::clone(&api), params.clone());
        move || {
            let caller = log_in(api.broker(), api.attempts(), &headers, peer)?;
            let vhost = params.iter().find(|(name, _)| name == "vhost");
            let vhost = vhost.map(|(_, value)| value.as_str());
            check(&caller, op.access, vhost, &api.broker().topology())?;
            let reason = headers
                .get("x-reason")
                .and_then(|value| value.to_str().ok());
            Ok((caller, reason.map(str::to_owned)))
        }
    };
    let (caller, reason) = match blocking(logging_in).await {
        Ok(logged_in) => logged_in,
        Err(failure) => return failure.into_response(),
    };
    let body = match body_of(request).await {
        Ok(body) => body,
        Err(failure) => return failure.into_response(),
    };
    let call = Call {
        api,
        caller,
        method,
        path,
        params,
        query,
        reason,
        body,
        runtime: Handle::current(),
    };
    // Writing a long list is work as well.
    let work = move || Ok((op.handler)(&call)?.into_response());
    match blocking(work).await {
        Ok(response) => response,
        Err(failure) => failure.into_response(),
    }
}

/// Runs what may block.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Failure> + Send + 'static,
) -> Result<T, Failure> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(_) => Err(Failure::new(500, "internal_server_error", "see the log")),
    }
}

async fn scrape(api: Arc<Api>, scope: metrics::Scope, request: Request) -> Response<Body> {
    let query = text::query(request.uri().query().unwrap_or_default());
    let work = move || Ok(metrics::write(&api, scope, &query));
    match blocking(work).await {
        Ok(text) => typed(200, "text/plain; version=0.0.4", text.into_bytes()),
        Err(failure) => failure.into_response(),
    }
}
