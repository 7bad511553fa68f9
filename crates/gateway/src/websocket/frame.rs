//! Frames.

use super::deflate::{self, DeflateFault};

/// The kind of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Opcode {
    Continuation = 0,
    Text = 1,
    Binary = 2,
    Close = 8,
    Ping = 9,
    Pong = 10,
}

/// Something that a client sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Received {
    /// A whole message.
    Text(String),
    /// A ping, whose payload is sent back.
    Ping(Vec<u8>),
    /// A pong.
    Pong,
    /// The closing handshake, with its status code if there is one.
    Close(Option<u16>),
}

/// The breach of the protocol that ends a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Violation {
    /// A frame that must not be.
    Protocol(&'static str),
    /// A message that is not text.
    NotText,
    /// A text that is not UTF-8.
    NotUtf8,
    /// A message is not compressed as its frame says.
    NotDeflate,
    /// A message of more bytes than allowed.
    TooLarge,
}

/// Reads the frames of a client.
#[derive(Debug)]
pub(crate) struct Decoder {
    /// The bytes of an incomplete frame.
    partial: Vec<u8>,
    /// The message whose last frame has not come.
    message: Option<Message>,
    max_bytes: usize,
    /// Whether messages may be compressed.
    deflate: bool,
}

#[derive(Debug, Default)]
struct Message {
    bytes: Vec<u8>,
    is_compressed: bool,
}

#[derive(Debug)]
struct Header {
    is_final: bool,
    is_compressed: bool,
    opcode: Opcode,
    mask: [u8; 4],
    /// The bytes of the header itself.
    length: usize,
    payload: usize,
}

/// The longest payload of a control frame.
const CONTROL_BYTES: usize = 125;

impl Violation {
    /// Returns the status code and the reason for the client. A client connects again after a code that it
    /// does not know, so that all breaches have the one that tells it not to.
    pub(crate) fn close(self) -> (u16, &'static str) {
        match self {
            Self::Protocol(what) => (1008, what),
            Self::NotText => (1008, "every message is text"),
            Self::NotUtf8 => (1008, "a message is not UTF-8"),
            Self::NotDeflate => (1008, "a message cannot be decompressed"),
            Self::TooLarge => (1009, "a message is too large"),
        }
    }
}

impl Decoder {
    pub(crate) fn new(max_bytes: usize, deflate: bool) -> Self {
        Self {
            partial: Vec::new(),
            message: None,
            max_bytes,
            deflate,
        }
    }

    /// Takes bytes from the connection.
    pub(crate) fn push(&mut self, bytes: &[u8]) {
        self.partial.extend_from_slice(bytes);
    }

    /// Returns the bytes of what is not complete.
    pub(crate) fn held_bytes(&self) -> usize {
        let message = self.message.as_ref().map_or(0, |it| it.bytes.len());
        self.partial.len() + message
    }

    /// Returns the next message or control frame, if it is complete.
    pub(crate) fn next(&mut self) -> Result<Option<Received>, Violation> {
        loop {
            let Some(header) = self.header()? else {
                return Ok(None);
            };
            let end = header.length + header.payload;
            if self.partial.len() < end {
                return Ok(None);
            }
            let mut payload = self.partial[header.length..end].to_vec();
            if self.partial.len() == end {
                // A connection that waits keeps no buffer.
                self.partial = Vec::new();
            } else {
                self.partial.drain(..end);
            }
            for (at, byte) in payload.iter_mut().enumerate() {
                *byte ^= header.mask[at % 4];
            }
            if let Some(received) = self.frame(&header, payload)? {
                return Ok(Some(received));
            }
        }
    }

    /// Returns the header at the front, if all its bytes have come.
    fn header(&self) -> Result<Option<Header>, Violation> {
        let [first, second, rest @ ..] = &*self.partial else {
            return Ok(None);
        };
        let opcode = Opcode::from_bits(first & 0x0f).ok_or(Violation::Protocol(
            "a frame has a kind that does not exist",
        ))?;
        let is_final = first & 0x80 != 0;
        let is_compressed = first & 0x40 != 0;
        let begins = matches!(opcode, Opcode::Text | Opcode::Binary);
        if first & 0x30 != 0 || (is_compressed && !(self.deflate && begins)) {
            return Err(Violation::Protocol("a frame has a reserved bit"));
        }
        if second & 0x80 == 0 {
            return Err(Violation::Protocol("a frame has no mask"));
        }
        let (payload, size) = match second & 0x7f {
            126 => match rest {
                [high, low, ..] => (usize::from(u16::from_be_bytes([*high, *low])), 2),
                _ => return Ok(None),
            },
            127 => match rest.first_chunk::<8>() {
                // More than the address space is more than the limit.
                Some(bytes) => (
                    usize::try_from(u64::from_be_bytes(*bytes)).unwrap_or(usize::MAX),
                    8,
                ),
                None => return Ok(None),
            },
            short => (usize::from(short), 0),
        };
        if opcode.is_control() {
            if payload > CONTROL_BYTES || !is_final {
                return Err(Violation::Protocol(
                    "a control frame is in parts or too long",
                ));
            }
        } else {
            let before = self.message.as_ref().map_or(0, |it| it.bytes.len());
            // Before the payload is received: the buffer has this limit as well.
            if payload > self.max_bytes - before.min(self.max_bytes) {
                return Err(Violation::TooLarge);
            }
        }
        let Some(mask) = rest[size..].first_chunk::<4>() else {
            return Ok(None);
        };
        Ok(Some(Header {
            is_final,
            is_compressed,
            opcode,
            mask: *mask,
            length: 2 + size + 4,
            payload,
        }))
    }

