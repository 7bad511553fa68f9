//! Decodes an agent's response while it arrives.
//!
//! A thousand agents respond with about 136 kB each. Held whole, that alone would exceed the memory
//! that the proxy may take, and a generic decoder needs a microsecond per metric. This decoder keeps
//! only the field that has not arrived in full, and a metric borrows the bytes received. It accepts and
//! rejects what `prost` does, which a test asserts, except that text is checked only where it is stored.

mod fields;

use bytes::Bytes;
use prost::Message as _;
use steadfast_exposition::Kind;
use steadfast_fodc_model::kind;
use steadfast_wire::fodc::{Columns, Truncation};

pub(super) use self::fields::DecodeError;
use self::fields::{CUT, Field, fields, scan};
use super::time::UnixNanos;

/// A label's name and value as they arrived.
pub(super) type RawLabel<'a> = (&'a [u8], &'a [u8]);

/// A metric as it arrived.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct RawMetric<'a> {
    pub(super) name: &'a [u8],
    /// The labels as sent: unordered, possibly with repeated names.
    pub(super) labels: Vec<RawLabel<'a>>,
    pub(super) value: f64,
    pub(super) help: &'a [u8],
    pub(super) time: Option<UnixNanos>,
    /// The kind, if the agent states one.
    pub(super) kind: Option<Kind>,
}

/// Takes the content of a message in the order of its fields.
pub(super) trait Sink {
    /// Takes a metric. The sink may reorder or take the labels: the decoder clears them for the next
    /// metric.
    fn metric(&mut self, metric: &mut RawMetric<'_>);
    fn columns(&mut self, columns: &Columns) -> Result<(), DecodeError>;
}

/// The fields of a message beside its metrics.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Envelope {
    pub(super) request_id: u64,
    pub(super) more: bool,
    /// The agent left out everything before this time.
    pub(super) from: Option<UnixNanos>,
    /// The agent's clock when it responded.
    pub(super) at: Option<UnixNanos>,
}

/// Decodes one message.
#[derive(Debug, Default)]
pub(super) struct Decoder {
    /// The beginning of a field whose end has not arrived.
    pending: Vec<u8>,
    envelope: Envelope,
    time: (i64, i32),
    from: (i64, i32),
}

impl Decoder {
    /// Decodes the next bytes of the message.
    pub(super) fn decode(
        &mut self,
        bytes: &Bytes,
        sink: &mut impl Sink,
    ) -> Result<(), DecodeError> {
        if self.pending.is_empty() {
            let used = self.decode_fields(bytes, sink)?;
            self.pending.extend_from_slice(&bytes[used..]);
            return Ok(());
        }
        let mut pending = std::mem::take(&mut self.pending);
        // Only the field that is cut in two is copied; the fields after it are decoded in place.
        let mut rest: &[u8] = bytes;
        while !rest.is_empty() {
            let missing = match scan(&pending)? {
                Some(_) => break,
                // A lower bound: where the length itself was cut, the next byte tells more.
                None => fields::missing(&pending)?.clamp(1, rest.len()),
            };
            pending.extend_from_slice(&rest[..missing]);
            rest = &rest[missing..];
        }
        let used = self.decode_fields(&pending, sink)?;
        pending.drain(..used);
        // Otherwise the field is still cut, and `rest` is used up.
        if pending.is_empty() {
            let used = self.decode_fields(rest, sink)?;
            rest = &rest[used..];
            // Columns are one long field: growing step by step would copy it again and again.
            pending.reserve(fields::missing(rest)?.min(RESERVED_BYTES_MAX) + rest.len());
        }
        pending.extend_from_slice(rest);
        self.pending = pending;
        Ok(())
    }

    /// Returns the envelope at the end of the message.
    ///
    /// # Errors
    ///
    /// Returns an error if the message ended inside a field.
    pub(super) fn finish(&mut self) -> Result<Envelope, DecodeError> {
        if !self.pending.is_empty() {
            return Err(CUT);
        }
        Ok(std::mem::take(self).envelope)
    }

