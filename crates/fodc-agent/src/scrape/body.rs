//! Decodes the body of a response piece by piece, within a limit.

use std::io::Write as _;

use bytes::{Bytes, BytesMut};
use flate2::write::MultiGzDecoder;

use super::ScrapeError;

/// The compressed bytes that are unpacked at once. gzip expands a byte to at most 1,032, so a piece
/// has at most 64 KiB.
const PACKED_PIECE: usize = 64;

/// The decoder of one body.
#[derive(Debug)]
pub(super) struct Body {
    coding: Coding,
    limit: u64,
    received: u64,
    unpacked: u64,
}

#[derive(Debug)]
enum Coding {
    None,
    /// The inner buffer holds the output of one compressed piece.
    Gzip(Box<MultiGzDecoder<Vec<u8>>>),
}

impl Body {
    /// Creates a decoder for a `Content-Encoding`. `limit` holds for the bytes on the wire and for the
    /// unpacked bytes.
    pub(super) fn new(encoding: Option<&str>, limit: u64) -> Result<Self, ScrapeError> {
        let coding = match encoding.map(str::trim) {
            None | Some("" | "identity") => Coding::None,
            Some(word) if word.eq_ignore_ascii_case("gzip") || word == "x-gzip" => {
                Coding::Gzip(Box::new(MultiGzDecoder::new(Vec::new())))
            }
            // Cut, because the endpoint chooses the text and it goes to the log.
            Some(other) => return Err(ScrapeError::Encoding(other.chars().take(40).collect())),
        };
        Ok(Self {
            coding,
            limit,
            received: 0,
            unpacked: 0,
        })
    }

    /// Returns the bytes unpacked so far.
    pub(super) fn bytes(&self) -> u64 {
        self.unpacked
    }

    /// Takes received bytes and returns the pieces to pass to [`Self::unpack`] in turn.
    pub(super) fn receive(&mut self, arrived: Bytes) -> Result<Pieces, ScrapeError> {
        self.received += arrived.len() as u64;
        // On the wire as well: gzip members without content unpack to nothing, and there may be any
        // number.
        if self.received > self.limit {
            return Err(ScrapeError::BodyTooLarge(self.limit));
        }
        // An uncompressed body is handed on as it arrived; only gzip can grow.
        let size = match self.coding {
            Coding::None => arrived.len().max(1),
            Coding::Gzip(_) => PACKED_PIECE,
        };
        Ok(Pieces { arrived, size })
    }

    /// Appends the unpacked bytes of a piece.
    pub(super) fn unpack(&mut self, piece: &[u8], to: &mut BytesMut) -> Result<(), ScrapeError> {
        let before = to.len();
        match &mut self.coding {
            Coding::None => to.extend_from_slice(piece),
            Coding::Gzip(decoder) => {
                let written = decoder.write_all(piece);
                written.map_err(ScrapeError::Gzip)?;
                take(decoder, to);
            }
        }
        self.count(to.len() - before)
    }

    /// Appends the remaining bytes after the last piece.
    pub(super) fn finish(&mut self, to: &mut BytesMut) -> Result<(), ScrapeError> {
        let before = to.len();
        match &mut self.coding {
            Coding::None => {}
            Coding::Gzip(decoder) => {
                // Fails if the trailer is missing: a truncated page must not count as complete.
                let finished = decoder.try_finish();
                finished.map_err(ScrapeError::Gzip)?;
                take(decoder, to);
            }
        }
        self.count(to.len() - before)
    }

    fn count(&mut self, unpacked: usize) -> Result<(), ScrapeError> {
        self.unpacked += unpacked as u64;
        if self.unpacked > self.limit {
            return Err(ScrapeError::BodyTooLarge(self.limit));
        }
        Ok(())
    }
}

/// Moves the output of a decoder, keeping its buffer.
fn take(decoder: &mut MultiGzDecoder<Vec<u8>>, to: &mut BytesMut) {
    let unpacked = decoder.get_mut();
    to.extend_from_slice(unpacked);
    unpacked.clear();
}