    fn frame(&mut self, header: &Header, payload: Vec<u8>) -> Result<Option<Received>, Violation> {
        match (header.opcode, self.message.is_some()) {
            (Opcode::Ping, _) => return Ok(Some(Received::Ping(payload))),
            (Opcode::Pong, _) => return Ok(Some(Received::Pong)),
            (Opcode::Close, _) => return close_code(&payload).map(Received::Close).map(Some),
            (Opcode::Binary, _) => return Err(Violation::NotText),
            (Opcode::Text, true) => {
                return Err(Violation::Protocol("a message begins within another one"));
            }
            (Opcode::Continuation, false) => {
                return Err(Violation::Protocol("a message has no beginning"));
            }
            (Opcode::Text, false) => {
                self.message = Some(Message {
                    bytes: payload,
                    is_compressed: header.is_compressed,
                });
            }
            (Opcode::Continuation, true) => {
                let message = self.message.get_or_insert_default();
                message.bytes.extend_from_slice(&payload);
            }
        }
        if !header.is_final {
            return Ok(None);
        }
        let message = self.message.take().unwrap_or_default();
        let bytes = if message.is_compressed {
            deflate::decompress(&message.bytes, self.max_bytes).map_err(|fault| match fault {
                DeflateFault::Malformed => Violation::NotDeflate,
                DeflateFault::TooLarge => Violation::TooLarge,
            })?
        } else {
            message.bytes
        };
        let text = String::from_utf8(bytes).map_err(|_| Violation::NotUtf8)?;
        Ok(Some(Received::Text(text)))
    }
}

impl Opcode {
    fn from_bits(bits: u8) -> Option<Self> {
        Some(match bits {
            0 => Self::Continuation,
            1 => Self::Text,
            2 => Self::Binary,
            8 => Self::Close,
            9 => Self::Ping,
            10 => Self::Pong,
            _ => return None,
        })
    }

    fn is_control(self) -> bool {
        matches!(self, Self::Close | Self::Ping | Self::Pong)
    }
}

fn close_code(payload: &[u8]) -> Result<Option<u16>, Violation> {
    let Some((code, reason)) = payload.split_first_chunk::<2>() else {
        return match payload {
            [] => Ok(None),
            _ => Err(Violation::Protocol("a status code has one byte")),
        };
    };
    if std::str::from_utf8(reason).is_err() {
        return Err(Violation::NotUtf8);
    }
    match u16::from_be_bytes(*code) {
        code @ (1000..=1003 | 1007..=1014 | 3000..=4999) => Ok(Some(code)),
        _ => Err(Violation::Protocol("a status code must not be sent")),
    }
}

/// Appends a frame of a server, which has no mask.
pub(crate) fn encode(opcode: Opcode, is_compressed: bool, payload: &[u8], to: &mut Vec<u8>) {
    let compressed = if is_compressed { 0x40 } else { 0 };
    to.push(0x80 | compressed | opcode as u8);
    if let Ok(length) = u8::try_from(payload.len())
        && length < 126
    {
        to.push(length);
    } else if let Ok(length) = u16::try_from(payload.len()) {
        to.push(126);
        to.extend_from_slice(&length.to_be_bytes());
    } else {
        to.push(127);
        to.extend_from_slice(&(payload.len() as u64).to_be_bytes());
    }
    to.extend_from_slice(payload);
}

