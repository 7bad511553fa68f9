//! The open sockets, and the signals that reach all of them.

use std::{
    collections::BTreeMap,
    net::IpAddr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{
            AtomicBool, AtomicU32, AtomicU64,
            Ordering::{Relaxed, SeqCst},
        },
    },
};

use futures_util::task::AtomicWaker;
use tokio::time::Instant;

use crate::metrics::{Metrics, SocketKind};

/// The open sockets.
#[derive(Debug, Default)]
pub(crate) struct Sockets {
    newest: AtomicU64,
    open: Mutex<BTreeMap<u64, Arc<Signals>>>,
    is_draining: AtomicBool,
}

/// What the task of a socket is woken for, beside its own connection, and what the status shows of it.
#[derive(Debug)]
pub(crate) struct Signals {
    waker: AtomicWaker,
    rights_changed: AtomicBool,
    drains: AtomicBool,
    pub(crate) figures: SocketFigures,
}

/// What the status shows of a socket.
#[derive(Debug)]
pub(crate) struct SocketFigures {
    pub(crate) kind: SocketKind,
    pub(crate) address: Option<IpAddr>,
    pub(crate) opened: Instant,
    pub(crate) subscriptions: AtomicU32,
    pub(crate) items: AtomicU64,
    /// `None` while the client has no valid credentials.
    principal: Mutex<Option<Arc<str>>>,
}

/// One open socket. It is counted until this is dropped.
#[derive(Debug)]
pub(crate) struct OpenSocket {
    pub(crate) number: u64,
    pub(crate) signals: Arc<Signals>,
    sockets: Arc<Sockets>,
    metrics: Arc<Metrics>,
}

impl Sockets {
    /// Adds a socket.
    pub(crate) fn open(
        self: &Arc<Self>,
        kind: SocketKind,
        address: Option<IpAddr>,
        metrics: &Arc<Metrics>,
    ) -> OpenSocket {
        let number = self.newest.fetch_add(1, Relaxed) + 1;
        let signals = Arc::new(Signals::new(kind, address));
        self.lock().insert(number, Arc::clone(&signals));
        // After it can be found: whoever drains sets this before it looks for sockets.
        if self.is_draining.load(SeqCst) {
            signals.drains.store(true, SeqCst);
        }
        metrics.sockets[kind as usize].fetch_add(1, Relaxed);
        metrics.opened.fetch_add(1, Relaxed);
        OpenSocket {
            number,
            signals,
            sockets: Arc::clone(self),
            metrics: Arc::clone(metrics),
        }
    }

    /// Tells every socket that the rules have changed.
    pub(crate) fn signal_rights(&self) {
        self.signal(|signals| &signals.rights_changed);
    }

    /// Tells every socket, also those opened later, that the gateway stops.
    pub(crate) fn signal_drain(&self) {
        self.is_draining.store(true, SeqCst);
        self.signal(|signals| &signals.drains);
    }

    /// Returns the sockets that were opened last, at most `limit` of them, and the number of all others.
    pub(crate) fn newest(&self, limit: usize) -> (Vec<(u64, Arc<Signals>)>, usize) {
        let open = self.lock();
        let newest = open.iter().rev().take(limit);
        let newest: Vec<_> = newest
            .map(|(number, it)| (*number, Arc::clone(it)))
            .collect();
        let others = open.len() - newest.len();
        (newest, others)
    }

    fn signal(&self, flag: impl Fn(&Signals) -> &AtomicBool) {
        // Copied, so that no socket waits for the lock while all the others are woken.
        let open: Vec<_> = self.lock().values().cloned().collect();
        for signals in open {
            flag(&signals).store(true, SeqCst);
            signals.waker.wake();
        }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<u64, Arc<Signals>>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Signals {
    fn new(kind: SocketKind, address: Option<IpAddr>) -> Self {
        Self {
            waker: AtomicWaker::new(),
            // The rules may have changed between the check of the credentials and this.
            rights_changed: AtomicBool::new(true),
            drains: AtomicBool::new(false),
            figures: SocketFigures {
                kind,
                address,
                opened: Instant::now(),
                subscriptions: AtomicU32::new(0),
                items: AtomicU64::new(0),
                principal: Mutex::new(None),
            },
        }
    }

    /// Notes who is woken by the next signal. Flags are read after this.
    pub(crate) fn register(&self, waker: &std::task::Waker) {
        self.waker.register(waker);
    }

    pub(crate) fn take_rights_changed(&self) -> bool {
        self.rights_changed.swap(false, SeqCst)
    }

    pub(crate) fn take_drains(&self) -> bool {
        self.drains.swap(false, SeqCst)
    }
}

impl SocketFigures {
    pub(crate) fn principal(&self) -> Option<Arc<str>> {
        let principal = self.principal.lock();
        principal.unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn set_principal(&self, name: Option<Arc<str>>) {
        let principal = self.principal.lock();
        *principal.unwrap_or_else(PoisonError::into_inner) = name;
    }
}

impl Drop for OpenSocket {
    fn drop(&mut self) {
        self.sockets.lock().remove(&self.number);
        self.metrics.sockets[self.signals.figures.kind as usize].fetch_sub(1, Relaxed);
    }
}
