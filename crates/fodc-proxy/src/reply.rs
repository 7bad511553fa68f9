//! Reads an agent's answer while it arrives.
//!
//! A thousand agents answer with some 136 kB each. Held whole, that alone is more memory than the
//! proxy shall have, and a generic decoder spends a microsecond on each of their metrics. Here a
//! message is taken as it comes: of each field only as much is kept as has not arrived yet, and a
//! metric is slices of the bytes received. What is accepted and refused is what `prost` accepts and
//! refuses, held by test, but that text is checked only where it is kept.

mod fields;

use bytes::Bytes;
use prost::Message as _;
use steadfast_wire::fodc::{Columns, Truncation};

pub(super) use self::fields::Malformed;
use self::fields::{CUT, Field, fields, scan};
use super::{moment::Moment, series::Kind};

/// A label's name and value as they arrived.
pub(super) type RawLabel<'a> = (&'a [u8], &'a [u8]);

/// A metric as it arrived.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct RawMetric<'a> {
    pub(super) name: &'a [u8],
    /// As sent: unordered, perhaps repeated.
    pub(super) labels: Vec<RawLabel<'a>>,
    pub(super) value: f64,
    pub(super) help: &'a [u8],
    pub(super) time: Option<Moment>,
    pub(super) kind: Kind,
}

/// Who takes what is read.
pub(super) trait Taker {
    /// Whatever is left in the labels is not looked at again.
    fn metric(&mut self, metric: &mut RawMetric<'_>);
    fn columns(&mut self, columns: &Columns) -> Result<(), Malformed>;
}

/// What a message says beside its metrics.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Envelope {
    pub(super) request_id: u64,
    pub(super) more: bool,
    pub(super) from: Option<Moment>,
    pub(super) at: Option<Moment>,
}

/// One message of which more may come.
#[derive(Debug, Default)]
pub(super) struct Reader {
    /// The beginning of a field whose end has not arrived.
    pending: Vec<u8>,
    envelope: Envelope,
    time: (i64, i32),
    from: (i64, i32),
}

impl Reader {
    /// Takes the next bytes of the message.
    pub(super) fn read(&mut self, bytes: &Bytes, taker: &mut impl Taker) -> Result<(), Malformed> {
        if self.pending.is_empty() {
            let used = self.take(bytes, taker)?;
            self.keep(&bytes[used..]);
            return Ok(());
        }
        let mut pending = std::mem::take(&mut self.pending);
        // Only the field that is cut in two is copied; what follows it is read where it is.
        let mut rest: &[u8] = bytes;
        while !rest.is_empty() {
            let missing = match scan(&pending)? {
                Some((_, _)) => break,
                None => fields::missing(&pending)?.clamp(1, rest.len()),
            };
            pending.extend_from_slice(&rest[..missing]);
            rest = &rest[missing..];
        }
        let used = self.take(&pending, taker)?;
        pending.drain(..used);
        if pending.is_empty() {
            let used = self.take(rest, taker)?;
            rest = &rest[used..];
            pending.reserve(fields::missing(rest)?.min(KEPT) + rest.len());
        }
        pending.extend_from_slice(rest);
        self.pending = pending;
        Ok(())
    }

    /// The message is complete.
    pub(super) fn finish(&mut self) -> Result<Envelope, Malformed> {
        if !self.pending.is_empty() {
            return Err(CUT);
        }
        Ok(std::mem::take(self).envelope)
    }

    fn keep(&mut self, rest: &[u8]) {
        self.pending.extend_from_slice(rest);
    }

    /// Reads whole fields and says how many bytes they were.
    fn take(&mut self, bytes: &[u8], taker: &mut impl Taker) -> Result<usize, Malformed> {
        let mut used = 0;
        // One for all, or each metric would have memory of its own for its labels.
        let mut metric = RawMetric::default();
        while let Some((field, length)) = scan(&bytes[used..])? {
            if field.number == METRIC {
                metric.read(field.bytes()?)?;
                taker.metric(&mut metric);
            } else {
                self.field(&field, taker)?;
            }
            used += length;
        }
        Ok(used)
    }

    fn field(&mut self, field: &Field<'_>, taker: &mut impl Taker) -> Result<(), Malformed> {
        match field.number {
            2 => {
                timestamp(field.bytes()?, &mut self.time)?;
                self.envelope.at = Some(moment(self.time));
            }
            100 => self.envelope.request_id = field.varint()?,
            101 => {
                let columns = Columns::decode(field.bytes()?).map_err(|_| COLUMNS)?;
                taker.columns(&columns)?;
            }
            102 => self.envelope.more = field.varint()? != 0,
            103 => {
                let truncation = Truncation::decode(field.bytes()?).map_err(|_| TRUNCATION)?;
                if let Some(from) = truncation.from {
                    self.from = (from.seconds, from.nanos);
                }
                self.envelope.from = Some(moment(self.from));
            }
            _ => {}
        }
        Ok(())
    }
}

pub(super) const COLUMNS: Malformed = Malformed("its columns are wrong");
const TRUNCATION: Malformed = Malformed("what was left out is wrong");

/// The field that a message consists of, in the main.
const METRIC: u32 = 1;

/// How much is reserved for a field before it has come.
const KEPT: usize = 64 << 10;

impl<'a> RawMetric<'a> {
    fn read(&mut self, bytes: &'a [u8]) -> Result<(), Malformed> {
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
                    self.time = Some(moment(time));
                }
                6 => self.kind = kind(field.varint()?),
                _ => {}
            }
        }
        Ok(())
    }
}

fn pair(bytes: &[u8]) -> Result<RawLabel<'_>, Malformed> {
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

fn timestamp(bytes: &[u8], time: &mut (i64, i32)) -> Result<(), Malformed> {
    for field in fields(bytes) {
        let field = field?;
        match field.number {
            1 => time.0 = field.varint()?.cast_signed(),
            2 => time.1 = (field.varint()? as u32).cast_signed(),
            _ => {}
        }
    }
    Ok(())
}

fn moment((seconds, nanos): (i64, i32)) -> Moment {
    Moment::from_parts(seconds, i64::from(nanos))
}

/// Numbers of the future are as good as none.
fn kind(number: u64) -> Kind {
    match number as u32 {
        1 => Kind::Gauge,
        2 => Kind::Counter,
        3 => Kind::Histogram,
        4 => Kind::Summary,
        5 => Kind::Untyped,
        _ => Kind::Unknown,
    }
}

#[cfg(test)]
mod tests;