    /// Decodes the fields that have arrived whole, and returns the number of their bytes.
    fn decode_fields(&mut self, bytes: &[u8], sink: &mut impl Sink) -> Result<usize, DecodeError> {
        let mut used = 0;
        // Reused, because each metric would otherwise allocate its list of labels.
        let mut metric = RawMetric::default();
        while let Some((field, length)) = scan(&bytes[used..])? {
            if field.number == METRIC {
                metric.decode(field.bytes()?)?;
                sink.metric(&mut metric);
            } else {
                self.field(&field, sink)?;
            }
            used += length;
        }
        Ok(used)
    }

    fn field(&mut self, field: &Field<'_>, sink: &mut impl Sink) -> Result<(), DecodeError> {
        match field.number {
            2 => {
                // Merged into what an earlier field 2 said, as protobuf demands of repeated
                // messages.
                timestamp(field.bytes()?, &mut self.time)?;
                self.envelope.at = Some(unix_nanos(self.time));
            }
            100 => self.envelope.request_id = field.varint()?,
            101 => {
                let columns = Columns::decode(field.bytes()?).map_err(|_| COLUMNS)?;
                sink.columns(&columns)?;
            }
            102 => self.envelope.more = field.varint()? != 0,
            103 => {
                let truncation = Truncation::decode(field.bytes()?).map_err(|_| TRUNCATION)?;
                if let Some(from) = truncation.from {
                    self.from = (from.seconds, from.nanos);
                }
                self.envelope.from = Some(unix_nanos(self.from));
            }
            _ => {}
        }
        Ok(())
    }
}

pub(super) const COLUMNS: DecodeError = DecodeError("invalid columns");
const TRUNCATION: DecodeError = DecodeError("invalid truncation");

/// The number of the field that most of a message consists of.
const METRIC: u32 = 1;

/// The limit on the bytes reserved for a field before they have arrived: its length may be a lie.
const RESERVED_BYTES_MAX: usize = 64 << 10;

impl<'a> RawMetric<'a> {
    fn decode(&mut self, bytes: &'a [u8]) -> Result<(), DecodeError> {
        let mut labels = std::mem::take(&mut self.labels);
        labels.clear();
        *self = Self {
            labels,
            ..Self::default()
        };
        let mut time = (0, 0);
        for field in fields(bytes) {
            let field = field?;
            match field.number {
                1 => self.name = field.bytes()?,
                2 => self.labels.push(pair(field.bytes()?)?),
                3 => self.value = f64::from_bits(field.fixed64()?),
                4 => self.help = field.bytes()?,
                5 => {
                    timestamp(field.bytes()?, &mut time)?;
                    self.time = Some(unix_nanos(time));
                }
                6 => self.kind = kind::from_wire(field.varint()? as i32),
                _ => {}
            }
        }
        Ok(())
    }
}

fn pair(bytes: &[u8]) -> Result<RawLabel<'_>, DecodeError> {
    let mut pair: RawLabel<'_> = (b"", b"");
    for field in fields(bytes) {
        let field = field?;
        match field.number {
            1 => pair.0 = field.bytes()?,
            2 => pair.1 = field.bytes()?,
            _ => {}
        }
    }
    Ok(pair)
}

fn timestamp(bytes: &[u8], time: &mut (i64, i32)) -> Result<(), DecodeError> {
    for field in fields(bytes) {
        let field = field?;
        match field.number {
            1 => time.0 = field.varint()?.cast_signed(),
            // A negative `int32` is a varint of 64 bits; the upper half only repeats the sign.
            2 => time.1 = (field.varint()? as u32).cast_signed(),
            _ => {}
        }
    }
    Ok(())
}

fn unix_nanos((seconds, nanos): (i64, i32)) -> UnixNanos {
    UnixNanos::from_parts(seconds, i64::from(nanos))
}

#[cfg(test)]
mod tests;
