//! Responses by column.

use super::*;

/// Every pair of time and value in the parts, by name.
fn read(gathered: &Gathered) -> BTreeMap<String, Vec<(i64, f64)>> {
    let mut read: BTreeMap<String, Vec<(i64, f64)>> = BTreeMap::new();
    for part in &gathered.parts {
        assert_eq!(part.request_id, 77);
        assert!(part.metrics.is_empty());
        if let Some(columns) = &part.columns {
            for series in Decoded::new(columns).unwrap().series() {
                assert_eq!(series.column().labels["node_role"], "ROLE_DATA");
                let samples = read.entry(series.column().name.clone()).or_default();
                samples.extend(series.samples());
            }
        }
    }
    read
}

#[test]
fn columns_in_parts_hold_the_same_samples() {
    let record = Fake::regular(20, 0..3_000);
    for message_bytes in [64 << 10, 300_000, 4 << 20] {
        let context = cut_at(message_bytes, &ours(Some(100_000), None));
        let (gathered, summary) = respond(&context, &record);
        assert!(gathered.lengths.iter().max() <= Some(&message_bytes));
        let (last, before) = gathered.parts.split_last().unwrap();
        assert!(before.iter().all(|part| part.more));
        assert!(!last.more);
        assert_eq!((&last.truncated, summary.truncated), (&None, false));
        assert_eq!(summary.samples, 20 * 2_900);
        let read = read(&gathered);
        assert_eq!(read.len(), 20);
        for series in &record.series {
            assert_eq!(read[&series.name], series.samples[100..]);
        }
    }
}

#[test]
fn series_longer_than_a_message_is_split() {
    let record = Fake::regular(1, 0..40_000);
    let context = cut_at(64 << 10, &ours(None, Some(i64::MAX)));
    let (gathered, _) = respond(&context, &record);
    assert!(gathered.lengths.iter().all(|length| *length <= 64 << 10));
    assert_eq!(read(&gathered)["metric_0"], record.series[0].samples);
}

#[test]
fn columns_are_small() {
    let context = with_profile(&ours(Some(0), None));
    let (gathered, _) = respond(&context, &Fake::regular(50, 0..3_600));
    let bytes: usize = gathered.lengths.iter().sum();
    let per_sample = bytes as f64 / (50.0 * 3_600.0);
    assert!(per_sample < 8.2, "{per_sample} bytes per sample");
}
