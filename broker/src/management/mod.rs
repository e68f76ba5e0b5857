//! The HTTP API and the metrics of this node: listeners, and a runtime of their own.
//!
//! They run on a thread of their own, and what may block on a few more, so that no request holds up a connection's task. What the API
//! asks for is answered by `view`.

pub mod everywhere;
mod report;
mod view;

use std::net::SocketAddr;
use std::sync::Arc;

use leveret_config::{Config, HttpConfig};
use leveret_management::{Api, Http};
use leveret_net::{Listeners, Serving};
use tokio::runtime::{Builder, Handle, Runtime};

use crate::node::Node;
use view::View;

/// HTTP connections open at once, of the API and of metrics each.
const CONNECTIONS_MAX: u64 = 256;
/// Requests that are worked on at once; more wait.
const THREADS_MAX: usize = 8;

/// The API and the metrics of a running node. Dropping it ends them.
#[derive(Debug)]
pub struct Management {
    /// Only taken by the drop.
    runtime: Option<Runtime>,
    /// Held for as long as they are to accept.
    serving: Vec<Serving>,
}

impl Drop for Management {
    fn drop(&mut self) {
        self.serving.clear();
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

/// What one of the two listens on.
fn listener(config: &Config, http: &HttpConfig) -> Config {
    let mut config = config.clone();
    config.tls = http.tls(&config.tls);
    config.net.tcp_listeners = http.tcp_listener().into_iter().collect();
    config.net.tls_listeners = http.tls_listener().into_iter().collect();
    config.net.connection_max = Some(CONNECTIONS_MAX);
    config.net.proxy_protocol = false;
    config
}

/// Listens for HTTP, if the configuration has it so. `amqp` is the runtime that connections live on.
///
/// # Errors
/// An address that cannot be listened on, or certificates that cannot be used.
pub fn start(node: &Arc<Node>, amqp: &Handle) -> Result<Management, String> {
    let runtime = Builder::new_multi_thread()
        .worker_threads(1)
        .max_blocking_threads(THREADS_MAX)
        .thread_name("management")
        .enable_all()
        .build()
        .map_err(|e| format!("cannot start the runtime of the HTTP API: {e}"))?;
    let there = runtime.handle().clone();
    // From here on it is given back without waiting, as has to be done on a thread of another runtime.
    let mut management = Management {
        runtime: Some(runtime),
        serving: Vec::new(),
    };
    let config = node.config();
    let api = Api::new(Arc::new(View::new(Arc::clone(node), amqp.clone())));
    let both = [
        (
            &config.management,
            Http::api(&api, &config.management.path),
            "http",
        ),
        (
            &config.prometheus,
            Http::metrics(&api, &config.prometheus.path),
            "http/prometheus",
        ),
    ];
    let _entered = there.enter();
    let mut addresses: Vec<(SocketAddr, String)> = Vec::new();
    for (http, service, protocol) in both {
        let config = listener(config, http);
        if config.net.tcp_listeners.is_empty() && config.net.tls_listeners.is_empty() {
            continue;
        }
        let usual = *http == Config::default().management || *http == Config::default().prometheus;
        // A task on a thread of the other runtime waits for it.
        let (tell, told) = std::sync::mpsc::channel();
        there.spawn(async move {
            // Whoever asked waits.
            let _ = tell.send(Listeners::bind(&config).await);
        });
        let listeners = told
            .recv()
            .map_err(|_| "the runtime of the HTTP API ended".to_owned())?;
        let listeners = match listeners {
            Ok(listeners) => listeners,
            // A second broker of a machine works without being told other ports.
            Err(error) if usual => {
                tracing::warn!(%error, "{protocol} is not served, as nothing asks for it by name");
                continue;
            }
            Err(error) => return Err(error.to_string()),
        };
        let open = listeners.serve(move |accepted| {
            let service = service.clone();
            async move {
                let _slot = accepted.slot;
                service.serve(accepted.stream, accepted.peer).await;
            }
        });
        for local in open.local_addrs() {
            tracing::info!(address = %local.address, tls = local.tls, "listening for {protocol}");
            let protocol = match local.tls {
                true => protocol.replacen("http", "https", 1),
                false => protocol.to_owned(),
            };
            addresses.push((local.address, protocol));
        }
        management.serving.push(open);
    }
    node.set_http_listeners(addresses);
    if !management.serving.is_empty() {
        there.spawn(api.sample());
    }
    Ok(management)
}

/// Certificates that listeners show: port, file, and when it ends in milliseconds since 1970; `None` if it cannot be read.
pub fn certificate_ends(node: &Node) -> Vec<(u16, String, Option<u64>)> {
    let config = node.config();
    let of = |port: u16, file: &Option<std::path::PathBuf>| {
        let file = file.as_ref()?;
        let ends = leveret_net::tls::certificate_end(file);
        let ends_ms = ends.and_then(|s| u64::try_from(s).ok()).map(|s| s * 1000);
        Some((port, file.display().to_string(), ends_ms))
    };
    let amqp = node.listeners().into_iter().filter(|(_, tls)| *tls);
    let mut all: Vec<_> = amqp
        .filter_map(|(address, _)| of(address.port(), &config.tls.cert_file))
        .collect();
    let http = [&config.management, &config.prometheus];
    all.extend(http.into_iter().filter_map(|http| {
        let tls = http.tls(&config.tls);
        of(http.tls_port?, &tls.cert_file)
    }));
    all
}
