//! The plainest HTTP client: one request on a connection, the response read to its end.

use std::{io::Read as _, net::SocketAddr};

use flate2::read::GzDecoder;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::timeout,
};

use crate::agent::TIMEOUT;

#[derive(Debug)]
pub(crate) struct Response {
    pub(crate) status: u16,
    /// Names in lower case.
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: String,
}

impl Response {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers
            .iter()
            .find(|(known, _)| known == name)
            .map(|(_, value)| value.as_str())
    }

    /// The agents that are missing, with the reasons. A window of slow agents names them at its end.
    pub(crate) fn missing(&self) -> Option<&str> {
        let at_end = || {
            let (_, rest) = self.body.split_once("missing in this response: ")?;
            Some(rest.split_once('"')?.0)
        };
        self.header("x-steadfast-missing").or_else(at_end)
    }

    /// The lines that are not comments.
    pub(crate) fn samples(&self) -> Vec<&str> {
        let lines = self.body.lines();
        lines.filter(|line| !line.starts_with('#')).collect()
    }

    /// The samples of the first series of a window.
    pub(crate) fn data(&self) -> Vec<serde_json::Value> {
        self.json()[0]["data"].as_array().unwrap().clone()
    }

    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {}", self.body))
    }

    /// Returns true if the body has this line.
    pub(crate) fn has_line(&self, line: &str) -> bool {
        self.body.lines().any(|one| one == line)
    }
}

pub(crate) async fn get(address: SocketAddr, path: &str) -> Response {
    request(address, "GET", path).await
}

pub(crate) async fn request(address: SocketAddr, method: &str, path: &str) -> Response {
    within(exchange(address, method, path, "")).await
}

/// Does the same as [`get`] with a bearer token.
pub(crate) async fn get_with_token(address: SocketAddr, path: &str, token: &str) -> Response {
    let header = format!("authorization: Bearer {token}\r\n");
    within(exchange(address, "GET", path, &header)).await
}

/// Does the same as [`get`] for a page of another host.
pub(crate) async fn get_of_host(address: SocketAddr, path: &str, host: &str) -> Response {
    within(exchange_with(address, "GET", path, host, "")).await
}

/// Does the same as [`get`] as a client that accepts gzip.
pub(crate) async fn get_packed(address: SocketAddr, path: &str) -> Response {
    within(exchange(address, "GET", path, "accept-encoding: gzip\r\n")).await
}

async fn within<T>(work: impl Future<Output = T>) -> T {
    timeout(TIMEOUT, work).await.expect("a response in time")
}

async fn exchange(address: SocketAddr, method: &str, path: &str, more: &str) -> Response {
    exchange_with(address, method, path, "localhost", more).await
}

async fn exchange_with(
    address: SocketAddr,
    method: &str,
    path: &str,
    host: &str,
    more: &str,
) -> Response {
    let mut socket = TcpStream::connect(address).await.unwrap();
    let head =
        format!("{method} {path} HTTP/1.1\r\nhost: {host}\r\n{more}connection: close\r\n\r\n");
    socket.write_all(head.as_bytes()).await.unwrap();
    let mut bytes = Vec::new();
    socket.read_to_end(&mut bytes).await.unwrap();
    let (head, body) = split(&bytes, "\r\n\r\n");
    let mut lines = str::from_utf8(head).unwrap().lines();
    let status = lines.next().unwrap().split(' ').nth(1).unwrap();
    let headers: Vec<(String, String)> = lines
        .filter_map(|line| line.split_once(": "))
        .map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned()))
        .collect();
    let is = |name, value| {
        headers
            .iter()
            .any(|(known, found)| known == name && found == value)
    };
    let body = if is("transfer-encoding", "chunked") && method != "HEAD" {
        dechunked(body)
    } else {
        body.to_owned()
    };
    let body = if is("content-encoding", "gzip") {
        let mut text = String::new();
        GzDecoder::new(&body[..]).read_to_string(&mut text).unwrap();
        text
    } else {
        String::from_utf8(body).unwrap()
    };
    Response {
        status: status.parse().unwrap(),
        headers,
        body,
    }
}

/// Splits at the first occurrence of a separator.
fn split<'a>(bytes: &'a [u8], separator: &str) -> (&'a [u8], &'a [u8]) {
    let mut windows = bytes.windows(separator.len());
    let at = windows.position(|window| window == separator.as_bytes());
    let at = at.unwrap_or_else(|| panic!("no {separator:?}"));
    (&bytes[..at], &bytes[at + separator.len()..])
}

fn dechunked(mut rest: &[u8]) -> Vec<u8> {
    let mut body = Vec::new();
    loop {
        let (length, after) = split(rest, "\r\n");
        let length = usize::from_str_radix(str::from_utf8(length).unwrap(), 16).unwrap();
        if length == 0 {
            return body;
        }
        body.extend_from_slice(&after[..length]);
        rest = after[length..].strip_prefix(b"\r\n").unwrap();
    }
}
