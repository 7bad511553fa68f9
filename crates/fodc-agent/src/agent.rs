//! The agent: scrapes, records, answers.
//!
//! ```text
//!   endpoints ──> pollers (one task each) ──> recording thread ──> record
//!                                                                   │ Reader
//!                        /metrics, /readyz, remote read <───────────┼──> uplink ──> proxy
//! ```
//!
//! It runs without a proxy as a recorder and exporter, and with one whatever the proxy does: none of
//! these parts waits for another. Reading the record does not stop recording.

mod attach;
mod board;
mod clock;
mod config;
mod http;
mod record;
mod recording;
mod remote_read;
mod responder;
mod room;
mod views;

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use steadfast_recorder::{OpenError, OpenReport, Options, Reader, Recorders};
use steadfast_session::Status;
use tokio::{
    net::TcpListener,
    sync::watch,
    task::{JoinSet, spawn_blocking},
    time::{Instant, timeout, timeout_at},
};
use tokio_util::sync::{CancellationToken, DropGuard};

use self::{
    board::Board,
    http::{Face, Server},
    recording::{Recording, RecordingError, sync_regularly},
    responder::RecordResponder,
    room::Room,
    views::Views,
};
pub use self::{
    clock::{Clock, SystemClock},
    config::{Config, ConfigFault, ConfigFaults, ReadLimits, RecordPlace, UplinkConfig},
    record::page_kind,
};
use crate::{
    identity::{Identity, IdentityFaults},
    scrape::{Endpoint, Poller},
    uplink::{BuildFaults, Uplink},
};

/// A running agent. Dropping it cuts everything; [`Agent::stop`] ends it in order.
#[derive(Debug)]
pub struct Agent {
    addresses: Addresses,
    opened: OpenReport,
    board: Arc<Board>,
    stop: DropGuard,
    pollers: JoinSet<()>,
    server: Option<Server>,
    uplink: Option<(Uplink, watch::Sender<Identity>)>,
    recording: Recording,
}

/// Where an agent listens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Addresses {
    /// Its HTTP server, with the port that port 0 became.
    pub http: Option<SocketAddr>,
}

