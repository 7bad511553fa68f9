//! Messages of the server. The frequent ones, deliveries and responses, are read in place instead of into a
//! copy of each part.

use bytes::{Buf, BufMut, Bytes};
use prost::{
    DecodeError, Message,
    encoding::{
        DecodeContext, WireType, decode_key, decode_varint, encode_key, encode_varint,
        encoded_len_varint, key_len, skip_field,
    },
};
use smallvec::SmallVec;
use steadfast_wire::streamer::{self as wire, StreamerMessage, streamer_message::Payload};

use crate::Position;

/// A message of the server.
///
/// It decodes from a [`StreamerMessage`] and agrees with it on what is malformed, except that a delivery or
/// a response is read only when the core handles it. That leaves its parts where they were received.
#[derive(Clone, Debug, PartialEq)]
pub struct ServerMessage(pub(super) Content);

#[derive(Clone, Debug, PartialEq)]
pub(super) enum Content {
    /// An encoded message of one of these kinds.
    Encoded(Kind, Bytes),
    /// Anything else, boxed so that a delivery is moved cheaply. `None` if there is nothing that is known.
    /// Also a delivery or response that other fields followed, until the core handles it.
    Other(Option<Box<Payload>>),
}

/// The kinds of messages that are kept encoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// A [`wire::EventDelivery`].
    Delivery,
    /// A [`wire::SubscribeResponse`].
    Response,
}

/// The parts of a response to a subscribe request.
#[derive(Debug, Default)]
#[expect(clippy::struct_excessive_bools, reason = "the fields of the message")]
pub(super) struct Response<'a> {
    pub(super) subscription_id: &'a str,
    pub(super) success: bool,
    pub(super) error: &'a str,
    pub(super) position: Option<wire::Position>,
    pub(super) resync: Option<wire::Resync>,
    pub(super) code: i32,
    pub(super) taken_over: bool,
    pub(super) request: u64,
    pub(super) snapshot: bool,
    pub(super) left: bool,
    pub(super) window: bool,
    pub(super) start: bool,
    pub(super) filters: bool,
    pub(super) rights: u64,
}

/// The parts of a delivery.
#[derive(Debug, Default)]
pub(super) struct Delivery<'a> {
    /// Most deliveries name one subscription.
    pub(super) ids: SmallVec<[&'a str; 4]>,
    pub(super) event: Option<ReceivedEvent<'a>>,
    pub(super) position: Option<wire::Position>,
    pub(super) previous: SmallVec<[u64; 4]>,
    pub(super) left: bool,
}

/// The parts of an event.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct ReceivedEvent<'a> {
    pub(crate) event_id: &'a str,
    pub(crate) database: &'a str,
    pub(crate) collection: &'a str,
    pub(crate) document_id: &'a str,
    pub(crate) operation: i32,
    pub(crate) data: &'a [u8],
    pub(crate) timestamp: i64,
}

/// An error: a delivery cannot be decoded.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Malformed {
    #[error(transparent)]
    Encoding(#[from] DecodeError),
    #[error("field {tag} is longer than the rest of the message")]
    TooLong { tag: u32 },
    #[error("field {tag} is of another type")]
    Type { tag: u32 },
    #[error("a text is not UTF-8")]
    Text(#[from] std::str::Utf8Error),
}

/// The fields of an encoded message, in their order.
struct Fields<'a>(&'a [u8]);

/// The value of a field, as far as these messages have such values.
enum Value<'a> {
    Number(u64),
    /// A number of eight bytes.
    Fixed(u64),
    Bytes(&'a [u8]),
    /// A value of a type that none of their fields has.
    Other,
}

impl<'a> Delivery<'a> {
    /// Reads an encoded [`wire::EventDelivery`].
    pub(super) fn read(message: &'a [u8]) -> Result<Self, Malformed> {
        let mut delivery = Self::default();
        let mut fields = Fields(message);
        while let Some((tag, value)) = fields.next()? {
            match (tag, value) {
                (1, Value::Bytes(id)) => delivery.ids.push(std::str::from_utf8(id)?),
                // A message that is given twice is merged, as protobuf demands.
                (2, Value::Bytes(event)) => {
                    delivery.event.get_or_insert_default().read(event)?;
                }
                (100, Value::Bytes(position)) => {
                    delivery.position.get_or_insert_default().merge(position)?;
                }
                (101, Value::Number(previous)) => delivery.previous.push(previous),
                (101, Value::Bytes(mut packed)) => {
                    while !packed.is_empty() {
                        delivery.previous.push(decode_varint(&mut packed)?);
                    }
                }
                (102, Value::Number(left)) => delivery.left = left != 0,
                (1 | 2 | 100 | 101 | 102, _) => return Err(Malformed::Type { tag }),
                // Of a later version.
                _ => {}
            }
        }
        Ok(delivery)
    }

