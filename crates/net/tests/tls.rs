//! TLS of listeners: the clients that are refused, each with an alert and a line in the log, and the ends
//! of connections. Over real sockets.
#![allow(
    clippy::unwrap_used,
    reason = "a test stops at the first thing that is not as it should be"
)]
#[path = "../../steadfast/tests/support/pki.rs"]
mod pki;

use std::{
    convert::Infallible,
    io::{self, Write},
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use hyper::{Request, Response, service::service_fn};
use rcgen::ExtendedKeyUsagePurpose as Usage;
use rustls::pki_types::{CertificateDer, pem::PemObject as _};
use steadfast::tls::{TlsOptions, TlsStream};
use steadfast_net::{
    ClientAuth, HandshakeFailure as Failure, Listener, ListenerOptions, Peer, PlaintextExposed,
    Protocol, Refusal, RequestBody, Security, ServerTlsOptions, Socket, Tasks, Tls, TlsError,
    http1,
};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    time::timeout,
};

use self::pki::{Authority, Certificate, Files, VALID};

const NAME: &str = "db.example";
const SOON: Duration = Duration::from_secs(20);

/// The lines that the log gets on this thread.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Log {
    fn listen() -> (Self, tracing::subscriber::DefaultGuard) {
        let log = Self::default();
        let writer = log.clone();
        let subscriber = tracing_subscriber::fmt()
            .with_writer(move || writer.clone())
            .with_ansi(false)
            .finish();
        (log, tracing::subscriber::set_default(subscriber))
    }

    fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
    }
}

/// A listener that sends back what it receives.
struct Echo {
    address: SocketAddr,
    tasks: Tasks,
}

impl Drop for Echo {
    fn drop(&mut self) {
        self.tasks.cut();
    }
}

fn options(tls: Option<&Tls>, protocol: Protocol) -> ListenerOptions {
    ListenerOptions {
        write_timeout: Some(Duration::from_millis(500)),
        security: Security {
            tls: tls.cloned(),
            ..Security::default()
        },
        protocol,
        ..ListenerOptions::default()
    }
}

async fn listener(options: ListenerOptions, tasks: &Tasks) -> io::Result<Listener> {
    let tcp = TcpListener::bind("127.0.0.1:0").await?;
    Listener::new(tcp, options, tasks)
}

async fn echo(tls: Option<&Tls>, protocol: Protocol) -> Echo {
    let tasks = Tasks::new();
    let listener = listener(options(tls, protocol), &tasks).await.unwrap();
    let address = listener.address();
    tasks.spawn(listener.serve(send_back));
    Echo { address, tasks }
}

/// Sends everything back, and then the end of the connection.
async fn send_back(mut socket: Socket) {
    let mut buffer = vec![0; 64 << 10];
    while let Ok(read) = socket.read(&mut buffer).await {
        if read == 0 {
            socket.shutdown().await.ok();
            return;
        }
        if socket.write_all(&buffer[..read]).await.is_err() || socket.flush().await.is_err() {
            return;
        }
    }
}

/// Writes the files of a server, and returns its options.
fn server(files: &Files, certificate: &Certificate, auth: ClientAuth) -> ServerTlsOptions {
    std::fs::write(files.path("server.pem"), &certificate.pem).unwrap();
    std::fs::write(files.path("server.key"), &certificate.key).unwrap();
    ServerTlsOptions {
        cert_file: files.path("server.pem"),
        key_file: files.path("server.key"),
        client_ca_file: (auth != ClientAuth::None).then(|| files.path("ca.pem")),
        client_crl_file: None,
        client_auth: auth,
    }
}

fn load(options: &ServerTlsOptions) -> Tls {
    Tls::load(options, Duration::from_secs(5)).unwrap()
}

/// Returns the files of an authority, and a server with a certificate of it.
fn usual(auth: ClientAuth) -> (Authority, Files, Tls) {
    let authority = Authority::new("ours");
    let files = Files::new(&authority);
    let tls = load(&server(&files, &authority.server(NAME), auth));
    (authority, files, tls)
}

