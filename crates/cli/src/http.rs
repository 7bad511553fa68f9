//! A GET request over HTTP/1 with a timeout.

use std::time::Duration;

use anyhow::{Context as _, bail};
use http_body_util::{BodyExt as _, Empty};
use hyper::{Request, body::Bytes, client::conn::http1};
use hyper_util::rt::TokioIo;
use steadfast::{CallCredentials, dial::Dialer};
use tokio::time::timeout;
use tokio_util::task::AbortOnDropHandle;

/// Returns the body of a successful response. `server` is the host and port that the request names.
pub(crate) async fn fetch(
    dialer: &Dialer,
    server: &str,
    target: &str,
    credentials: &CallCredentials,
    limit: Duration,
) -> anyhow::Result<Bytes> {
    timeout(limit, exchange(dialer, server, target, credentials))
        .await
        .with_context(|| format!("{server}{target} did not respond in time"))?
        .with_context(|| format!("get {target} of {server}"))
}

async fn exchange(
    dialer: &Dialer,
    server: &str,
    target: &str,
    credentials: &CallCredentials,
) -> anyhow::Result<Bytes> {
    let metadata = credentials.obtain(false).await?;
    let stream = dialer.connect().await?.stream;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    // Requests make progress only while the connection is polled. It ends with this function.
    let _connection = AbortOnDropHandle::new(tokio::spawn(connection));
    let mut request = Request::get(target).header("host", server);
    for (name, value) in metadata.iter() {
        request = request.header(name, value);
    }
    let request = request.body(Empty::<Bytes>::new())?;
    let response = sender.send_request(request).await?;
    let status = response.status();
    let body = response.into_body().collect().await?.to_bytes();
    if !status.is_success() {
        bail!("{status}: {}", String::from_utf8_lossy(&body).trim_end());
    }
    Ok(body)
}
