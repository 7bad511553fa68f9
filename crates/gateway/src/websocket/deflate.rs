//! permessage-deflate without context takeover: each message is compressed by itself.

use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress, Status};

/// The reason why a message cannot be decompressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum DeflateFault {
    /// It is not what the algorithm writes.
    Malformed,
    /// It has more bytes than allowed.
    TooLarge,
}

/// The response that accepts the extension. Without takeover no side keeps a window of 32 KiB for each idle
/// socket.
pub(crate) const DEFLATE: &str =
    "permessage-deflate; server_no_context_takeover; client_no_context_takeover";

/// The end of a message that is compressed, which is not sent (RFC 7692, 7.2.1).
const TAIL: [u8; 4] = [0, 0, 0xff, 0xff];

/// Returns true if a client offers the extension in a way that we can accept.
pub(crate) fn offers_deflate(header: &str) -> bool {
    header.split(',').any(|offer| {
        let mut parts = offer.split(';').map(str::trim);
        parts.next() == Some("permessage-deflate")
            && parts.all(|part| {
                let (name, value) = part.split_once('=').unwrap_or((part, ""));
                match name.trim() {
                    "server_no_context_takeover" | "client_no_context_takeover" => value.is_empty(),
                    "client_max_window_bits" => true,
                    // Our window has 15 bits, and we would have to promise less.
                    "server_max_window_bits" => value.trim().trim_matches('"') == "15",
                    _ => false,
                }
            })
    })
}

/// Compresses a message.
pub(crate) fn compress(message: &[u8]) -> Vec<u8> {
    let mut compress = Compress::new(Compression::fast(), false);
    // Incompressible data grows by five bytes for each block, and the flush adds a few.
    let mut packed = Vec::with_capacity(message.len() + message.len() / 1_000 + 64);
    loop {
        let read = compress.total_in() as usize;
        let done = compress
            .compress_vec(&message[read..], &mut packed, FlushCompress::Sync)
            .is_ok();
        // A flush is complete when it has left space.
        if !done || packed.len() < packed.capacity() {
            break;
        }
        packed.reserve(packed.capacity());
    }
    if packed.ends_with(&TAIL) {
        packed.truncate(packed.len() - TAIL.len());
    }
    packed
}

/// Decompresses a message of at most so many bytes.
pub(super) fn decompress(packed: &[u8], max_bytes: usize) -> Result<Vec<u8>, DeflateFault> {
    let packed = [packed, &TAIL].concat();
    let mut decompress = Decompress::new(false);
    let mut message = Vec::with_capacity((4 * packed.len()).min(max_bytes + 1));
    loop {
        let before = (decompress.total_in(), message.len());
        let status = decompress
            .decompress_vec(
                &packed[before.0 as usize..],
                &mut message,
                FlushDecompress::Sync,
            )
            .map_err(|_| DeflateFault::Malformed)?;
        if message.len() > max_bytes {
            return Err(DeflateFault::TooLarge);
        }
        let after = (decompress.total_in(), message.len());
        let has_space = message.len() < message.capacity();
        let is_read = after.0 as usize == packed.len();
        if status == Status::StreamEnd || (is_read && has_space) {
            return Ok(message);
        }
        if !has_space {
            message.reserve(message.capacity().max(64));
        } else if before == after {
            // The rest is no part of the message.
            return Err(DeflateFault::Malformed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn offers_that_need_a_smaller_window_are_passed_over() {
        for (header, accepted) in [
            ("permessage-deflate", true),
            ("permessage-deflate; client_max_window_bits", true),
            ("permessage-deflate; server_max_window_bits=10", false),
            (
                "permessage-deflate; server_max_window_bits=10, permessage-deflate",
                true,
            ),
            ("permessage-deflate; server_no_context_takeover", true),
            ("permessage-deflate; unknown", false),
            ("x-webkit-deflate-frame", false),
            ("", false),
        ] {
            assert_eq!(offers_deflate(header), accepted, "{header}");
        }
    }

    #[test]
    fn messages_of_all_sizes_come_back() {
        for size in [0, 1, 63, 64, 1_000, 70_000] {
            let message: Vec<u8> = (0..size)
                .map(|at: u32| (at.wrapping_mul(2_654_435) >> 7) as u8)
                .collect();
            assert_eq!(decompress(&compress(&message), 1 << 20), Ok(message));
        }
    }
}