/// Connects, sends bytes and reads one back: a refusal of the client's certificate arrives only then.
async fn exchange(
    options: &TlsOptions,
    protocol: &[u8],
    address: SocketAddr,
) -> Result<TlsStream<TcpStream>, String> {
    let tls = options.load(&[protocol]).unwrap();
    let exchange = async {
        let tcp = TcpStream::connect(address).await?;
        let mut stream = tls.connect(NAME, tcp).await.map_err(io::Error::other)?;
        // More than is read before a refusal: a connection that is closed over it is reset.
        stream.write_all(&vec![1; 20_000]).await?;
        stream.flush().await?;
        stream.read_u8().await?;
        Ok(stream)
    };
    let done: io::Result<_> = timeout(SOON, exchange).await.expect("in time");
    done.map_err(|error| error.to_string())
}

async fn refused(options: &TlsOptions, protocol: &[u8], address: SocketAddr) -> String {
    let result = exchange(options, protocol, address).await;
    result.map(|_| ()).unwrap_err()
}

fn failures(tls: &Tls, failure: Failure) -> u64 {
    tls.stats().failures[failure as usize]
}

#[tokio::test]
async fn each_wrong_client_is_refused_with_alert_and_log_line() {
    let (log, _guard) = Log::listen();
    let (authority, stranger) = (Authority::new("ours"), Authority::new("stranger"));
    let files = Files::new(&authority);
    let revoked = authority.client("revoked");
    files.write_crl(&authority.revocation_list(VALID, &[&revoked]));
    let mut options = server(&files, &authority.server(NAME), ClientAuth::Required);
    options.client_crl_file = Some(files.path("crl.pem"));
    let tls = load(&options);
    let echo = echo(Some(&tls), Protocol::Http2).await;
    let signed = |years, usage| Some(authority.sign("me", years, usage));
    for (client, failure, alert) in [
        (None, Failure::NoCertificate, "CertificateRequired"),
        (
            Some(stranger.client("me")),
            Failure::UnknownIssuer,
            "UnknownCA",
        ),
        (
            signed((2020, 2021), Usage::ClientAuth),
            Failure::Expired,
            "CertificateExpired",
        ),
        (
            signed((2080, 2090), Usage::ClientAuth),
            Failure::NotValidYet,
            "CertificateExpired",
        ),
        (
            signed(VALID, Usage::ServerAuth),
            Failure::WrongPurpose,
            "UnsupportedCertificate",
        ),
        (Some(revoked), Failure::Revoked, "CertificateRevoked"),
    ] {
        let options = match &client {
            None => files.options(),
            Some(certificate) => {
                files.write_identity(certificate);
                files.options_with_identity()
            }
        };
        let text = refused(&options, b"h2", echo.address).await;
        assert!(text.contains(alert), "{failure:?}: {text}");
        assert_eq!(failures(&tls, failure), 1, "{failure:?}: {:?}", tls.stats());
        let line = format!("TLS handshake failed: {}", failure.explanation());
        assert!(log.text().contains(&line), "{failure:?}: {}", log.text());
    }
    files.write_identity(&authority.client("me"));
    let known = files.options_with_identity();
    exchange(&known, b"h2", echo.address).await.unwrap();
    assert_eq!(tls.stats().handshakes, 1);
}

#[tokio::test]
async fn unusable_revocation_list_refuses_clients() {
    let authority = Authority::new("ours");
    let files = Files::new(&authority);
    files.write_identity(&authority.client("me"));
    let mut options = server(&files, &authority.server(NAME), ClientAuth::Required);
    options.client_crl_file = Some(files.path("crl.pem"));
    for list in [
        authority.revocation_list((2020, 2021), &[]),
        Authority::new("another").revocation_list(VALID, &[]),
    ] {
        files.write_crl(&list);
        let tls = load(&options);
        let echo = echo(Some(&tls), Protocol::Http2).await;
        refused(&files.options_with_identity(), b"h2", echo.address).await;
        assert_eq!(failures(&tls, Failure::UnknownRevocation), 1);
    }
}

