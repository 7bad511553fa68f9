use std::{fs, path::Path};

use rcgen::{CertificateParams, KeyPair};
use steadfast_tls::server::ClientAuth;
use tokio::io::duplex;

use super::*;

/// Writes a pair for `localhost` that is valid until the beginning of a year.
fn write_pair(directory: &Path, year: i32) -> ServerTlsOptions {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
    params.not_after = rcgen::date_time_ymd(year, 1, 1);
    let file = |name: &str, text: String| {
        let path = directory.join(name);
        fs::write(&path, text).unwrap();
        path
    };
    ServerTlsOptions {
        cert_file: file("cert", params.self_signed(&key).unwrap().pem()),
        key_file: file("key", key.serialize_pem()),
        client_ca_file: None,
        client_crl_file: None,
        client_auth: ClientAuth::None,
    }
}

#[tokio::test(start_paused = true)]
async fn figures_are_of_the_files_also_without_a_handshake() {
    let directory = tempfile::tempdir().unwrap();
    let options = write_pair(directory.path(), 2090);
    let tls = Tls::load(&options, Tls::HANDSHAKE_TIMEOUT).unwrap();
    let expires = || {
        let figure = tls.figures().next().unwrap();
        assert_eq!(figure.name, "tls_certificate_not_after_timestamp_seconds");
        figure.value
    };
    let before = expires();
    write_pair(directory.path(), 2095);
    tokio::time::advance(Duration::from_secs(2)).await;
    tls.refresh().await;
    let years = (expires() - before) / (365.25 * 86_400.0);
    assert!((4.9..5.1).contains(&years), "{years}");
    let reloads = tls.figures().find(|it| it.name == "tls_reloads_total");
    assert!((reloads.unwrap().value - 1.0).abs() < f64::EPSILON);
}

#[tokio::test(start_paused = true)]
async fn handshake_that_stalls_ends_at_its_deadline() {
    let directory = tempfile::tempdir().unwrap();
    let options = write_pair(directory.path(), 2090);
    let tls = Tls::load(&options, Tls::HANDSHAKE_TIMEOUT).unwrap();
    let (own, request) = (Tls::HANDSHAKE_TIMEOUT, Duration::from_secs(4));
    // Nothing, half of the head of a record, and a record that never ends; and the time to the first
    // request, when it is longer and when it is shorter.
    for (stalled, (sent, latest, expected)) in [
        (&b""[..], 2 * own, own),
        (&[22, 3], 2 * own, own),
        (&[22, 3, 1, 1, 0, 1], 2 * own, own),
        (&[22, 3, 1, 1, 0, 1], request, request),
    ]
    .into_iter()
    .enumerate()
    {
        let (mut client, server) = duplex(1_000);
        client.write_all(sent).await.unwrap();
        let started = Instant::now();
        let accepting = tls.accept(Protocol::Http2, server, None, started + latest);
        assert!(accepting.await.is_none());
        assert_eq!(started.elapsed(), expected, "{sent:?}");
        let failures = tls.stats().failures;
        assert_eq!(
            failures[HandshakeFailure::Timeout as usize],
            stalled as u64 + 1
        );
        // The connection is closed.
        assert_eq!(client.read(&mut [0]).await.unwrap(), 0);
    }
}
