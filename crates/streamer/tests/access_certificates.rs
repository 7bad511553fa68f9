//! A server whose policy names its peers by their certificates, on real sockets.

#![allow(clippy::unwrap_used, reason = "the support of tests is test code")]

#[path = "../../steadfast/tests/support/pki.rs"]
mod pki;
mod support;

use std::{
    fs,
    time::{Duration, SystemTime},
};

use rustls::pki_types::{CertificateDer, pem::PemObject as _};
use steadfast::tls::TlsOptions;
use steadfast_access::Certificate;
use steadfast_streamer::server::{
    ClientAuth, Security, Server, ServerOptions, ServerTlsOptions, Tls,
};
use steadfast_wire::streamer::{
    gateway_message::Payload as Request, streamer_message::Payload as Response,
};
use support::{frames::Frames, request, serve, soon};
use tokio::net::TcpStream;
use tonic::{Code, Status};

use self::pki::{Authority, Files};

const SERVER: &str = "db.example";

const POLICY: &str = r#"
[certificates]
name = ["dns"]
[[grants]]
role = "reader"
databases = ["default"]
collections = ["orders"]
actions = ["subscribe"]
[[members]]
roles = ["reader"]
principals = ["certificate:reader.example"]
"#;

/// Files of an authority, and a server that requires its certificates of clients.
struct Served {
    authority: Authority,
    files: Files,
    server: Server,
}

impl Served {
    async fn start() -> Self {
        let authority = Authority::new("ours");
        let files = Files::new(&authority);
        let pair = authority.server(SERVER);
        fs::write(files.path("server.pem"), &pair.pem).unwrap();
        fs::write(files.path("server.key"), &pair.key).unwrap();
        fs::write(files.path("access.toml"), POLICY).unwrap();
        let tls = ServerTlsOptions {
            cert_file: files.path("server.pem"),
            key_file: files.path("server.key"),
            client_ca_file: Some(files.path("ca.pem")),
            client_crl_file: None,
            client_auth: ClientAuth::Optional,
        };
        let mut options = ServerOptions::default();
        options.access = Some(files.path("access.toml"));
        options.security = Security {
            tls: Some(Tls::load(&tls, Duration::from_secs(5)).unwrap()),
            ..Security::default()
        };
        let server = serve(options).await;
        Self {
            authority,
            files,
            server,
        }
    }

    /// Opens a stream as the holder of a certificate, and subscribes.
    async fn subscribe(&self, certificate: &pki::Certificate) -> Result<Frames, Status> {
        self.files.write_identity(certificate);
        self.subscribe_with(&self.files.options_with_identity())
            .await
    }

    async fn subscribe_with(&self, options: &TlsOptions) -> Result<Frames, Status> {
        let address = self.server.address();
        let tcp = TcpStream::connect(address).await.unwrap();
        let client = options.load(&[b"h2"]).unwrap();
        let socket = soon(client.connect(SERVER, tcp)).await.unwrap();
        let mut frames = Frames::over(socket, address).await?;
        frames.send(Request::Subscribe(request("s", "orders", Vec::new())));
        match frames.next().await {
            Response::SubscribeResponse(it) if it.success => Ok(frames),
            Response::SubscribeResponse(it) => Err(Status::permission_denied(it.error)),
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn certificates_name_peers_until_they_are_revoked() {
    let served = Served::start().await;
    let reader = served.authority.client("reader.example");
    let stream = served.subscribe(&reader).await.unwrap();
    let other = served.authority.client("other.example");
    let denied = served.subscribe(&other).await.err().unwrap();
    assert_eq!(denied.code(), Code::PermissionDenied, "{denied}");
    let nobody = served.subscribe_with(&served.files.options()).await;
    let nobody = nobody.err().unwrap();
    assert_eq!(nobody.code(), Code::Unauthenticated, "{nobody}");
    // The policy names the certificate as revoked: the open stream ends, and no other begins.
    let der = CertificateDer::from_pem_slice(reader.pem.as_bytes()).unwrap();
    let read = Certificate::from_der(&der).unwrap();
    let hex = read.fingerprint.iter().map(|it| format!("{it:02x}"));
    let revoked = format!(
        "name = [\"dns\"]\nrevoked = [\"{}\"]",
        hex.collect::<String>()
    );
    let changed = POLICY.replace("name = [\"dns\"]", &revoked);
    fs::write(served.files.path("access.toml"), changed).unwrap();
    let status = stream.end().await;
    assert_eq!(status.code(), Code::Unauthenticated, "{status}");
    let refused = served.subscribe(&reader).await.err().unwrap();
    assert_eq!(refused.code(), Code::Unauthenticated, "{refused}");
    assert_eq!(refused.message(), "the credentials are not valid");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stream_ends_when_its_certificate_expires() {
    let served = Served::start().await;
    let until = SystemTime::now() + Duration::from_secs(4);
    let reader = served.authority.client_until("reader.example", until);
    let stream = served.subscribe(&reader).await.unwrap();
    let status = stream.end().await;
    assert_eq!(status.code(), Code::Unauthenticated, "{status}");
    assert_eq!(status.message(), "the credentials have expired");
    // A certificate has whole seconds, the last of which may have begun.
    let early = until.duration_since(SystemTime::now()).unwrap_or_default();
    assert!(early < Duration::from_millis(1_200), "{early:?}");
}
