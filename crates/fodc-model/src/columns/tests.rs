use std::collections::BTreeMap;

use proptest::prelude::*;
use prost::Message as _;

use super::*;

fn named(name: &str) -> SeriesColumn {
    SeriesColumn {
        name: name.to_owned(),
        labels: BTreeMap::from([("a".to_owned(), "b".to_owned())]),
        ..SeriesColumn::default()
    }
}

fn samples(columns: &Columns) -> Vec<(String, Vec<(i64, f64)>)> {
    let decoded = Decoded::new(columns).unwrap();
    let series = decoded.series();
    series
        .map(|series| (series.column().name.clone(), series.samples().collect()))
        .collect()
}

#[test]
fn times_of_a_source_are_written_once() {
    let mut builder = ColumnsBuilder::new();
    builder.push(named("whole"), 7, &[1_000, 2_000, 3_000, 4_500], &[1.0; 4]);
    builder.push(named("holed"), 7, &[1_000, 3_000, 4_500], &[1.0, 3.0, 4.0]);
    let columns = builder.take();
    assert_eq!(columns.times.len(), 1);
    assert_eq!(columns.times[0].deltas, [1_000, 1_000, 1_000, 1_500]);
    let runs = [Run { first: 0, count: 1 }, Run { first: 2, count: 2 }];
    assert_eq!(columns.series[1].runs, runs);
    assert_eq!(
        samples(&columns)[1],
        (
            "holed".to_owned(),
            vec![(1_000, 1.0), (3_000, 3.0), (4_500, 4.0)]
        )
    );
}

#[test]
fn times_out_of_order_get_their_own_column() {
    let mut builder = ColumnsBuilder::new();
    builder.push(named("first"), 1, &[10, 20], &[1.0, 2.0]);
    builder.push(named("back"), 1, &[20, 10], &[2.0, 1.0]);
    builder.push(named("longer"), 1, &[10, 15, 20], &[1.0, 1.5, 2.0]);
    builder.push(named("like the longer"), 1, &[15, 20], &[1.5, 2.0]);
    let columns = builder.take();
    let read = samples(&columns);
    assert_eq!(read[1].1, [(20, 2.0), (10, 1.0)]);
    assert_eq!(read[2].1, [(10, 1.0), (15, 1.5), (20, 2.0)]);
    assert_eq!(read[3].1, [(15, 1.5), (20, 2.0)]);
    assert_eq!(
        columns.times.len(),
        3,
        "the longest column is used by later series"
    );
}

#[test]
fn each_part_holds_only_the_times_it_needs() {
    let mut builder = ColumnsBuilder::new();
    builder.push(named("first"), 1, &[10, 20], &[1.0, 2.0]);
    builder.push(named("other"), 2, &[30], &[3.0]);
    let first = builder.take();
    assert!(builder.is_empty());
    builder.push(named("second"), 1, &[20], &[2.0]);
    let second = builder.take();
    assert_eq!((first.times.len(), second.times.len()), (2, 1));
    assert_eq!(samples(&second)[0].1, [(20, 2.0)]);
}

#[test]
fn invalid_columns_are_refused_with_the_fault() {
    let right = Columns {
        times: vec![TimeColumn {
            deltas: vec![100, 1, 1],
        }],
        series: vec![SeriesColumn {
            runs: vec![Run { first: 1, count: 2 }],
            values: vec![1.0, 2.0],
            ..SeriesColumn::default()
        }],
    };
    assert!(Decoded::new(&right).is_ok());
    let wrong = |change: &dyn Fn(&mut Columns)| {
        let mut columns = right.clone();
        change(&mut columns);
        Decoded::new(&columns).map(drop).unwrap_err()
    };
    let series = 0;
    let runs = |runs: &'static [(u32, u32)]| {
        wrong(&|columns| {
            let runs = runs.iter().map(|&(first, count)| Run { first, count });
            columns.series[0].runs = runs.collect();
        })
    };
    assert_eq!(
        wrong(&|columns| columns.times[0].deltas[1] = i64::MAX),
        ColumnsFault::Time { column: 0 }
    );
    assert_eq!(
        wrong(&|columns| columns.series[0].time_column = 1),
        ColumnsFault::Column { series }
    );
    assert_eq!(
        wrong(&|columns| columns.series[0].values.push(3.0)),
        ColumnsFault::Values { series }
    );
    let bad: [&[(u32, u32)]; 5] = [
        &[(2, 2)],
        &[(1, 0)],
        &[(0, 2), (1, 1)],
        &[(2, 1), (0, 1)],
        &[(u32::MAX, u32::MAX)],
    ];
    for bad in bad {
        assert_eq!(runs(bad), ColumnsFault::Runs { series }, "{bad:?}");
    }
}

proptest! {
    #[test]
    fn columns_round_trip_within_their_size_estimate(
        pushed in prop::collection::vec(prop::collection::vec((0_i64..50, any::<f64>()), 1..12), 0..6),
    ) {
        let mut builder = ColumnsBuilder::new();
        for series in &pushed {
            let (times, values): (Vec<_>, Vec<_>) = series.iter().copied().unzip();
            builder.push(named("s"), 1, &times, &values);
        }
        let bytes = builder.bytes();
        let columns = builder.take();
        prop_assert!(bytes >= columns.encoded_len());
        let columns = Columns::decode(columns.encode_to_vec().as_slice()).unwrap();
        let bits = |samples: &[(i64, f64)]| -> Vec<(i64, u64)> {
            samples.iter().map(|(time, value)| (*time, value.to_bits())).collect()
        };
        let read = samples(&columns);
        prop_assert_eq!(read.len(), pushed.len());
        for ((_, read), pushed) in read.iter().zip(&pushed) {
            prop_assert_eq!(bits(read), bits(pushed));
        }
    }

    #[test]
    fn arbitrary_columns_never_panic(
        deltas in prop::collection::vec(any::<i64>(), 0..5),
        runs in prop::collection::vec((0_u32..6, 0_u32..6), 0..4),
        values in prop::collection::vec(any::<f64>(), 0..8),
        time_column in 0_u32..2,
    ) {
        let runs = runs.into_iter().map(|(first, count)| Run { first, count }).collect();
        let columns = Columns {
            times: vec![TimeColumn { deltas }],
            series: vec![SeriesColumn { runs, values, time_column, ..SeriesColumn::default() }],
        };
        if let Ok(decoded) = Decoded::new(&columns) {
            let read = decoded.series().map(|series| series.samples().count()).sum::<usize>();
            prop_assert_eq!(read, columns.series[0].values.len());
        }
    }
}