#[tokio::test]
async fn optional_certificate_may_be_absent_but_not_invalid() {
    let (authority, files, tls) = usual(ClientAuth::Optional);
    let echo = echo(Some(&tls), Protocol::Http2).await;
    exchange(&files.options(), b"h2", echo.address)
        .await
        .unwrap();
    files.write_identity(&authority.client("me"));
    let options = files.options_with_identity();
    exchange(&options, b"h2", echo.address).await.unwrap();
    files.write_identity(&Authority::new("stranger").client("me"));
    let text = refused(&options, b"h2", echo.address).await;
    assert!(text.contains("UnknownCA"), "{text}");
}

#[tokio::test]
async fn protocols_are_agreed_on_or_refused() {
    let (_, files, tls) = usual(ClientAuth::None);
    for (protocol, offered, agreed) in [
        (Protocol::Http2, &[&b"h2"[..]][..], Some(&b"h2"[..])),
        (Protocol::Http2, &[b"http/1.1", b"h2"], Some(b"h2")),
        (Protocol::Http1, &[b"h2", b"http/1.1"], Some(b"http/1.1")),
        // Without the extension a client is known by its first bytes.
        (Protocol::Http2, &[], None),
    ] {
        let echo = echo(Some(&tls), protocol).await;
        let client = files.options().load(offered).unwrap();
        let tcp = TcpStream::connect(echo.address).await.unwrap();
        let stream = client.connect(NAME, tcp).await.unwrap();
        assert_eq!(stream.get_ref().1.alpn_protocol(), agreed, "{offered:?}");
    }
    for (protocol, offered) in [
        (Protocol::Http2, b"http/1.1"),
        (Protocol::Http1, b"spdy/3.1"),
    ] {
        let echo = echo(Some(&tls), protocol).await;
        let text = refused(&files.options(), offered, echo.address).await;
        assert!(text.contains("NoApplicationProtocol"), "{text}");
    }
    assert_eq!(failures(&tls, Failure::NoCommonProtocol), 2);
}

/// Returns the hello of a client whose newest version is this one.
fn client_hello(version: [u8; 2]) -> Vec<u8> {
    let mut hello = version.to_vec();
    hello.extend([7; 32]);
    // No session, two ciphers that TLS 1.2 has as well, no compression.
    hello.extend([0, 0, 4, 0xc0, 0x2b, 0xc0, 0x2f, 1, 0]);
    let length = u8::try_from(hello.len()).unwrap();
    let mut record = vec![22, 3, 1, 0, length + 4, 1, 0, 0, length];
    record.extend(hello);
    record
}

/// Sends bytes and returns the response up to the end of the connection.
async fn raw(address: SocketAddr, bytes: &[u8]) -> Vec<u8> {
    let mut tcp = TcpStream::connect(address).await.unwrap();
    tcp.write_all(bytes).await.unwrap();
    let mut response = Vec::new();
    let read = timeout(SOON, tcp.read_to_end(&mut response)).await;
    read.expect("an end in time").unwrap();
    response
}

#[tokio::test]
async fn versions_before_1_2_are_refused_with_an_alert() {
    // A fatal alert, handshake_failure.
    const ALERT: [u8; 7] = [21, 3, 3, 0, 2, 2, 40];
    let (_, _files, tls) = usual(ClientAuth::None);
    let echo = echo(Some(&tls), Protocol::Http2).await;
    for version in [[3, 0], [3, 1], [3, 2]] {
        let response = raw(echo.address, &client_hello(version)).await;
        assert_eq!(response, ALERT, "{version:?}");
    }
    assert_eq!(failures(&tls, Failure::NoCommonVersion), 3);
}

