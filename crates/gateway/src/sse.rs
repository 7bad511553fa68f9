//! Server-sent events: the messages of a machine, without a way back.

use std::{
    convert::Infallible,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http_body::{Body, Frame};
use tokio::time::{Instant, Interval, MissedTickBehavior, interval_at};

use crate::driver::{Driver, Outgoing};

/// The interval of comments, by which proxies on the way see that the connection is alive.
pub(crate) const HEARTBEAT: Duration = Duration::from_secs(15);

/// The body of a stream of events. It is polled when the connection takes more, so that a slow client holds
/// nothing up but its own subscription.
#[derive(Debug)]
pub(crate) struct Events {
    driver: Driver,
    heartbeat: Interval,
    phase: Phase,
    /// Frames are whole events. Otherwise they are the data of one.
    are_whole: bool,
    retry_after: Duration,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Begin,
    Open,
    Over,
}

impl Events {
    /// Creates a stream of events whose data are the frames of a machine.
    pub(crate) fn new(driver: Driver, retry_after: Duration) -> Self {
        let mut heartbeat = interval_at(Instant::now() + HEARTBEAT, HEARTBEAT);
        heartbeat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Self {
            driver,
            heartbeat,
            phase: Phase::Begin,
            are_whole: false,
            retry_after,
        }
    }

    /// Creates a stream of events that are the frames of a machine.
    pub(crate) fn of_whole(driver: Driver, retry_after: Duration) -> Self {
        Self {
            are_whole: true,
            ..Self::new(driver, retry_after)
        }
    }
}

impl Body for Events {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let this = self.get_mut();
        let data = |text: String| Poll::Ready(Some(Ok(Frame::data(text.into()))));
        match this.phase {
            Phase::Begin => {
                this.phase = Phase::Open;
                return data(": connected\n\n".to_owned());
            }
            Phase::Open => {}
            Phase::Over => return Poll::Ready(None),
        }
        if let Poll::Ready(outgoing) = this.driver.poll(cx) {
            return match outgoing {
                Outgoing::Text(text) if this.are_whole => data(text),
                Outgoing::Text(text) => data(format!("data: {text}\n\n")),
                Outgoing::Ping => data(": ping\n\n".to_owned()),
                Outgoing::Close { code: 1012, .. } => {
                    this.phase = Phase::Over;
                    data(format!("retry: {}\n\n", this.retry_after.as_millis()))
                }
                Outgoing::Close { reason, .. } => {
                    this.phase = Phase::Over;
                    data(format!(": {reason}\n\n"))
                }
                Outgoing::Cut => Poll::Ready(None),
            };
        }
        if this.heartbeat.poll_tick(cx).is_ready() {
            return data(": heartbeat\n\n".to_owned());
        }
        Poll::Pending
    }
}
