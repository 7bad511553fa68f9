//! The clients of the streamer as the commands use them: settings in, turns and items out.

use std::{net::SocketAddr, time::Duration};

use anyhow::{Context as _, bail};
use steadfast::{
    grpc::Address,
    session::{Cause, Config, State, Status},
};
pub(crate) use steadfast_streamer::client::{Change, Item, Subscription};
use steadfast_streamer::{
    Operation, Position,
    client::Client,
    filter::Filter,
    publisher::{self, Entry, PublishError},
};

use tokio::{select, sync::watch};
use tokio_util::task::AbortOnDropHandle;

use crate::{
    config::{Setting, Settings, keys},
    document::{Action, Document},
};

/// How to reach a server, and with how much patience.
#[derive(Clone, Debug)]
pub(crate) struct Dial {
    addr: String,
    config: Config,
}

/// An address as it was written, checked.
pub(crate) struct Written(pub(crate) String);

/// Arguments of every command that dials.
#[derive(clap::Args)]
pub(crate) struct DialArgs {
    /// Address of the server [default: 127.0.0.1:9000]
    #[arg(long, value_name = "HOST:PORT")]
    addr: Option<String>,
    /// How often to tell the server that we live; 0s is never [default: 30s]
    #[arg(long, value_name = "DURATION", hide_short_help = true)]
    heartbeat: Option<String>,
    /// Silence after which the connection counts as dead; 0s is never [default: 90s]
    #[arg(long, value_name = "DURATION", hide_short_help = true)]
    activity_timeout: Option<String>,
    /// Wait before the first attempt after a loss [default: 1s]
    #[arg(long, value_name = "DURATION", hide_short_help = true)]
    initial_backoff: Option<String>,
    /// Longest wait between attempts [default: 30s]
    #[arg(long, value_name = "DURATION", hide_short_help = true)]
    max_backoff: Option<String>,
    /// Give up after so many failed attempts in a row; 0 is never [default: 0]
    #[arg(long, value_name = "N", hide_short_help = true)]
    max_retries: Option<String>,
}

/// What becomes of a session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Turn {
    Connected,
    Lost { reason: String },
}

/// What the server said of an entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Taken {
    /// It is durable; its number among the producer's entries.
    Durable(u64),
    /// It is not in the log and never will be.
    Refused(String),
}

impl Setting for Written {
    fn from_text(text: &str) -> Result<Self, String> {
        match text.parse::<Address>() {
            Ok(_) => Ok(Self(text.to_owned())),
            Err(invalid) => Err(invalid.to_string()),
        }
    }
}

impl Dial {
    pub(crate) fn from_settings(args: &DialArgs, settings: &mut Settings) -> Self {
        let default = Config::default();
        let mut duration =
            |key, flag: &Option<String>, default| settings.get_or(key, flag.as_deref(), default);
        // Zero is how a person writes "never".
        let unless_zero = |duration: Duration| Some(duration).filter(|d| !d.is_zero());
        let heartbeat = default.heartbeat_interval.unwrap_or_default();
        let silence = default.activity_timeout.unwrap_or_default();
        let heartbeat = duration(keys::HEARTBEAT, &args.heartbeat, heartbeat);
        let silence = duration(keys::ACTIVITY_TIMEOUT, &args.activity_timeout, silence);
        let initial = default.initial_backoff;
        let config = Config {
            heartbeat_interval: unless_zero(heartbeat),
            activity_timeout: unless_zero(silence),
            initial_backoff: duration(keys::INITIAL_BACKOFF, &args.initial_backoff, initial),
            max_backoff: duration(keys::MAX_BACKOFF, &args.max_backoff, default.max_backoff),
            max_retries: settings.get_or(keys::MAX_RETRIES, args.max_retries.as_deref(), 0),
            ..default
        };
        if let Err(faults) = config.clone().check() {
            for fault in faults.faults() {
                settings.fault("settings of the connection", fault.to_string());
            }
        }
        let here = Written("127.0.0.1:9000".to_owned());
        let Written(addr) = settings.get_or(keys::ADDR, args.addr.as_deref(), here);
        Self { addr, config }
    }

    /// For demonstrations: what takes minutes in the world takes a second here.
    pub(crate) fn impatient(addr: SocketAddr) -> Self {
        let config = Config {
            heartbeat_interval: Some(Duration::from_millis(300)),
            activity_timeout: Some(Duration::from_secs(1)),
            initial_backoff: Duration::from_millis(100),
            max_backoff: Duration::from_secs(1),
            stable_after: Duration::from_secs(1),
            ..Config::default()
        };
        Self {
            addr: addr.to_string(),
            config,
        }
    }
}

/// A client that subscribes.
#[derive(Debug)]
pub(crate) struct Subscriber {
    client: Client,
    _turns: AbortOnDropHandle<()>,
}

/// A client that publishes.
#[derive(Debug)]
pub(crate) struct Publisher {
    publisher: publisher::Publisher,
    _turns: AbortOnDropHandle<()>,
}

/// An entry on its way to the server.
#[derive(Debug)]
pub(crate) struct Pending(publisher::Pending);