    pub(super) fn position(&self) -> Option<Position> {
        self.position.map(Position::from)
    }
}

impl<'a> Response<'a> {
    /// Reads an encoded [`wire::SubscribeResponse`].
    pub(super) fn read(message: &'a [u8]) -> Result<Self, Malformed> {
        let mut response = Self::default();
        let mut fields = Fields(message);
        while let Some((tag, value)) = fields.next()? {
            match (tag, value) {
                (1, Value::Bytes(id)) => response.subscription_id = std::str::from_utf8(id)?,
                (2, Value::Number(success)) => response.success = success != 0,
                (3, Value::Bytes(error)) => response.error = std::str::from_utf8(error)?,
                (100, Value::Bytes(position)) => {
                    response.position.get_or_insert_default().merge(position)?;
                }
                (101, Value::Bytes(resync)) => {
                    response.resync.get_or_insert_default().merge(resync)?;
                }
                (102, Value::Number(code)) => response.code = code as i32,
                (103, Value::Number(taken_over)) => response.taken_over = taken_over != 0,
                (104, Value::Number(request)) => response.request = request,
                (105, Value::Number(snapshot)) => response.snapshot = snapshot != 0,
                (106, Value::Number(left)) => response.left = left != 0,
                (107, Value::Number(window)) => response.window = window != 0,
                (108, Value::Number(start)) => response.start = start != 0,
                (109, Value::Number(filters)) => response.filters = filters != 0,
                (110, Value::Fixed(rights)) => response.rights = rights,
                (1..=3 | 100..=110, _) => return Err(Malformed::Type { tag }),
                // Of a later version.
                _ => {}
            }
        }
        Ok(response)
    }
}

impl<'a> ReceivedEvent<'a> {
    fn read(&mut self, message: &'a [u8]) -> Result<(), Malformed> {
        let mut fields = Fields(message);
        while let Some((tag, value)) = fields.next()? {
            match (tag, value) {
                (1, Value::Bytes(text)) => self.event_id = std::str::from_utf8(text)?,
                (2, Value::Bytes(text)) => self.database = std::str::from_utf8(text)?,
                (3, Value::Bytes(text)) => self.collection = std::str::from_utf8(text)?,
                (4, Value::Bytes(text)) => self.document_id = std::str::from_utf8(text)?,
                (5, Value::Number(operation)) => self.operation = operation as i32,
                (6, Value::Bytes(data)) => self.data = data,
                (7, Value::Number(timestamp)) => self.timestamp = timestamp.cast_signed(),
                (1..=7, _) => return Err(Malformed::Type { tag }),
                _ => {}
            }
        }
        Ok(())
    }
}

impl<'a> From<&'a wire::StreamerEvent> for ReceivedEvent<'a> {
    fn from(event: &'a wire::StreamerEvent) -> Self {
        Self {
            event_id: &event.event_id,
            database: &event.database,
            collection: &event.collection,
            document_id: &event.document_id,
            operation: event.operation,
            data: &event.document_data,
            timestamp: event.timestamp,
        }
    }
}

impl<'a> Fields<'a> {
    fn next(&mut self) -> Result<Option<(u32, Value<'a>)>, Malformed> {
        if self.0.is_empty() {
            return Ok(None);
        }
        let (tag, wire_type) = decode_key(&mut self.0)?;
        let value = match wire_type {
            WireType::Varint => Value::Number(decode_varint(&mut self.0)?),
            WireType::LengthDelimited => {
                let length = usize::try_from(decode_varint(&mut self.0)?).unwrap_or(usize::MAX);
                let (value, rest) = self
                    .0
                    .split_at_checked(length)
                    .ok_or(Malformed::TooLong { tag })?;
                self.0 = rest;
                Value::Bytes(value)
            }
            WireType::SixtyFourBit => {
                let (value, rest) = self
                    .0
                    .split_first_chunk()
                    .ok_or(Malformed::TooLong { tag })?;
                self.0 = rest;
                Value::Fixed(u64::from_le_bytes(*value))
            }
            WireType::ThirtyTwoBit | WireType::StartGroup | WireType::EndGroup => {
                skip_field(wire_type, tag, &mut self.0, DecodeContext::default())?;
                Value::Other
            }
        };
        Ok(Some((tag, value)))
    }
}

impl Kind {
    fn of(payload: &Payload) -> Option<Self> {
        match payload {
            Payload::Delivery(_) => Some(Self::Delivery),
            Payload::SubscribeResponse(_) => Some(Self::Response),
            Payload::HeartbeatAck(_)
            | Payload::Welcome(_)
            | Payload::Progress(_)
            | Payload::Drain(_)
            | Payload::UnsubscribeAck(_)
            | Payload::Final(_)
            | Payload::Snapshot(_)
            | Payload::Authenticated(_) => None,
        }
    }

