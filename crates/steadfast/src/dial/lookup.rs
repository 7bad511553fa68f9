//! Names to socket addresses.

use std::{
    collections::HashMap,
    future::Future,
    io,
    net::{IpAddr, SocketAddr, ToSocketAddrs as _},
    pin::Pin,
    sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::watch;

/// A future of a trait that is used as an object.
pub type BoxFuture<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// Resolves the names of servers. [`SystemLookup`] asks the system.
///
/// Closures that return a future implement it.
pub trait Lookup: Send + Sync + 'static {
    /// Returns the socket addresses of a host, best first. Called at every attempt.
    ///
    /// # Cancel safety
    ///
    /// The future is dropped when the attempt is over; it must leave nothing behind.
    fn lookup(&self, host: &str, port: u16) -> BoxFuture<io::Result<Vec<SocketAddr>>>;
}

impl<F> Lookup for F
where
    F: Fn(&str, u16) -> BoxFuture<io::Result<Vec<SocketAddr>>> + Send + Sync + 'static,
{
    fn lookup(&self, host: &str, port: u16) -> BoxFuture<io::Result<Vec<SocketAddr>>> {
        self(host, port)
    }
}

/// The resolver of the system, `getaddrinfo`.
///
/// A call of it cannot be cancelled and may take half a minute. Each runs on a thread of its own, not on
/// one of tokio's, which the end of a runtime would wait for. All attempts that ask for the same name
/// wait for the same call, and at most 64 run at a time in a process.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemLookup;

impl Lookup for SystemLookup {
    fn lookup(&self, host: &str, port: u16) -> BoxFuture<io::Result<Vec<SocketAddr>>> {
        static CALLS: LazyLock<Calls> = LazyLock::new(|| {
            Calls::new(|host, port| (host, port).to_socket_addrs().map(Iterator::collect))
        });
        // An IP address needs no thread.
        match host.parse::<IpAddr>() {
            Ok(ip) => Box::pin(std::future::ready(Ok(vec![SocketAddr::new(ip, port)]))),
            Err(_) => CALLS.get(host, port),
        }
    }
}

/// Maximum number of calls of the system that run at a time. A process that hits it has a resolver that
/// does not respond, and more threads would not change that.
const MAX_CALLS: usize = 64;

type Resolve = fn(&str, u16) -> io::Result<Vec<SocketAddr>>;
type Running = HashMap<(String, u16), watch::Receiver<Answer>>;
type Answer = Option<Result<Vec<SocketAddr>, (io::ErrorKind, String)>>;

/// Calls that are running, by name and port. Clones share them.
#[derive(Clone)]
struct Calls {
    resolve: Resolve,
    running: Arc<Mutex<Running>>,
}

impl Calls {
    fn new(resolve: Resolve) -> Self {
        Self {
            resolve,
            running: Arc::default(),
        }
    }

    fn get(&self, host: &str, port: u16) -> BoxFuture<io::Result<Vec<SocketAddr>>> {
        let answer = self.join_or_start(host, port);
        Box::pin(async move {
            let mut answer = answer?;
            let answer = answer.wait_for(Option::is_some).await;
            match answer.as_deref() {
                Ok(Some(Ok(addresses))) => Ok(addresses.clone()),
                Ok(Some(Err((kind, text)))) => Err(io::Error::new(*kind, text.clone())),
                // The thread panicked.
                Ok(None) | Err(_) => Err(io::Error::other("the resolver of the system failed")),
            }
        })
    }

    fn join_or_start(&self, host: &str, port: u16) -> io::Result<watch::Receiver<Answer>> {
        let key = (host.to_owned(), port);
        let mut running = self.running();
        if let Some(answer) = running.get(&key) {
            return Ok(answer.clone());
        }
        if running.len() >= MAX_CALLS {
            return Err(io::Error::other(
                "the resolver of the system does not respond: 64 calls of it are running",
            ));
        }
        let (sender, answer) = watch::channel(None);
        let calls = self.clone();
        let thread_key = key.clone();
        // Not joined: nothing can end the call, and the process may exit meanwhile.
        std::thread::Builder::new()
            .name("resolve".to_owned())
            .spawn(move || {
                let (host, port) = &thread_key;
                let result = (calls.resolve)(host, *port);
                // Removed first: an attempt that starts now must get a new answer.
                calls.running().remove(&thread_key);
                sender.send_replace(Some(
                    result.map_err(|error| (error.kind(), error.to_string())),
                ));
            })?;
        running.insert(key, answer.clone());
        Ok(answer)
    }

    fn running(&self) -> MutexGuard<'_, Running> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::{
        sync::{
            Condvar,
            atomic::{AtomicUsize, Ordering},
        },
        time::Duration,
    };

    use tokio::time::timeout;

    use super::*;

    #[tokio::test]
    async fn one_call_serves_all_that_ask_meanwhile() {
        static STARTED: AtomicUsize = AtomicUsize::new(0);
        static GATE: (Mutex<bool>, Condvar) = (Mutex::new(false), Condvar::new());
        let calls = Calls::new(|_, port| {
            STARTED.fetch_add(1, Ordering::SeqCst);
            let open = GATE.0.lock().unwrap();
            drop(GATE.1.wait_while(open, |open| !*open).unwrap());
            Ok(vec![SocketAddr::from(([127, 0, 0, 1], port))])
        });
        let open = |open| {
            *GATE.0.lock().unwrap() = open;
            GATE.1.notify_all();
        };
        // An abandoned one leaves its call running, and the next joins it.
        let abandoned = timeout(Duration::from_millis(20), calls.get("db", 1)).await;
        assert!(abandoned.is_err());
        let (first, second) = (calls.get("db", 1), calls.get("db", 1));
        open(true);
        assert_eq!(first.await.unwrap(), second.await.unwrap());
        assert_eq!(STARTED.load(Ordering::SeqCst), 1);
        // A later one asks again: names change.
        calls.get("db", 1).await.unwrap();
        assert_eq!(STARTED.load(Ordering::SeqCst), 2);
        // Names that never get an answer take a bounded number of threads.
        open(false);
        let waiting: Vec<_> = (1..=MAX_CALLS as u16)
            .map(|port| calls.get("slow", port))
            .collect();
        let refused = calls.get("slow", 0).await.unwrap_err();
        assert!(
            refused.to_string().contains("does not respond"),
            "{refused}"
        );
        open(true);
        for waiting in waiting {
            waiting.await.unwrap();
        }
        assert!(calls.running().is_empty());
    }

    #[tokio::test]
    async fn panic_of_a_call_is_an_error() {
        let calls = Calls::new(|_, _| panic!("as planned"));
        assert!(calls.get("db", 1).await.is_err());
    }

    #[tokio::test]
    async fn zone_of_an_ipv6_address_is_resolved() {
        let addresses = SystemLookup.lookup("fe80::1%lo", 80).await.unwrap();
        let [SocketAddr::V6(address)] = addresses[..] else {
            panic!("{addresses:?}");
        };
        assert_ne!(address.scope_id(), 0);
    }
}
