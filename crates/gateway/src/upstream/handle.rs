//! One subscription for a client, within the rights that it has now.

use std::{
    fmt,
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll, ready},
};

use futures_core::{Stream as _, future::BoxFuture};
use steadfast_streamer::{Filter, LiveWindow, Position, WindowUpdate};

use super::{Source, Upstream, view::View};
use crate::{
    rights::{Grant, Peer},
    subscription::{End, EndCode, Event, Request},
};

/// A subscription for a client. Dropping it ends the subscription.
///
/// It yields [`Event::Opened`] and then items, or [`Event::Ended`] and then nothing.
pub struct Handle {
    upstream: Upstream,
    request: Request,
    /// The documents that the client may see; `None` if none.
    grant: Option<Grant>,
    /// What the client may see of the items of the Streamer.
    view: View,
    state: State,
    was_opened: bool,
    /// The last position that the client knows.
    told: Option<Position>,
}

enum State {
    Opening(BoxFuture<'static, Result<Source, End>>),
    Open(Source),
    /// The end is told once.
    Ended(Option<End>),
}

/// Items that are hidden in one go: other tasks have their turn, also if nothing is shown.
const TURN: usize = 256;

impl Handle {
    pub(super) fn new(upstream: Upstream, request: Request, peer: &Peer) -> Self {
        let grant = peer.grant(&request.database, &request.collection);
        let mut handle = Self {
            upstream,
            view: View::new(&request, peer),
            request,
            grant,
            state: State::Ended(None),
            was_opened: false,
            told: None,
        };
        handle.open();
        handle
    }

    /// Subscribes with the grant at hand.
    fn open(&mut self) {
        let Some(grant) = &self.grant else {
            self.state = State::Ended(Some(End::denied()));
            return;
        };
        let (filter, local) = grant.join(&self.request.filter);
        if self.request.window.is_some() && local.is_some() {
            // Documents that are taken out here would be missing among the first ones.
            let what = "an order is not available with rights of several filters";
            self.state = State::Ended(Some(End::new(EndCode::Invalid, what)));
            return;
        }
        if self.request.snapshot && local.is_some() {
            // Which of its documents the client has from before is not known here, and so not which leave.
            self.request.from = None;
        }
        self.view.local = local;
        self.subscribe(filter);
    }

    fn subscribe(&mut self, filter: Filter) {
        let opening = self.upstream.subscribe(&self.request, filter);
        self.state = State::Opening(Box::pin(opening));
    }

    /// Returns the next event.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future loses nothing.
    pub async fn next(&mut self) -> Event {
        std::future::poll_fn(|cx| self.poll_next(cx)).await
    }

    /// Polls for the next event. After [`Event::Ended`] it is pending for ever.
    pub fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Event> {
        let mut hidden = 0;
        loop {
            match &mut self.state {
                State::Opening(opening) => match ready!(opening.as_mut().poll(cx)) {
                    Ok(source) => {
                        self.told = source.position();
                        self.state = State::Open(source);
                        // Not again when the rights have changed.
                        if !std::mem::replace(&mut self.was_opened, true) {
                            let position = self.told;
                            return Poll::Ready(Event::Opened { position });
                        }
                    }
                    Err(end) => self.state = State::Ended(Some(end)),
                },
                State::Open(Source::Changes(subscription)) => {
                    match Pin::new(&mut *subscription).poll_next(cx) {
                        Poll::Ready(Some(Ok(item))) => {
                            self.told = subscription.position().or(self.told);
                            match self.view.visible(item) {
                                Ok(Some(item)) => return Poll::Ready(Event::Item(item)),
                                Ok(None) => hidden += 1,
                                Err(end) => self.state = State::Ended(Some(end)),
                            }
                            if hidden == TURN {
                                cx.waker().wake_by_ref();
                                return Poll::Pending;
                            }
                        }
                        Poll::Ready(Some(Err(error))) => self.fail(&error),
                        Poll::Ready(None) => self.fail(&"the gateway stops"),
                        Poll::Pending => {
                            let position = subscription.position();
                            if self.request.progress && position != self.told {
                                self.told = position;
                                if let Some(position) = position {
                                    return Poll::Ready(Event::Progress(position));
                                }
                            }
                            return Poll::Pending;
                        }
                    }
                }
                State::Open(Source::Window(window)) => {
                    // Dropping the future loses nothing, so that it need not be kept.
                    let next = pin!(window.next()).poll(cx);
                    match ready!(next) {
                        Some(Ok(update)) => return Poll::Ready(shown(window, update)),
                        Some(Err(error)) => self.fail(&error),
                        None => self.fail(&"the gateway stops"),
                    }
                }
                State::Ended(end) => match end.take() {
                    Some(end) => return Poll::Ready(Event::Ended(end)),
                    None => return Poll::Pending,
                },
            }
        }
    }

    /// Returns the position to continue from once the items so far have had their effect.
    #[must_use]
    pub fn position(&self) -> Option<Position> {
        match &self.state {
            State::Open(source) => source.position(),
            State::Opening(_) | State::Ended(_) => self.told,
        }
    }

    /// Applies the rights that the client has now. A subscription with a snapshot gets another one. Another
    /// continues: what may not be seen any more is told as left when it changes.
    pub fn apply_rights(&mut self, peer: &Peer) {
        let grant = peer.grant(&self.request.database, &self.request.collection);
        if matches!(self.state, State::Ended(_)) || grant == self.grant {
            return;
        }
        let position = self.position();
        self.grant = grant;
        match &self.grant {
            None => self.open(),
            // The documents that the client shows have indices, which would not fit to another list.
            Some(_) if self.request.window.is_some() => {
                let what = "your rights have changed; subscribe again";
                self.state = State::Ended(Some(End::new(EndCode::Unavailable, what)));
            }
            Some(_) if self.request.snapshot => {
                self.request.from = None;
                self.open();
            }
            // Nobody knows which documents the client has, and so not which leave.
            Some(_) if self.request.left && self.view.is_incomplete() => {
                let what = "your rights have changed; subscribe again";
                self.state = State::Ended(Some(End::new(EndCode::Unavailable, what)));
            }
            Some(grant) => {
                // The Streamer must not apply the new filters: it would not tell of documents that only the
                // old ones admit.
                self.view.local = match grant {
                    Grant::Everything => None,
                    Grant::Any(filters) => Some(Arc::clone(filters)),
                };
                self.request.from = position.or(self.request.from);
                self.subscribe(self.request.filter.clone());
            }
        }
    }

    fn fail(&mut self, cause: &dyn fmt::Display) {
        let end = End::new(EndCode::Unavailable, cause.to_string());
        self.state = State::Ended(Some(end));
    }
}

impl Source {
    fn position(&self) -> Option<Position> {
        match self {
            Self::Changes(subscription) => subscription.position(),
            Self::Window(window) => window.position(),
        }
    }
}

impl fmt::Debug for Handle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Handle")
            .field("database", &self.request.database)
            .field("collection", &self.request.collection)
            .finish_non_exhaustive()
    }
}

fn shown(window: &LiveWindow, update: WindowUpdate) -> Event {
    let document = window.documents().document(&update);
    Event::Window {
        document: document.cloned().map(Box::new),
        position: window.position(),
        update,
    }
}
