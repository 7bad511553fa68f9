//! JSON as Go's `encoding/json` writes it, and the values of `protojson` in it.

use std::io;

use jiff::Timestamp as Instant;
use prost_types::Timestamp;
use serde::Serialize;
use serde_json::ser::{Formatter, Serializer};

/// Writes strings as Go does, which escapes what HTML or JavaScript would interpret.
struct HtmlSafe;

impl Formatter for HtmlSafe {
    fn write_string_fragment<W: io::Write + ?Sized>(
        &mut self,
        writer: &mut W,
        fragment: &str,
    ) -> io::Result<()> {
        let mut rest = fragment;
        while let Some(at) = rest.find(['<', '>', '&', '\u{2028}', '\u{2029}']) {
            writer.write_all(&rest.as_bytes()[..at])?;
            let escaped = rest[at..].chars().next().expect("found there");
            write!(writer, "\\u{:04x}", u32::from(escaped))?;
            rest = &rest[at + escaped.len_utf8()..];
        }
        writer.write_all(rest.as_bytes())
    }
}

/// Returns the JSON of a page, which ends with a line feed.
pub(super) fn page(value: &impl Serialize) -> Vec<u8> {
    let mut json = Vec::new();
    value
        .serialize(&mut Serializer::with_formatter(&mut json, HtmlSafe))
        .expect("a page has a JSON form");
    json.push(b'\n');
    json
}

/// Returns the text of a time, which without one is that of the year 1 as in Go.
pub(super) fn rfc3339_or_zero(time: Option<&Timestamp>) -> String {
    const ZERO: Timestamp = Timestamp {
        seconds: -62_135_596_800,
        nanos: 0,
    };
    rfc3339(time.unwrap_or(&ZERO))
}

/// Returns the text of a time: RFC 3339 in UTC. A time that no calendar has is the nearest end of the
/// year 1 or 9999, which Go could not write at all.
pub(super) fn rfc3339(time: &Timestamp) -> String {
    // The range of `google.protobuf.Timestamp`.
    let seconds = time.seconds.clamp(-62_135_596_800, 253_402_207_200);
    let nanos = time.nanos.clamp(0, 999_999_999);
    let instant = Instant::new(seconds, nanos);
    instant.map_or_else(
        |_| "0001-01-01T00:00:00Z".to_owned(),
        |instant| instant.to_string(),
    )
}
