//! The ways to a server on real sockets: several servers, TLS, proxies, Unix sockets.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
};

use futures_util::StreamExt as _;
use rcgen::ExtendedKeyUsagePurpose as Usage;
use steadfast::{
    dial::{Address, BoxFuture, Dialer, Io, Proxies, Step},
    grpc::{Connection, Grpc},
    session::Advice,
    tls::{Tls, TlsOptions},
    transport::Connection as _,
};
use tokio::{net::TcpStream, time::Instant};
use tonic::Status as GrpcStatus;

use super::*;
use crate::support::{
    note::{STOPPING, note},
    pki::{Authority, Certificate, Files, VALID, server_config},
    relay::{Front, Relay},
    server::{self, Server},
    sockets::{self, nobody},
};

const OPEN: &str = "HTTP/1.1 200 Connection established\r\n\r\n";

fn quick() -> Config {
    let mut config = Config::default();
    config.initial_backoff = Duration::from_millis(20);
    config.max_backoff = Duration::from_millis(100);
    config.ready = steadfast::session::Ready::FirstMessage;
    config
}

fn load(options: &TlsOptions) -> Tls {
    options.load(&[b"h2"]).unwrap()
}

fn dialer(servers: &str) -> Dialer {
    servers.parse().unwrap()
}

fn start(dialer: Dialer) -> Running<Connection> {
    Running::start(Grpc::with_dialer(dialer), quick())
}

/// Returns the text of the end of the first attempt, which the connection is the reason for.
async fn failure(dialer: Dialer) -> String {
    let mut running = start(dialer);
    let end = within("an end", running.down()).await;
    assert_eq!(end.advice, Advice::Retry, "{end}");
    let label = end.reason.label();
    assert!(matches!(label, "unreachable" | "lost"), "{end}");
    end.to_string()
}

/// Returns a dialer that never gets past this step, on the way to a peer that does nothing.
pub(crate) fn hanging_in(step: Step, peer: SocketAddr) -> Dialer {
    let plain = Dialer::new([peer.into()]);
    match step {
        Step::Resolve => dialer("db.test:1")
            .lookup(|_: &str, _: u16| -> BoxFuture<_> { Box::pin(std::future::pending()) }),
        Step::Proxy => dialer("db.test:1").proxies(through(peer)),
        Step::Tls => plain.tls(load(&Files::new(&Authority::new("ours")).options())),
        Step::Headers => plain,
        other => panic!("no peer hangs in {other}"),
    }
}

fn through(proxy: SocketAddr) -> Proxies {
    Proxies::new(&format!("http://me:secret@{proxy}"), "").unwrap()
}

#[tokio::test]
async fn unix_socket_and_own_connector_carry_a_link() {
    let server = Server::start(server::echo);
    let relay = Relay::start(Front::Plain, server.addr);
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("s");
    relay.listen_unix(path.clone());
    start(dialer(&format!("unix:{}", path.display())))
        .live(1)
        .await;
    let missing = failure(dialer("unix:/nowhere/s")).await;
    let expected =
        "unix:/nowhere/s: connecting: No such file or directory (os error 2); check the path";
    assert!(missing.contains(expected), "{missing}");

    let addr = server.addr;
    let calls = Arc::new(Mutex::new(Vec::new()));
    let noted = Arc::clone(&calls);
    let connector = move |server: &Address| -> BoxFuture<std::io::Result<Box<dyn Io>>> {
        noted.lock().unwrap().push(server.to_string());
        Box::pin(async move { Ok(Box::new(TcpStream::connect(addr).await?) as Box<dyn Io>) })
    };
    let own = dialer("not.resolved:1").connector(connector);
    let running = start(own);
    running.live(1).await;
    running.connection().await.kill();
    running.live(2).await;
    // One call for each connection.
    assert_eq!(*calls.lock().unwrap(), ["not.resolved:1", "not.resolved:1"]);
}

#[tokio::test]
async fn failed_and_dead_servers_are_passed_over() {
    let good = Server::start(server::echo);
    let hole = sockets::Unreachable::start().await;
    let refusing = nobody();
    for dead in [refusing, hole.addr] {
        let running = start(Dialer::new([dead.into(), good.addr.into()]));
        running.live(1).await;
        assert_eq!(
            running.link.status().failed_attempts,
            0,
            "one round is one attempt"
        );
    }
    let all = failure(dialer(&format!("{refusing},no..such..host:1"))).await;
    assert!(
        all.contains(&format!("{refusing}: connecting: Connection refused")),
        "{all}"
    );
    assert!(
        all.contains("no..such..host:1: resolving the name: "),
        "{all}"
    );
}

