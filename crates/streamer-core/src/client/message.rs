//! Messages to the server, and subscribe requests that are kept encoded.

use bytes::{Buf, BufMut, Bytes};
use prost::{
    DecodeError, Message,
    encoding::{
        DecodeContext, WireType, encode_key, encode_varint, encoded_len_varint, key_len, message,
        uint64,
    },
};
use steadfast_wire::streamer::{
    self as wire, GatewayMessage, SubscribeRequest, gateway_message::Payload,
};

use super::load::Load;
use crate::Position;

/// A message to the server.
///
/// It encodes to a [`GatewayMessage`]. The fields of a subscribe request that stay the same are
/// encoded once, so that restoring many subscriptions neither clones nor encodes their filters.
#[derive(Clone, Debug, PartialEq)]
pub struct ClientMessage(Content);

/// Small, because a restore queues one for each subscription.
#[derive(Clone, Debug, PartialEq)]
enum Content {
    Message(Box<GatewayMessage>),
    /// The encoded fields that stay the same, and the fields that differ per request.
    Subscribe(Bytes, Variable),
}

/// The fields of a subscribe request that differ per request. A plain peer gets none of them.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Variable {
    pub(super) resume: Option<Position>,
    pub(super) credit: Load,
    pub(super) request: u64,
}

impl Variable {
    /// Returns the fields with their tags, as far as they have a value.
    fn numbers(self) -> impl Iterator<Item = (u32, u64)> {
        let Load { messages, bytes } = self.credit;
        [(101, messages), (102, bytes), (103, self.request)]
            .into_iter()
            .filter(|(_, number)| *number != 0)
    }

    fn encoded_len(self) -> usize {
        let resume = self.resume.map(wire::Position::from);
        let numbers = self.numbers();
        resume.map_or(0, |resume| message::encoded_len(RESUME_TAG, &resume))
            + numbers
                .map(|(tag, number)| uint64::encoded_len(tag, &number))
                .sum::<usize>()
    }

    /// Appends the fields of a [`SubscribeRequest`].
    fn encode(self, buffer: &mut impl BufMut) {
        if let Some(resume) = self.resume {
            message::encode(RESUME_TAG, &wire::Position::from(resume), buffer);
        }
        for (tag, number) in self.numbers() {
            uint64::encode(tag, &number, buffer);
        }
    }
}

/// The tag of [`SubscribeRequest::resume`].
const RESUME_TAG: u32 = 100;

/// The tag of [`Payload::Subscribe`].
const SUBSCRIBE_TAG: u32 = 1;

impl ClientMessage {
    /// Creates a subscribe request. `fixed` is an encoded [`SubscribeRequest`] without the fields of
    /// `variable`, with which protobuf merges it.
    pub(super) fn subscribe(fixed: Bytes, variable: Variable) -> Self {
        Self(Content::Subscribe(fixed, variable))
    }

    /// Returns the message in its usual form.
    ///
    /// # Panics
    ///
    /// Never: the encoded fields are made by the core.
    #[must_use]
    pub fn into_message(self) -> GatewayMessage {
        match self.0 {
            Content::Message(message) => *message,
            Content::Subscribe(fixed, variable) => {
                let mut variable_fields = Vec::new();
                variable.encode(&mut variable_fields);
                let both = fixed.chain(&*variable_fields);
                let request = SubscribeRequest::decode(both);
                let request = request.expect("both are fields of an encoded request");
                gateway(Payload::Subscribe(request))
            }
        }
    }
}

impl From<Payload> for ClientMessage {
    fn from(payload: Payload) -> Self {
        Self(Content::Message(Box::new(gateway(payload))))
    }
}

fn gateway(payload: Payload) -> GatewayMessage {
    GatewayMessage {
        payload: Some(payload),
    }
}

impl Message for ClientMessage {
    fn encode_raw(&self, buffer: &mut impl BufMut) {
        match &self.0 {
            Content::Message(message) => message.encode_raw(buffer),
            Content::Subscribe(fixed, variable) => {
                encode_key(SUBSCRIBE_TAG, WireType::LengthDelimited, buffer);
                encode_varint((fixed.len() + variable.encoded_len()) as u64, buffer);
                // Protobuf merges fields in any order, so the two parts need no merging here.
                buffer.put_slice(fixed);
                variable.encode(buffer);
            }
        }
    }

    fn merge_field(
        &mut self,
        tag: u32,
        wire_type: WireType,
        buffer: &mut impl Buf,
        context: DecodeContext,
    ) -> Result<(), DecodeError> {
        let mut message = self.clone().into_message();
        message.merge_field(tag, wire_type, buffer, context)?;
        self.0 = Content::Message(Box::new(message));
        Ok(())
    }

    fn encoded_len(&self) -> usize {
        match &self.0 {
            Content::Message(message) => message.encoded_len(),
            Content::Subscribe(fixed, variable) => {
                let length = fixed.len() + variable.encoded_len();
                key_len(SUBSCRIBE_TAG) + encoded_len_varint(length as u64) + length
            }
        }
    }

    fn clear(&mut self) {
        self.0 = Content::Message(Box::default());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Epoch;

    #[test]
    fn a_kept_request_encodes_like_a_whole_one() {
        let fixed = SubscribeRequest {
            subscription_id: "s-1".to_owned(),
            database: "default".to_owned(),
            collection: "users".repeat(100),
            ..SubscribeRequest::default()
        };
        let position = Position::new(Epoch(5), 9);
        let credit = Load {
            messages: 256,
            bytes: 4_000,
        };
        let variable = Variable {
            resume: Some(position),
            credit,
            request: 7,
        };
        let whole = SubscribeRequest {
            resume: Some(position.into()),
            credit_messages: 256,
            credit_bytes: 4_000,
            request: 7,
            ..fixed.clone()
        };
        let kept = ClientMessage::subscribe(fixed.encode_to_vec().into(), variable);
        let bytes = kept.encode_to_vec();
        assert_eq!(bytes.len(), kept.encoded_len());
        let whole = gateway(Payload::Subscribe(whole));
        assert_eq!(GatewayMessage::decode(&*bytes), Ok(whole.clone()));
        assert_eq!(kept.into_message(), whole);
    }

    #[test]
    fn restored_request_adds_few_bytes_to_its_kept_part() {
        // A restore queues one message per subscription: 100,000 of them are 9 MB.
        assert!(
            size_of::<ClientMessage>() <= 88,
            "{}",
            size_of::<ClientMessage>()
        );
        let credit = Load {
            messages: 1,
            bytes: 8_192,
        };
        let variable = Variable {
            resume: Some(Position::new(Epoch(u64::MAX), 1_000_000_000)),
            credit,
            request: 1_000_000,
        };
        let fixed = Bytes::from_static(b"any bytes");
        let message = ClientMessage::subscribe(fixed.clone(), variable);
        let added = message.encoded_len() - fixed.len();
        assert!(added <= 40, "{added} bytes");
    }
}