    fn of_tag(tag: u32) -> Option<Self> {
        [Self::Delivery, Self::Response]
            .into_iter()
            .find(|kind| kind.tag() == tag)
    }

    /// Returns the tag of the kind in a [`StreamerMessage`].
    fn tag(self) -> u32 {
        match self {
            Self::Delivery => 1,
            Self::Response => 3,
        }
    }

    fn decode(self, message: &[u8]) -> Result<Payload, DecodeError> {
        Ok(match self {
            Self::Delivery => Payload::Delivery(wire::EventDelivery::decode(message)?),
            Self::Response => Payload::SubscribeResponse(wire::SubscribeResponse::decode(message)?),
        })
    }
}

impl Default for ServerMessage {
    fn default() -> Self {
        Self(Content::Other(None))
    }
}

impl ServerMessage {
    /// Returns the content, of the frequent kinds always as it is encoded.
    pub(super) fn into_content(self) -> Content {
        match self.0 {
            Content::Other(Some(payload)) if Kind::of(&payload).is_some() => {
                let payload = Some(*payload);
                Self::from(StreamerMessage { payload }).0
            }
            content => content,
        }
    }
}

impl From<StreamerMessage> for ServerMessage {
    fn from(message: StreamerMessage) -> Self {
        Self(match message.payload {
            Some(Payload::Delivery(delivery)) => {
                Content::Encoded(Kind::Delivery, delivery.encode_to_vec().into())
            }
            Some(Payload::SubscribeResponse(response)) => {
                Content::Encoded(Kind::Response, response.encode_to_vec().into())
            }
            payload => Content::Other(payload.map(Box::new)),
        })
    }
}

