//! The driver of a link, on a scripted transport in virtual time and on real sockets.
#![cfg(feature = "grpc")]
#![expect(
    clippy::unwrap_used,
    reason = "a test stops at the first thing that is not as it should be"
)]

#[path = "../support/mod.rs"]
mod support;

mod classified_faults;
#[cfg(target_os = "linux")]
mod closing;
mod credentials;
#[cfg(all(unix, feature = "tls"))]
mod dialling;
mod ends;
mod flow;
mod liveness;
mod outages;
mod requests;
mod sockets;
mod uplink;

use std::time::Duration;

use steadfast::{
    ConnectError, Link, LinkOptions,
    session::{Config, End, Initiator, Reason, State, Status},
    testing::{DialOutcome, Peer, ScriptedConnection, ScriptedTransport},
    transport::{Call, Connection, Transport},
};
use support::{
    note::{Note, NoteEvent, Notes, note_sink},
    server::talk,
    someday, within,
};
use tokio::sync::mpsc::UnboundedReceiver;

const SECOND: Duration = Duration::from_secs(1);

/// A link and its events.
struct Running<C> {
    link: Link<Notes, C>,
    events: UnboundedReceiver<NoteEvent>,
}

fn options(config: Config) -> LinkOptions {
    LinkOptions::from(config).seed(7)
}

impl<C: Connection> Running<C> {
    /// Creates a link that is not started.
    fn spawn<T: Transport<Connection = C>>(
        call: Call,
        transport: T,
        options: LinkOptions,
        protocol: Notes,
    ) -> Self {
        let (sink, events) = note_sink();
        let link = options.spawn(call, transport, protocol, sink).unwrap();
        Self { link, events }
    }

    /// Creates a link with the usual call that is not started.
    fn idle<T: Transport<Connection = C>>(
        transport: T,
        options: LinkOptions,
        protocol: Notes,
    ) -> Self {
        Self::spawn(talk(), transport, options, protocol)
    }

    fn start<T: Transport<Connection = C>>(transport: T, config: Config) -> Self {
        let running = Self::idle(transport, options(config), Notes::sending(1));
        running.link.start().unwrap();
        running
    }

    async fn until(&self, what: &str, wanted: impl FnMut(&Status) -> bool) -> Status {
        support::until(what, &mut self.link.watch(), wanted).await
    }

    /// Waits for the stream of that number to be live, counted from 1.
    async fn live(&self, number: u64) -> Status {
        self.until("live", |status| {
            status.state == State::Connected && status.streams_established >= number
        })
        .await
    }

    async fn connect(&self) -> Result<(), ConnectError> {
        someday("an answer", self.link.connect()).await
    }

    async fn reconnect(&self) -> Result<(), ConnectError> {
        someday("an answer", self.link.reconnect()).await
    }

    async fn leave(&self) {
        someday("left", self.link.leave()).await;
    }

    /// Waits for the connection of the live stream.
    async fn connection(&self) -> C {
        let mut connection = self.link.connection();
        let live = within("a connection", connection.wait_for(Option::is_some)).await;
        live.unwrap().clone().unwrap()
    }

    /// Waits for the next event.
    async fn next(&mut self) -> NoteEvent {
        let event = someday("an event", self.events.recv()).await;
        event.expect("the link is there")
    }

    /// Waits for the next end of a stream or an attempt.
    async fn down(&mut self) -> End {
        loop {
            if let NoteEvent::Down(end) = self.next().await {
                return end;
            }
        }
    }

    /// Waits for the final end.
    async fn stopped(&mut self) -> End {
        loop {
            if let NoteEvent::Stopped(end) = self.next().await {
                return end;
            }
        }
    }
}

/// A peer that sends its headers and then only receives.
fn listening() -> ScriptedTransport {
    ScriptedTransport::new(async |peer: Peer| {
        peer.send_headers();
        peer.receive_until_end().await;
    })
}

/// A peer that returns every message.
fn echoing() -> ScriptedTransport {
    ScriptedTransport::new(async |mut peer: Peer| {
        peer.send_headers();
        while let Some(note) = peer.receive::<Note>().await {
            peer.send(&note);
        }
    })
}

fn finished() -> End {
    End::retry(Initiator::Peer, Reason::Finished)
}

fn status(code: i32, advice: steadfast::session::Advice) -> End {
    End::status(code, "the status message", advice)
}
