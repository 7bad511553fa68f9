//! A query to an agent, from the first waiter to the last part of its response.

use std::sync::Arc;

use steadfast_session::Time;

use super::{
    super::{
        query::{MetricNames, Outcome, Query, Reason},
        time::{UnixNanos, Window},
    },
    Action,
    slices::{Density, Remainder, SliceShare},
};

#[derive(Debug)]
pub(super) struct PendingQuery<T, D> {
    pub(super) query: Query,
    share: SliceShare,
    pub(super) names: MetricNames,
    pub(super) waiters: Vec<(T, Time)>,
    pub(super) parts: Vec<D>,
    /// The wall clock's time of the query.
    asked_at: UnixNanos,
    /// The rest of the window that no request has covered yet.
    rest: Option<Remainder>,
    pub(super) incomplete: Option<Reason>,
}

impl<T, D> PendingQuery<T, D> {
    pub(super) fn new(
        (query, share): (Query, SliceShare),
        names: MetricNames,
        waiter: (T, Time),
        asked_at: UnixNanos,
    ) -> Self {
        let mut pending = Self {
            query,
            share,
            names,
            waiters: vec![waiter],
            parts: Vec::new(),
            asked_at,
            rest: None,
            incomplete: None,
        };
        pending.restart();
        pending
    }

    /// Drops what has arrived, so that the query starts anew.
    pub(super) fn restart(&mut self) {
        self.parts.clear();
        self.rest = match self.query {
            Query::Latest => None,
            Query::Window(window) => Some(Remainder::new(window, self.asked_at)),
        };
        self.incomplete = None;
    }

    /// Completes the query with the parts that it has.
    pub(super) fn skip_rest(&mut self) {
        self.rest = None;
    }

    /// Returns true if a request has to follow.
    pub(super) fn has_rest(&self) -> bool {
        self.rest.is_some()
    }

    /// Returns the whole window, for an agent that splits its response itself.
    pub(super) fn take_window(&mut self) -> Option<Window> {
        self.rest.take().map(Remainder::into_window)
    }

    /// Returns the next slice of the window, for an agent that responds with one message.
    pub(super) fn take_slice(&mut self, density: Density, bytes: usize) -> Option<Window> {
        let (slice, rest) = self.rest.take()?.split(density, bytes, self.share);
        self.rest = rest;
        Some(slice)
    }

    /// Notes whether the response to a slice had samples.
    pub(super) fn on_slice(&mut self, slice: Window, is_empty: bool) {
        if let Some(rest) = &mut self.rest {
            rest.on_slice(slice, is_empty);
        }
    }

    /// Resolves the waiters whose deadline has passed.
    pub(super) fn expire(&mut self, now: Time, reason: Reason, out: &mut Vec<Action<T, D>>) {
        let expired: Vec<_> = self
            .waiters
            .extract_if(.., |(_, deadline)| *deadline <= now)
            .collect();
        // Parts go to the last waiters only: while one is left, it may still get all of them.
        let parts = if self.waiters.is_empty() {
            std::mem::take(&mut self.parts)
        } else {
            Vec::new()
        };
        resolve(expired, parts, Some(reason), out);
    }

    pub(super) fn finish(self, reason: Option<Reason>, out: &mut Vec<Action<T, D>>) {
        resolve(self.waiters, self.parts, reason.or(self.incomplete), out);
    }
}

fn resolve<T, D>(
    waiters: Vec<(T, Time)>,
    parts: Vec<D>,
    reason: Option<Reason>,
    out: &mut Vec<Action<T, D>>,
) {
    let parts = Arc::new(parts);
    for (waiter, _) in waiters {
        let outcome = match reason {
            None => Outcome::Complete(Arc::clone(&parts)),
            // Nothing of the agent is on the page, so that the header must not say `(partly)`.
            Some(reason) if parts.is_empty() => Outcome::Missing(reason),
            Some(reason) => Outcome::Partial(Arc::clone(&parts), reason),
        };
        out.push(Action::Resolve(waiter, outcome));
    }
}
