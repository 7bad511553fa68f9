//! Compression of responses for clients that accept it.

use std::{
    io::Write as _,
    mem,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use flate2::{Compression, write::GzEncoder};
use futures_core::Stream;
use http::{HeaderMap, header::ACCEPT_ENCODING};

/// Returns true if a client with these headers accepts gzip.
#[must_use]
pub fn accepts_gzip(headers: &HeaderMap) -> bool {
    let accepted = headers.get_all(ACCEPT_ENCODING).into_iter();
    let accepted = accepted.filter_map(|value| value.to_str().ok());
    accepted.flat_map(|value| value.split(',')).any(|item| {
        let (name, weight) = item.split_once(';').unwrap_or((item, ""));
        // Also `q=0.000`, by RFC 9110, section 12.4.2.
        let weight = weight.trim().strip_prefix("q=");
        let refused = weight.is_some_and(|weight| weight.parse() == Ok(0.0));
        name.trim().eq_ignore_ascii_case("gzip") && !refused
    })
}

/// A stream of bytes, compressed while it is read. It holds one piece at most.
#[derive(Debug)]
pub struct Gzip<S> {
    inner: S,
    /// `None` behind the end.
    encoder: Option<GzEncoder<Vec<u8>>>,
}

impl<S> Gzip<S> {
    /// Compresses a stream.
    pub fn new(inner: S) -> Self {
        Self {
            inner,
            // The time matters more than the size: a page of metrics is read once.
            encoder: Some(GzEncoder::new(Vec::new(), Compression::fast())),
        }
    }
}

impl<E, S: Stream<Item = Result<Bytes, E>> + Unpin> Stream for Gzip<S> {
    type Item = Result<Bytes, E>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        const VEC: &str = "writing to a vector cannot fail";
        let this = &mut *self;
        loop {
            let Some(encoder) = &mut this.encoder else {
                return Poll::Ready(None);
            };
            match ready!(Pin::new(&mut this.inner).poll_next(cx)) {
                Some(Ok(piece)) => {
                    encoder.write_all(&piece).expect(VEC);
                    let packed = mem::take(encoder.get_mut());
                    // The encoder keeps what is too short to be written.
                    if !packed.is_empty() {
                        return Poll::Ready(Some(Ok(packed.into())));
                    }
                }
                Some(Err(error)) => {
                    // Without its trailer, nobody takes the beginning for the whole.
                    this.encoder = None;
                    return Poll::Ready(Some(Err(error)));
                }
                None => {
                    let rest = this
                        .encoder
                        .take()
                        .map(|encoder| encoder.finish().expect(VEC));
                    return Poll::Ready(rest.map(|rest| Ok(rest.into())));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use flate2::read::GzDecoder;
    use futures_util::{StreamExt as _, stream};
    use http::HeaderValue;

    use super::*;

    #[test]
    fn gzip_is_accepted_by_its_name_unless_its_weight_is_zero() {
        for (header, accepted) in [
            ("gzip", true),
            ("deflate, GZIP;q=0.5", true),
            ("gzip;q=0", false),
            ("gzip; q=0.000", false),
            ("deflate", false),
            ("", false),
        ] {
            let value = HeaderValue::from_static(header);
            let headers = HeaderMap::from_iter([(ACCEPT_ENCODING, value)]);
            assert_eq!(accepts_gzip(&headers), accepted, "{header:?}");
        }
        assert!(!accepts_gzip(&HeaderMap::new()));
    }

    #[tokio::test]
    async fn compressed_stream_is_whole_or_an_error() {
        let lines: Vec<String> = (0..100_000).map(|n| format!("metric {n}\n")).collect();
        let text = lines.concat();
        let pieces = text.as_bytes().chunks(64 << 10).map(Bytes::copy_from_slice);
        let pieces: Vec<Result<Bytes, &str>> = pieces.map(Ok).collect();
        let packed: Vec<_> = Gzip::new(stream::iter(pieces.clone())).collect().await;
        let packed: Vec<u8> = packed.into_iter().flat_map(Result::unwrap).collect();
        assert!(packed.len() * 4 < text.len(), "{} bytes", packed.len());
        let mut unpacked = String::new();
        GzDecoder::new(&packed[..])
            .read_to_string(&mut unpacked)
            .unwrap();
        assert!(unpacked == text);

        let broken = pieces
            .into_iter()
            .take(2)
            .chain([Err("lost"), Ok(Bytes::new())]);
        let packed: Vec<_> = Gzip::new(stream::iter(broken)).collect().await;
        assert_eq!(packed.last(), Some(&Err("lost")));
    }
}