impl Subscriber {
    /// Begins to connect; the observer is told of each turn.
    pub(crate) fn open(
        dial: &Dial,
        observer: impl FnMut(Turn) + Send + 'static,
    ) -> anyhow::Result<Self> {
        let client = Client::builder(&dial.addr)
            .link(dial.config.clone())
            .build()?;
        let turns = follow(client.watch(), observer);
        Ok(Self {
            client,
            _turns: turns,
        })
    }

    /// Resolves when a server has acknowledged the subscription, however long that takes.
    pub(crate) async fn subscribe(
        &self,
        database: &str,
        collection: &str,
        filter: Filter,
        from: Option<Position>,
    ) -> anyhow::Result<Subscription> {
        let subscribe = self.client.subscribe(database, collection, filter);
        let subscription = match from {
            None => subscribe.await,
            Some(position) => subscribe.after(position).await,
        };
        subscription.with_context(|| format!("can not subscribe to {database}/{collection}"))
    }

    /// Resolves with the reason at the first attempt that fails.
    pub(crate) fn trouble(&self) -> impl Future<Output = String> + use<> {
        trouble(self.client.watch())
    }

    pub(crate) async fn close(self) {
        self.client.close().await;
    }
}

impl Publisher {
    /// Begins to connect; the observer is told of each turn. Entries are counted from 1, so a
    /// producer that says the same again has it in the log once.
    pub(crate) fn open(
        dial: &Dial,
        producer: &str,
        observer: impl FnMut(Turn) + Send + 'static,
    ) -> anyhow::Result<Self> {
        let builder = publisher::Publisher::builder(&dial.addr).producer(producer);
        let publisher = builder.link(dial.config.clone()).build()?;
        let turns = follow(publisher.watch(), observer);
        Ok(Self {
            publisher,
            _turns: turns,
        })
    }

    /// Waits for the server's greeting. Gives how many entries it has of this producer already.
    pub(crate) async fn greeted(&self) -> anyhow::Result<u64> {
        let mut status = self.publisher.watch();
        let gave_up = status.wait_for(|status| {
            status.state == State::Disconnected && matches!(status.cause, Cause::Ended(_))
        });
        select! {
            known = self.publisher.last_sequence() => Ok(known.unwrap_or_default()),
            status = gave_up => match status {
                Ok(status) => bail!("can not connect: {}", status.cause),
                Err(_closed) => bail!("the publisher is closed"),
            },
        }
    }

    /// Puts a document in its place behind those before; waits only for room. Cancel safe: dropped
    /// before it is ready, the document is not published.
    pub(crate) async fn publish(
        &self,
        database: &str,
        collection: &str,
        document: &Document,
    ) -> anyhow::Result<Pending> {
        let id = document.id.as_str();
        let mut entry = match document.op {
            Some(Action::Delete) => Entry::delete(database, collection, id),
            None | Some(Action::Insert | Action::Update) => {
                let data = serde_json::to_vec(&document.data).context("write a document")?;
                Entry::upsert(database, collection, id, data)
            }
        };
        entry.operation = document.op.map(|action| match action {
            Action::Insert => Operation::Insert,
            Action::Update => Operation::Update,
            Action::Delete => Operation::Delete,
        });
        Ok(Pending(self.publisher.enqueue(entry).await?))
    }

    /// Resolves with the reason at the first attempt that fails.
    pub(crate) fn trouble(&self) -> impl Future<Output = String> + use<> {
        trouble(self.publisher.watch())
    }

    pub(crate) async fn close(self) {
        self.publisher.close().await;
    }
}

impl Pending {
    /// Resolves when the server has answered for the document.
    pub(crate) async fn taken(self) -> anyhow::Result<Taken> {
        match self.0.await {
            Ok(published) => Ok(Taken::Durable(published.sequence)),
            Err(PublishError::Refused { message, .. }) => Ok(Taken::Refused(message)),
            Err(error) => Err(error.into()),
        }
    }
}

async fn trouble(mut status: watch::Receiver<Status>) -> String {
    match status.wait_for(|status| status.failed_attempts > 0).await {
        Ok(status) => status.cause.to_string(),
        Err(_closed) => std::future::pending().await,
    }
}

/// Tells the observer every transition of a session that matters to it, each once. A status carries
/// the newest 64, far more than happen before this task gets to look.
fn follow(
    mut status: watch::Receiver<Status>,
    mut observer: impl FnMut(Turn) + Send + 'static,
) -> AbortOnDropHandle<()> {
    AbortOnDropHandle::new(tokio::spawn(async move {
        let mut told = 0;
        loop {
            let recent = status.borrow_and_update().recent.clone();
            for transition in recent.iter() {
                if transition.number <= told {
                    continue;
                }
                told = transition.number;
                if transition.to == State::Connected {
                    observer(Turn::Connected);
                } else if transition.from == State::Connected
                    && transition.cause != Cause::Requested
                {
                    observer(Turn::Lost {
                        reason: transition.cause.to_string(),
                    });
                }
            }
            if status.changed().await.is_err() {
                return;
            }
        }
    }))
}
