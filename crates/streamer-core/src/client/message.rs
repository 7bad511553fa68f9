//! Messages to the server, and subscribe requests that are kept encoded.

use bytes::{Buf, BufMut, Bytes};
use prost::{
    DecodeError, Message,
    encoding::{DecodeContext, WireType, encode_key, encode_varint, encoded_len_varint, key_len},
};
use steadfast_wire::streamer::{GatewayMessage, SubscribeRequest, gateway_message::Payload};

/// A message to the server.
///
/// It encodes to a [`GatewayMessage`]. The fields of a subscribe request that stay the same are
/// encoded once, so that restoring many subscriptions neither clones nor encodes their filters.
#[derive(Clone, Debug, PartialEq)]
pub struct ClientMessage(Content);

#[derive(Clone, Debug, PartialEq)]
enum Content {
    Message(GatewayMessage),
    /// The encoded fields that stay the same, and the fields that differ per request.
    Subscribe(Bytes, SubscribeRequest),
}

/// The tag of [`Payload::Subscribe`].
const SUBSCRIBE_TAG: u32 = 1;

impl ClientMessage {
    /// Creates a subscribe request. `fixed` is an encoded [`SubscribeRequest`]; protobuf merges it
    /// with the fields of `variable`, which must not repeat any of its fields.
    pub(super) fn subscribe(fixed: Bytes, variable: SubscribeRequest) -> Self {
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
            Content::Message(message) => message,
            Content::Subscribe(fixed, mut request) => {
                request
                    .merge(fixed)
                    .expect("the fixed fields are an encoded request");
                gateway(Payload::Subscribe(request))
            }
        }
    }
}

impl From<Payload> for ClientMessage {
    fn from(payload: Payload) -> Self {
        Self(Content::Message(gateway(payload)))
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
                variable.encode_raw(buffer);
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
        self.0 = Content::Message(message);
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
        self.0 = Content::Message(GatewayMessage::default());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kept_request_encodes_like_a_whole_one() {
        let fixed = SubscribeRequest {
            subscription_id: "s-1".to_owned(),
            database: "default".to_owned(),
            collection: "users".repeat(100),
            ..SubscribeRequest::default()
        };
        let variable = SubscribeRequest {
            credit_messages: 256,
            request: 7,
            ..SubscribeRequest::default()
        };
        let whole = SubscribeRequest {
            credit_messages: 256,
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
}
