//! A configuration made of files, which is made again when they change.

use std::{
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{
    task::spawn_blocking,
    time::{Instant, timeout},
};
use tracing::{info, warn};

use crate::{
    TlsError,
    files::{Contents, Files, Fingerprint},
};

/// The counters of files that are read again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct TlsCounters {
    /// Times at which changed files were taken.
    pub reloads: u64,
    /// Times at which changed files could not be used, so that the old ones stayed in use.
    pub failed_reloads: u64,
}

/// The newest usable configuration of some files.
pub(crate) struct Reloaded<C> {
    files: Files,
    build: Build<C>,
    /// Shortest time between two looks at the files.
    interval: Duration,
    /// Held during a look at the files, so that older contents never replace newer ones, and a disk
    /// that hangs costs one thread.
    look: Arc<tokio::sync::Mutex<()>>,
    state: Mutex<State<C>>,
}

type Build<C> = Box<dyn Fn(&Contents) -> Result<C, TlsError> + Send + Sync>;

struct State<C> {
    config: Arc<C>,
    /// The files that `config` was made of.
    loaded: Fingerprint,
    /// The files that were found unusable last. Each is reported once.
    refused: Option<Fingerprint>,
    /// The time of the last look at the files.
    looked: Instant,
    counters: TlsCounters,
}

/// Longest wait of a handshake for the files. A disk that hangs must not keep every client away from
/// a server whose old certificate is still good.
const READ_TIMEOUT: Duration = Duration::from_secs(1);

impl<C: Send + Sync + 'static> Reloaded<C> {
    /// Reads the files and builds the first configuration.
    pub(crate) fn new(
        files: Files,
        interval: Duration,
        build: impl Fn(&Contents) -> Result<C, TlsError> + Send + Sync + 'static,
    ) -> Result<Self, TlsError> {
        let contents = files.read()?;
        let state = State {
            config: Arc::new(build(&contents)?),
            loaded: contents.fingerprint(),
            refused: None,
            looked: Instant::now(),
            counters: TlsCounters::default(),
        };
        Ok(Self {
            files,
            build: Box::new(build),
            interval,
            look: Arc::default(),
            state: Mutex::new(state),
        })
    }

    /// Returns the configuration of the newest usable files, which it looks at unless that was done
    /// within the interval.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future has no effect.
    pub(crate) async fn current(self: &Arc<Self>) -> Arc<C> {
        if !self.is_due() {
            return self.last();
        }
        let reloaded = Arc::clone(self);
        let reloading = async move {
            let looking = Arc::clone(&reloaded.look).lock_owned().await;
            // A file may be on a disk that stalls, and other connections run on this thread.
            let reloading = spawn_blocking(move || {
                let config = reloaded.reload();
                drop(looking);
                config
            });
            reloading.await
        };
        match timeout(READ_TIMEOUT, reloading).await {
            Ok(Ok(config)) => config,
            Ok(Err(_)) | Err(_) => self.last(),
        }
    }

    /// Returns the configuration in use, without a look at the files.
    pub(crate) fn last(&self) -> Arc<C> {
        Arc::clone(&self.state().config)
    }

    pub(crate) fn counters(&self) -> TlsCounters {
        self.state().counters
    }

    fn is_due(&self) -> bool {
        let now = Instant::now();
        let mut state = self.state();
        let is_due = !self.files.is_empty() && now >= state.looked + self.interval;
        if is_due {
            // Before the look, so that one handshake has its cost and the others go on.
            state.looked = now;
        }
        is_due
    }

    /// Reads the files, and takes them if they changed and are usable.
    fn reload(&self) -> Arc<C> {
        let contents = self.files.read();
        let fingerprint = contents
            .as_ref()
            .map_or(Fingerprint::UNREADABLE, Contents::fingerprint);
        {
            let mut state = self.state();
            if state.loaded == fingerprint {
                state.refused = None;
                return Arc::clone(&state.config);
            }
            if state.refused == Some(fingerprint) {
                return Arc::clone(&state.config);
            }
        }
        // Without the lock: parsing a bundle of authorities takes milliseconds.
        let config = contents.and_then(|contents| (self.build)(&contents));
        let mut state = self.state();
        match config {
            Ok(config) => {
                info!(files = ?self.files, "certificate files changed; new connections use them");
                state.config = Arc::new(config);
                state.loaded = fingerprint;
                state.refused = None;
                state.counters.reloads += 1;
            }
            Err(error) => {
                warn!(%error, "certificate files changed and cannot be used; the old ones stay in use");
                state.refused = Some(fingerprint);
                state.counters.failed_reloads += 1;
            }
        }
        Arc::clone(&state.config)
    }

    fn state(&self) -> MutexGuard<'_, State<C>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<C> fmt::Debug for Reloaded<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reloaded")
            .field("files", &self.files)
            .finish_non_exhaustive()
    }
}
