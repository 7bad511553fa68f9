//! Encodes the response of a remote read within a limit.

use prost::encoding::{WireType, encode_key, encode_varint};

/// Field numbers of `prometheus.QueryResult` and `prometheus.ReadResponse`.
const TIMESERIES: u32 = 1;
const RESULTS: u32 = 1;

/// A `prometheus.ReadResponse` that consists of encoded series.
#[derive(Debug)]
pub(super) struct ResponseWriter {
    limit: usize,
    done: Vec<u8>,
    result: Vec<u8>,
}

/// The response exceeds its limit.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct TooLong;

impl ResponseWriter {
    pub(super) fn new(limit: usize) -> Self {
        Self {
            limit,
            done: Vec::new(),
            result: Vec::new(),
        }
    }

    /// Reserves memory for series of this many bytes, so that the response is not moved as it grows.
    pub(super) fn reserve(&mut self, bytes: usize) {
        self.result.reserve_exact(bytes);
    }

    /// Adds an encoded `prometheus.TimeSeries` to the result of the current query.
    pub(super) fn series(&mut self, series: &[u8]) -> Result<(), TooLong> {
        encode_key(TIMESERIES, WireType::LengthDelimited, &mut self.result);
        encode_varint(series.len() as u64, &mut self.result);
        self.result.extend_from_slice(series);
        // Checked after the copy: `select` has limited each series, so that little is copied in
        // vain.
        if self.done.len() + self.result.len() > self.limit {
            return Err(TooLong);
        }
        Ok(())
    }

    /// Completes the result of the current query and begins the next.
    pub(super) fn end_query(&mut self) {
        encode_key(RESULTS, WireType::LengthDelimited, &mut self.done);
        encode_varint(self.result.len() as u64, &mut self.done);
        self.done.append(&mut std::mem::take(&mut self.result));
    }

    /// Returns the response as one snappy block.
    pub(super) fn finish(self) -> Result<Vec<u8>, snap::Error> {
        let mut packed = snap::raw::Encoder::new().compress_vec(&self.done)?;
        // The encoder reserves more than the uncompressed length.
        packed.shrink_to_fit();
        Ok(packed)
    }
}

#[cfg(test)]
mod tests {
    use prost::Message as _;
    use steadfast_wire::prometheus::{Label, QueryResult, ReadResponse, Sample, TimeSeries};

    use super::*;

    fn series(samples: u16) -> TimeSeries {
        let label = |name: &str, value: &str| Label {
            name: name.to_owned(),
            value: value.to_owned(),
        };
        TimeSeries {
            labels: vec![label("__name__", "m"), label("n", &samples.to_string())],
            samples: (0..samples)
                .map(|n| Sample {
                    value: f64::from(n),
                    timestamp: i64::from(n) * 1_000,
                })
                .collect(),
        }
    }

    #[test]
    fn written_response_decodes_to_the_message() {
        let mut response = ResponseWriter::new(1 << 20);
        response.end_query();
        for samples in [0, 3, 1_000] {
            response.series(&series(samples).encode_to_vec()).unwrap();
        }
        response.end_query();
        let bytes = snap::raw::Decoder::new()
            .decompress_vec(&response.finish().unwrap())
            .unwrap();
        let expected = ReadResponse {
            results: vec![
                QueryResult::default(),
                QueryResult {
                    timeseries: vec![series(0), series(3), series(1_000)],
                },
            ],
        };
        assert_eq!(ReadResponse::decode(bytes.as_slice()).unwrap(), expected);
        assert_eq!(bytes, expected.encode_to_vec());
    }

    #[test]
    fn the_limit_holds_over_all_queries() {
        let one = series(100).encoded_len() + 3;
        let mut response = ResponseWriter::new(2 * one + 10);
        let encoded = series(100).encode_to_vec();
        assert_eq!(response.series(&encoded), Ok(()));
        response.end_query();
        assert_eq!(response.series(&encoded), Ok(()));
        response.end_query();
        assert_eq!(response.series(&encoded), Err(TooLong));
    }
}
