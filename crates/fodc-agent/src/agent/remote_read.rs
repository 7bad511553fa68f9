//! Prometheus remote read over the record.
//!
//! The series look as they would in a Prometheus that scraped the same endpoints. A request is one
//! snappy block with a `ReadRequest`; its response is one with a `ReadResponse` of samples. Streamed
//! chunks are not supported.

mod response;
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
use steadfast_fodc_model::matching::{MatchKind, MatcherError, MatcherSpec, Matchers};
use steadfast_recorder::Reader;
use steadfast_wire::prometheus::{
    Label, Query, ReadRequest, TimeSeries, label_matcher::Type, read_request::ResponseType,
};
use tokio::{task::spawn_blocking, time::timeout};

use self::{
    response::{ResponseWriter, TooLong},
    staleness::{StalenessRule, with_stale_markers},
};
use super::{app_state::AppState, record_queries};

/// The limit in bytes on an uncompressed request.
const REQUEST_BYTES: usize = 4 << 20;

/// The most queries of one request.
const QUERIES: usize = 64;

/// The reason why a read failed.
#[derive(Debug, thiserror::Error)]
enum ReadError {
    #[error("request is not one snappy block: {0}")]
    Snappy(#[from] snap::Error),
    #[error("uncompressed request has {0} bytes; the limit is {REQUEST_BYTES}")]
    RequestTooLong(usize),
    #[error("request is not a ReadRequest: {0}")]
    Proto(#[from] prost::DecodeError),
    #[error("request has {0} queries; the limit is {QUERIES}")]
    Queries(usize),
    #[error("reader accepts only streamed chunks; this agent responds with samples")]
    ResponseType,
    #[error(transparent)]
    Matcher(#[from] MatcherError),
    #[error(
        "response is longer than {0} bytes: query fewer series or a shorter time, or raise the limit \
         of the agent"
    )]
    TooLong(usize),
    #[error(
        "query selects more than {0} samples: query fewer series or a shorter time, or raise the limit \
         of the agent"
    )]
    TooManySamples(usize),
    #[error("cannot read the record: {0}")]
    Record(#[from] io::Error),
    #[error("client is gone")]
    Abandoned,
}

/// Responds to a request within the configured limits.
pub(super) async fn respond(state: Arc<AppState>, request: Bytes) -> Response {
    let deadline = state.read.deadline;
    // Dropping this future, because the client is gone or the deadline has passed, stops the thread.
    let cancelled = Arc::new(AtomicBool::new(false));
    let _cancel = CancelOnDrop(Arc::clone(&cancelled));
    let work = async {
        // The wait for a permit counts towards the deadline.
        let permit = Arc::clone(&state.reads).acquire_owned().await;
        let snapshot = state.record.snapshot().await.map_err(io::Error::other)?;
        let unread = state.unread.clone();
        let work = spawn_blocking(move || read(&state, &snapshot.reader, &request, &cancelled));
        let response = work.await.map_err(io::Error::other)??;
        let length = response.len();
        // The permit is held for as long as the response waits, so that few of them do.
        let body = unread.body(response).await;
        drop(permit);
        Ok::<_, ReadError>((length, body))
    };
    match timeout(deadline, work).await {
        Ok(Ok((length, body))) => (
            [
                (header::CONTENT_TYPE, "application/x-protobuf".to_owned()),
                (header::CONTENT_ENCODING, "snappy".to_owned()),
                (header::CONTENT_LENGTH, length.to_string()),
            ],
            body,
        )
            .into_response(),
        Ok(Err(error)) => (error.status(), format!("{error}\n")).into_response(),
        Err(_) => {
            let text = format!("response took longer than {deadline:?}: query less at once\n");
            (StatusCode::SERVICE_UNAVAILABLE, text).into_response()
        }
    }
}

