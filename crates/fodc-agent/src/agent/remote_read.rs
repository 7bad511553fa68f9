//! Prometheus remote read over the record.
//!
//! The series look as they would in a Prometheus that scraped the same endpoints. A request is one
//! snappy block with a `ReadRequest`. Its response is a stream of chunks if the reader takes that, as
//! every Prometheus does, and otherwise one snappy block with a `ReadResponse` of samples, which is some
//! ten times as long.

mod frames;
mod response;
mod staleness;
mod xor_chunk;

use std::{
    io,
    ops::ControlFlow,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use axum::{
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use prost::Message as _;
use steadfast_fodc_model::matching::{MatchKind, MatcherError, MatcherSpec, Matchers};
use steadfast_recorder::Reader;
use steadfast_wire::prometheus::{
    Label, Query, ReadRequest, Sample, TimeSeries, label_matcher::Type, read_request::ResponseType,
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
    #[error("reader accepts neither samples nor streamed chunks")]
    ResponseType,
    #[error(transparent)]
    Matcher(#[from] MatcherError),
    #[error(
        "response is longer than {0} bytes: query fewer series or a shorter time, or raise the agent's \
         --read-max-size"
    )]
    TooLong(usize),
    #[error(
        "query selects more than {0} samples: query fewer series or a shorter time, or raise the \
         agent's --read-max-samples"
    )]
    TooManySamples(usize),
    #[error("cannot read the record: {0}")]
    Record(#[from] io::Error),
    #[error("client is gone")]
    Abandoned,
}

/// The form of a response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    /// One snappy block of samples.
    Samples,
    /// A stream of frames with chunks.
    Chunks,
}

impl Form {
    fn content_type(self) -> &'static str {
        match self {
            Self::Samples => "application/x-protobuf",
            Self::Chunks => "application/x-streamed-protobuf; proto=prometheus.ChunkedReadResponse",
        }
    }
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
        let work = move || read(&state, &snapshot.reader, &request, &cancelled);
        let (response, permit) = blocking_with(permit, work).await?;
        let (form, response) = response?;
        let length = response.len();
        // The permit is held for as long as the response waits, so that few of them do.
        let body = unread.body(response).await;
        drop(permit);
        Ok::<_, ReadError>((form, length, body))
    };
    match timeout(deadline, work).await {
        Ok(Ok((form, length, body))) => {
            let mut response = body.into_response();
            let headers = response.headers_mut();
            let content_type = HeaderValue::from_static(form.content_type());
            headers.insert(header::CONTENT_TYPE, content_type);
            headers.insert(header::CONTENT_LENGTH, length.into());
            if form == Form::Samples {
                let snappy = HeaderValue::from_static("snappy");
                headers.insert(header::CONTENT_ENCODING, snappy);
            }
            response
        }
        Ok(Err(error)) => (error.status(), format!("{error}\n")).into_response(),
        Err(_) => {
            let text = format!("response took longer than {deadline:?}: query less at once\n");
            (StatusCode::SERVICE_UNAVAILABLE, text).into_response()
        }
    }
}

/// Runs work on a thread of its own, and returns its result with the permit.
///
/// # Cancel safety
///
/// If the future is dropped, the permit stays with the thread until it ends. Otherwise the memory of reads
/// that nobody waits for any more would not be bounded.
async fn blocking_with<P: Send + 'static, T: Send + 'static>(
    permit: P,
    work: impl FnOnce() -> T + Send + 'static,
) -> io::Result<(T, P)> {
    let work = spawn_blocking(move || (work(), permit));
    work.await.map_err(io::Error::other)
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
) -> Result<(Form, Vec<u8>), ReadError> {
    let (request, form) = decode(request)?;
    let mut selecting = Selecting {
        state,
        form,
        bytes_left: state.read_bytes,
        samples_left: state.read.samples,
        cancelled,
    };
    let mut response = ResponseWriter::new(state.read_bytes);
    let mut frames = Vec::new();
    for (index, query) in request.queries.iter().enumerate() {
        // Compiled for one query at a time: an expression may grow a thousandfold.
        let matchers = Arc::new(matchers(query)?);
        let found = selecting.select(reader, (index, query), &matchers)?;
        // Each series is dropped as soon as it is copied: the response is not held twice.
        match form {
            Form::Samples => {
                response.reserve(found.iter().map(Found::response_bytes).sum());
                for series in found {
                    let added = response.series(&series.encoded);
                    added.map_err(|TooLong| ReadError::TooLong(state.read_bytes))?;
                }
                response.end_query();
            }
            Form::Chunks => {
                frames.reserve_exact(found.iter().map(|series| series.encoded.len()).sum());
                for series in found {
                    frames.extend_from_slice(&series.encoded);
                }
            }
        }
    }
    match form {
        Form::Samples => Ok((form, response.finish()?)),
        Form::Chunks => Ok((form, frames)),
    }
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

fn decode(request: &[u8]) -> Result<(ReadRequest, Form), ReadError> {
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
    let mut accepted = request.accepted_response_types.iter();
    // They are in the order of the reader's preference. One that is older than the field sends none, and
    // expects samples.
    let form = accepted.find_map(|accepted| match ResponseType::try_from(*accepted) {
        Ok(ResponseType::Samples) => Some(Form::Samples),
        Ok(ResponseType::StreamedXorChunks) => Some(Form::Chunks),
        Err(_) => None,
    });
    match form {
        Some(form) => Ok((request, form)),
        None if request.accepted_response_types.is_empty() => Ok((request, Form::Samples)),
        None => Err(ReadError::ResponseType),
    }
}

/// A series of a response: its labels, by which it is sorted, and its encoded `TimeSeries` or frames.
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

/// The selection of the series of a request.
struct Selecting<'a> {
    state: &'a AppState,
    form: Form,
    bytes_left: usize,
    samples_left: usize,
    cancelled: &'a AtomicBool,
}