/// Why an agent did not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// The settings are wrong.
    #[error(transparent)]
    Config(#[from] ConfigFaults),
    /// The record can not be opened.
    #[error(transparent)]
    Record(#[from] OpenError),
    /// The record takes no more sources.
    #[error("the record can not take all endpoints: {0}")]
    Sources(steadfast_recorder::LimitError),
    /// The uplink can not work like this.
    #[error("the uplink: {0}")]
    Uplink(#[from] BuildFaults),
    /// The address is taken, or not ours.
    #[error("can not listen on {address}: {error}")]
    Listen {
        /// Where it should have listened.
        address: SocketAddr,
        /// What the system says.
        #[source]
        error: io::Error,
    },
    /// The system refused something else.
    #[error("can not start the agent: {0}")]
    Io(#[from] io::Error),
}

/// The deadline passed before the record was made durable: its disk does not answer. What is
/// recorded is in the hands of the system.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the record's disk did not answer within {0:?}")]
pub struct StopTimeout(pub Duration);

impl Agent {
    /// Starts everything. The listener is bound and the record open when it returns, and the first
    /// readings are under way.
    ///
    /// # Errors
    ///
    /// With all faults of the settings at once, or with what the system refused. Nothing runs then.
    ///
    /// # Panics
    ///
    /// Outside a tokio runtime with timers and sockets.
    pub async fn start(mut config: Config) -> Result<Self, StartError> {
        config.check()?;
        let room = Room::of(&config);
        config.page = room.limits(config.page);
        config.budget = room.record;
        let listener = match config.listen {
            Some(address) => {
                let bound = TcpListener::bind(address).await;
                Some(bound.map_err(|error| StartError::Listen { address, error })?)
            }
            None => None,
        };
        let (recorders, opened) = open(&config).await?;
        let urls = config.endpoints.iter().map(Endpoint::source);
        let board = Arc::new(Board::new(urls));
        let (recording, mailboxes) = Recording::start(recorders, &config, Arc::clone(&board))?;

        let views = Arc::new(Views::new(&config.endpoints));
        let uplink = match &config.uplink {
            Some(settings) => {
                let responder = RecordResponder::new(recording.window(), Arc::clone(&views));
                Some(uplink(settings, responder)?)
            }
            None => None,
        };
        let server = match listener {
            Some(listener) => {
                let face = Face::new(&config, views, recording.window(), Arc::clone(&board));
                Some(Server::start(listener, face.router())?)
            }
            None => None,
        };
        let stop = CancellationToken::new();
        let mut pollers = JoinSet::new();
        if let Some(mailbox) = mailboxes.first() {
            let mailbox = mailbox.clone();
            pollers.spawn(sync_regularly(mailbox, config.sync_every, stop.clone()));
        }
        for (endpoint, mailbox) in config.endpoints.iter().zip(mailboxes) {
            let poller = Poller::new(
                endpoint.clone(),
                config.interval,
                config.fetch_limits(),
                Arc::clone(&config.clock),
                mailbox,
            );
            pollers.spawn(poller.run(stop.clone()));
        }
        Ok(Self {
            addresses: Addresses {
                http: server.as_ref().map(Server::address),
            },
            opened,
            board,
            stop: stop.drop_guard(),
            pollers,
            server,
            uplink,
            recording,
        })
    }

    /// Where it listens.
    #[must_use]
    pub fn addresses(&self) -> Addresses {
        self.addresses
    }

    /// What was found in the directory of the record; nothing of a record in memory.
    #[must_use]
    pub fn opened(&self) -> &OpenReport {
        &self.opened
    }

    /// The uplink to the proxy, if there is to be one: its state, its counters.
    #[must_use]
    pub fn uplink(&self) -> Option<&Uplink> {
        self.uplink.as_ref().map(|(uplink, _)| uplink)
    }

    /// How the registration with the proxy is and why; `None` without a proxy.
    #[must_use]
    pub fn uplink_state(&self) -> Option<Status> {
        self.uplink().map(Uplink::status)
    }

    /// From now on the agent is this one to the proxy; without one nothing changes.
    ///
    /// # Errors
    ///
    /// All that is wrong with it. The agent stays who it was.
    pub fn set_identity(&self, identity: Identity) -> Result<(), IdentityFaults> {
        identity.check()?;
        if let Some((_, current)) = &self.uplink {
            current.send_replace(identity);
        }
        Ok(())
    }

    /// The record as it is now; `None` when recording has ended.
    pub async fn reader(&self) -> Option<Reader> {
        let snapshot = self.recording.window().look().await;
        snapshot.ok().map(|snapshot| snapshot.reader)
    }

    /// Why the agent does not do its work, if it does not: what `/readyz` says.
    #[must_use]
    pub fn unready(&self) -> Option<String> {
        self.board.read().unready()
    }

    /// Resolves when recording has ended by itself, which it does only by a fault of this program.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future has no effect.
    pub async fn failed(&mut self) {
        self.recording.ended().await;
    }

    /// Ends the agent in order: no endpoint is read any more, requests under way are answered, the
    /// proxy is left, the record is made durable. Within `deadline` no task, thread or socket of it is left.
    ///
    /// # Errors
    ///
    /// If the record's disk does not answer in time.
    ///
    /// # Cancel safety
    ///
    /// Dropped in the middle, it goes on as dropping the agent does.
    pub async fn stop(mut self, deadline: Duration) -> Result<(), StopTimeout> {
        let until = Instant::now() + deadline;
        self.stop.disarm().cancel();
        let (server, uplink) = (self.server.take(), self.uplink.take());
        let answering = async {
            if let Some(server) = server {
                server.stop(deadline / 2).await;
            }
        };
        let leaving = async {
            if let Some((uplink, _identity)) = uplink {
                timeout(deadline / 2, uplink.disconnect()).await.ok();
                uplink.close().await;
            }
        };
        let reading = async { while self.pollers.join_next().await.is_some() {} };
        // Whoever still gets an answer gets it from the record, and no empty one.
        let ended = timeout_at(until, async {
            tokio::join!(answering, leaving, reading);
            self.recording.end().await;
        });
        ended.await.map_err(|_| StopTimeout(deadline))
    }
}

fn uplink(
    settings: &UplinkConfig,
    responder: RecordResponder,
) -> Result<(Uplink, watch::Sender<Identity>), StartError> {
    let identity = watch::Sender::new(settings.identity.clone());
    let uplink = Uplink::builder(&settings.proxy, identity.subscribe(), responder)
        .heartbeat_interval(settings.heartbeat_interval)
        .reconnect_interval(settings.reconnect_interval)
        .build()?;
    uplink.start();
    Ok((uplink, identity))
}

async fn open(config: &Config) -> Result<(Recorders, OpenReport), StartError> {
    let mut options = Options::default();
    options.budget = config.budget;
    options.sync_every = config.sync_every;
    options.honor_timestamps = config.honor_timestamps;
    let place = config.record.clone();
    let opened = spawn_blocking(move || match place {
        RecordPlace::Memory => {
            Recorders::in_memory(options).map(|recorders| (recorders, OpenReport::default()))
        }
        RecordPlace::Directory(path) => Recorders::open(&path, options),
    });
    let opened = opened.await.map_err(io::Error::other)?;
    Ok(opened?)
}

impl From<RecordingError> for StartError {
    fn from(error: RecordingError) -> Self {
        match error {
            RecordingError::Open(error) => Self::Record(error),
            RecordingError::Refused(refused) => Self::Sources(refused),
            RecordingError::Thread(error) => Self::Io(error),
        }
    }
}
