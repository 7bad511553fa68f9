//! Files of a listener that change under its connections. Over pipes in memory, in virtual time.
#![allow(
    clippy::unwrap_used,
    reason = "a test stops at the first thing that is not as it should be"
)]

use std::{path::PathBuf, sync::Arc, time::Duration};

use rcgen::{CertificateParams, KeyPair};
use rustls::{
    ClientConfig, RootCertStore,
    crypto::aws_lc_rs,
    pki_types::{CertificateDer, ServerName},
};
use steadfast_tls::server::{ClientAuth, Protocol, ServerTls, ServerTlsOptions, TlsAcceptor};
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, duplex},
    time::advance,
};
use tokio_rustls::{TlsConnector, client::TlsStream};

/// A certificate that signs itself, and its key, in PEM.
struct Pair {
    certificate: CertificateDer<'static>,
    pem: String,
    key: String,
}

impl Pair {
    fn new() -> Self {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
        let certificate = params.self_signed(&key).unwrap();
        Self {
            pem: certificate.pem(),
            certificate: certificate.into(),
            key: key.serialize_pem(),
        }
    }
}

/// The files of a listener, and its clients.
struct Server {
    directory: TempDir,
    tls: ServerTls,
}

impl Server {
    fn start(pair: &Pair) -> Self {
        let directory = tempfile::tempdir().unwrap();
        write(&directory, pair);
        let tls = ServerTls::load(&ServerTlsOptions {
            cert_file: file(&directory, "pem"),
            key_file: file(&directory, "key"),
            client_ca_file: None,
            client_crl_file: None,
            client_auth: ClientAuth::None,
        });
        let tls = tls.unwrap();
        Self { directory, tls }
    }

    /// Connects a client that trusts one certificate alone to a server that sends bytes back.
    async fn connect(&self, trusted: &Pair) -> std::io::Result<TlsStream<DuplexStream>> {
        let (near, far) = duplex(64 << 10);
        let config = self.tls.config(Protocol::Http2).await;
        tokio::spawn(async move {
            let Ok(mut stream) = TlsAcceptor::from(config).accept(far).await else {
                return;
            };
            while let Ok(byte) = stream.read_u8().await {
                stream.write_u8(byte).await.unwrap();
                stream.flush().await.unwrap();
            }
        });
        let mut roots = RootCertStore::empty();
        roots.add(trusted.certificate.clone()).unwrap();
        let provider = Arc::new(aws_lc_rs::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        let name = ServerName::try_from("localhost").unwrap();
        TlsConnector::from(Arc::new(config))
            .connect(name, near)
            .await
    }
}

fn file(directory: &TempDir, name: &str) -> PathBuf {
    directory.path().join(name)
}

fn write(directory: &TempDir, pair: &Pair) {
    std::fs::write(file(directory, "pem"), &pair.pem).unwrap();
    std::fs::write(file(directory, "key"), &pair.key).unwrap();
}

async fn is_alive(stream: &mut TlsStream<DuplexStream>, byte: u8) {
    stream.write_u8(byte).await.unwrap();
    stream.flush().await.unwrap();
    assert_eq!(stream.read_u8().await.unwrap(), byte);
}

#[tokio::test(start_paused = true)]
async fn hundred_rotations_lose_no_stream_and_reach_new_ones() {
    const STREAMS: usize = 10;
    let first = Pair::new();
    let server = Server::start(&first);
    let mut streams = Vec::new();
    for _ in 0..STREAMS {
        streams.push(server.connect(&first).await.unwrap());
    }
    let mut before = first;
    for rotation in 1..=100 {
        let pair = Pair::new();
        write(&server.directory, &pair);
        // Within the second after a look, the files are not read again, whatever they contain.
        streams.push(server.connect(&before).await.unwrap());
        advance(Duration::from_secs(1)).await;
        streams.push(server.connect(&pair).await.unwrap());
        server.connect(&before).await.map(|_| ()).unwrap_err();
        assert_eq!(server.tls.counters().reloads, rotation);
        before = pair;
    }
    assert_eq!(streams.len(), STREAMS + 200);
    for stream in &mut streams {
        is_alive(stream, 7).await;
    }
    assert_eq!(server.tls.counters().failed_reloads, 0);
}

#[tokio::test(start_paused = true)]
async fn unusable_new_pair_keeps_the_old_one_and_counts_once() {
    let pair = Pair::new();
    let server = Server::start(&pair);
    let not_after = server.tls.not_after();
    assert!(not_after.is_some());
    let damage = |name: &str, text: &str| std::fs::write(file(&server.directory, name), text);
    let other = Pair::new();
    for (faults, (name, text)) in [
        ("pem", &pair.pem[..pair.pem.len() / 2]),
        ("key", &pair.key[..pair.key.len() / 2]),
        ("pem", ""),
        ("pem", &other.pem),
        ("key", &other.key),
    ]
    .into_iter()
    .enumerate()
    {
        damage(name, text).unwrap();
        for _ in 0..2 {
            advance(Duration::from_secs(1)).await;
            server.connect(&pair).await.unwrap();
        }
        assert_eq!(
            server.tls.counters().failed_reloads,
            faults as u64 + 1,
            "{name}"
        );
        assert_eq!(server.tls.not_after(), not_after);
        write(&server.directory, &pair);
        advance(Duration::from_secs(1)).await;
        server.connect(&pair).await.unwrap();
    }
    assert_eq!(server.tls.counters().reloads, 0);
}
