//! Servers with TLS, from nothing: the certificates of `cert dev`, and clients that trust them.

use std::{path::Path, process::Stdio};

use tokio::{
    io::{AsyncBufReadExt as _, BufReader},
    process::{Child, ChildStderr},
};

use crate::process::{Server, Subscription, next, run, steadfast, words};

/// Makes certificates, and returns the flags of a server and of a client with certificates.
async fn certificates(directory: &Path) -> (String, String) {
    let out = directory.join("certs");
    let out = out.to_str().unwrap();
    let made = run(
        &words(&format!("cert dev --out {out} --name db.example")),
        None,
    )
    .await;
    assert_eq!(made.code, Some(0), "{made:?}");
    assert!(
        made.stdout
            .contains(&format!("--tls-cert {out}/server.pem")),
        "{made:?}"
    );
    let again = run(&words(&format!("cert dev --out {out}")), None).await;
    assert_eq!(again.code, Some(1), "{again:?}");
    assert!(again.stderr.contains("give --force"), "{again:?}");
    (
        format!(
            "--tls-cert {out}/server.pem --tls-key {out}/server.key --tls-client-ca {out}/ca.pem"
        ),
        format!("--ca {out}/ca.pem --cert {out}/client.pem --key {out}/client.key"),
    )
}

#[tokio::test]
async fn server_and_clients_use_the_certificates_of_cert_dev() {
    let directory = tempfile::tempdir().unwrap();
    let (server_flags, client) = certificates(directory.path()).await;
    let flags = format!("--listen 127.0.0.1:0 {server_flags}");
    let mut server = Server::start_with(&directory.path().join("data"), &words(&flags)).await;
    let operations = next(&mut server.out).await.unwrap();
    let operations = operations.strip_prefix("operations ").unwrap();
    let to = format!("-d db -c c --addr https://{} {client}", server.addr);
    let subscribe = format!("streamer subscribe {to} --limit 1 --json");
    let subscription = Subscription::start(&words(&subscribe)).await;
    let publish = format!("streamer publish {to}");
    let published = run(&words(&publish), Some("{\"id\":\"a\"}\n")).await;
    assert_eq!(published.code, Some(0), "{published:?}");
    let (lines, code) = subscription.rest().await;
    assert_eq!((lines.len(), code), (1, Some(0)), "{lines:?}");
    let status = format!("streamer status --operations {operations} {client}");
    let status = run(&words(&status), None).await;
    assert_eq!(status.code, Some(0), "{status:?}");
    // Without a certificate, and without TLS, nothing is served.
    let (without, _) = client.split_once(" --cert").unwrap();
    for flags in [
        format!("--addr {} {without}", server.addr),
        format!("--addr http://{}", server.addr),
    ] {
        let publish = format!("streamer publish -d db -c c --max-retries 1 {flags}");
        let refused = run(&words(&publish), Some("{\"id\":\"b\"}\n")).await;
        assert_ne!(refused.code, Some(0), "{flags}: {refused:?}");
    }
}

/// Waits for a line of a process that contains the text.
pub(crate) async fn told(lines: &mut tokio::io::Lines<BufReader<ChildStderr>>, text: &str) {
    while !next(lines).await.expect(text).contains(text) {}
}

/// Starts a process and returns the words of its first line.
pub(crate) async fn start(line: &str) -> (Child, Vec<String>) {
    let mut child = steadfast(&words(line))
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut out = BufReader::new(child.stdout.take().unwrap()).lines();
    let ready = next(&mut out).await.expect("a line when it is ready");
    (child, ready.split(' ').map(str::to_owned).collect())
}

#[tokio::test]
async fn proxy_and_agent_use_the_certificates_of_cert_dev() {
    let directory = tempfile::tempdir().unwrap();
    let (server, client) = certificates(directory.path()).await;
    let (_proxy, ready) = start(&format!(
        "fodc proxy --grpc-listen-addr 127.0.0.1:0 --http-listen-addr 127.0.0.1:0 {server}"
    ))
    .await;
    // Port 9 has no page: the agent records that, and registers all the same.
    let (mut agent, listens) = start(&format!(
        "fodc agent --in-memory --poll-metrics-ports 9 --pod-name a --proxy-addr {} {client} \
         --prometheus-listen-addr 127.0.0.1:0 {server}",
        ready[1]
    ))
    .await;
    let mut lines = BufReader::new(agent.stderr.take().unwrap()).lines();
    told(&mut lines, "registered with the proxy").await;
    // The pages of both speak TLS, too, and take no client without a certificate.
    for address in [&ready[2], &listens[1]] {
        let page = fetch(address, directory.path(), true).await;
        assert!(page.unwrap().starts_with("HTTP/1.1 "), "{address}");
        assert!(fetch(address, directory.path(), false).await.is_err());
    }
}

/// Gets a page over TLS, with or without the certificate of the client.
async fn fetch(address: &str, directory: &Path, identity: bool) -> std::io::Result<String> {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    let file = |name: &str| Some(directory.join("certs").join(name));
    let mut options = steadfast::tls::TlsOptions::default();
    options.ca_file = file("ca.pem");
    if identity {
        options.cert_file = file("client.pem");
        options.key_file = file("client.key");
    }
    let tls = options.load(&[b"http/1.1"]).unwrap();
    let tcp = tokio::net::TcpStream::connect(address).await?;
    let mut stream = tls
        .connect("127.0.0.1", tcp)
        .await
        .map_err(std::io::Error::other)?;
    let request = b"GET /metrics HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n";
    stream.write_all(request).await?;
    let mut page = String::new();
    stream.read_to_string(&mut page).await?;
    Ok(page)
}
