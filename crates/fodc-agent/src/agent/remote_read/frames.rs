//! Encodes the response of a remote read as frames of chunks: less than two bytes for most samples.

use prost::Message as _;
use steadfast_wire::prometheus::{
    Chunk, ChunkedReadResponse, ChunkedSeries, Label, Sample, chunk::Encoding,
};

use super::xor_chunk::{self, CHUNK_SAMPLES};

/// The length from which a frame is not continued, as in Prometheus.
const FRAME_BYTES: usize = 1 << 20;

/// Returns the encoded frames of a series, one after the other.
pub(super) fn encode(query: usize, labels: &[Label], samples: &[Sample]) -> Vec<u8> {
    let (mut out, mut chunks, mut bytes) = (Vec::new(), Vec::new(), 0);
    for samples in samples.chunks(CHUNK_SAMPLES) {
        let data = xor_chunk::encode(samples);
        bytes += data.len();
        let time = |sample: Option<&Sample>| sample.map_or(0, |sample| sample.timestamp);
        chunks.push(Chunk {
            min_time_ms: time(samples.first()),
            max_time_ms: time(samples.last()),
            r#type: Encoding::Xor.into(),
            data: data.into(),
        });
        if bytes >= FRAME_BYTES {
            put_frame(query, labels, std::mem::take(&mut chunks), &mut out);
            bytes = 0;
        }
    }
    if !chunks.is_empty() {
        put_frame(query, labels, chunks, &mut out);
    }
    out
}

/// Appends a frame: its length, the checksum and the message.
fn put_frame(query: usize, labels: &[Label], chunks: Vec<Chunk>, out: &mut Vec<u8>) {
    let message = ChunkedReadResponse {
        chunked_series: vec![ChunkedSeries {
            labels: labels.to_vec(),
            chunks,
        }],
        query_index: i64::try_from(query).unwrap_or(i64::MAX),
    };
    let message = message.encode_to_vec();
    prost::encoding::encode_varint(message.len() as u64, out);
    out.extend_from_slice(&crc32c(&message).to_be_bytes());
    out.extend_from_slice(&message);
}

/// CRC-32 with the polynomial of Castagnoli, which the protocol prescribes.
fn crc32c(bytes: &[u8]) -> u32 {
    const TABLE: [u32; 256] = {
        let mut table = [0; 256];
        let mut byte = 0;
        while byte < 256 {
            let (mut sum, mut bit) = (byte as u32, 0);
            while bit < 8 {
                sum = sum >> 1 ^ if sum & 1 == 1 { 0x82f6_3b78 } else { 0 };
                bit += 1;
            }
            table[byte] = sum;
            byte += 1;
        }
        table
    };
    let step = |sum: u32, byte: &u8| sum >> 8 ^ TABLE[((sum ^ u32::from(*byte)) & 0xff) as usize];
    !bytes.iter().fold(!0, step)
}

#[cfg(test)]
mod tests {
    use super::{super::xor_chunk::tests::decode, *};

    #[test]
    fn checksum_is_that_of_castagnoli() {
        // The check value of the catalogue of parametrised CRC algorithms.
        assert_eq!(crc32c(b"123456789"), 0xe306_9283);
        assert_eq!(crc32c(b""), 0);
    }

    #[test]
    fn long_series_is_several_frames_with_its_labels() {
        let label = Label {
            name: "__name__".to_owned(),
            value: "m".to_owned(),
        };
        // Values without a pattern take nine bytes.
        let sample = |n: u64| Sample {
            value: f64::from_bits(n.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 2),
            timestamp: n.cast_signed() * 1_000,
        };
        let samples: Vec<_> = (0..200_000).map(sample).collect();
        let out = encode(3, std::slice::from_ref(&label), &samples);
        let (mut rest, mut frames, mut found) = (&out[..], 0, Vec::new());
        while !rest.is_empty() {
            let length = prost::encoding::decode_varint(&mut rest).unwrap() as usize;
            let (sum, behind) = rest.split_at(4);
            let (message, behind) = behind.split_at(length);
            assert_eq!(sum, crc32c(message).to_be_bytes());
            // The heads of chunks are not counted.
            assert!(length < FRAME_BYTES + FRAME_BYTES / 16, "{length} bytes");
            let frame = ChunkedReadResponse::decode(message).unwrap();
            assert_eq!(frame.query_index, 3);
            for series in &frame.chunked_series {
                assert_eq!(series.labels, std::slice::from_ref(&label));
                for chunk in &series.chunks {
                    let samples = decode(&chunk.data);
                    let ends = [samples.first(), samples.last()].map(|sample| sample.unwrap().0);
                    assert_eq!(ends, [chunk.min_time_ms, chunk.max_time_ms]);
                    found.extend(samples);
                }
            }
            (rest, frames) = (behind, frames + 1);
        }
        assert_eq!(frames, 2);
        let expected = samples
            .iter()
            .map(|sample| (sample.timestamp, sample.value.to_bits()));
        assert!(found.into_iter().eq(expected));
    }
}