/// Returns the payload of a close frame.
pub(crate) fn close_payload(code: u16, reason: &str) -> Vec<u8> {
    let mut payload = code.to_be_bytes().to_vec();
    payload.extend_from_slice(&reason.as_bytes()[..reason.len().min(CONTROL_BYTES - 2)]);
    payload
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A frame of a client.
    fn masked(first: u8, payload: &[u8]) -> Vec<u8> {
        let mask = [0x37, 0xfa, 0x21, 0x3d];
        let mut frame = Vec::new();
        encode(Opcode::Text, false, payload, &mut frame);
        frame[0] = first;
        frame[1] |= 0x80;
        let at = frame.len() - payload.len();
        for (index, byte) in frame[at..].iter_mut().enumerate() {
            *byte ^= mask[index % 4];
        }
        frame.splice(at..at, mask);
        frame
    }

    fn decoder() -> Decoder {
        Decoder::new(300, true)
    }

    fn read(bytes: &[u8]) -> Result<Vec<Received>, Violation> {
        let mut decoder = decoder();
        let mut received = Vec::new();
        decoder.push(bytes);
        while let Some(next) = decoder.next()? {
            received.push(next);
        }
        Ok(received)
    }

    #[test]
    fn example_of_the_standard_is_read_and_written() {
        let hello = [
            0x81, 0x85, 0x37, 0xfa, 0x21, 0x3d, 0x7f, 0x9f, 0x4d, 0x51, 0x58,
        ];
        assert_eq!(read(&hello), Ok(vec![Received::Text("Hello".into())]));
        let mut frame = Vec::new();
        encode(Opcode::Text, false, b"Hello", &mut frame);
        assert_eq!(frame, [0x81, 0x05, 0x48, 0x65, 0x6c, 0x6c, 0x6f]);
    }

    #[test]
    fn parts_and_control_frames_between_them_are_read_bytewise() {
        let text = "ä".repeat(100);
        let (head, tail) = text.as_bytes().split_at(33);
        let mut bytes = masked(0x01, head);
        bytes.extend(masked(0x89, b"are you there"));
        bytes.extend(masked(0x8a, b""));
        bytes.extend(masked(0x80, tail));
        bytes.extend(masked(0x88, &close_payload(1001, "left")));
        let expected = [
            Received::Ping(b"are you there".to_vec()),
            Received::Pong,
            Received::Text(text.clone()),
            Received::Close(Some(1001)),
        ];
        assert_eq!(read(&bytes).unwrap(), expected);
        let (mut decoder, mut received) = (decoder(), Vec::new());
        for byte in bytes {
            decoder.push(&[byte]);
            received.extend(decoder.next().unwrap());
        }
        assert_eq!(received, expected);
        assert_eq!(
            decoder.partial.capacity(),
            0,
            "an idle connection holds nothing"
        );
    }

    #[test]
    fn breaches_of_the_protocol_have_their_status_codes() {
        let mut unmasked = Vec::new();
        encode(Opcode::Text, false, b"x", &mut unmasked);
        let broken = |bytes, reason| (bytes, (1008, reason));
        let large = (1009, "a message is too large");
        for (bytes, expected) in [
            broken(unmasked, "a frame has no mask"),
            broken(masked(0x83, b""), "a frame has a kind that does not exist"),
            broken(masked(0xa1, b"x"), "a frame has a reserved bit"),
            broken(masked(0xc9, b"x"), "a frame has a reserved bit"),
            broken(masked(0x80, b"x"), "a message has no beginning"),
            broken(
                masked(0x09, b"x"),
                "a control frame is in parts or too long",
            ),
            broken(
                masked(0x89, &[0; 126]),
                "a control frame is in parts or too long",
            ),
            broken(
                [masked(0x01, b"a"), masked(0x81, b"b")].concat(),
                "a message begins within another one",
            ),
            broken(masked(0x88, &[3]), "a status code has one byte"),
            broken(
                masked(0x88, &1005_u16.to_be_bytes()),
                "a status code must not be sent",
            ),
            broken(masked(0x82, b"x"), "every message is text"),
            broken(masked(0x81, &[0xff]), "a message is not UTF-8"),
            (masked(0x81, &[b'x'; 301]), large),
            (
                [masked(0x01, &[b'x'; 200]), masked(0x80, &[b'x'; 101])].concat(),
                large,
            ),
            // The length alone decides, before any payload.
            (vec![0x81, 0xff, 0, 1, 0, 0, 0, 0, 0, 0], large),
        ] {
            let violation = read(&bytes).unwrap_err();
            assert_eq!(violation.close(), expected, "{bytes:x?}");
        }
    }

    #[test]
    fn compressed_messages_are_read_and_bounded() {
        let (text, mut frame) = ("abc".repeat(90), Vec::new());
        let packed = deflate::compress(text.as_bytes());
        assert!(packed.len() < 30);
        encode(Opcode::Text, true, &packed, &mut frame);
        assert_eq!(frame[0], 0xc1);
        assert_eq!(read(&masked(0xc1, &packed)), Ok(vec![Received::Text(text)]));
        // In parts: only the first has the bit.
        let (head, tail) = packed.split_at(5);
        let parts = [masked(0x41, head), masked(0x80, tail)].concat();
        assert_eq!(read(&parts).unwrap().len(), 1);
        let bomb = deflate::compress(&[b'x'; 10_000]);
        assert!(bomb.len() < 300);
        assert_eq!(read(&masked(0xc1, &bomb)), Err(Violation::TooLarge));
        assert_eq!(read(&masked(0xc1, &[0xff; 9])), Err(Violation::NotDeflate));
        let mut plain = Decoder::new(300, false);
        plain.push(&masked(0xc1, &packed));
        let reserved = Violation::Protocol("a frame has a reserved bit");
        assert_eq!(plain.next(), Err(reserved));
    }
}
