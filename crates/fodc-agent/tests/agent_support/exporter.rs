//! An endpoint that says what it is told to say, however wrong.

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

/// Answers one request. `false` closes the connection.
pub(crate) type Answer = Arc<dyn Fn(&Request, &mut TcpStream) -> bool + Send + Sync>;

/// The head of a request.
pub(crate) struct Request {
    pub(crate) head: String,
    /// Counted over all connections, from 0.
    pub(crate) number: u64,
}

/// A scripted endpoint on a free port. Its threads end with their connections.
pub(crate) struct Exporter {
    address: SocketAddr,
    answer: Arc<Mutex<Answer>>,
    connections: Arc<AtomicU64>,
    requests: Arc<AtomicU64>,
}

impl Exporter {
    pub(crate) fn new(answer: Answer) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let answer = Arc::new(Mutex::new(answer));
        let (connections, requests) = (Arc::<AtomicU64>::default(), Arc::<AtomicU64>::default());
        let (script, accepted, asked) = (
            Arc::clone(&answer),
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
            answer,
            connections,
            requests,
        }
    }

    /// Serves this page with status 200.
    pub(crate) fn page(page: impl Into<String>) -> Self {
        Self::new(page_answer(page))
    }

    /// From now on it answers like this.
    pub(crate) fn set(&self, answer: Answer) {
        *self.answer.lock().unwrap() = answer;
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

fn converse(mut stream: TcpStream, script: &Mutex<Answer>, asked: &AtomicU64) {
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
        let answer = Arc::clone(&script.lock().unwrap());
        if !answer(&Request { head, number }, &mut stream) {
            return;
        }
    }
}

/// Status 200 and this page.
pub(crate) fn page_answer(page: impl Into<String>) -> Answer {
    let page = page.into();
    Arc::new(move |_, stream| respond(stream, "200 OK", "", page.as_bytes()))
}

/// Exactly these bytes, and the end of the connection.
pub(crate) fn raw_answer(bytes: impl Into<Vec<u8>>) -> Answer {
    let bytes = bytes.into();
    Arc::new(move |_, stream| {
        stream.write_all(&bytes).ok();
        false
    })
}

/// Takes the request and says nothing.
pub(crate) fn silence() -> Answer {
    Arc::new(|_, _| true)
}

/// A well-formed answer. `headers` are whole lines.
pub(crate) fn respond(stream: &mut TcpStream, status: &str, headers: &str, body: &[u8]) -> bool {
    let head = format!(
        "HTTP/1.1 {status}\r\nContent-Length: {}\r\n{headers}\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes()).is_ok() && stream.write_all(body).is_ok()
}

/// Lets some time pass, or less if the agent closes the connection.
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