#[tokio::test]
async fn server_that_refuses_calls_is_not_the_first_again() {
    let failing = Server::start(|_| async { Err(GrpcStatus::unavailable("not now")) });
    let good = Server::start(server::echo);
    let running = start(Dialer::new([failing.addr.into(), good.addr.into()]));
    running.live(1).await;
    assert_eq!((failing.calls(), good.calls()), (1, 1));
    // The end of the good one leads to the other first, and back.
    running.connection().await.kill();
    running.live(2).await;
    assert_eq!((failing.calls(), good.calls()), (2, 2));
}

#[tokio::test]
async fn refusal_of_a_call_leads_to_the_next_server_at_once() {
    // The backoff would be noticed.
    let mut slow = quick();
    (slow.initial_backoff, slow.max_backoff) = (Duration::from_secs(60), Duration::from_secs(60));
    let refusing = |status: fn(&str) -> GrpcStatus| {
        Server::start(move |_| async move { Err(status("not here")) })
    };
    let good = Server::start(server::echo);
    let failing = [
        refusing(|text| GrpcStatus::unavailable(text)),
        refusing(|text| GrpcStatus::internal(text)),
    ];
    let page = Relay::start(Front::Says("HTTP/1.1 400 Bad Request\r\n\r\n"), nobody());
    let refused = [failing[0].addr, failing[1].addr, page.addr].map(Address::from);
    let dialer = |last: SocketAddr| Dialer::new(refused.clone().into_iter().chain([last.into()]));
    let running = Running::start(Grpc::with_dialer(dialer(good.addr)), slow.clone());
    let status = running.live(1).await;
    assert_eq!((status.failed_attempts, status.generation.0), (3, 4));
    assert_eq!(failing.each_ref().map(Server::calls), [1, 1]);

    // The end of the round is one failure, after which the backoff waits.
    let running = Running::start(Grpc::with_dialer(dialer(nobody())), slow.clone());
    let round = |status: &Status| status.failed_attempts == 4;
    let status = running.until("the end of the round", round).await;
    assert_eq!(status.consecutive_failures, 1);
    assert_eq!(status.activity, steadfast::session::Activity::Backoff);
    assert_eq!(failing.each_ref().map(Server::calls), [2, 2]);

    // A server that asks for patience speaks for the others.
    let busy = refusing(|text| GrpcStatus::resource_exhausted(text));
    let servers = Dialer::new([busy.addr.into(), good.addr.into()]);
    let mut running = Running::start(Grpc::with_dialer(servers), slow);
    let end = within("an end", running.down()).await;
    assert_eq!(end.advice, Advice::Wait(None));
    assert_eq!(good.calls(), 1);
}

#[tokio::test]
async fn orderly_end_and_drain_lead_to_another_server_at_once() {
    for stopping in [false, true] {
        stop_leads_elsewhere(stopping).await;
    }
}