#[tokio::test]
async fn plaintext_and_tls_that_meet_are_named_in_the_log() {
    let (log, _guard) = Log::listen();
    let (_, files, tls) = usual(ClientAuth::None);
    let secure = echo(Some(&tls), Protocol::Http2).await;
    for preface in [
        &b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"[..],
        b"GET / HTTP/1.1\r\n\r\n",
    ] {
        let response = raw(secure.address, preface).await;
        assert_eq!(response.first(), Some(&21), "an alert: {response:?}");
    }
    assert_eq!(failures(&tls, Failure::NotTls), 2);
    let text = log.text();
    assert!(
        text.contains("does not speak TLS: it must use https://"),
        "{text}"
    );
    let plain = echo(None, Protocol::Http2).await;
    refused(&files.options(), b"h2", plain.address).await;
    let text = log.text();
    assert!(text.contains("this listener has none"), "{text}");
    // Each once a minute.
    assert_eq!(text.matches("WARN").count(), 2, "{text}");
}

#[tokio::test]
async fn ends_pass_through_tls_in_order_and_cuts_do_not() {
    let (_, files, tls) = usual(ClientAuth::None);
    let echo = echo(Some(&tls), Protocol::Http2).await;
    // The client ends its side, and gets the rest and the server's end: close-notify both ways.
    let mut stream = exchange(&files.options(), b"h2", echo.address)
        .await
        .unwrap();
    stream.shutdown().await.unwrap();
    let mut rest = Vec::new();
    let read = timeout(SOON, stream.read_to_end(&mut rest)).await;
    assert_eq!(read.unwrap().unwrap(), 20_000 - 1);
    // A cut leaves no close-notify, so that the client knows that something may be missing.
    let mut stream = exchange(&files.options(), b"h2", echo.address)
        .await
        .unwrap();
    echo.tasks.cut();
    let read = timeout(SOON, stream.read_to_end(&mut rest)).await;
    read.unwrap().unwrap_err();
}

#[tokio::test]
async fn draining_ends_handshakes_under_way() {
    let (_, _files, tls) = usual(ClientAuth::None);
    let echo = echo(Some(&tls), Protocol::Http2).await;
    let mut silent = TcpStream::connect(echo.address).await.unwrap();
    // The accept, or the test would show nothing.
    tokio::time::sleep(Duration::from_millis(100)).await;
    let drained = timeout(Duration::from_secs(4), echo.tasks.drain(SOON)).await;
    drained.expect("no wait for the handshake, whose deadline is after 5 s");
    assert_eq!(silent.read(&mut [0]).await.unwrap_or(0), 0);
}

#[tokio::test]
async fn silence_before_and_after_the_handshake_ends_in_time() {
    let (_, files, tls) = usual(ClientAuth::None);
    let tasks = Tasks::new();
    let mut options = options(Some(&tls), Protocol::Http1);
    // Shorter than the time of a handshake.
    options.first_request_timeout = Duration::from_secs(1);
    let listener = listener(options, &tasks).await.unwrap();
    let (address, scope) = (listener.address(), tasks.clone());
    let refusals = listener.connections();
    tasks.spawn(listener.serve(move |socket| {
        let service = service_fn(|_: Request<RequestBody>| async {
            Ok::<_, Infallible>(Response::new(String::new()))
        });
        http1::serve(socket, service, SOON, &scope)
    }));
    let started = Instant::now();
    let mut silent = TcpStream::connect(address).await.unwrap();
    // Half of a hello.
    silent.write_all(&client_hello([3, 3])[..20]).await.unwrap();
    let client = files.options().load(&[b"http/1.1"]).unwrap();
    let tcp = TcpStream::connect(address).await.unwrap();
    let mut greeted = client.connect(NAME, tcp).await.unwrap();
    for silent in [&mut silent as &mut (dyn AsyncRead + Unpin), &mut greeted] {
        let ended = timeout(SOON, silent.read(&mut [0])).await;
        // Without a close-notify it is an error.
        assert_eq!(ended.expect("an end in time").unwrap_or(0), 0);
        let took = started.elapsed();
        assert!(took < Duration::from_secs(4), "{took:?}");
    }
    assert_eq!(failures(&tls, Failure::Timeout), 1);
    assert_eq!(refusals.refusals().of(Refusal::Silent), 1);
    tasks.cut();
}

