//! The lists of `steadfast top`: their columns, and their rows in a status.

use std::cmp::Ordering;

use steadfast_gateway::{GatewayStatus, SocketStatus};
use steadfast_streamer::server::operations::{ExpensiveFilter, LagBucket, Report, SlowStream};

use crate::{
    output::shown,
    units::{grouped, seconds},
};

/// The list in the lower half of the screen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum List {
    Streams,
    Filters,
    Lags,
    Sockets,
}

/// A column of a list.
#[derive(Debug)]
pub(crate) struct Column {
    pub(crate) title: &'static str,
    pub(crate) width: u16,
    pub(crate) is_figure: bool,
}

/// A row of a list.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Row {
    /// What the row is about: the selection stays with it when the order changes.
    pub(crate) key: String,
    pub(crate) cells: Vec<Cell>,
    /// All that is known, by name.
    pub(crate) details: Vec<(&'static str, String)>,
}

/// A cell, and the number that it is sorted by.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Cell {
    pub(crate) text: String,
    number: f64,
}

/// All lists; the sockets of a gateway are the last one.
pub(crate) const LISTS: [List; 4] = [List::Streams, List::Filters, List::Lags, List::Sockets];

const fn figure(title: &'static str, width: u16) -> Column {
    Column {
        title,
        width,
        is_figure: true,
    }
}

const fn text(title: &'static str, width: u16) -> Column {
    Column {
        title,
        width,
        is_figure: false,
    }
}

const STREAMS: [Column; 7] = [
    figure("lag", 11),
    figure("behind", 9),
    figure("no credit", 9),
    figure("queued", 12),
    figure("blocked", 9),
    text("peer", 21),
    text("slowest subscription", 40),
];
const FILTERS: [Column; 5] = [
    figure("cost", 8),
    figure("matches", 8),
    figure("subscriptions", 13),
    text("collection", 24),
    text("filter", 60),
];
const SOCKETS: [Column; 6] = [
    figure("items", 11),
    figure("subscriptions", 13),
    figure("open for", 12),
    text("protocol", 8),
    text("peer", 20),
    text("principal", 30),
];
const LAGS: [Column; 2] = [figure("lag up to", 14), figure("streams", 12)];

impl List {
    pub(crate) fn title(self) -> &'static str {
        match self {
            Self::Streams => "slowest streams",
            Self::Filters => "expensive filters",
            Self::Lags => "streams by lag",
            Self::Sockets => "newest sockets",
        }
    }

    pub(crate) fn columns(self) -> &'static [Column] {
        match self {
            Self::Streams => &STREAMS,
            Self::Filters => &FILTERS,
            Self::Lags => &LAGS,
            Self::Sockets => &SOCKETS,
        }
    }

    /// The sentence in place of rows if there are none.
    pub(crate) fn empty(self) -> &'static str {
        match self {
            Self::Streams => "none: every subscriber is live and has taken everything",
            Self::Filters => "none: no filter had to be evaluated yet",
            Self::Lags => "none: the server reports no lag figures",
            Self::Sockets => "none: no client is connected to the gateway",
        }
    }

    /// Returns the rows in the order of the status.
    pub(crate) fn rows(self, report: Option<&Report>, gateway: Option<&GatewayStatus>) -> Vec<Row> {
        let report = report.into_iter();
        match self {
            Self::Streams => report
                .flat_map(|it| &it.slowest_streams)
                .map(stream)
                .collect(),
            Self::Filters => report
                .flat_map(|it| &it.expensive_filters)
                .map(filter)
                .collect(),
            Self::Lags => report.flat_map(|it| &it.lags).map(lag).collect(),
            Self::Sockets => {
                let sockets = gateway.into_iter().flat_map(|it| &it.sockets);
                sockets.map(socket).collect()
            }
        }
    }
}

impl Cell {
    fn number(text: String, number: f64) -> Self {
        Self { text, number }
    }

    fn text(text: String) -> Self {
        Self { text, number: 0.0 }
    }

    /// Compares two cells of a column: the largest figure first, texts by the alphabet.
    pub(crate) fn compare(&self, other: &Self) -> Ordering {
        let figures = other.number.total_cmp(&self.number);
        figures.then_with(|| self.text.cmp(&other.text))
    }
}

