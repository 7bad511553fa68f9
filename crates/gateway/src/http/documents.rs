//! The documents of a collection: a snapshot as the body of a response.

mod begin;

use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use axum::{
    body::Body,
    extract::{Path, Query, Request, State},
    http::{HeaderMap, HeaderValue, header},
    response::Response,
};
use bytes::Bytes;
use http_body::Frame;
use steadfast_streamer::{
    Item, Snapshot,
    client::{JsonLines, Projection},
};
use tokio::time::{Instant, Sleep, sleep};

use self::begin::{Source, begin, begin_at};
use super::{POSITION, error::ApiError, parameters::Parameters};
use crate::{
    limits::client_of,
    rights::{Grant, Peer},
    server::realtime::address,
    shared::{Counted, Shared},
    subscription::Event,
};

/// Reads the documents that exist and match.
pub(super) async fn read(
    State(shared): State<Arc<Shared>>,
    Path(place): Path<(String, String)>,
    Query(parameters): Query<Vec<(String, String)>>,
    request: Request,
) -> Result<Response, ApiError> {
    let (head, _) = request.into_parts();
    let (mut parameters, peer) = Parameters::read(&shared, parameters, &head)?;
    let (mut wanted, fields) = parameters.take_request(place)?;
    let at = parameters.take_position("at")?;
    let wait = parameters.take_wait()?;
    parameters.finish()?;
    (wanted.snapshot, wanted.left) = (true, true);
    let grant = peer.grant(&wanted.database, &wanted.collection);
    let place = (Arc::clone(&wanted.database), Arc::clone(&wanted.collection));
    let counted = shared.count_subscription(client_of(Some(&peer), address(&head)), None)?;
    let (source, position) = match at {
        None => {
            let (handle, follows) = begin(&shared, &wanted, &peer).await?;
            (Source::Table(handle), follows)
        }
        Some(at) => tokio::select! {
            // First: what is there at the end of the credentials is not shown.
            biased;
            refused = peer.expired() => return Err(refused.into()),
            found = begin_at(&shared, &wanted, &peer, at, wait) => found?,
        },
    };
    let open_timeout = shared.upstream.options().open_timeout;
    let format = Format::of(&head.headers);
    let body = Documents {
        shared,
        peer,
        place,
        grant,
        source,
        _counted: counted,
        fields,
        format,
        text: format.beginning().to_owned(),
        is_first: true,
        is_over: false,
        silence: Box::pin(sleep(open_timeout)),
    };
    let mut response = Response::new(Body::new(body));
    let headers = response.headers_mut();
    let content_type = HeaderValue::from_static(format.content_type());
    headers.insert(header::CONTENT_TYPE, content_type);
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    let position = HeaderValue::from_str(&position.to_string());
    headers.insert(POSITION, position.expect("a position is plain text"));
    Ok(response)
}

/// The form of the body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Format {
    /// A document per line.
    Lines,
    /// One object.
    Json,
}

impl Format {
    fn of(headers: &HeaderMap) -> Self {
        let accepts = headers.get_all(header::ACCEPT).iter();
        let mut accepts = accepts.filter_map(|value| value.to_str().ok());
        if accepts.any(|value| value.contains("application/json")) {
            Self::Json
        } else {
            Self::Lines
        }
    }

    fn content_type(self) -> &'static str {
        match self {
            Self::Lines => "application/x-ndjson",
            Self::Json => "application/json",
        }
    }

    fn beginning(self) -> &'static str {
        match self {
            Self::Lines => "",
            Self::Json => "{\"documents\":[",
        }
    }

    fn end(self) -> &'static str {
        match self {
            Self::Lines => "",
            Self::Json => "]}",
        }
    }
}

/// The body. Documents are taken when the connection takes bytes, so that a slow client is an offset at the
/// Streamer and not a buffer here.
///
/// It fails if the snapshot cannot be continued, or if the rights of the client have changed: the response
/// then ends before its end, which HTTP tells the client.
struct Documents {
    shared: Arc<Shared>,
    peer: Peer,
    place: (Arc<str>, Arc<str>),
    /// What the client could see when it asked.
    grant: Option<Grant>,
    source: Source,
    _counted: Counted,
    fields: Option<Projection>,
    format: Format,
    /// What was not passed on.
    text: String,
    is_first: bool,
    is_over: bool,
    /// Ends the response when the Streamer sends nothing.
    silence: Pin<Box<Sleep>>,
}

/// The size from which what was read is passed on, in bytes.
const PIECE: usize = 32 << 10;

/// Items taken in one go: other tasks have their turn, also if nothing is shown of them.
const TURN: usize = 256;

impl Documents {
    fn push(&mut self, document: &steadfast_streamer::Change) {
        if self.format == Format::Json && !self.is_first {
            self.text.push(',');
        }
        self.is_first = false;
        let lines = JsonLines {
            subscription: None,
            fields: self.fields.as_ref(),
        };
        lines.write_document(document, &mut self.text);
        if self.format == Format::Lines {
            self.text.push('\n');
        }
    }

    /// Fails if the client may see something else than when it asked.
    fn recheck(&mut self) -> io::Result<()> {
        let changed = || io::Error::other("the rights of the client have changed");
        match self.shared.rights.recheck(&self.peer) {
            Ok(None) => Ok(()),
            Ok(Some(peer)) => {
                let (database, collection) = &self.place;
                if peer.grant(database, collection) != self.grant {
                    return Err(changed());
                }
                self.peer = peer;
                Ok(())
            }
            Err(_) => Err(changed()),
        }
    }

    /// Takes items until a piece is full. Returns `Pending` if the Streamer has sent no more.
    fn poll_items(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        for _ in 0..TURN {
            if self.text.len() >= PIECE || self.is_over {
                return Poll::Ready(Ok(()));
            }
            let Poll::Ready(event) = self.source.poll_next(cx) else {
                return Poll::Pending;
            };
            let open_timeout = self.shared.upstream.options().open_timeout;
            self.silence.as_mut().reset(Instant::now() + open_timeout);
            match event {
                Event::Item(Item::Snapshot(Snapshot::Document(document))) => self.push(&document),
                Event::Item(Item::Snapshot(Snapshot::End(_))) => {
                    self.text.push_str(self.format.end());
                    self.is_over = true;
                }
                // They follow the position in the header, and the client asks for them itself.
                Event::Item(Item::Change(_) | Item::Left(_)) | Event::Progress(_) => {}
                Event::Ended(end) => return Poll::Ready(Err(io::Error::other(end))),
                Event::Item(_) | Event::Opened { .. } | Event::Window { .. } => {
                    let what = "the snapshot cannot be continued; ask for another one";
                    return Poll::Ready(Err(io::Error::other(what)));
                }
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}

impl http_body::Body for Documents {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        let this = self.get_mut();
        let result = match this.poll_items(cx) {
            Poll::Ready(result) => result,
            Poll::Pending if !this.text.is_empty() => Ok(()),
            Poll::Pending if this.silence.as_mut().poll(cx).is_ready() => {
                Err(io::Error::other("the Streamer sends no documents"))
            }
            Poll::Pending => return Poll::Pending,
        };
        // After the documents were taken, so that none is passed on that the client may not see now.
        if let Err(error) = result.and_then(|()| this.recheck()) {
            this.is_over = true;
            this.text = String::new();
            return Poll::Ready(Some(Err(error)));
        }
        let text = std::mem::take(&mut this.text);
        Poll::Ready((!text.is_empty()).then(|| Ok(Frame::data(text.into()))))
    }
}
