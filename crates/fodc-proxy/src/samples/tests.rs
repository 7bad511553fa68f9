use std::collections::BTreeMap;

use steadfast_wire::fodc::{Run, SeriesColumn, TimeColumn};

use super::*;

fn identity() -> Identity {
    Identity {
        role: "ROLE_DATA".to_owned(),
        name: "db-0".to_owned(),
        labels: BTreeMap::from([("type".to_owned(), "hot".to_owned())]),
        containers: vec!["data".to_owned()],
        address: None,
        has_pod: true,
        instance: None,
    }
}

fn metric<'a>(name: &'a str, labels: &[(&'a str, &'a str)], value: f64) -> RawMetric<'a> {
    let pairs = labels.iter();
    RawMetric {
        name: name.as_bytes(),
        labels: pairs
            .map(|(name, value)| (name.as_bytes(), value.as_bytes()))
            .collect(),
        value,
        ..RawMetric::default()
    }
}

/// Collects with so much memory, and says whether it was enough.
fn collect(memory: &MemoryBudget, metrics: &[RawMetric<'_>]) -> (Samples, bool) {
    collect_into(&Catalog::default(), memory, metrics)
}

fn collect_into(
    catalog: &Catalog,
    memory: &MemoryBudget,
    metrics: &[RawMetric<'_>],
) -> (Samples, bool) {
    let identity = identity();
    let mut samples = Samples::default();
    let mut collector = SampleCollector::new(catalog, &identity, memory, &mut samples);
    for metric in metrics {
        collector.metric(&mut metric.clone());
    }
    let exhausted = collector.is_memory_exhausted();
    drop(collector);
    (samples, !exhausted)
}

fn sealed(catalog: &Catalog, memory: &MemoryBudget, metrics: &[RawMetric<'_>]) -> Samples {
    let (mut samples, _) = collect_into(catalog, memory, metrics);
    samples.finish(None, catalog);
    samples
}

type Pairs<'a> = Vec<(&'a str, &'a str)>;

/// Of the series, and of the agent.
fn labels(samples: &Samples, index: usize) -> (Pairs<'_>, Pairs<'_>) {
    let own = samples.growing.series[index].labels.iter().collect();
    let origin = samples.origins[samples.growing.origins[index] as usize]
        .iter()
        .collect();
    (own, origin)
}

#[test]
fn only_labels_of_the_agents_identity_are_taken_out() {
    let metrics = [
        metric(
            "m",
            &[("pod_name", "db-0"), ("a", "1"), ("node_type", "hot")],
            1.0,
        ),
        metric(
            "m",
            &[("node_type", "hot"), ("pod_name", "db-0"), ("a", "1")],
            2.0,
        ),
        metric(
            "m",
            &[("pod_name", "db-1"), ("a", "1"), ("node_type", "cold")],
            3.0,
        ),
        metric("m", &[("a", "1"), ("container_name", "other")], 4.0),
    ];
    let (samples, _) = collect(&MemoryBudget::new(1 << 20), &metrics);
    let origin = vec![("node_type", "hot"), ("pod_name", "db-0")];
    assert_eq!(labels(&samples, 0), (vec![("a", "1")], origin.clone()));
    assert_eq!(labels(&samples, 1), (vec![("a", "1")], origin));
    assert!(
        Arc::ptr_eq(&samples.growing.series[0], &samples.growing.series[1]),
        "whatever their order on the wire"
    );
    let own = vec![("a", "1"), ("node_type", "cold"), ("pod_name", "db-1")];
    assert_eq!(labels(&samples, 2), (own, vec![]));
    assert!(samples.growing.series[2].names_pod && !samples.growing.series[3].names_pod);
    assert_eq!(
        labels(&samples, 3).0,
        [("a", "1"), ("container_name", "other")]
    );
}

#[test]
fn last_value_of_a_repeated_label_counts() {
    let twice = metric("m", &[("a", "1"), ("b", "x"), ("a", "2")], 1.0);
    let (samples, _) = collect(&MemoryBudget::new(1 << 20), &[twice]);
    assert_eq!(labels(&samples, 0).0, [("a", "2"), ("b", "x")]);
}

#[test]
fn metric_with_invalid_utf8_is_dropped_alone_and_counted() {
    let mut broken = metric("m", &[], 1.0);
    broken.name = b"m\xff";
    let mut value = metric("m", &[], 2.0);
    value.labels.push((b"a", b"\xc3\x28"));
    let metrics = [
        broken,
        value,
        metric("", &[], 3.0),
        metric("m", &[("a", "ok")], 4.0),
    ];
    let (samples, _) = collect(&MemoryBudget::new(1 << 20), &metrics);
    assert_eq!(
        (samples.values.as_slice(), samples.rejected),
        (&[4.0][..], 3)
    );
}

#[test]
fn memory_of_all_responses_is_bounded_and_returned() {
    let memory = MemoryBudget::new(4_096);
    let metrics: Vec<RawMetric<'_>> = (0..20).map(|_| metric("m", &[], 1.0)).collect();
    let (first, whole) = collect(&memory, &metrics);
    assert!(whole && memory.used() > 0);
    let (second, whole) = collect(&memory, &vec![metric("m", &[], 1.0); 200]);
    assert!(!whole);
    assert!(second.len() < 200 && memory.used() <= 4_096);
    drop((first, second));
    assert_eq!(memory.used(), 0);
}

#[test]
fn samples_have_their_own_time_or_the_responses() {
    let mut timed = metric("m", &[], 1.0);
    timed.time = Some(UnixNanos::from_nanos(5));
    let (mut samples, _) = collect(&MemoryBudget::new(1 << 20), &[metric("m", &[], 0.0), timed]);
    samples.finish(Some(UnixNanos::from_nanos(9)), &Catalog::default());
    assert_eq!(
        [samples.time(0), samples.time(1)].map(UnixNanos::nanos),
        [9, 5]
    );
}

#[test]
fn valid_columns_become_samples_and_invalid_ones_nothing() {
    let series = |time_column| SeriesColumn {
        name: "m".to_owned(),
        time_column,
        runs: vec![Run { first: 1, count: 2 }],
        values: vec![7.0, 8.0],
        ..SeriesColumn::default()
    };
    let times = vec![TimeColumn {
        deltas: vec![1_000, 10, 10],
    }];
    let (catalog, identity, memory) = (Catalog::default(), identity(), MemoryBudget::new(1 << 20));
    let mut samples = Samples::default();
    let mut collector = SampleCollector::new(&catalog, &identity, &memory, &mut samples);
    let wrong = Columns {
        times: times.clone(),
        series: vec![series(0), series(3)],
    };
    assert!(collector.columns(&wrong).is_err());
    let right = Columns {
        times,
        series: vec![series(0)],
    };
    assert!(collector.columns(&right).is_ok());
    drop(collector);
    assert_eq!(samples.values, [7.0, 8.0]);
    assert_eq!(
        [samples.time(0), samples.time(1)].map(UnixNanos::nanos),
        [1_010_000_000, 1_020_000_000]
    );
}

#[test]
fn equal_agents_share_one_layout_in_any_order() {
    let (catalog, memory) = (Catalog::default(), MemoryBudget::new(1 << 20));
    let sealed = |metrics: &[RawMetric<'_>]| sealed(&catalog, &memory, metrics);
    let metrics = [
        metric("a", &[], 1.0),
        metric("b", &[], 2.0),
        metric("a", &[], 3.0),
    ];
    let one = sealed(&metrics);
    let held = memory.used();
    let [first, second, again] = metrics;
    let other = sealed(&[second, first, again]);
    assert!(Arc::ptr_eq(&one.layout, &other.layout));
    assert_eq!(
        (&one.values, &other.values),
        (&vec![1.0, 3.0, 2.0], &vec![1.0, 3.0, 2.0])
    );
    assert!(memory.used() - held < held, "the second one weighs less");
    let third = sealed(&[metric("a", &[], 1.0)]);
    assert!(!Arc::ptr_eq(&one.layout, &third.layout));
    drop((one, other, third));
    catalog.sweep_when_grown();
    assert_eq!(memory.used(), 0);
}

#[test]
fn values_are_sorted_by_rank_of_the_last_output() {
    let (catalog, memory) = (Catalog::default(), MemoryBudget::new(1 << 20));
    let metrics =
        [("a", 1.0), ("b", 2.0), ("c", 3.0)].map(|(name, value)| metric(name, &[], value));
    let values = || sealed(&catalog, &memory, &metrics).values;
    assert_eq!(values(), [1.0, 2.0, 3.0]);
    // By id; of the last one nothing is known.
    catalog.set_ranks(&[9, 4]);
    assert_eq!(values(), [2.0, 1.0, 3.0]);
}
