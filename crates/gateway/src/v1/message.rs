//! The messages of `steadfast.v1` and their JSON.

use std::{borrow::Cow, time::Duration};

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::{
    machine::Actions,
    subscription::{End, EndCode},
};

/// A message of a client that is understood as far as it needs no other message.
#[derive(Debug)]
pub(super) enum ClientMessage<'a> {
    Auth {
        token: Cow<'a, str>,
    },
    /// The whole message. It has a valid id, and may be invalid otherwise.
    Subscribe {
        id: Cow<'a, str>,
        message: &'a RawValue,
    },
    Unsubscribe {
        id: Cow<'a, str>,
    },
    Credit {
        id: Cow<'a, str>,
        messages: u64,
    },
    Ping {
        n: Option<&'a RawValue>,
    },
    Cut,
    /// Of a later version of the protocol.
    Unknown,
}

/// The reason why a client's frame cannot be understood.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum MessageFault {
    #[error("the frame is not JSON: {0}")]
    NotJson(String),
    #[error("a message is an object with a text `type`")]
    NoType,
    #[error("{kind}: {fault}")]
    Fields { kind: String, fault: String },
    #[error("{kind}: `id` is a text of 1 to {MAX_ID} bytes")]
    Id { kind: String },
}

/// The time after which a refused subscription may be asked for again, if its reason passes. The longest
/// wait for a Streamer is over by then, and a client has backoff of its own.
const RETRY_AFTER_MS: u64 = 5_000;

/// The longest id of a subscription, in bytes.
const MAX_ID: usize = 128;

#[derive(Deserialize)]
struct Head<'a> {
    #[serde(borrow)]
    r#type: Cow<'a, str>,
}

#[derive(Deserialize)]
struct Auth<'a> {
    #[serde(borrow)]
    token: Cow<'a, str>,
}

#[derive(Deserialize)]
struct WithId<'a> {
    #[serde(borrow)]
    id: Cow<'a, str>,
}

#[derive(Deserialize)]
struct Credit<'a> {
    #[serde(borrow)]
    id: Cow<'a, str>,
    messages: u64,
}

#[derive(Deserialize)]
struct Ping<'a> {
    #[serde(borrow)]
    n: Option<&'a RawValue>,
}

/// Returns the objects of a frame: itself, or those of the array that it is.
pub(super) fn messages(frame: &str) -> Result<Vec<&RawValue>, MessageFault> {
    let not_json = |error: serde_json::Error| MessageFault::NotJson(error.to_string());
    let whole: &RawValue = serde_json::from_str(frame).map_err(not_json)?;
    if whole.get().starts_with('[') {
        serde_json::from_str(whole.get()).map_err(not_json)
    } else {
        Ok(vec![whole])
    }
}

impl<'a> ClientMessage<'a> {
    pub(super) fn read(message: &'a RawValue) -> Result<Self, MessageFault> {
        let head: Head<'_> = from_object(message).map_err(|_| MessageFault::NoType)?;
        let kind = &*head.r#type;
        let fields = |error: serde_json::Error| MessageFault::Fields {
            kind: kind.to_owned(),
            fault: without_place(&error),
        };
        let checked = |id: Cow<'a, str>| match id.len() {
            1..=MAX_ID => Ok(id),
            _ => Err(MessageFault::Id {
                kind: kind.to_owned(),
            }),
        };
        Ok(match kind {
            "auth" => {
                let Auth { token } = from_object(message).map_err(fields)?;
                Self::Auth { token }
            }
            "subscribe" => {
                let WithId { id } = from_object(message).map_err(fields)?;
                let id = checked(id)?;
                Self::Subscribe { id, message }
            }
            "unsubscribe" => {
                let WithId { id } = from_object(message).map_err(fields)?;
                Self::Unsubscribe { id: checked(id)? }
            }
            "credit" => {
                let Credit { id, messages } = from_object(message).map_err(fields)?;
                let id = checked(id)?;
                Self::Credit { id, messages }
            }
            "ping" => {
                let Ping { n } = from_object(message).map_err(fields)?;
                // Echoed as it is written, so that only numbers are: anything else may be large.
                let n = n.filter(|n| {
                    n.get()
                        .starts_with(|c: char| c == '-' || c.is_ascii_digit())
                });
                Self::Ping { n }
            }
            "cut" => Self::Cut,
            _ => Self::Unknown,
        })
    }
}

/// Reads an object; derived readers would also take an array of the fields.
pub(super) fn from_object<'a, T: Deserialize<'a>>(
    message: &'a RawValue,
) -> Result<T, serde_json::Error> {
    if message.get().starts_with('{') {
        serde_json::from_str(message.get())
    } else {
        Err(serde::de::Error::custom("expected an object"))
    }
}

/// Returns the text of an error without line and column, which count from the beginning of a message that
/// may be one of many.
pub(super) fn without_place(error: &serde_json::Error) -> String {
    let text = error.to_string();
    text.split(" at line ").next().unwrap_or(&text).to_owned()
}

/// The code of an error about credentials.
pub(super) const UNAUTHENTICATED_CODE: &str = "unauthenticated";

/// A message of the gateway, except for items.
#[derive(Debug, Serialize)]
#[serde(
    tag = "type",
    rename_all = "camelCase",
    rename_all_fields = "camelCase"
)]
pub(super) enum Message<'a> {
    Welcome {
        version: u32,
        server: &'a str,
        heartbeat_ms: u64,
        auth: &'static str,
        socket: u64,
    },
    Authenticated {
        principal: &'a str,
        #[serde(skip_serializing_if = "Option::is_none")]
        expires_in_ms: Option<u64>,
    },
    Subscribed {
        id: &'a str,
        #[serde(skip_serializing_if = "Option::is_none")]
        position: Option<String>,
    },
    Refused {
        id: &'a str,
        code: &'static str,
        message: &'a str,
        #[serde(skip_serializing_if = "Option::is_none")]
        retry_after_ms: Option<u64>,
    },
    Unsubscribed {
        id: &'a str,
    },
    Ended {
        id: &'a str,
        code: &'static str,
        message: &'a str,
    },
    Pong {
        #[serde(skip_serializing_if = "Option::is_none")]
        n: Option<&'a RawValue>,
    },
    Error {
        code: &'static str,
        message: &'a str,
    },
    Drain {
        retry_after_ms: u64,
    },
    Progress {
        sub: &'a str,
        position: String,
    },
}

impl<'a> Message<'a> {
    pub(super) fn refused(id: &'a str, end: &'a End) -> Self {
        let is_passing = matches!(end.code, EndCode::Limit | EndCode::Unavailable);
        Self::Refused {
            id,
            code: end.code.as_str(),
            message: &end.message,
            retry_after_ms: is_passing.then_some(RETRY_AFTER_MS),
        }
    }

    pub(super) fn ended(id: &'a str, end: &'a End) -> Self {
        Self::Ended {
            id,
            code: end.code.as_str(),
            message: &end.message,
        }
    }

    pub(super) fn send(&self, out: &mut Actions) {
        out.send(serde_json::to_string(self).expect("texts and numbers are JSON"));
    }
}

pub(super) fn millis(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}