fn stream(stream: &SlowStream) -> Row {
    let count = |count: usize| Cell::number(grouped(count as u64), count as f64);
    let queued = format!("{} B", grouped(stream.queued_bytes as u64));
    let peer = stream.peer.clone().unwrap_or_else(|| "unknown".to_owned());
    let subscription = stream.slowest.as_ref().map(|it| {
        let (id, database, collection) =
            (shown(&it.id), shown(&it.database), shown(&it.collection));
        format!("{id} of {database}/{collection}")
    });
    let subscription = subscription.unwrap_or_default();
    let blocked = seconds(stream.blocked_seconds);
    let (behind, without_credit) = (stream.behind, stream.without_credit);
    Row {
        key: stream.stream.to_string(),
        details: vec![
            ("stream", stream.stream.to_string()),
            ("peer", peer.clone()),
            (
                "principal",
                shown(stream.principal.as_deref().unwrap_or("none")),
            ),
            ("kind", shown(&stream.kind)),
            (
                "session",
                shown(stream.session.as_deref().unwrap_or("none")),
            ),
            ("lag", format!("{} events", grouped(stream.lag))),
            ("subscriptions", grouped(stream.subscriptions as u64)),
            ("behind", grouped(behind as u64)),
            ("without credit", grouped(without_credit as u64)),
            (
                "queued",
                format!("{queued} in {} messages", stream.queued_messages),
            ),
            ("blocked", blocked.clone()),
            ("slowest", subscription.clone()),
            ("cause", stream.cause().to_owned()),
        ],
        cells: vec![
            Cell::number(grouped(stream.lag), stream.lag as f64),
            count(behind),
            count(without_credit),
            Cell::number(queued, stream.queued_bytes as f64),
            Cell::number(blocked, stream.blocked_seconds),
            Cell::text(peer),
            Cell::text(subscription),
        ],
    }
}

fn filter(filter: &ExpensiveFilter) -> Row {
    let percent = |share: f64| Cell::number(format!("{:.1} %", 100.0 * share), share);
    let collection = format!("{}/{}", shown(&filter.database), shown(&filter.collection));
    let text = shown(&filter.filter);
    let [cost, matches] = [filter.cost_share, filter.match_share].map(percent);
    let subscriptions = grouped(filter.subscriptions as u64);
    Row {
        key: format!("{collection} {text}"),
        details: vec![
            ("filter", text.clone()),
            ("collection", collection.clone()),
            ("cost", format!("{} of evaluating all filters", cost.text)),
            ("matches", format!("{} of its evaluations", matches.text)),
            ("subscriptions", subscriptions.clone()),
        ],
        cells: vec![
            cost,
            matches,
            Cell::number(subscriptions, filter.subscriptions as f64),
            Cell::text(collection),
            Cell::text(text),
        ],
    }
}

fn lag(bucket: &LagBucket) -> Row {
    let text = bucket.max.map_or("more".to_owned(), grouped);
    let max = bucket.max.map_or(f64::INFINITY, |max| max as f64);
    let streams = grouped(bucket.streams);
    Row {
        key: text.clone(),
        details: vec![
            ("lag up to", format!("{text} events")),
            ("streams", streams.clone()),
        ],
        cells: vec![
            Cell::number(text, max),
            Cell::number(streams, bucket.streams as f64),
        ],
    }
}

fn socket(socket: &SocketStatus) -> Row {
    let peer = socket
        .peer
        .map_or("unknown".to_owned(), |peer| peer.to_string());
    let principal = shown(socket.principal.as_deref().unwrap_or("not authenticated"));
    let (items, open_for) = (grouped(socket.items), seconds(socket.open_seconds));
    let subscriptions = grouped(socket.subscriptions.into());
    let protocol = shown(&socket.protocol);
    Row {
        key: socket.socket.to_string(),
        details: vec![
            ("socket", socket.socket.to_string()),
            ("protocol", protocol.clone()),
            ("peer", peer.clone()),
            ("principal", principal.clone()),
            ("subscriptions", subscriptions.clone()),
            ("items", items.clone()),
            ("open for", open_for.clone()),
        ],
        cells: vec![
            Cell::number(items, socket.items as f64),
            Cell::number(subscriptions, socket.subscriptions.into()),
            Cell::number(open_for, socket.open_seconds),
            Cell::text(protocol),
            Cell::text(peer),
            Cell::text(principal),
        ],
    }
}
