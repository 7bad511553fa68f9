//! The plainest HTTP client: one request on a connection, the response read to its end.

use std::net::SocketAddr;

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

    /// The agents that are missing, with the reasons.
    pub(crate) fn missing(&self) -> Option<&str> {
        self.header("x-steadfast-missing")
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
    timeout(TIMEOUT, exchange(address, method, path))
        .await
        .unwrap_or_else(|_| panic!("no response to {method} {path}"))
}

async fn exchange(address: SocketAddr, method: &str, path: &str) -> Response {
    let mut socket = TcpStream::connect(address).await.unwrap();
    let head = format!("{method} {path} HTTP/1.1\r\nhost: proxy\r\nconnection: close\r\n\r\n");
    socket.write_all(head.as_bytes()).await.unwrap();
    let mut bytes = Vec::new();
    socket.read_to_end(&mut bytes).await.unwrap();
    let text = String::from_utf8(bytes).unwrap();
    let (head, body) = text.split_once("\r\n\r\n").expect("a head and a body");
    let mut lines = head.lines();
    let status = lines.next().unwrap().split(' ').nth(1).unwrap();
    let headers: Vec<(String, String)> = lines
        .filter_map(|line| line.split_once(": "))
        .map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned()))
        .collect();
    let chunked = headers
        .iter()
        .any(|(name, value)| name == "transfer-encoding" && value == "chunked");
    let body = if chunked && method != "HEAD" {
        dechunked(body)
    } else {
        body.to_owned()
    };
    Response {
        status: status.parse().unwrap(),
        headers,
        body,
    }
}

fn dechunked(mut rest: &str) -> String {
    let mut body = String::new();
    loop {
        let (length, after) = rest.split_once("\r\n").expect("the length of a chunk");
        let length = usize::from_str_radix(length, 16).unwrap();
        if length == 0 {
            return body;
        }
        body.push_str(&after[..length]);
        rest = after[length..].strip_prefix("\r\n").unwrap();
    }
}