impl ReadError {
    fn status(&self) -> StatusCode {
        match self {
            // The same request would fail again, so that clients must not retry it.
            Self::Snappy(_)
            | Self::RequestTooLong(_)
            | Self::Proto(_)
            | Self::Queries(_)
            | Self::ResponseType
            | Self::Matcher(_)
            | Self::TooLong(_)
            | Self::TooManySamples(_) => StatusCode::BAD_REQUEST,
            Self::Record(_) | Self::Abandoned => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }
}

struct CancelOnDrop(Arc<AtomicBool>);

impl Drop for CancelOnDrop {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

fn read(
    state: &AppState,
    reader: &Reader,
    request: &[u8],
    cancelled: &AtomicBool,
) -> Result<Vec<u8>, ReadError> {
    let request = decode(request)?;
    let mut response = ResponseWriter::new(state.read.bytes);
    for query in &request.queries {
        if cancelled.load(Ordering::Relaxed) {
            return Err(ReadError::Abandoned);
        }
        // Compiled for one query at a time: an expression may grow a thousandfold.
        let matchers = Arc::new(matchers(query)?);
        let found = select(state, reader, query, &matchers, cancelled)?;
        response.reserve(found.iter().map(Found::response_bytes).sum());
        // Each series is dropped as soon as it is copied: the response is not held twice.
        for series in found {
            let added = response.series(&series.encoded);
            added.map_err(|TooLong| ReadError::TooLong(state.read.bytes))?;
        }
        response.end_query();
    }
    Ok(response.finish()?)
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

fn decode(request: &[u8]) -> Result<ReadRequest, ReadError> {
    // The header of a snappy block states its length, so a bomb is refused before it is unpacked.
    let length = snap::raw::decompress_len(request)?;
    if length > REQUEST_BYTES {
        return Err(ReadError::RequestTooLong(length));
    }
    let unpacked = snap::raw::Decoder::new().decompress_vec(request)?;
    let request = ReadRequest::decode(unpacked.as_slice())?;
    if request.queries.len() > QUERIES {
        return Err(ReadError::Queries(request.queries.len()));
    }
    let accepted = &request.accepted_response_types;
    // Readers that are older than the field send none, and expect samples.
    if !accepted.is_empty() && !accepted.contains(&ResponseType::Samples.into()) {
        return Err(ReadError::ResponseType);
    }
    Ok(request)
}

/// A series of a response: its labels, by which it is sorted, and the encoded `TimeSeries`.
struct Found {
    labels: Vec<Label>,
    encoded: Vec<u8>,
}

impl Found {
    /// Returns the most bytes that the series takes in the response.
    fn response_bytes(&self) -> usize {
        const HEAD: usize = 6;
        self.encoded.len() + HEAD
    }
}

/// Returns the series of one query sorted by labels, each label set once.
fn select(
    state: &AppState,
    reader: &Reader,
    query: &Query,
    matchers: &Arc<Matchers>,
    cancelled: &AtomicBool,
) -> Result<Vec<Found>, ReadError> {
    let range = (query.start_timestamp_ms, query.end_timestamp_ms);
    // Nothing is known of the future: no series ends there.
    let until = range.1.min(state.clock.now_ms());
    let rule = StalenessRule::new(state.interval, state.scrape_timeout);
    let limits = state.read;
    let (mut bytes, mut samples) = (limits.bytes, limits.samples);
    let mut fault = None;
    let mut found: Vec<Found> = Vec::new();
    record_queries::window(reader, &state.views, matchers, range, |view, series| {
        if cancelled.load(Ordering::Relaxed) {
            return ControlFlow::Break(());
        }
        let marked = with_stale_markers(&series.samples, &series.absences, until, rule);
        // Markers count as well: they are samples of the response.
        let Some(rest) = samples.checked_sub(marked.len()) else {
            fault = Some(ReadError::TooManySamples(limits.samples));
            return ControlFlow::Break(());
        };
        samples = rest;
        let labels = view.labels(&series.labels).into_iter();
        let labels = labels.map(|(name, value)| Label {
            name: name.into_owned(),
            value: value.to_owned(),
        });
        let series = TimeSeries {
            labels: labels.collect(),
            samples: marked,
        };
        // Encoded at once, so that a response is held in one form only.
        let encoded = series.encode_to_vec();
        let Some(rest) = bytes.checked_sub(encoded.len()) else {
            fault = Some(ReadError::TooLong(limits.bytes));
            return ControlFlow::Break(());
        };
        bytes = rest;
        found.push(Found {
            labels: series.labels,
            encoded,
        });
        ControlFlow::Continue(())
    });
    if let Some(fault) = fault {
        return Err(fault);
    }
    if cancelled.load(Ordering::Relaxed) {
        return Err(ReadError::Abandoned);
    }
    found.sort_by(|a, b| pairs(a).cmp(pairs(b)));
    // The configuration forbids two sources with the same labels, but an older record may have them.
    found.dedup_by(|later, first| later.labels == first.labels);
    Ok(found)
}

fn pairs(series: &Found) -> impl Iterator<Item = (&str, &str)> {
    let labels = series.labels.iter();
    labels.map(|label| (label.name.as_str(), label.value.as_str()))
}