impl Selecting<'_> {
    /// Returns the series of one query sorted by labels, each label set once.
    fn select(
        &mut self,
        reader: &Reader,
        (index, query): (usize, &Query),
        matchers: &Arc<Matchers>,
    ) -> Result<Vec<Found>, ReadError> {
        let state = self.state;
        let range = (query.start_timestamp_ms, query.end_timestamp_ms);
        // Nothing is known of the future: no series ends there.
        let until = range.1.min(state.clock.now_ms());
        let rule = StalenessRule::new(state.interval, state.scrape_timeout);
        let mut fault = None;
        let mut found: Vec<Found> = Vec::new();
        record_queries::window(reader, &state.views, matchers, range, |view, series| {
            let marked = with_stale_markers(&series.samples, &series.absences, until, rule);
            let labels = view.labels(&series.labels).into_iter();
            let labels = labels.map(|(name, value)| Label {
                name: name.into_owned(),
                value: value.to_owned(),
            });
            match self.encode(index, labels.collect(), marked) {
                Ok(series) => {
                    found.push(series);
                    ControlFlow::Continue(())
                }
                Err(error) => {
                    fault = Some(error);
                    ControlFlow::Break(())
                }
            }
        });
        if let Some(fault) = fault {
            return Err(fault);
        }
        found.sort_by(|a, b| pairs(a).cmp(pairs(b)));
        // The configuration forbids two sources with the same labels, but an older record may have them.
        found.dedup_by(|later, first| later.labels == first.labels);
        Ok(found)
    }

    /// Encodes a series at once, so that a response is held in one form only.
    fn encode(
        &mut self,
        query: usize,
        labels: Vec<Label>,
        samples: Vec<Sample>,
    ) -> Result<Found, ReadError> {
        if self.cancelled.load(Ordering::Relaxed) {
            return Err(ReadError::Abandoned);
        }
        // Markers count as well: they are samples of the response.
        let rest = self.samples_left.checked_sub(samples.len());
        self.samples_left = rest.ok_or(ReadError::TooManySamples(self.state.read.samples))?;
        let (labels, encoded) = match self.form {
            Form::Samples => {
                let series = TimeSeries { labels, samples };
                let encoded = series.encode_to_vec();
                (series.labels, encoded)
            }
            Form::Chunks => {
                let encoded = frames::encode(query, &labels, &samples);
                (labels, encoded)
            }
        };
        let rest = self.bytes_left.checked_sub(encoded.len());
        self.bytes_left = rest.ok_or(ReadError::TooLong(self.state.read_bytes))?;
        Ok(Found { labels, encoded })
    }
}

fn pairs(series: &Found) -> impl Iterator<Item = (&str, &str)> {
    let labels = series.labels.iter();
    labels.map(|label| (label.name.as_str(), label.value.as_str()))
}

#[cfg(test)]
mod tests {
    use std::{sync::mpsc, time::Duration};

    use tokio::sync::Semaphore;

    use super::*;

    #[tokio::test]
    async fn permit_of_an_abandoned_read_stays_with_its_thread() {
        let permits = Arc::new(Semaphore::new(1));
        let permit = Arc::clone(&permits).acquire_owned().await.unwrap();
        let (finish, finished) = mpsc::channel::<()>();
        let work = blocking_with(permit, move || finished.recv().ok());
        timeout(Duration::from_millis(20), work).await.unwrap_err();
        assert_eq!(permits.available_permits(), 0);
        drop(finish);
        let back = timeout(Duration::from_secs(60), permits.acquire()).await;
        drop(back.unwrap().unwrap());
    }
}
