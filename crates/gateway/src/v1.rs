//! The machine of the subprotocol `steadfast.v1`, as `docs/protocol-gateway.md` describes it.

mod machine;
mod message;
mod request;
mod subscription;

pub(crate) use self::{
    machine::Session,
    request::{conditions_of_text, projection_of_text},
};

/// The name by which a client asks for this protocol.
pub(crate) const SUBPROTOCOL: &str = "steadfast.v1";
