//! The figures of a gateway.

use std::{
    collections::BTreeMap,
    sync::atomic::{AtomicU64, Ordering::Relaxed},
};

use steadfast_exposition::{
    Kind::{self, Counter, Gauge},
    Numbers, Writer,
};
use steadfast_net::{OpenConnections, Refusals, Tls};

/// The counters of a gateway.
#[derive(Debug, Default)]
pub(crate) struct Metrics {
    pub(crate) sockets: [AtomicU64; SocketKind::ALL.len()],
    pub(crate) opened: AtomicU64,
    pub(crate) subscriptions: AtomicU64,
    pub(crate) messages_received: AtomicU64,
    pub(crate) messages_sent: AtomicU64,
    pub(crate) bytes_sent: AtomicU64,
    pub(crate) items: AtomicU64,
    pub(crate) published: AtomicU64,
    refused: [AtomicU64; Refused::ALL.len()],
}

/// The kind of an open socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SocketKind {
    /// A WebSocket of the classic protocol.
    Classic,
    /// A WebSocket of `steadfast.v1`.
    V1,
    /// A stream of server-sent events.
    Sse,
}

/// The reason why something was refused to a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refused {
    /// The origin of the page is not allowed.
    Origin,
    /// A token stood in a URL.
    QueryToken,
    /// The credentials are not valid, or there are none.
    Credentials,
    /// Valid credentials expired or were revoked on an open socket.
    CredentialsEnded,
    /// The principal has as many sockets as it may.
    PrincipalSockets,
    /// The socket has as many subscriptions as it may.
    SocketSubscriptions,
    /// The principal has as many subscriptions as it may.
    PrincipalSubscriptions,
    /// The client may not see the collection.
    Denied,
    /// The socket sent too many messages.
    MessageRate,
    /// A frame was too large.
    FrameTooLarge,
    /// The WebSocket protocol was broken.
    Protocol,
    /// Messages were not finished in time, or too many of them at once.
    Unfinished,
    /// All sockets together collected too much for snapshots.
    Waiting,
}

impl SocketKind {
    pub(crate) const ALL: [Self; 3] = [Self::Classic, Self::V1, Self::Sse];

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Classic => "classic",
            Self::V1 => "v1",
            Self::Sse => "sse",
        }
    }
}

impl Refused {
    /// All reasons with their labels, in the order of the variants.
    const ALL: [(Self, &str); 13] = [
        (Self::Origin, "origin"),
        (Self::QueryToken, "query_token"),
        (Self::Credentials, "credentials"),
        (Self::CredentialsEnded, "credentials_ended"),
        (Self::PrincipalSockets, "principal_sockets"),
        (Self::SocketSubscriptions, "socket_subscriptions"),
        (Self::PrincipalSubscriptions, "principal_subscriptions"),
        (Self::Denied, "denied"),
        (Self::MessageRate, "message_rate"),
        (Self::FrameTooLarge, "frame_too_large"),
        (Self::Protocol, "protocol"),
        (Self::Unfinished, "unfinished"),
        (Self::Waiting, "waiting"),
    ];
}

const PREFIX: &str = "steadfast_gateway";

impl Metrics {
    /// Counts a refusal.
    pub(crate) fn refuse(&self, refused: Refused) {
        self.refused[refused as usize].fetch_add(1, Relaxed);
    }

    /// Returns the page in the text format of Prometheus.
    pub(crate) fn page(
        &self,
        connections: &OpenConnections,
        connected: usize,
        tls: Option<&Tls>,
        operations: &Refusals,
    ) -> String {
        let mut page = Writer::new(Numbers::Plain);
        let name = format!("{PREFIX}_build_info");
        page.family(&name, Gauge, Some("1, with the version of the gateway"));
        page.sample(&name, [("version", env!("CARGO_PKG_VERSION"))], 1.0, None);
        let name = format!("{PREFIX}_sockets");
        page.family(&name, Gauge, Some("Open sockets and streams, by protocol"));
        for kind in SocketKind::ALL {
            let value = self.sockets[kind as usize].load(Relaxed);
            page.sample(&name, [("protocol", kind.name())], value as f64, None);
        }
        for (name, kind, help, value) in self.figures(connections, connected) {
            let name = format!("{PREFIX}_{name}");
            page.family(&name, kind, Some(help));
            page.sample(&name, [], value as f64, None);
        }
        let name = format!("{PREFIX}_refused_total");
        page.family(
            &name,
            Counter,
            Some("What was refused to clients, by reason"),
        );
        for (refused, reason) in Refused::ALL {
            let count = self.refused[refused as usize].load(Relaxed);
            page.sample(&name, [("reason", reason)], count as f64, None);
        }
        for (name, refusals) in [
            ("listener_refused_total", connections.refusals()),
            ("operations_refused_total", operations),
        ] {
            let name = format!("{PREFIX}_{name}");
            let help = "Connections and requests that the listener refused, by reason";
            page.family(&name, Counter, Some(help));
            for (reason, count) in refusals.all() {
                page.sample(&name, [("reason", reason)], count as f64, None);
            }
        }
        for figure in tls.into_iter().flat_map(Tls::figures) {
            let name = format!("{PREFIX}_{}", figure.name);
            let kind = if figure.is_counter { Counter } else { Gauge };
            page.family(&name, kind, Some(figure.help));
            let labels = figure.reason.map(|reason| ("reason", reason));
            page.sample(&name, labels, figure.value, None);
        }
        page.take()
    }

    /// Returns every single number by its name without `_total`, and the number of all sockets.
    pub(crate) fn all(
        &self,
        connections: &OpenConnections,
        connected: usize,
    ) -> BTreeMap<String, u64> {
        let figures = self.figures(connections, connected).into_iter();
        let mut all: BTreeMap<_, _> = figures
            .map(|(name, _, _, value)| (name.trim_end_matches("_total").to_owned(), value))
            .collect();
        let sockets = self.sockets.iter().map(|kind| kind.load(Relaxed));
        all.insert("sockets".to_owned(), sockets.sum());
        all
    }

    fn figures(
        &self,
        connections: &OpenConnections,
        connected: usize,
    ) -> [(&'static str, Kind, &'static str, u64); 9] {
        let of = |counter: &AtomicU64| counter.load(Relaxed);
        let connections = connections.count() as u64;
        let restored = "Connections to Streamers on which all subscriptions are restored";
        let bytes = "Bytes of messages to clients, before compression and TLS";
        let items = "Items of subscriptions that were passed on";
        let opened = "Sockets and streams that were opened";
        let subscriptions = "Subscriptions of open sockets";
        let published = "Documents that clients published";
        [
            ("connections", Gauge, "Open connections", connections),
            (
                "subscriptions",
                Gauge,
                subscriptions,
                of(&self.subscriptions),
            ),
            ("upstream_connections", Gauge, restored, connected as u64),
            ("sockets_opened_total", Counter, opened, of(&self.opened)),
            (
                "messages_received_total",
                Counter,
                "Messages of clients",
                of(&self.messages_received),
            ),
            (
                "messages_sent_total",
                Counter,
                "Messages to clients",
                of(&self.messages_sent),
            ),
            ("sent_bytes_total", Counter, bytes, of(&self.bytes_sent)),
            ("items_total", Counter, items, of(&self.items)),
            ("published_total", Counter, published, of(&self.published)),
        ]
    }
}
