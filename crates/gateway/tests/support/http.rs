//! A client of HTTP/1.1 that shows what a response consists of, also if it ends early.

use std::{collections::BTreeMap, fmt::Write as _, net::SocketAddr};

use serde_json::Value;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use super::soon;

/// A response.
#[derive(Debug)]
pub struct Reply {
    pub status: u16,
    pub headers: BTreeMap<String, String>,
    pub body: String,
    /// The body has its end.
    pub is_whole: bool,
}

/// A response that goes on.
pub struct Open {
    tcp: TcpStream,
    raw: Vec<u8>,
    pub status: u16,
    pub headers: BTreeMap<String, String>,
    text: String,
    is_over: bool,
}

/// An event of a stream: its id and its data.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Event {
    pub id: Option<String>,
    pub data: Option<Value>,
    pub other: Vec<String>,
}

pub async fn request(
    address: SocketAddr,
    (method, path): (&str, &str),
    headers: &[(&str, &str)],
    body: &str,
) -> Reply {
    let mut open = Open::request(address, (method, path), headers, body).await;
    while open.read().await {}
    Reply {
        is_whole: open.is_over || open.headers.contains_key("content-length"),
        status: open.status,
        headers: open.headers,
        body: open.text,
    }
}

/// Sends a request of the owner of a token.
pub async fn request_as(
    address: SocketAddr,
    what: (&str, &str),
    token: Option<&str>,
    body: &str,
) -> Reply {
    let bearer = token.map(|token| format!("Bearer {token}"));
    let header = bearer.iter().map(|bearer| ("authorization", &**bearer));
    request(address, what, &header.collect::<Vec<_>>(), body).await
}

impl Reply {
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    pub fn lines(&self) -> Vec<Value> {
        let lines = self.body.lines();
        lines
            .map(|line| serde_json::from_str(line).unwrap())
            .collect()
    }
}

impl Open {
    pub async fn request(
        address: SocketAddr,
        what: (&str, &str),
        headers: &[(&str, &str)],
        body: &str,
    ) -> Self {
        let open = Self::try_request(address, what, headers, body).await;
        open.expect("a head before the end")
    }

    /// Returns `None` if the connection ends before the head of a response.
    pub async fn try_request(
        address: SocketAddr,
        (method, path): (&str, &str),
        headers: &[(&str, &str)],
        body: &str,
    ) -> Option<Self> {
        let mut tcp = TcpStream::connect(address).await.ok()?;
        let mut head = format!("{method} {path} HTTP/1.1\r\nconnection: close\r\n");
        if !headers.iter().any(|(name, _)| *name == "host") {
            write!(head, "host: {address}\r\n").unwrap();
        }
        for (name, value) in headers {
            write!(head, "{name}: {value}\r\n").unwrap();
        }
        if method == "POST" {
            write!(head, "content-length: {}\r\n", body.len()).unwrap();
        }
        // A server that refuses a body at once may have closed by then.
        tcp.write_all(format!("{head}\r\n{body}").as_bytes())
            .await
            .ok();
        let mut open = Self {
            tcp,
            raw: Vec::new(),
            status: 0,
            headers: BTreeMap::new(),
            text: String::new(),
            is_over: false,
        };
        open.read_head().await.then_some(open)
    }

    /// Returns false if the connection ends before the head does.
    async fn read_head(&mut self) -> bool {
        let end = loop {
            let end = self.raw.windows(4).position(|it| it == b"\r\n\r\n");
            match end {
                Some(end) => break end,
                None if self.fill().await => {}
                None => return false,
            }
        };
        let rest = self.raw.split_off(end + 4);
        let head = String::from_utf8(std::mem::replace(&mut self.raw, rest)).unwrap();
        let mut lines = head.lines();
        let status = lines.next().unwrap().split(' ').nth(1).unwrap();
        self.status = status.parse().unwrap();
        for line in lines.filter(|line| !line.is_empty()) {
            let (name, value) = line.split_once(": ").unwrap();
            self.headers.insert(name.to_owned(), value.to_owned());
        }
        true
    }

    /// Returns what was read of the body.
    pub fn take_text(&mut self) -> String {
        std::mem::take(&mut self.text)
    }

    async fn fill(&mut self) -> bool {
        // A reset is an end, too.
        soon(self.tcp.read_buf(&mut self.raw)).await.unwrap_or(0) > 0
    }

    /// Reads more of the body. Returns false at its end.
    pub async fn read(&mut self) -> bool {
        if !self.headers.contains_key("transfer-encoding") {
            let more = self.fill().await;
            self.text += str::from_utf8(&self.raw).unwrap();
            self.raw.clear();
            return more;
        }
        loop {
            if self.is_over {
                return false;
            }
            if let Some((size_end, size)) = self.chunk()
                && self.raw.len() >= size_end + size + 2
            {
                self.text += str::from_utf8(&self.raw[size_end..size_end + size]).unwrap();
                self.raw.drain(..size_end + size + 2);
                self.is_over = size == 0;
                return !self.is_over;
            }
            if !self.fill().await {
                return false;
            }
        }
    }

    fn chunk(&self) -> Option<(usize, usize)> {
        let end = self.raw.windows(2).position(|it| it == b"\r\n")?;
        let size = str::from_utf8(&self.raw[..end]).unwrap();
        Some((end + 2, usize::from_str_radix(size, 16).unwrap()))
    }

    /// Returns the next event of a stream; `None` at its end. Comments are skipped.
    pub async fn event(&mut self) -> Option<Event> {
        loop {
            if let Some(end) = self.text.find("\n\n") {
                let block: String = self.text.drain(..end + 2).collect();
                let mut event = Event::default();
                for line in block.lines() {
                    match line.split_once(": ") {
                        Some(("id", id)) => event.id = Some(id.to_owned()),
                        Some(("data", data)) => {
                            event.data = Some(serde_json::from_str(data).unwrap());
                        }
                        Some(("", _)) | None => {}
                        Some(_) => event.other.push(line.to_owned()),
                    }
                }
                if event != Event::default() {
                    return Some(event);
                }
            } else if !self.read().await {
                return None;
            }
        }
    }
}
