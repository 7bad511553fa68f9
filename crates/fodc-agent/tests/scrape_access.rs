//! Endpoints behind TLS, authentication and Unix sockets.

#![expect(
    clippy::unwrap_used,
    reason = "a test stops at the first thing that is not as it should be"
)]

mod agent_support;
#[path = "../../steadfast/tests/support/pki.rs"]
mod pki;

use std::{fs, net::SocketAddr, sync::Arc};

use agent_support::{
    config,
    exporter::{Exporter, Script, respond},
    http, page_when, page_with, stop, value,
};
use pki::{Authority, Files, server_config};
use rustls::ServerConfig;
use steadfast_fodc_agent::{
    Agent, Config,
    scrape::{Access, Endpoint},
};
use tokio::{
    io::{AsyncRead, AsyncWrite, copy_bidirectional},
    net::{TcpListener, TcpStream, UnixListener},
};
use tokio_rustls::TlsAcceptor;

/// Occurs in every secret of these tests.
const SECRET: &str = "hunter2";

/// Serves a page to requests whose head has all these lines.
fn demanding(page: &'static str, lines: &[String]) -> Script {
    let lines = lines.to_vec();
    Arc::new(move |request, stream| {
        if lines.iter().all(|line| request.head.contains(line)) {
            respond(stream, "200 OK", "", page.as_bytes())
        } else {
            respond(stream, "401 Unauthorized", "", b"")
        }
    })
}

async fn relay(mut client: impl AsyncRead + AsyncWrite + Unpin, to: SocketAddr) {
    let mut server = TcpStream::connect(to).await.unwrap();
    copy_bidirectional(&mut client, &mut server).await.ok();
}

/// Terminates TLS before an exporter. Returns the port.
async fn with_tls(exporter: &Exporter, config: &ServerConfig) -> u16 {
    let mut config = config.clone();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let to = exporter.address();
    tokio::spawn(async move {
        while let Ok((socket, _)) = listener.accept().await {
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                if let Ok(client) = acceptor.accept(socket).await {
                    relay(client, to).await;
                }
            });
        }
    });
    port
}

/// Asserts that nothing the agent shows has a secret.
async fn assert_no_secret(agent: &Agent, config: &Config) {
    let address = agent.addresses().http.unwrap();
    let mut shown = format!("{config:?}");
    for path in ["/metrics", "/endpoints"] {
        shown += &http::get(address, path).await.text();
    }
    assert!(!shown.contains(SECRET), "{shown}");
}

#[tokio::test]
async fn page_behind_mutual_tls_and_a_token_is_scraped() {
    let authority = Authority::new("test");
    let files = Files::new(&authority);
    files.write_identity(&authority.client("agent"));
    let token = files.path("token");
    fs::write(&token, format!("first-{SECRET}\n")).unwrap();
    let demands = |token: &str| {
        let authorization = format!("authorization: Bearer {token}-{SECRET}\r\n");
        [authorization, format!("x-api-key: {SECRET}\r\n")]
    };
    let exporter = Exporter::new(demanding("behind_tls 1\n", &demands("first")));
    let server = server_config(&authority.server("localhost"), Some(&authority));
    let port = with_tls(&exporter, &server).await;

    let mut access = Access::default();
    access.tls = files.options_with_identity();
    access.bearer_file = Some(token.clone());
    access.headers = vec![("x-api-key".to_owned(), SECRET.to_owned())];
    let url = format!("https://localhost:{port}/metrics");
    let mut config = config([url.clone()]);
    config.endpoints = vec![Endpoint::new(&url).unwrap().access(access)];
    let agent = Agent::start(config.clone()).await.unwrap();
    page_with(&agent, "behind_tls 1 ").await;
    assert_no_secret(&agent, &config).await;

    exporter.set(demanding("renewed 1\n", &demands("second")));
    page_with(&agent, "reason=\"status\"").await;
    fs::write(&token, format!("second-{SECRET}\n")).unwrap();
    page_with(&agent, "renewed 1 ").await;
    assert_eq!(exporter.connections(), 1, "the connection is kept");
    fs::remove_file(&token).unwrap();
    page_with(&agent, "reason=\"credentials\"").await;
    assert_no_secret(&agent, &config).await;
    stop(agent).await;
}