/// Received bytes in pieces that are small enough to be unpacked at once.
#[derive(Debug)]
pub(super) struct Pieces {
    arrived: Bytes,
    size: usize,
}

impl Iterator for Pieces {
    type Item = Bytes;

    fn next(&mut self) -> Option<Bytes> {
        if self.arrived.is_empty() {
            return None;
        }
        let size = self.size.min(self.arrived.len());
        Some(self.arrived.split_to(size))
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use flate2::{Compression, write::GzEncoder};

    use super::*;

    fn gzip(data: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
        encoder.write_all(data).unwrap();
        encoder.finish().unwrap()
    }

    /// Returns the unpacked body, the longest piece, and the result.
    fn run(body: &mut Body, arrivals: &[&[u8]]) -> (Vec<u8>, usize, Result<(), ScrapeError>) {
        let (mut all, mut longest) = (Vec::new(), 0);
        let mut ready = BytesMut::new();
        let mut take = |ready: &mut BytesMut| {
            let piece = ready.split();
            longest = longest.max(piece.len());
            all.extend_from_slice(&piece);
        };
        let mut go = || {
            for arrived in arrivals {
                for piece in body.receive(Bytes::copy_from_slice(arrived))? {
                    body.unpack(&piece, &mut ready)?;
                    take(&mut ready);
                }
            }
            body.finish(&mut ready)?;
            take(&mut ready);
            Ok(())
        };
        let result = go();
        (all, longest, result)
    }

    #[test]
    fn gzip_cut_anywhere_unpacks_to_the_page() {
        let page: Vec<u8> = (0..5_000)
            .flat_map(|n| format!("m{{n=\"{n}\"}} {n}\n").into_bytes())
            .collect();
        let packed = gzip(&page);
        for at in [1, 5, 11, packed.len() / 2, packed.len() - 3] {
            let mut body = Body::new(Some("gzip"), 1 << 20).unwrap();
            let (unpacked, _, result) = run(&mut body, &[&packed[..at], &packed[at..]]);
            result.unwrap();
            assert_eq!(unpacked, page);
            assert_eq!(body.bytes(), page.len() as u64);
        }
    }

    #[test]
    fn gzip_bomb_ends_at_the_limit_in_small_pieces() {
        // 64 MiB of zeros in 64 KiB.
        let packed = gzip(&vec![b'0'; 64 << 20]);
        assert!(packed.len() < 128 << 10);
        let mut body = Body::new(Some("gzip"), 8 << 20).unwrap();
        let (unpacked, longest, result) = run(&mut body, &[&packed]);
        assert!(matches!(result, Err(ScrapeError::BodyTooLarge(limit)) if limit == 8 << 20));
        assert!(unpacked.len() <= 8 << 20);
        assert!(longest <= PACKED_PIECE * 1_040 + (32 << 10), "{longest}");
    }

    #[test]
    fn a_plain_page_is_limited_too_and_other_codings_are_refused() {
        let mut body = Body::new(None, 8).unwrap();
        run(&mut body, &[b"m 1\n", b"m 2\n"]).2.unwrap();
        let mut body = Body::new(Some("identity"), 7).unwrap();
        assert!(matches!(
            run(&mut body, &[b"m 1\n", b"m 2\n"]).2,
            Err(ScrapeError::BodyTooLarge(7))
        ));
        assert!(matches!(
            Body::new(Some("br"), 8),
            Err(ScrapeError::Encoding(_))
        ));
    }

    #[test]
    fn empty_body_is_a_page_only_if_not_gzip() {
        let mut body = Body::new(Some("gzip"), 8).unwrap();
        assert!(matches!(run(&mut body, &[]).2, Err(ScrapeError::Gzip(_))));
        let mut body = Body::new(None, 8).unwrap();
        run(&mut body, &[]).2.unwrap();
    }
}
