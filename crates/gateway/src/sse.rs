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
    /// The delay before the client connects again after a drain.
    retry: Duration,
}

/// The step between the delays of neighbouring sockets, in milliseconds: it has no common divisor with round spans.
const RETRY_STEP_MS: u64 = 619;

/// Returns a delay of at most `within` and not below a fifth of it. Those of neighbouring sockets differ: clients that
/// are sent away together must not come back together.
fn retry_delay(socket: u64, within: Duration) -> Duration {
    let least = within / 5;
    let span = u64::try_from(within.saturating_sub(least).as_millis()).unwrap_or(u64::MAX);
    let share = socket.wrapping_mul(RETRY_STEP_MS) % span.max(1);
    least + Duration::from_millis(share)
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Begin,
    Open,
    Over,
}

impl Events {
    /// Creates a stream of events whose data are the frames of a machine. After a drain its client comes back within
    /// `retry_after`.
    pub(crate) fn new(driver: Driver, retry_after: Duration) -> Self {
        let mut heartbeat = interval_at(Instant::now() + HEARTBEAT, HEARTBEAT);
        heartbeat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Self {
            retry: retry_delay(driver.socket_number(), retry_after),
            driver,
            heartbeat,
            phase: Phase::Begin,
            are_whole: false,
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
                    data(format!("retry: {}\n\n", this.retry.as_millis()))
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

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn delays_of_a_thousand_sockets_are_spread_evenly() {
        let within = Duration::from_secs(5);
        let delays = (1..=1_000).map(|it| retry_delay(it, within).as_millis());
        let delays: Vec<_> = delays.collect();
        let mut counts = [0; 8];
        for delay in &delays {
            assert!((1_000..5_000).contains(delay), "{delay}");
            counts[usize::try_from((delay - 1_000) / 500).unwrap()] += 1;
        }
        assert!(
            counts.iter().all(|it| (120..=130).contains(it)),
            "{counts:?}"
        );
        assert_eq!(delays.iter().collect::<BTreeSet<_>>().len(), 1_000);
        assert_eq!(retry_delay(7, Duration::ZERO), Duration::ZERO);
    }
}