#[tokio::test]
async fn certificate_of_another_authority_is_missed() {
    let authority = Authority::new("test");
    let exporter = Exporter::page("a 1\n");
    let server = server_config(&authority.server("localhost"), None);
    let port = with_tls(&exporter, &server).await;
    let files = Files::new(&Authority::new("other"));
    let mut access = Access::default();
    access.tls = files.options();
    let url = format!("https://localhost:{port}/metrics");
    let mut config = config([url.clone()]);
    config.endpoints = vec![Endpoint::new(&url).unwrap().access(access)];
    let agent = Agent::start(config).await.unwrap();
    page_when(&agent, "the endpoint is missed", |page| {
        value(page, "steadfast_agent_scrapes_missed_total{").is_some_and(|count| count >= 2.0)
            && page.contains("reason=\"tls\"")
    })
    .await;
    assert_eq!(exporter.requests(), 0);
    stop(agent).await;
}

#[tokio::test]
async fn pages_of_a_unix_socket_are_scraped_with_a_password() {
    let directory = tempfile::tempdir().unwrap();
    let (socket, password) = (directory.path().join("s"), directory.path().join("p"));
    fs::write(&password, format!("{SECRET}\n")).unwrap();
    // base64 of "agent:hunter2".
    let demands = ["authorization: Basic YWdlbnQ6aHVudGVyMg==\r\n".to_owned()];
    let exporter = Exporter::new(demanding("on_a_socket 1\n", &demands));
    let listener = UnixListener::bind(&socket).unwrap();
    let to = exporter.address();
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            tokio::spawn(relay(client, to));
        }
    });
    let mut access = Access::default();
    access.basic = Some(("agent".to_owned(), password));
    let url = |path| format!("http://unix:{}:{path}", socket.display());
    let urls = [url("/metrics"), url("/more")];
    let mut config = config(urls.clone());
    for endpoint in &mut config.endpoints {
        *endpoint = endpoint.clone().access(access.clone());
    }
    Endpoint::distinguish(&mut config.endpoints);
    let agent = Agent::start(config.clone()).await.unwrap();
    let both = |page: &str| {
        let of = |path| {
            let path = format!("metrics_path=\"{path}\"");
            let mut lines = page.lines().filter(|line| line.starts_with("on_a_socket{"));
            lines.any(|line| line.contains(&path) && line.contains("instance=\"unix:/"))
        };
        of("/metrics") && of("/more")
    };
    page_when(&agent, "both pages are recorded", both).await;
    assert_no_secret(&agent, &config).await;
    stop(agent).await;
}

#[test]
fn demands_that_cannot_be_met_are_faults_of_the_settings() {
    let file = || Some("/no/such/file".into());
    let faults = |url: &str, change: &dyn Fn(&mut Access)| {
        let mut access = Access::default();
        change(&mut access);
        let endpoint = Endpoint::new(url).unwrap().access(access);
        let faults = Config::new(vec![endpoint]).check().unwrap_err();
        faults.to_string()
    };
    let header = |name: &str| vec![(name.to_owned(), format!("{SECRET}\n"))];
    for (text, expected) in [
        (
            faults("https://a/", &|access| access.tls.ca_file = file()),
            "/no/such/file",
        ),
        (
            faults("http://a/", &|access| access.tls.ca_file = file()),
            "write https://",
        ),
        (
            faults("http://a/", &|access| access.headers = header("x")),
            "`x` is not a header",
        ),
        (
            faults("http://a/", &|access| access.headers = header("Host")),
            "`Host` is set by the scraper",
        ),
        (
            faults("http://a/", &|access| {
                access.bearer_file = file();
                access.basic = Some(("user".to_owned(), "file".into()));
            }),
            "give one of them",
        ),
    ] {
        assert!(text.contains(expected) && !text.contains(SECRET), "{text}");
    }
}
