use proptest::prelude::*;
use steadfast_wire::fodc::{Metric, StreamMetricsRequest};

use super::*;

/// What was read, as plain data.
#[derive(Debug, Default, PartialEq)]
struct Read {
    metrics: Vec<Metric>,
    columns: Vec<Columns>,
}

impl Sink for Read {
    fn metric(&mut self, metric: &mut RawMetric<'_>) {
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap_or_default();
        self.metrics.push(Metric {
            name: text(metric.name),
            labels: metric
                .labels
                .iter()
                .map(|(name, value)| (text(name), text(value)))
                .collect(),
            value: metric.value,
            description: text(metric.help),
            timestamp: metric.time.map(UnixNanos::timestamp),
            r#type: metric.kind.map_or(0, |kind| kind::to_wire(kind).into()),
        });
    }

    fn columns(&mut self, columns: &Columns) -> Result<(), DecodeError> {
        self.columns.push(columns.clone());
        Ok(())
    }
}

/// Reads a message that arrives in pieces of these lengths.
fn read(bytes: &[u8], pieces: &[usize]) -> Result<(Read, Envelope), DecodeError> {
    let (mut decoder, mut read) = (Decoder::default(), Read::default());
    let mut rest = Bytes::copy_from_slice(bytes);
    let mut lengths = pieces.iter().copied().cycle();
    while !rest.is_empty() {
        let length = lengths.next().unwrap_or(rest.len()).clamp(1, rest.len());
        decoder.decode(&rest.split_to(length), &mut read)?;
    }
    let envelope = decoder.finish()?;
    Ok((read, envelope))
}

fn text() -> impl Strategy<Value = String> {
    prop_oneof!["[a-z]{0,6}", "\\PC{0,4}", "[a-z]{200}"]
}

fn time() -> impl Strategy<Value = prost_types::Timestamp> {
    (-9_000_000_000i64..9_000_000_000, 0i32..1_000_000_000)
        .prop_map(|(seconds, nanos)| prost_types::Timestamp { seconds, nanos })
}

fn metric() -> impl Strategy<Value = Metric> {
    (
        text(),
        prop::collection::btree_map(text(), text(), 0..4),
        any::<f64>().prop_filter("compared below", |value| !value.is_nan()),
        text(),
        prop::option::of(time()),
        0i32..6,
    )
        .prop_map(
            |(name, labels, value, description, timestamp, kind)| Metric {
                name,
                labels,
                value,
                description,
                timestamp,
                r#type: kind,
            },
        )
}

prop_compose! {
    fn message()(
        metrics in prop::collection::vec(metric(), 0..12),
        timestamp in prop::option::of(time()),
        request_id in prop_oneof![Just(0), any::<u64>()],
        more in any::<bool>(),
        from in prop::option::of(prop::option::of(time())),
    ) -> StreamMetricsRequest {
        StreamMetricsRequest {
            metrics,
            timestamp,
            request_id,
            columns: None,
            more,
            truncated: from.map(|from| Truncation { from, samples: 3 }),
        }
    }
}

proptest! {
    #[test]
    fn decoder_reads_what_prost_writes_in_any_pieces(
        message in message(),
        pieces in prop::collection::vec(1usize..300, 1..6),
    ) {
        let (read, envelope) = read(&message.encode_to_vec(), &pieces).unwrap();
        prop_assert_eq!(read.metrics, message.metrics);
        prop_assert_eq!(envelope.request_id, message.request_id);
        prop_assert_eq!(envelope.more, message.more);
        prop_assert_eq!(envelope.at.map(UnixNanos::timestamp), message.timestamp);
        let truncated = envelope.from.map(UnixNanos::timestamp);
        let expected = message.truncated.map(|cut| cut.from.unwrap_or_default());
        prop_assert_eq!(truncated, expected);
    }

    /// Only text that is not UTF-8 is looked at later than prost does.
    #[test]
    fn decoder_accepts_broken_bytes_exactly_as_prost_does(
        message in message(),
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
        pieces in prop::collection::vec(1usize..300, 1..4),
    ) {
        let mut bytes = message.encode_to_vec();
        for (place, byte) in changes {
            if !bytes.is_empty() {
                let place = place.index(bytes.len());
                bytes[place] = byte;
            }
        }
        let ours = read(&bytes, &pieces);
        match (StreamMetricsRequest::decode(&*bytes), ours) {
            (Ok(theirs), Ok((read, envelope))) => {
                prop_assert_eq!(read.metrics.len(), theirs.metrics.len());
                prop_assert_eq!(envelope.request_id, theirs.request_id);
                for (ours, theirs) in read.metrics.iter().zip(&theirs.metrics) {
                    prop_assert_eq!(&ours.name, &theirs.name);
                    prop_assert_eq!(&ours.labels, &theirs.labels);
                    prop_assert_eq!(ours.value.to_bits(), theirs.value.to_bits());
                }
            }
            (Ok(_), Err(reason)) => prop_assert_eq!(reason, fields::GROUP),
            (Err(error), Ok(_)) => {
                let reason = error.to_string();
                prop_assert!(reason.contains("UTF-8"), "taken, though {reason}");
            }
            (Err(_), Err(_)) => {}
        }
    }

    #[test]
    fn decoder_never_panics(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        read(&bytes, &[7, 1, 30]).ok();
    }
}

#[test]
fn columns_are_decoded_in_any_pieces() {
    let columns = Columns {
        times: vec![steadfast_wire::fodc::TimeColumn {
            deltas: vec![1_700_000_000_000, 1_000, 1_000],
        }],
        series: vec![steadfast_wire::fodc::SeriesColumn {
            name: "up".to_owned(),
            values: vec![1.0, 2.0, 3.0],
            ..steadfast_wire::fodc::SeriesColumn::default()
        }],
    };
    let message = StreamMetricsRequest {
        columns: Some(columns.clone()),
        ..StreamMetricsRequest::default()
    };
    for piece in [1, 3, 1_000] {
        let (read, _) = read(&message.encode_to_vec(), &[piece]).unwrap();
        assert_eq!(read.columns, std::slice::from_ref(&columns));
    }
}

#[test]
fn field_longer_than_its_message_is_rejected() {
    assert_eq!(read(&[0x0a, 0x7f, 1, 2], &[1]).unwrap_err(), CUT);
}
