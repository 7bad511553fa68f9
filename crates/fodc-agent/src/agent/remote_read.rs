//! Prometheus remote read: the record as a Prometheus would have it that scraped the same
//! endpoints.
//!
//! One block of snappy with a `ReadRequest` in it, answered by one with a `ReadResponse`; the
//! answer holds samples, whatever else the reader would take.

mod encode;
mod staleness;

use std::{
    io,
    ops::ControlFlow,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use axum::{
    http::{StatusCode, header},
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use prost::Message as _;
use steadfast_recorder::Reader;
use steadfast_wire::prometheus::{
    Label, Query, ReadRequest, Sample, TimeSeries, label_matcher::Type, read_request::ResponseType,
};
use tokio::{task::spawn_blocking, time::timeout};

use self::{
    encode::{Answer, TooLong},
    staleness::{Patience, mark},
};
use super::{http::Face, record};
use steadfast_fodc_model::matching::{MatchKind, MatcherError, MatcherSpec, Matchers};

/// Bytes of a request, unpacked.
const REQUEST_BYTES: usize = 4 << 20;

/// Queries of one request.
const QUERIES: usize = 64;

/// Why a read has no answer.
#[derive(Debug, thiserror::Error)]
enum Refusal {
    #[error("the request is not one block of snappy: {0}")]
    Snappy(#[from] snap::Error),
    #[error("the request unpacks to {0} bytes; at most {REQUEST_BYTES} are taken")]
    Long(usize),
    #[error("the request is not a ReadRequest: {0}")]
    Proto(#[from] prost::DecodeError),
    #[error("the request has {0} queries; at most {QUERIES} are answered at once")]
    Queries(usize),
    #[error("the reader takes only answers in chunks; this agent answers with samples")]
    ResponseType,
    #[error(transparent)]
    Matcher(#[from] MatcherError),
    #[error(
        "the answer would be longer than {0} bytes: ask for fewer series or a shorter time, or \
         raise the limit on the agent"
    )]
    TooLong(usize),
    #[error("the record can not be read: {0}")]
    Record(#[from] io::Error),
    #[error("nobody waits for the answer any more")]
    Abandoned,
}

/// Answers a request within the limits of `face`.
pub(super) async fn answer(face: Arc<Face>, request: Bytes) -> Response {
    let deadline = face.read.deadline;
    // Dropped with this future: when the client has gone, or at the deadline.
    let unwanted = Arc::new(AtomicBool::new(false));
    let _abandon = Abandon(Arc::clone(&unwanted));
    let work = async {
        let turn = Arc::clone(&face.reads).acquire_owned().await;
        let snapshot = face.window.look().await.map_err(io::Error::other)?;
        let work = spawn_blocking(move || {
            let answered = read(&face, &snapshot.reader, &request, &unwanted);
            drop(turn);
            answered
        });
        work.await.map_err(io::Error::other)?
    };
    match timeout(deadline, work).await {
        Ok(Ok(packed)) => (
            [
                (header::CONTENT_TYPE, "application/x-protobuf"),
                (header::CONTENT_ENCODING, "snappy"),
            ],
            packed,
        )
            .into_response(),
        Ok(Err(refusal)) => (refusal.status(), format!("{refusal}\n")).into_response(),
        Err(_) => {
            let text = format!("the answer took longer than {deadline:?}: ask for less at once\n");
            (StatusCode::SERVICE_UNAVAILABLE, text).into_response()
        }
    }
}

impl Refusal {
    fn status(&self) -> StatusCode {
        match self {
            Self::Snappy(_)
            | Self::Long(_)
            | Self::Proto(_)
            | Self::Queries(_)
            | Self::ResponseType
            | Self::Matcher(_)
            | Self::TooLong(_) => StatusCode::BAD_REQUEST,
            Self::Record(_) | Self::Abandoned => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }
}

struct Abandon(Arc<AtomicBool>);

impl Drop for Abandon {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

fn read(
    face: &Face,
    reader: &Reader,
    request: &[u8],
    unwanted: &AtomicBool,
) -> Result<Vec<u8>, Refusal> {
    let request = decode(request)?;
    let mut answer = Answer::new(face.read.bytes);
    for query in &request.queries {
        if unwanted.load(Ordering::Relaxed) {
            return Err(Refusal::Abandoned);
        }
        // One query's at a time: compiled expressions may be a thousand times as long as written.
        let matchers = Arc::new(matchers(query)?);
        for series in select(face, reader, query, &matchers, unwanted)? {
            let added = answer.series(&series);
            added.map_err(|TooLong| Refusal::TooLong(face.read.bytes))?;
        }
        answer.end_query();
    }
    Ok(answer.pack()?)
}

fn matchers(query: &Query) -> Result<Matchers, MatcherError> {
    Matchers::compile(query.matchers.iter().map(|matcher| MatcherSpec {
        label: &matcher.name,
        kind: match Type::try_from(matcher.r#type) {
            Ok(Type::Eq) => Ok(MatchKind::Equal),
            Ok(Type::Neq) => Ok(MatchKind::NotEqual),
            Ok(Type::Re) => Ok(MatchKind::Regex),
            Ok(Type::Nre) => Ok(MatchKind::NotRegex),
            Err(_) => Err(matcher.r#type),
        },
        value: &matcher.value,
    }))
}

fn decode(request: &[u8]) -> Result<ReadRequest, Refusal> {
    let length = snap::raw::decompress_len(request)?;
    if length > REQUEST_BYTES {
        return Err(Refusal::Long(length));
    }
    let unpacked = snap::raw::Decoder::new().decompress_vec(request)?;
    let request = ReadRequest::decode(unpacked.as_slice())?;
    if request.queries.len() > QUERIES {
        return Err(Refusal::Queries(request.queries.len()));
    }
    let accepted = &request.accepted_response_types;
    if !accepted.is_empty() && !accepted.contains(&ResponseType::Samples.into()) {
        return Err(Refusal::ResponseType);
    }
    Ok(request)
}

/// The series of one query in the order of their labels, each label set once.
fn select(
    face: &Face,
    reader: &Reader,
    query: &Query,
    matchers: &Arc<Matchers>,
    unwanted: &AtomicBool,
) -> Result<Vec<TimeSeries>, Refusal> {
    let range = (query.start_timestamp_ms, query.end_timestamp_ms);
    let until = range.1.min(face.clock.now_ms());
    let patience = Patience::new(face.interval, face.fetch.timeout);
    // Bytes of what is held, as a first bound: a sample has at least as many in the answer.
    let mut room = face.read.bytes;
    let mut too_long = false;
    let mut found: Vec<TimeSeries> = Vec::new();
    record::window(reader, &face.views, matchers, range, |view, series| {
        if unwanted.load(Ordering::Relaxed) {
            return ControlFlow::Break(());
        }
        let samples = mark(&series.samples, &series.absences, until, patience);
        let Some(rest) = room.checked_sub(samples.len() * size_of::<Sample>()) else {
            too_long = true;
            return ControlFlow::Break(());
        };
        room = rest;
        let labels = view.all(&series.labels).into_iter();
        let labels = labels.map(|(name, value)| Label {
            name: name.into_owned(),
            value: value.to_owned(),
        });
        found.push(TimeSeries {
            labels: labels.collect(),
            samples,
        });
        ControlFlow::Continue(())
    })?;
    if too_long {
        return Err(Refusal::TooLong(face.read.bytes));
    }
    if unwanted.load(Ordering::Relaxed) {
        return Err(Refusal::Abandoned);
    }
    found.sort_by(|a, b| pairs(a).cmp(pairs(b)));
    // Two sources with the same labels: the configuration forbids it, an older record may have it.
    found.dedup_by(|later, first| later.labels == first.labels);
    Ok(found)
}

fn pairs(series: &TimeSeries) -> impl Iterator<Item = (&str, &str)> {
    let labels = series.labels.iter();
    labels.map(|label| (label.name.as_str(), label.value.as_str()))
}
