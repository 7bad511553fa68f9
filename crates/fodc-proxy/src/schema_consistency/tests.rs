use steadfast_wire::fodc::ConsistencyStatus::{Consistent, Inconsistent, Unknown};

use super::*;

/// A node's cache and runtime fingerprints of the stream `s`, and the origin.
type Report = (&'static str, u64, u64, Evidence);

/// Returns the verdict of a round between these seconds.
fn judge(
    history: &mut SchemaHistory,
    seconds: (u64, u64),
    registry: Option<u64>,
    reports: &[Report],
) -> (ConsistencyStatus, Vec<SchemaIssueType>) {
    let key = ("stream".to_owned(), "s".to_owned());
    let registry = registry.map(|fingerprint| match fingerprint {
        0 => Fingerprints::new(),
        _ => Fingerprints::from([(key.clone(), fingerprint)]),
    });
    let found = reports
        .iter()
        .map(|(node, cache, runtime, _)| NodeFingerprint {
            node: (*node).to_owned(),
            cache_fingerprint: *cache,
            runtime_fingerprint: *runtime,
        });
    let nodes = reports
        .iter()
        .map(|(node, _, _, evidence)| ((*node).to_owned(), *evidence));
    let at = |seconds| Time::ZERO + Duration::from_secs(seconds);
    let round = Round {
        began: at(seconds.0),
        ended: at(seconds.1),
    };
    let evidence = GroupEvidence {
        name: "g",
        registry: registry.as_ref(),
        objects: NodeObjects::from([(key, found.collect())]),
        nodes: &nodes.collect(),
        is_partial: false,
    };
    let verdict = history.judge(round, evidence).unwrap();
    let issues = verdict.issues.iter().map(SchemaIssue::r#type);
    (verdict.status(), issues.collect())
}

#[test]
fn each_difference_from_the_registry_has_its_type() {
    let all = [
        (Some(7), 7, 7, None),
        (Some(7), 0, 0, Some(SchemaIssueType::MissingInCache)),
        (Some(7), 0, 7, Some(SchemaIssueType::MissingInCache)),
        (Some(7), 6, 6, Some(SchemaIssueType::CacheStale)),
        (Some(7), 6, 7, Some(SchemaIssueType::CacheStale)),
        (Some(7), 7, 0, Some(SchemaIssueType::RuntimeNotApplied)),
        (Some(7), 7, 6, Some(SchemaIssueType::RuntimeNotApplied)),
        (None, 7, 7, Some(SchemaIssueType::Orphan)),
        (None, 0, 7, Some(SchemaIssueType::Orphan)),
        (None, 0, 0, None),
    ];
    for (registry, cache, runtime, issue) in all {
        for kind in ["stream", "measure", "trace"] {
            let found = difference(kind, registry, cache, runtime);
            assert_eq!(found, issue, "{registry:?} {cache} {runtime}");
        }
    }
    for kind in ["group", "indexRule"] {
        assert_eq!(difference(kind, Some(7), 7, 0), None, "applied later");
        let wrong = difference(kind, Some(7), 7, 6);
        assert_eq!(wrong, Some(SchemaIssueType::RuntimeNotApplied));
    }
}

#[test]
fn difference_counts_in_its_second_round() {
    let stale: &[Report] = &[("a", 7, 7, Evidence::Fresh), ("b", 6, 6, Evidence::Fresh)];
    let issues = vec![SchemaIssueType::CacheStale];
    let mut history = SchemaHistory::default();
    assert_eq!(history.text(), "");
    let first = judge(&mut history, (0, 1), Some(7), stale);
    assert_eq!(first, (Unknown, issues.clone()));
    let second = judge(&mut history, (1, 2), Some(7), stale);
    assert_eq!(second, (Inconsistent, issues.clone()));
    // Other differences, and those that were gone meanwhile, begin anew.
    let other = [("b", 5, 0, Evidence::Fresh), ("a", 6, 6, Evidence::Fresh)];
    let (status, _) = judge(&mut history, (2, 3), Some(7), &other[1..]);
    assert_eq!(status, Unknown, "another node");
    let equal = judge(&mut history, (3, 4), Some(6), &other[1..]);
    assert_eq!(equal, (Consistent, vec![]));
    assert_eq!(judge(&mut history, (4, 5), Some(7), stale).0, Unknown);
}

#[test]
fn rounds_that_overlap_are_one() {
    let stale: &[Report] = &[("b", 6, 6, Evidence::Fresh)];
    let mut history = SchemaHistory::default();
    assert_eq!(judge(&mut history, (0, 5), Some(7), stale).0, Unknown);
    assert_eq!(judge(&mut history, (4, 6), Some(7), stale).0, Unknown);
    assert_eq!(judge(&mut history, (5, 7), Some(7), stale).0, Inconsistent);
}

#[test]
fn evidence_from_a_cache_counts_once() {
    let cached = |hash| [("b", 6, 6, Evidence::MaybeCached(hash))];
    let mut history = SchemaHistory::default();
    for round in [(0, 1), (1, 2), (599, 600)] {
        assert_eq!(judge(&mut history, round, Some(7), &cached(1)).0, Unknown);
    }
    let (status, _) = judge(&mut history, (601, 602), Some(7), &cached(1));
    assert_eq!(status, Inconsistent, "a cache is not older");
    let mut history = SchemaHistory::default();
    assert_eq!(judge(&mut history, (0, 1), Some(7), &cached(1)).0, Unknown);
    let (status, _) = judge(&mut history, (1, 2), Some(7), &cached(2));
    assert_eq!(status, Inconsistent, "another response");
}

#[test]
fn unknown_registry_neither_confirms_nor_refutes() {
    let stale: &[Report] = &[("b", 6, 6, Evidence::Fresh)];
    let mut history = SchemaHistory::default();
    judge(&mut history, (0, 1), Some(7), stale);
    assert_eq!(judge(&mut history, (1, 2), None, stale), (Unknown, vec![]));
    assert_eq!(judge(&mut history, (2, 3), Some(7), stale).0, Inconsistent);
    let orphan = judge(&mut history, (3, 4), Some(0), stale);
    assert_eq!(orphan, (Unknown, vec![SchemaIssueType::Orphan]));
}

#[test]
fn missing_node_makes_agreement_unknown() {
    let mut history = SchemaHistory::default();
    let key = || ("stream".to_owned(), "s".to_owned());
    let registry = Fingerprints::from([(key(), 7)]);
    let round = Round {
        began: Time::ZERO,
        ended: Time::ZERO,
    };
    let evidence = |nodes, is_partial| GroupEvidence {
        name: "g",
        registry: Some(&registry),
        objects: NodeObjects::from([(key(), vec![found("a"); 2])]),
        nodes,
        is_partial,
    };
    let nodes = BTreeMap::from([("a".to_owned(), Evidence::Fresh)]);
    let verdict = history.judge(round, evidence(&nodes, true)).unwrap();
    assert_eq!(verdict.status(), Unknown);
    let verdict = history.judge(round, evidence(&nodes, false)).unwrap();
    assert_eq!(verdict.status(), Consistent);
    assert_eq!(verdict.objects[0].registry_fingerprint, 7);
    assert_eq!(verdict.objects[0].node_fingerprints.len(), 1, "both agree");
    // Nobody has reported: not even a difference is known.
    let verdict = history
        .judge(round, evidence(&BTreeMap::new(), false))
        .unwrap();
    assert_eq!((verdict.status(), verdict.issues.len()), (Unknown, 0));
}

fn found(node: &str) -> NodeFingerprint {
    NodeFingerprint {
        node: node.to_owned(),
        cache_fingerprint: 7,
        runtime_fingerprint: 7,
    }
}

#[test]
fn group_without_any_evidence_has_no_verdict() {
    let mut history = SchemaHistory::default();
    let nodes = BTreeMap::new();
    let nothing = |registry| GroupEvidence {
        name: "g",
        registry,
        objects: NodeObjects::new(),
        nodes: &nodes,
        is_partial: false,
    };
    let round = Round {
        began: Time::ZERO,
        ended: Time::ZERO,
    };
    assert_eq!(history.judge(round, nothing(None)), None);
    assert_eq!(
        history.judge(round, nothing(Some(&Fingerprints::new()))),
        None
    );
    assert_eq!(history.text(), "");
}

#[test]
fn verdicts_are_a_gauge_until_their_group_is_gone() {
    let mut history = SchemaHistory::default();
    judge(
        &mut history,
        (0, 1),
        Some(7),
        &[("a", 7, 7, Evidence::Fresh)],
    );
    history.0.insert("a\"b".to_owned(), GroupHistory::default());
    let text = history.text();
    let lines: Vec<_> = text.lines().collect();
    assert!(lines[0].starts_with("# HELP banyandb_fodc_schema_consistency_status "));
    assert_eq!(
        lines[1],
        "# TYPE banyandb_fodc_schema_consistency_status gauge"
    );
    assert_eq!(
        lines[2..],
        [
            r#"banyandb_fodc_schema_consistency_status{group="a\"b"} 0"#,
            r#"banyandb_fodc_schema_consistency_status{group="g"} 1"#,
        ]
    );
    history.retain(&BTreeSet::new());
    assert_eq!(history.text(), "");
}

#[test]
fn verdicts_end_while_an_agent_is_missing() {
    let mut history = SchemaHistory::default();
    let reports = [("a", 8, 8, Evidence::Fresh)];
    judge(&mut history, (0, 1), Some(7), &reports);
    judge(&mut history, (2, 3), Some(7), &reports);
    assert_eq!(history.0["g"].status, Inconsistent);
    history.on_partial_round(&BTreeSet::from(["g".to_owned()]));
    assert_eq!(history.0["g"].status, Inconsistent, "it was seen");
    history.on_partial_round(&BTreeSet::new());
    assert_eq!(history.0["g"].status, Unknown);
    let (verdict, _) = judge(&mut history, (4, 5), Some(7), &reports);
    assert_eq!(verdict, Inconsistent, "its difference is remembered");
    // Groups of invented names are not kept without a bound.
    for number in 0..=GROUPS_MAX {
        history
            .0
            .insert(number.to_string(), GroupHistory::default());
    }
    history.on_partial_round(&BTreeSet::new());
    assert_eq!(history.text(), "");
}

#[test]
fn issues_of_one_group_are_bounded() {
    let registry = (0..200).map(|index| (("stream".to_owned(), index.to_string()), 7));
    let nodes = (0..100).map(|index| (format!("node-{index}"), Evidence::Fresh));
    let evidence = GroupEvidence {
        name: "g",
        registry: Some(&registry.collect()),
        objects: NodeObjects::new(),
        nodes: &nodes.collect(),
        is_partial: false,
    };
    let round = Round {
        began: Time::ZERO,
        ended: Time::ZERO,
    };
    let mut history = SchemaHistory::default();
    let verdict = history.judge(round, evidence).unwrap();
    assert_eq!(verdict.issues.len(), ISSUES_MAX);
    assert_eq!(verdict.status(), Unknown);
    assert_eq!(history.0["g"].differences.len(), ISSUES_MAX);
}
