//! An endpoint with scripted responses, valid or not.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::Duration,
};

/// Responds to one request. `false` closes the connection.
pub(crate) type Script = Arc<dyn Fn(&Request, &mut TcpStream) -> bool + Send + Sync>;

/// The head of a request.
pub(crate) struct Request {
    pub(crate) head: String,
    /// The number of the request over all connections, from 0.
    pub(crate) number: u64,
}

/// A scripted endpoint on a free port. Its threads end with their connections.
pub(crate) struct Exporter {
    address: SocketAddr,
    response: Arc<Mutex<Script>>,
    connections: Arc<AtomicU64>,
    requests: Arc<AtomicU64>,
}

impl Exporter {
    pub(crate) fn new(response: Script) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let response = Arc::new(Mutex::new(response));
        let (connections, requests) = (Arc::<AtomicU64>::default(), Arc::<AtomicU64>::default());
        let (script, accepted, asked) = (
            Arc::clone(&response),
            Arc::clone(&connections),
            Arc::clone(&requests),
        );
        thread::spawn(move || {
            for stream in listener.incoming() {
                let Ok(stream) = stream else { return };
                accepted.fetch_add(1, Ordering::SeqCst);
                let (script, asked) = (Arc::clone(&script), Arc::clone(&asked));
                thread::spawn(move || converse(stream, &script, &asked));
            }
        });
        Self {
            address,
            response,
            connections,
            requests,
        }
    }

    /// Serves this page with status 200.
    pub(crate) fn page(page: impl Into<String>) -> Self {
        Self::new(page_response(page))
    }

    /// Replaces the script.
    pub(crate) fn set(&self, response: Script) {
        *self.response.lock().unwrap() = response;
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}/metrics", self.address)
    }

    pub(crate) fn connections(&self) -> u64 {
        self.connections.load(Ordering::SeqCst)
    }

    pub(crate) fn requests(&self) -> u64 {
        self.requests.load(Ordering::SeqCst)
    }
}

fn converse(mut stream: TcpStream, script: &Mutex<Script>, asked: &AtomicU64) {
    stream.set_read_timeout(Some(Duration::from_secs(60))).ok();
    stream.set_write_timeout(Some(Duration::from_secs(60))).ok();
    let mut pending = Vec::new();
    loop {
        let head = loop {
            if let Some(end) = pending.windows(4).position(|four| four == b"\r\n\r\n") {
                let rest = pending.split_off(end + 4);
                break String::from_utf8_lossy(&std::mem::replace(&mut pending, rest)).into_owned();
            }
            let mut buffer = [0; 4096];
            match stream.read(&mut buffer) {
                Ok(0) | Err(_) => return,
                Ok(count) => pending.extend_from_slice(&buffer[..count]),
            }
        };
        let number = asked.fetch_add(1, Ordering::SeqCst);
        let response = Arc::clone(&script.lock().unwrap());
        if !response(&Request { head, number }, &mut stream) {
            return;
        }
    }
}

/// Responds with status 200 and this page.
pub(crate) fn page_response(page: impl Into<String>) -> Script {
    response("", page.into())
}

/// Responds with status 200, these header lines and this body.
pub(crate) fn response(headers: impl Into<String>, body: impl Into<Vec<u8>>) -> Script {
    let (headers, body) = (headers.into(), body.into());
    Arc::new(move |_, stream| respond(stream, "200 OK", &headers, &body))
}

/// Sends exactly these bytes and closes the connection.
pub(crate) fn raw_response(bytes: impl Into<Vec<u8>>) -> Script {
    let bytes = bytes.into();
    Arc::new(move |_, stream| {
        stream.write_all(&bytes).ok();
        false
    })
}

/// Reads the request and never responds.
pub(crate) fn silence() -> Script {
    Arc::new(|_, _| true)
}

/// Sends a well-formed response. `headers` are whole lines.
pub(crate) fn respond(stream: &mut TcpStream, status: &str, headers: &str, body: &[u8]) -> bool {
    let head = format!(
        "HTTP/1.1 {status}\r\nContent-Length: {}\r\n{headers}\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes()).is_ok() && stream.write_all(body).is_ok()
}

/// Waits for a time, or until the agent closes the connection.
pub(crate) fn pause(stream: &mut TcpStream, span: Duration) {
    stream.set_read_timeout(Some(span)).unwrap();
    let nothing = stream.read(&mut [0]);
    assert!(
        !matches!(nothing, Ok(1..)),
        "the agent asks one thing at a time"
    );
    stream
        .set_read_timeout(Some(Duration::from_secs(60)))
        .unwrap();
}
