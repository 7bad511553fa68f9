//! Server-sent events, whose ids are positions.

use std::sync::Arc;

use axum::{http::request::Parts, response::Response};
use steadfast_session::Time;
use steadfast_streamer::{
    Position,
    client::{JsonLines, Projection},
};

use crate::{
    driver::Driver,
    http::error::ApiError,
    machine::{Action, Actions, Input, Key, Machine},
    metrics::SocketKind,
    rights::Peer,
    server::realtime::{event_stream, newcomer},
    shared::Shared,
    sse::Events,
    subscription::{Event, Request},
};

/// The only subscription of a stream.
const KEY: Key = Key(0);

/// The delay before a browser connects again, in milliseconds. Neighbours differ, because those that are cut
/// off together must not come back together.
const RETRY_MIN_MS: u64 = 1_000;
const RETRY_SPREAD_MS: u64 = 2_000;
const RETRY_STEP_MS: u64 = 619;

/// Opens a stream of events.
pub(super) async fn serve(
    shared: &Arc<Shared>,
    peer: Peer,
    mut wanted: Request,
    fields: Option<Projection>,
    head: &Parts,
) -> Result<Response, ApiError> {
    wanted.progress = true;
    let mut handle = shared.upstream.open(wanted, &peer);
    // Before the status of the response is sent.
    let begins = match handle.next().await {
        Event::Ended(end) => return Err(end.into()),
        Event::Opened { position } => position,
        Event::Item(_) | Event::Window { .. } | Event::Progress(_) => None,
    };
    let newcomer = newcomer(shared, Some(peer), head).map_err(ApiError::limit)?;
    let machine = Box::new(Stream { begins, fields });
    let mut driver = Driver::new(Arc::clone(shared), machine, SocketKind::Sse, newcomer);
    driver.adopt(KEY, handle)?;
    Ok(event_stream(Events::of_whole(
        driver,
        shared.options.retry_after,
    )))
}

/// The machine of a stream: each frame is a whole event.
#[derive(Debug, Default)]
pub(crate) struct Stream {
    begins: Option<Position>,
    fields: Option<Projection>,
}

impl Machine for Stream {
    fn step(&mut self, _: Time, input: Input<'_>, out: &mut Actions) -> Option<Time> {
        match input {
            Input::Opened(opened) => {
                let retry = RETRY_MIN_MS + opened.socket * RETRY_STEP_MS % RETRY_SPREAD_MS;
                out.send(format!("retry: {retry}\n\n"));
                // A client that is cut off before the first item continues here.
                tell_position(self.begins, out);
            }
            Input::Event(_, Event::Item(item)) => {
                let mut text = String::new();
                if let Some(position) = item.position() {
                    text = format!("id: {position}\n");
                }
                text.push_str("data: ");
                let lines = JsonLines {
                    subscription: None,
                    fields: self.fields.as_ref(),
                };
                lines.write(&item, &mut text);
                text.push_str("\n\n");
                out.send(text);
            }
            Input::Event(_, Event::Progress(position)) => tell_position(Some(position), out),
            // The client connects again, and the status of the response says why it is refused.
            Input::Event(_, Event::Ended(_)) => close(1001, "the subscription ended", out),
            Input::Authenticated(Err(reason)) | Input::Unauthenticated(reason) => {
                close(4401, reason, out);
            }
            Input::Drain { .. } => close(1012, "the gateway stops", out),
            Input::Event(_, Event::Opened { .. } | Event::Window { .. })
            | Input::Authenticated(Ok(_))
            | Input::Text(_)
            | Input::Alive
            | Input::Tick => {}
        }
        None
    }
}

/// Tells a position: an id without data is no event, but the browser remembers it.
fn tell_position(position: Option<Position>, out: &mut Actions) {
    if let Some(position) = position {
        out.send(format!("id: {position}\n\n"));
    }
}

fn close(code: u16, reason: &'static str, out: &mut Actions) {
    out.push(Action::Close { code, reason });
}