/// Has one of two servers end its stream in order, or announce that it stops.
async fn stop_leads_elsewhere(announced: bool) {
    let servers = [(); 2].map(|()| {
        Server::start(move |incoming| async move {
            let mut notes = incoming.request.into_inner();
            let first = notes.message().await?.unwrap();
            let pending = futures_util::stream::pending();
            let responses: server::Responses = match notes.message().await? {
                // The second note asks for the end.
                Some(second) if second.number == 2 && announced => {
                    let announcement = futures_util::stream::iter([Ok(note(STOPPING))]);
                    Box::pin(announcement.chain(pending))
                }
                Some(second) if second.number == 2 => {
                    Box::pin(futures_util::stream::iter([Ok(first)]))
                }
                _ => Box::pin(pending),
            };
            Ok(responses)
        })
    });
    let mut config = quick();
    config.ready = steadfast::session::Ready::Accepted;
    config.stable_after = Duration::from_millis(1);
    config.initial_backoff = Duration::from_secs(60);
    config.max_backoff = Duration::from_secs(60);
    config.recovery = steadfast::session::Recovery::Spread(Duration::from_millis(1));
    let transport = Grpc::with_dialer(Dialer::new(servers.iter().map(|server| server.addr.into())));
    let running = Running::start(transport, config);
    running.live(1).await;
    tokio::time::sleep(Duration::from_millis(20)).await;
    running.link.command(note(2)).unwrap();
    running.live(2).await;
    let kept = running.link.status().failed_attempts == 0;
    assert!(kept, "a stable stream that ends in order is no failure");
    // Such a stream is live when it is sent, before the server has handled the call.
    let called = async {
        while servers.each_ref().map(Server::calls) != [1, 1] {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    within("a call to each", called).await;
}

#[tokio::test]
async fn each_wrong_certificate_is_named_with_its_step() {
    let (ours, stranger) = (Authority::new("ours"), Authority::new("stranger"));
    let files = Files::new(&ours);
    let upstream = Server::start(server::echo);
    let relay_of = |certificate: Certificate, clients| {
        Relay::start(
            Front::tls(server_config(&certificate, clients)),
            upstream.addr,
        )
    };
    let good = relay_of(ours.server("localhost"), Some(&ours));
    files.write_identity(&ours.client("me"));
    let url = |relay: &Relay| format!("https://localhost:{}", relay.addr.port());
    let tls = load(&files.options_with_identity());
    start(dialer(&url(&good)).tls(tls.clone())).live(1).await;

    let anonymous = load(&files.options());
    let relays = [
        relay_of(stranger.server("localhost"), None),
        relay_of(ours.server("other.test"), None),
        relay_of(
            ours.sign("localhost", (2020, 2021), Usage::ServerAuth),
            None,
        ),
        relay_of(
            ours.sign("localhost", (2080, 2090), Usage::ServerAuth),
            None,
        ),
        relay_of(ours.sign("localhost", VALID, Usage::ClientAuth), None),
    ];
    let texts = [
        "give the CA file of its authority",
        "for another name",
        "has expired",
        "not valid yet",
        "not one for servers",
    ];
    for (relay, text) in relays.iter().zip(texts) {
        let failed = failure(dialer(&url(relay)).tls(anonymous.clone())).await;
        let way = format!("{} (127.0.0.1:{}): TLS: ", url(relay), relay.addr.port());
        assert!(failed.contains(&way) && failed.contains(text), "{failed}");
    }
    let revoked = ours.server("localhost");
    files.write_crl(&ours.revocation_list(VALID, &[&revoked]));
    let checking = load(&files.options_with_crl());
    let relay = relay_of(revoked, None);
    let failed = failure(dialer(&url(&relay)).tls(checking)).await;
    let text = "TLS: invalid peer certificate: Revoked; the authority has revoked the server's \
                certificate: give the server a new one";
    assert!(failed.contains(text), "{failed}");
    // With TLS 1.3 a server refuses a client only after the handshake.
    let refused = failure(dialer(&url(&good)).tls(anonymous)).await;
    assert!(
        refused.contains("requires a client certificate"),
        "{refused}"
    );
    files.write_identity(&stranger.client("me"));
    let refused = failure(dialer(&url(&good)).tls(tls)).await;
    assert!(
        refused.contains("refused the certificate of this client"),
        "{refused}"
    );
}

#[tokio::test]
async fn peers_that_speak_something_else_are_recognised() {
    let ours = Authority::new("ours");
    let upstream = Server::start(server::echo);
    let certificate = ours.server("127.0.0.1");
    let encrypted = Relay::start(Front::tls(server_config(&certificate, None)), upstream.addr);
    let page = Relay::start(Front::Says("HTTP/1.1 400 Bad Request\r\n\r\n"), nobody());
    let silent = Relay::start(Front::Says(""), nobody());
    // Closes after the handshake, without a word.
    let closing = Relay::start(Front::tls(server_config(&certificate, None)), nobody());
    let tls = load(&Files::new(&ours).options());
    let plain = |relay: &Relay| Dialer::new([relay.addr.into()]);
    for (dialer, text) in [
        (plain(&encrypted), "https://"),
        (plain(&page), "HTTP/2"),
        (plain(&silent), "waiting for headers: "),
        (
            plain(&page).tls(tls.clone()),
            "the server does not speak TLS here",
        ),
        (
            plain(&closing).tls(tls.clone()),
            "; check whether the server requires a client certificate",
        ),
        (plain(&silent).tls(tls), "TLS: "),
    ] {
        let failed = failure(dialer).await;
        assert!(failed.contains(text), "{failed}");
        assert!(!failed.contains("docs.rs"), "{failed}");
    }
}

#[tokio::test]
async fn link_goes_through_a_proxy_in_plain_text_and_tls() {
    let ours = Authority::new("ours");
    let upstream = Server::start(server::echo);
    let certificate = ours.server("db.test");
    let encrypted = Relay::start(Front::tls(server_config(&certificate, None)), upstream.addr);
    let tls = load(&Files::new(&ours).options());
    for (server, target) in [
        (dialer("http://db.test:9000"), upstream.addr),
        (dialer("https://db.test:9000").tls(tls), encrypted.addr),
    ] {
        let proxy = Relay::start(Front::Proxy(OPEN), target);
        start(server.proxies(through(proxy.addr))).live(1).await;
        let [head] = &proxy.heads()[..] else {
            panic!("{:?}", proxy.heads())
        };
        let expected = "CONNECT db.test:9000 HTTP/1.1\r\nHost: db.test:9000\r\n\
                        Proxy-Authorization: Basic bWU6c2VjcmV0\r\n\r\n";
        assert_eq!(head, expected);
    }
    // A server on this machine needs no proxy.
    let proxies = through(nobody());
    start(Dialer::new([upstream.addr.into()]).proxies(proxies))
        .live(1)
        .await;
}

#[tokio::test]
async fn proxies_that_refuse_stall_or_cut_are_named() {
    let denied = "HTTP/1.1 407 Proxy Authentication Required\r\n\r\n";
    for (front, text) in [
        (Front::Proxy(denied), "requires a user and a password (407)"),
        (
            Front::Proxy("HTTP/1.1 502 Bad Gateway\r\n\r\n"),
            "refused with status 502",
        ),
        (Front::Says(""), "asking the proxy: unexpected end of file"),
        (Front::Says("220 mail\r\n"), "no response of an HTTP proxy"),
        (Front::Mute, "asking the proxy: no response within 0.3 s"),
    ] {
        let proxy = Relay::start(front, nobody());
        let dialer = dialer("db.test:9000").proxies(through(proxy.addr));
        let failed = failure(dialer.timeout(Duration::from_millis(300))).await;
        let way = format!("db.test:9000 (proxy {}", proxy.addr);
        assert!(failed.contains(&way) && failed.contains(text), "{failed}");
        assert!(!failed.contains("secret"), "{failed}");
    }
    let gone = dialer("db.test:9000").proxies(through(nobody()));
    let failed = failure(gone).await;
    assert!(
        failed.contains("connecting: Connection refused"),
        "{failed}"
    );
}

#[tokio::test]
async fn hanging_steps_end_at_the_dial_timeout_and_are_named() {
    let mute = Relay::start(Front::Mute, nobody());
    for (step, text) in [
        (
            Step::Resolve,
            "db.test:1: resolving the name: no response within 0.2 s",
        ),
        (Step::Proxy, "asking the proxy: no response within 0.2 s"),
        (
            Step::Tls,
            "TLS: no response within 0.2 s; check that the port is one for TLS",
        ),
    ] {
        let begin = Instant::now();
        let dialer = hanging_in(step, mute.addr).timeout(Duration::from_millis(200));
        let failed = failure(dialer).await;
        assert!(failed.contains(text), "{failed}");
        assert!(begin.elapsed() < Duration::from_secs(2), "{step}");
    }
}

#[tokio::test]
async fn rotated_certificates_cost_no_stream() {
    const ROTATIONS: usize = 100;
    const STREAMS: usize = 1_000;
    // Four descriptors per stream: its two connections have both ends in this process.
    let mut limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    limit.current = limit.maximum;
    rustix::process::setrlimit(rustix::process::Resource::Nofile, limit).unwrap();
    let upstream = Server::start(server::echo);
    let authority = Authority::new("generation 0");
    let files = Files::new(&authority);
    files.write_identity(&authority.client("me"));
    let config =
        |authority: &Authority| server_config(&authority.server("localhost"), Some(authority));
    let current = Arc::new(Mutex::new(config(&authority)));
    let relay = Relay::start(Front::Tls(Arc::clone(&current)), upstream.addr);
    let tls = load(&files.options_with_identity());
    let url = format!("https://localhost:{}", relay.addr.port());
    let connect = || start(dialer(&url).tls(tls.clone()));
    let mut links = Vec::new();
    // In groups, so that no handshake waits for longer than a dial may take.
    while links.len() < STREAMS {
        let group: Vec<_> = (0..50).map(|_| connect()).collect();
        for link in &group {
            link.live(1).await;
        }
        links.extend(group);
    }
    for generation in 1..=ROTATIONS {
        // Everything is new: the authority, the server's certificate and the client's.
        let authority = Authority::new(&format!("generation {generation}"));
        files.write_ca(&authority.pem);
        files.write_identity(&authority.client("me"));
        *current.lock().unwrap() = config(&authority);
        let newest = connect();
        newest.live(1).await;
        links.push(newest);
    }
    assert_eq!(tls.counters().reloads, ROTATIONS as u64);
    assert_eq!(tls.counters().failed_reloads, 0);
    for running in &mut links {
        while running.events.try_recv().is_ok() {}
        // Each stream still carries a note there and back.
        running.link.command(note(7)).unwrap();
        let NoteEvent::Note(returned) = running.next().await else {
            panic!("a stream ended");
        };
        assert_eq!(returned.number, 7);
        let status = running.link.status();
        assert_eq!((status.streams_established, status.failed_attempts), (1, 0));
    }
    assert_eq!(relay.accepted(), (STREAMS + ROTATIONS) as u64);
}

#[tokio::test(start_paused = true)]
async fn backoff_counts_rounds_however_many_servers_fail() {
    let calls = Arc::new(Mutex::new(0));
    for peers_answer in [true, false] {
        *calls.lock().unwrap() = 0;
        let noted = Arc::clone(&calls);
        let connector = move |_: &Address| -> BoxFuture<std::io::Result<Box<dyn Io>>> {
            *noted.lock().unwrap() += 1;
            Box::pin(async move {
                if !peers_answer {
                    std::future::pending::<()>().await;
                }
                Err(std::io::ErrorKind::ConnectionRefused.into())
            })
        };
        let servers = dialer("a:1,b:1,c:1").connector(connector);
        let running = Running::start(Grpc::with_dialer(servers), Config::default());
        tokio::time::sleep(Duration::from_secs(600)).await;
        let attempts = running.link.counters().attempts;
        // As many as one server that fails causes.
        assert!((10..=33).contains(&attempts), "{attempts}");
        let calls = *calls.lock().unwrap();
        assert!(
            (3 * attempts - 3..=3 * attempts).contains(&calls),
            "{calls} in {attempts}"
        );
        within("closed", running.link.close()).await;
    }
}

/// The environment of a process is fixed, so that the test runs itself as another one.
#[tokio::test]
async fn proxy_of_the_environment_is_used_unless_excepted() {
    const CHILD: &str = "STEADFAST_TEST_CHILD";
    if std::env::var_os(CHILD).is_some() {
        let dialer = dialer("db.test:9000").timeout(Duration::from_secs(1));
        // The parent looks at the proxy. Without it, the name does not exist.
        dialer.clone().connect().await.ok();
        dialer.proxies(Proxies::none()).connect().await.unwrap_err();
        return;
    }
    let proxy = Relay::start(Front::Proxy(OPEN), nobody());
    for (variable, exceptions, requests) in [
        ("HTTPS_PROXY", "", 1),
        ("https_proxy", "other.test", 1),
        ("ALL_PROXY", "", 1),
        ("HTTPS_PROXY", "db.test", 0),
        ("HTTPS_PROXY", "*", 0),
    ] {
        let before = proxy.heads().len();
        let status = tokio::process::Command::new(std::env::current_exe().unwrap())
            .args([
                "--exact",
                "dialling::proxy_of_the_environment_is_used_unless_excepted",
            ])
            .env_clear()
            .env(CHILD, "1")
            .env(variable, format!("http://{}", proxy.addr))
            .env("NO_PROXY", exceptions)
            .stdout(std::process::Stdio::null())
            .status();
        // It ends by its own timeouts.
        assert!(status.await.unwrap().success());
        let made = proxy.heads().len() - before;
        assert_eq!(made, requests, "{variable}, NO_PROXY={exceptions}");
    }
}