impl Message for ServerMessage {
    fn encode_raw(&self, buffer: &mut impl BufMut) {
        match &self.0 {
            Content::Other(Some(payload)) => payload.encode(buffer),
            Content::Other(None) => {}
            Content::Encoded(kind, message) => {
                encode_key(kind.tag(), WireType::LengthDelimited, buffer);
                encode_varint(message.len() as u64, buffer);
                buffer.put_slice(message);
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
        let payload = match &mut self.0 {
            // No peer sends a second payload. Protobuf merges it with the first, or takes the last.
            Content::Encoded(kind, first) => Some(kind.decode(first)?),
            Content::Other(payload) => {
                let payload = payload.take().map(|it| *it);
                let before = payload.as_ref().and_then(Kind::of);
                if let Some(kind) = Kind::of_tag(tag)
                    && before.is_none()
                {
                    let mut message = Bytes::new();
                    prost::encoding::bytes::merge(wire_type, &mut message, buffer, context)?;
                    self.0 = Content::Encoded(kind, message);
                    return Ok(());
                }
                payload
            }
        };
        let mut message = StreamerMessage { payload };
        message.merge_field(tag, wire_type, buffer, context)?;
        // Not encoded again: a message may have as many fields as its bytes allow.
        self.0 = Content::Other(message.payload.map(Box::new));
        Ok(())
    }

    fn encoded_len(&self) -> usize {
        match &self.0 {
            Content::Other(payload) => payload.as_ref().map_or(0, |it| it.encoded_len()),
            Content::Encoded(kind, message) => {
                let length = message.len();
                key_len(kind.tag()) + encoded_len_varint(length as u64) + length
            }
        }
    }

    fn clear(&mut self) {
        *self = Self::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn full() -> wire::EventDelivery {
        wire::EventDelivery {
            subscription_ids: vec!["s-1".to_owned(), "s-2".to_owned()],
            event: Some(wire::StreamerEvent {
                event_id: "00000000000000e1.300".to_owned(),
                database: "default".to_owned(),
                collection: "users".to_owned(),
                document_id: "ü-7".to_owned(),
                operation: 2,
                document_data: Bytes::from_static(br#"{"n":1}"#),
                timestamp: -5,
            }),
            position: Some(wire::Position {
                epoch: 0xe1,
                offset: 300,
            }),
            previous: vec![299, 1],
            left: true,
        }
    }

    /// Decodes a message as the driver and the core do, into the generated type.
    fn decode(message: &[u8]) -> Option<StreamerMessage> {
        let delivery = match ServerMessage::decode(message).ok()?.into_content() {
            Content::Other(payload) => {
                let payload = payload.map(|payload| *payload);
                return Some(StreamerMessage { payload });
            }
            Content::Encoded(Kind::Response, response) => {
                let payload = Some(generated_response(&Response::read(&response).ok()?));
                return Some(StreamerMessage { payload });
            }
            Content::Encoded(Kind::Delivery, delivery) => delivery,
        };
        let read = Delivery::read(&delivery).ok()?;
        let event = read.event.map(|event| wire::StreamerEvent {
            event_id: event.event_id.to_owned(),
            database: event.database.to_owned(),
            collection: event.collection.to_owned(),
            document_id: event.document_id.to_owned(),
            operation: event.operation,
            document_data: Bytes::copy_from_slice(event.data),
            timestamp: event.timestamp,
        });
        let payload = Some(Payload::Delivery(wire::EventDelivery {
            subscription_ids: read.ids.iter().map(|id| (*id).to_owned()).collect(),
            event,
            position: read.position,
            previous: read.previous.to_vec(),
            left: read.left,
        }));
        Some(StreamerMessage { payload })
    }

    fn generated_response(read: &Response<'_>) -> Payload {
        Payload::SubscribeResponse(wire::SubscribeResponse {
            subscription_id: read.subscription_id.to_owned(),
            success: read.success,
            error: read.error.to_owned(),
            position: read.position,
            resync: read.resync,
            code: read.code,
            taken_over: read.taken_over,
            request: read.request,
            snapshot: read.snapshot,
            left: read.left,
            window: read.window,
            start: read.start,
            filters: read.filters,
            rights: read.rights,
        })
    }

    fn full_response() -> wire::SubscribeResponse {
        let position = full().position;
        wire::SubscribeResponse {
            subscription_id: "s-1".to_owned(),
            success: true,
            error: "ü".to_owned(),
            position,
            resync: Some(wire::Resync {
                reason: 1,
                resumes_at: position,
            }),
            code: -1,
            taken_over: true,
            request: 300,
            snapshot: true,
            left: true,
            window: true,
            start: true,
            filters: true,
            rights: u64::MAX,
        }
    }

    fn message(payload: Payload) -> Vec<u8> {
        let payload = Some(payload);
        StreamerMessage { payload }.encode_to_vec()
    }

    #[test]
    fn fields_after_a_delivery_do_not_encode_it_again() {
        const FIELDS: usize = 20_000;
        let mut delivery = full();
        let event = delivery.event.get_or_insert_default();
        event.document_data = vec![b' '; 1 << 20].into();
        let unknown = [0xf0, 0x0f, 1].repeat(FIELDS);
        let whole = [message(Payload::Delivery(delivery)), unknown].concat();
        // Encoded for each field, it would be 20 GB, which takes a test longer than this by far.
        assert_eq!(decode(&whole), StreamerMessage::decode(&whole[..]).ok());
        let read = ServerMessage::decode(&whole[..]).expect("it is valid");
        assert!(matches!(read.0, Content::Other(_)), "it is decoded once");
    }

    #[test]
    fn messages_are_read_as_generated_code_reads_them() {
        let delivery = message(Payload::Delivery(full()));
        let response = message(Payload::SubscribeResponse(full_response()));
        let drain = message(Payload::Drain(wire::Drain::default()));
        let bare = message(Payload::Delivery(wire::EventDelivery::default()));
        // An unpacked previous offset, and fields of a later version: a number, a text, a fixed one.
        let foreign = [
            &[10, 23, 0xa8, 0x06, 7][..],
            &[0xf0, 0x0f, 1, 0xf2, 0x0f, 2, b'a', b'b'],
            &[0xf5, 0x0f, 1, 2, 3, 4, 0x10 | 2, 2, 0x28, 4],
        ]
        .concat();
        let unknown = [0xf0, 0x0f, 1];
        let mut cases = vec![bare.clone(), foreign, [&*response, &response].concat()];
        for tail in [&delivery[..], &response, &drain, &bare, &unknown] {
            for message in [&delivery, &response] {
                cases.push([message, tail].concat());
                cases.push([tail, message].concat());
            }
        }
        for whole in cases {
            for end in 0..=whole.len() {
                let cut = &whole[..end];
                assert_eq!(decode(cut), StreamerMessage::decode(cut).ok(), "{cut:?}");
            }
            for at in 0..whole.len() {
                for bit in 0..8 {
                    let mut changed = whole.clone();
                    changed[at] ^= 1 << bit;
                    let expected = StreamerMessage::decode(&*changed).ok();
                    assert_eq!(decode(&changed), expected, "{changed:?}");
                }
            }
        }
    }

    #[test]
    fn a_message_encodes_as_it_was_received() {
        for payload in [
            Payload::Delivery(full()),
            Payload::SubscribeResponse(full_response()),
            Payload::Drain(wire::Drain::default()),
        ] {
            let bytes = message(payload);
            let received = ServerMessage::decode(&*bytes).expect("it is valid");
            assert_eq!(received.encode_to_vec(), bytes);
            let generated = StreamerMessage::decode(&*bytes).expect("it is valid");
            assert_eq!(ServerMessage::from(generated), received);
        }
    }
}
