//! The shape of a world: the limits of its machines, drawn so that each of them is the tight one in
//! some schedules.

use std::time::Duration;

use rand::seq::IndexedRandom as _;
use rand_chacha::ChaCha8Rng;
use steadfast_streamer_core::{client, hub};

/// The parameters of one schedule.
#[derive(Clone, Debug)]
pub(crate) struct Shape {
    /// The limits of the server.
    pub(crate) hub: hub::Limits,
    /// The limits of clients with the profile.
    pub(crate) client: client::Limits,
    /// The maximum number of subscriptions with which a client begins.
    pub(crate) subscriptions: usize,
    /// The server keeps positions only roughly: it accepts one up to so many offsets earlier than
    /// requested, and delivers from there. The profile allows it.
    pub(crate) rewind: u64,
    /// Clients have rights, which change.
    pub(crate) restricted: bool,
}

impl Shape {
    pub(crate) fn draw(rng: &mut ChaCha8Rng) -> Self {
        let mut pick = |choices: &[usize]| *choices.choose(rng).expect("there are choices");
        let mut limits = hub::Limits::default();
        limits.queue_messages = pick(&[4, 16]);
        limits.page_events = pick(&[3, 8, 32]);
        limits.tail_events = pick(&[1, 4, 64]);
        limits.reads = pick(&[1, 2]);
        // One, or two or three ids in a message, so that an event for several subscriptions of a
        // stream can meet a full queue in its middle. Or all of them, as by default.
        limits.delivery_bytes = pick(&[1, 500, limits.delivery_bytes]);
        // Two or three events of one collection, so that matching is interrupted.
        limits.slice = pick(&[8, 12, 200]) as u64;
        limits.progress_interval = Duration::from_millis(700);
        let mut client = client::Limits::default();
        client.messages = 40;
        client.bytes = pick(&[1_200, 4_000, 1 << 20]) as u64;
        client.messages_per_subscription = 12;
        let restricted = pick(&[0, 1]) == 1;
        Self {
            hub: limits,
            client,
            subscriptions: pick(&[3, 3, 8]),
            // Where rights have changed, the oracle must know after which event.
            rewind: if restricted {
                0
            } else {
                pick(&[0, 0, 30]) as u64
            },
            restricted,
        }
    }
}
