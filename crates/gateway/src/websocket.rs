//! The frames of RFC 6455 at a server, and permessage-deflate (RFC 7692), without sockets.
//!
//! A connection that waits holds no buffer here: received bytes are kept only while a frame is incomplete,
//! and compression keeps nothing between two messages (docs/decisions/0040).

mod deflate;
mod frame;
mod handshake;

pub(crate) use self::{
    deflate::{DEFLATE, compress, offers_deflate},
    frame::{Decoder, Opcode, Received, Violation, close_payload, encode},
    handshake::accept,
};
