//! The beginning of a snapshot, also of one that must have reached a position.

use std::{
    task::{Context, Poll},
    time::Duration,
    vec::IntoIter,
};

use futures_util::FutureExt as _;
use steadfast_streamer::{Change, Item, Position, Snapshot};
use tokio::time::{Instant, sleep_until, timeout};

use crate::{
    collected::Collected,
    http::error::ApiError,
    limits::{Held, WAITING_BYTES},
    rights::Peer,
    shared::Shared,
    subscription::{Event, Request},
    upstream::Handle,
};

/// The delay before the table is looked at again.
const LOOK: Duration = Duration::from_millis(500);

/// Opens a snapshot, and returns the position after which changes continue it.
pub(super) async fn begin(
    shared: &Shared,
    wanted: &Request,
    peer: &Peer,
) -> Result<(Handle, Position), ApiError> {
    let mut handle = shared.upstream.open(wanted.clone(), peer);
    loop {
        match next(shared, &mut handle).await? {
            Event::Item(Item::Snapshot(Snapshot::Begin { follows })) => {
                return Ok((handle, follows));
            }
            Event::Ended(end) => return Err(end.into()),
            // Nothing else belongs to the response.
            Event::Opened { .. } | Event::Item(_) | Event::Window { .. } | Event::Progress(_) => {}
        }
    }
}

/// The source of the documents of a response.
pub(super) enum Source {
    /// The table: a snapshot that has begun.
    Table(Handle),
    /// The table with the changes since.
    Collected {
        documents: IntoIter<Change>,
        end: Position,
        _held: Held,
    },
}

impl Source {
    /// Polls for the next event of a snapshot.
    pub(super) fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Event> {
        match self {
            Self::Table(handle) => handle.poll_next(cx),
            Self::Collected { documents, end, .. } => {
                let next = documents.next().map(Snapshot::Document);
                let item = next.unwrap_or(Snapshot::End(*end));
                Poll::Ready(Event::Item(Item::Snapshot(item)))
            }
        }
    }
}

/// Returns the documents with all changes up to `at`. The table of documents follows the log at a distance of up to
/// some seconds. Few documents are therefore collected with the changes since; for many, the table is looked at again
/// and again.
pub(super) async fn begin_at(
    shared: &Shared,
    wanted: &Request,
    peer: &Peer,
    mut at: Position,
    wait: Duration,
) -> Result<(Source, Position), ApiError> {
    let deadline = Instant::now() + wait;
    let mut are_few = true;
    loop {
        let (mut handle, follows) = begin(shared, wanted, peer).await?;
        if at.epoch != follows.epoch {
            at = in_present_term(shared, wanted, peer, at).await?;
        }
        let has = |it: Position| at.epoch == it.epoch && at.offset <= it.offset;
        if has(follows) {
            return Ok((Source::Table(handle), follows));
        }
        let mut reached = follows;
        if are_few {
            match collect(shared, &mut handle).await? {
                Some((documents, end, held)) if has(end) => {
                    let documents = documents.into_iter();
                    let source = Source::Collected {
                        documents,
                        end,
                        _held: held,
                    };
                    return Ok((source, end));
                }
                Some((_, end, _)) => reached = end,
                None => are_few = false,
            }
        }
        drop(handle);
        let now = Instant::now();
        if now >= deadline {
            let wait = wait.as_secs();
            let what = format!("the documents have reached {reached} and not {at} in {wait} s");
            return Err(ApiError::unavailable(what));
        }
        sleep_until(deadline.min(now + LOOK)).await;
    }
}

/// Collects the documents of a snapshot that has begun, with the changes up to its end. Returns `None` if there are
/// too many.
async fn collect(
    shared: &Shared,
    handle: &mut Handle,
) -> Result<Option<(Vec<Change>, Position, Held)>, ApiError> {
    let mut documents = Collected::default();
    let mut held = Held::new(&shared.waiting);
    while !documents.is_too_large() {
        match next(shared, handle).await? {
            Event::Item(Item::Snapshot(Snapshot::End(end))) => {
                return Ok(documents.into_documents().map(|it| (it, end, held)));
            }
            Event::Item(item) => documents.apply(item),
            Event::Ended(end) => return Err(end.into()),
            Event::Opened { .. } | Event::Window { .. } | Event::Progress(_) => {}
        }
        if held.set(documents.bytes()) > WAITING_BYTES {
            let what = "the gateway collects too many documents; ask again later";
            return Err(ApiError::unavailable(what));
        }
    }
    Ok(None)
}

/// Waits for the next event, no longer than the Streamer may say nothing.
async fn next(shared: &Shared, handle: &mut Handle) -> Result<Event, ApiError> {
    let next = timeout(shared.upstream.options().open_timeout, handle.next()).await;
    next.map_err(|_| ApiError::unavailable("the Streamer sends no documents"))
}

/// Returns a position of an earlier term of the Streamer, such as before a restart, as one of the present term.
async fn in_present_term(
    shared: &Shared,
    wanted: &Request,
    peer: &Peer,
    at: Position,
) -> Result<Position, ApiError> {
    let mut from = wanted.clone();
    (from.from, from.snapshot) = (Some(at), false);
    let mut handle = shared.upstream.open(from, peer);
    let position = match next(shared, &mut handle).await? {
        Event::Ended(end) => return Err(end.into()),
        Event::Opened { position } => position,
        Event::Item(_) | Event::Window { .. } | Event::Progress(_) => None,
    };
    // The Streamer says with its response that it cannot continue there.
    let then = handle.next().now_or_never();
    let is_lost = matches!(then, Some(Event::Item(Item::Resync(_) | Item::Gap(_))));
    let position = position.filter(|it| it.offset == at.offset && !is_lost);
    position
        .ok_or_else(|| ApiError::invalid(format!("{at} is no position that this log has or had")))
}
