//! The timer of a driver.

use std::{
    pin::Pin,
    task::{Context, Poll},
};

use steadfast_session::Time;
use tokio::time::{Sleep, sleep_until};

use crate::shared::Shared;

/// One sleep for all deadlines of a socket. It has no memory until there is one.
#[derive(Debug, Default)]
pub(super) struct Timer(Option<Armed>);

#[derive(Debug)]
struct Armed {
    sleep: Pin<Box<Sleep>>,
    at: Time,
}

impl Timer {
    pub(super) fn clear(&mut self) {
        self.0 = None;
    }

    /// Polls for a time that is to come.
    pub(super) fn poll(&mut self, shared: &Shared, at: Time, cx: &mut Context<'_>) -> Poll<()> {
        let instant = shared.instant(at);
        let armed = self.0.get_or_insert_with(|| Armed {
            sleep: Box::pin(sleep_until(instant)),
            at,
        });
        // A timer that is early is left alone: most deadlines only move away.
        if armed.at > at {
            armed.sleep.as_mut().reset(instant);
            armed.at = at;
        }
        if armed.sleep.as_mut().poll(cx).is_pending() {
            return Poll::Pending;
        }
        if armed.at < at {
            armed.sleep.as_mut().reset(instant);
            armed.at = at;
            return armed.sleep.as_mut().poll(cx);
        }
        self.clear();
        Poll::Ready(())
    }
}
