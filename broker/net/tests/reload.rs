//! Certificates that change while the listener is open.

mod support;

use std::time::Duration;

use leveret_net::tls::{Reload, TlsState};
use support::{Authority, Client, Files, Server, converse, shown, within};

#[test]
fn what_a_look_at_the_files_leads_to() {
    let authority = Authority::new("authority");
    let files = Files::new(&authority, &authority.server());
    let state = TlsState::load(&files.config().tls).unwrap();
    let first = state.current();
    assert_eq!(state.reload(false), Reload::Unchanged);
    assert_eq!(state.reload(true), Reload::Replaced);
    assert!(!std::sync::Arc::ptr_eq(&first, &state.current()));

    let (current, next) = (state.current(), authority.server());
    let kept = || std::sync::Arc::ptr_eq(&current, &state.current());
    // Certificate and key are not replaced at the same moment.
    files.write("cert.pem", &next.pem);
    assert!(matches!(state.reload(false), Reload::Failed(reason) if reason.contains("its key")));
    assert!(kept());
    assert_eq!(
        state.reload(false),
        Reload::Unchanged,
        "the same failure is told once"
    );
    assert!(
        matches!(state.reload(true), Reload::Failed(_)),
        "and again when asked for"
    );
    std::fs::remove_file(files.path("key.pem")).unwrap();
    assert!(matches!(state.reload(false), Reload::Failed(reason) if reason.contains("key.pem")));
    files.write("key.pem", "half a ke");
    assert!(matches!(state.reload(false), Reload::Failed(reason) if reason.contains("key.pem")));
    assert!(kept());
    files.write("key.pem", &next.key_pem);
    assert_eq!(state.reload(false), Reload::Replaced);
    assert!(!kept());
    assert_eq!(state.reload(false), Reload::Unchanged);
}

#[tokio::test]
async fn new_connections_get_the_new_certificate_and_open_ones_go_on() {
    let authority = Authority::new("authority");
    let (old, new) = (authority.server(), authority.server());
    let files = Files::new(&authority, &old);
    let mut config = files.config();
    config.tls.reload_interval_ms = 10;
    let mut server = Server::start(&config).await;
    let mut client = Client::trusting(&authority)
        .talk(server.tcp().await)
        .await
        .unwrap();
    assert!(old.is(&shown(&client)));
    let mut accepted = server.accepted().await;
    let mut hello = [0; 5];
    tokio::io::AsyncReadExt::read_exact(&mut accepted.stream, &mut hello)
        .await
        .unwrap();

    files.install(&new);
    until_shown(&server, &authority, &new).await;
    converse(&mut client, &mut accepted.stream).await;

    // A wrong file keeps the new one; authorities are read again as well.
    files.write("cert.pem", "broken");
    files.write("key.pem", "broken");
    let again = Client::trusting(&authority)
        .talk(server.tcp().await)
        .await
        .unwrap();
    assert!(new.is(&shown(&again)));
    let other = Authority::new("other");
    let last = other.server();
    files.install(&last);
    until_shown(&server, &other, &last).await;
}

#[tokio::test]
async fn authorities_are_read_again() {
    let authority = Authority::new("authority");
    let files = Files::new(&authority, &authority.server());
    let mut config = files.config();
    config.tls.reload_interval_ms = 10;
    (config.tls.verify_peer, config.tls.require_peer_cert) = (true, true);
    let mut server = Server::start(&config).await;
    let other = Authority::new("other");
    let identity = other.client();
    files.write("ca.pem", &other.pem());
    within(async {
        loop {
            let client = Client::trusting(&authority).with(&identity);
            let stream = client.talk(server.tcp().await).await;
            let accepted = server.serving.counters();
            if stream.is_ok() && accepted.accepted > accepted.failed {
                // With TLS 1.3 the client is done before it is refused.
                if let Ok(accepted) =
                    tokio::time::timeout(Duration::from_millis(100), server.accepted()).await
                {
                    return assert!(accepted.tls.unwrap().peer.is_some());
                }
            }
        }
    })
    .await;
}

#[cfg(unix)]
#[tokio::test]
async fn a_hangup_reads_them_at_once() {
    let authority = Authority::new("authority");
    let files = Files::new(&authority, &authority.server());
    let mut config = files.config();
    config.tls.reload_interval_ms = 86_400_000;
    let server = Server::start(&config).await;
    let new = authority.server();
    files.install(&new);
    rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::HUP).unwrap();
    until_shown(&server, &authority, &new).await;
}

/// Connects until the server shows `expected`.
async fn until_shown(server: &Server, authority: &Authority, expected: &support::Identity) {
    within(async {
        loop {
            let client = Client::trusting(authority).talk(server.tcp().await).await;
            if client.is_ok_and(|client| expected.is(&shown(&client))) {
                return;
            }
        }
    })
    .await;
}