#[tokio::test]
async fn client_that_reads_nothing_ends_at_the_write_timeout() {
    let (_, files, tls) = usual(ClientAuth::None);
    let echo = echo(Some(&tls), Protocol::Http2).await;
    let mut stream = exchange(&files.options(), b"h2", echo.address)
        .await
        .unwrap();
    // When the buffers of both ends are full, the server waits for the client, and then ends.
    let bytes = vec![0; 64 << 10];
    let writing = async { while stream.write_all(&bytes).await.is_ok() {} };
    let ended = timeout(SOON, writing).await;
    ended.expect("the server ends the connection");
}

#[tokio::test]
async fn requests_carry_address_and_certificate_of_the_client() {
    let (authority, files, tls) = usual(ClientAuth::Required);
    let identity = authority.client("client.example");
    files.write_identity(&identity);
    let tasks = Tasks::new();
    let listener = listener(options(Some(&tls), Protocol::Http1), &tasks)
        .await
        .unwrap();
    let (address, scope) = (listener.address(), tasks.clone());
    tasks.spawn(listener.serve(move |socket| {
        let service = service_fn(|request: Request<RequestBody>| async move {
            let peer = request
                .extensions()
                .get::<Peer>()
                .expect("each request has one");
            let certificate = peer.certificate.as_deref().expect("it is required");
            let address = peer.address.expect("it is known").ip();
            let text = format!("{address} {certificate:?}");
            Ok::<_, Infallible>(Response::new(text))
        });
        http1::serve(socket, service, SOON, &scope)
    }));
    let client = files.options_with_identity().load(&[b"http/1.1"]).unwrap();
    let tcp = TcpStream::connect(address).await.unwrap();
    let mut stream = client.connect(NAME, tcp).await.unwrap();
    let request = b"GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";
    stream.write_all(request).await.unwrap();
    let mut response = String::new();
    let read = timeout(SOON, stream.read_to_string(&mut response)).await;
    read.unwrap().unwrap();
    let certificate = CertificateDer::from_pem_slice(identity.pem.as_bytes()).unwrap();
    let expected = format!("127.0.0.1 {:?}", certificate.as_ref());
    assert!(response.ends_with(&expected), "{response}");
    tasks.cut();
}

#[tokio::test]
async fn plaintext_listener_beyond_loopback_needs_permission() {
    let (log, _guard) = Log::listen();
    let mut options = options(None, Protocol::Http1);
    let start = |options| async {
        let tcp = TcpListener::bind("0.0.0.0:0").await.unwrap();
        Listener::new(tcp, options, &Tasks::new()).map(|_| ())
    };
    let refused = start(options.clone()).await.unwrap_err();
    assert!(
        refused.get_ref().unwrap().is::<PlaintextExposed>(),
        "{refused}"
    );
    options.security.insecure = true;
    start(options).await.unwrap();
    let text = log.text();
    assert!(
        text.contains("all IPv4 addresses of this machine"),
        "{text}"
    );
}

#[test]
fn options_that_cannot_be_met_are_errors() {
    let authority = Authority::new("ours");
    let files = Files::new(&authority);
    let mut options = server(&files, &authority.server(NAME), ClientAuth::Required);
    options.client_ca_file = None;
    let error = Tls::load(&options, SOON).unwrap_err();
    assert!(matches!(error, TlsError::NoClientCa), "{error}");
    options.client_auth = ClientAuth::None;
    let other = authority.server(NAME).key;
    std::fs::write(files.path("server.key"), other).unwrap();
    let error = Tls::load(&options, SOON).unwrap_err();
    assert!(matches!(error, TlsError::Unusable { .. }), "{error}");
}
