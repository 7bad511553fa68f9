//! The comparison of the schema in the memory of the nodes with the registry.
//!
//! A change reaches the nodes some time after the registry, so that a difference that was seen once proves
//! nothing. It counts when it is seen in a second round, with evidence that was gathered after the end of the
//! first.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
    hash::{DefaultHasher, Hash as _, Hasher as _},
    time::Duration,
};

use steadfast_exposition::quote;
use steadfast_session::Time;
use steadfast_wire::fodc::{
    ConsistencyStatus, NodeFingerprint, ObjectConsistency, SchemaConsistency, SchemaIssue,
    SchemaIssueType,
};

/// The schema objects of a group in the registry: the fingerprints by kind and name.
pub(super) type Fingerprints = BTreeMap<(String, String), u64>;

/// The schema objects of a group in the memory of the nodes, by kind and name.
pub(super) type NodeObjects = BTreeMap<(String, String), Vec<NodeFingerprint>>;

/// The origin of what a node says about its schema.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Evidence {
    /// Its agent has asked the node for this response.
    Fresh,
    /// The hash of a response that its agent may have had in its cache. Agents of the original keep the
    /// schema with the groups.
    MaybeCached(u64),
}

/// The evidence about one group.
#[derive(Debug)]
pub(super) struct GroupEvidence<'a> {
    pub(super) name: &'a str,
    /// The group in the registry; `None` if it is not known.
    pub(super) registry: Option<&'a Fingerprints>,
    pub(super) objects: NodeObjects,
    /// The nodes that have reported objects of the group.
    pub(super) nodes: &'a BTreeMap<String, Evidence>,
    /// The evidence of a node is missing.
    pub(super) is_partial: bool,
}

/// The time in which evidence was gathered.
#[derive(Clone, Copy, Debug)]
pub(super) struct Round {
    pub(super) began: Time,
    pub(super) ended: Time,
}

/// The differences that were seen in earlier rounds, and the last verdicts.
#[derive(Debug, Default)]
pub(super) struct SchemaHistory(BTreeMap<String, GroupHistory>);

#[derive(Debug, Default)]
struct GroupHistory {
    status: ConsistencyStatus,
    /// The differences of the last round that compared anything, by the hash of their names.
    differences: BTreeMap<u64, Sighting>,
}

/// The round in which a difference was seen first.
#[derive(Clone, Copy, Debug)]
struct Sighting {
    ended: Time,
    evidence: Evidence,
}

/// The gauge of the verdicts.
const GAUGE: &str = "banyandb_fodc_schema_consistency_status";

/// The time for which an agent of the original keeps its evidence, by default.
const CACHE_TTL: Duration = Duration::from_secs(600);

/// The number of issues of one group. A registry of a thousand objects, none of which a thousand nodes
/// have, would take the memory of a million.
const ISSUES_MAX: usize = 1_000;

/// The number of groups up to which those are remembered that a round without all agents has not seen.
const GROUPS_MAX: usize = 10_000;

impl SchemaHistory {
    /// Returns the verdict about a group; `None` if nothing is known about its schema.
    pub(super) fn judge(
        &mut self,
        round: Round,
        evidence: GroupEvidence<'_>,
    ) -> Option<SchemaConsistency> {
        let registry = evidence.registry.filter(|registry| !registry.is_empty());
        if evidence.objects.is_empty() && registry.is_none() {
            self.0.remove(evidence.name);
            return None;
        }
        let group = self.0.entry(evidence.name.to_owned()).or_default();
        let issues = match evidence.registry {
            Some(registry) if !evidence.nodes.is_empty() => {
                let issues = issues(registry, &evidence);
                group.compare(round, &issues, &evidence);
                issues
            }
            // What was seen before is neither confirmed nor refuted.
            _ => {
                group.status = ConsistencyStatus::Unknown;
                Vec::new()
            }
        };
        Some(SchemaConsistency {
            status: group.status.into(),
            objects: objects(registry, evidence.objects),
            issues,
        })
    }

    /// Forgets all groups but these.
    pub(super) fn retain(&mut self, groups: &BTreeSet<String>) {
        self.0.retain(|name, _| groups.contains(name));
    }

    /// Takes note of a round in which an agent was missing, and that has seen these groups. The verdict of
    /// the others is unknown; their differences are remembered.
    pub(super) fn on_partial_round(&mut self, seen: &BTreeSet<String>) {
        if self.0.len() > GROUPS_MAX {
            return self.retain(seen);
        }
        for (name, group) in &mut self.0 {
            if !seen.contains(name) {
                group.status = ConsistencyStatus::Unknown;
            }
        }
    }

    /// Returns the last verdicts in Prometheus' format; nothing before the first.
    pub(super) fn text(&self) -> String {
        if self.0.is_empty() {
            return String::new();
        }
        let mut text = format!(
            "# HELP {GAUGE} Schema of a group on the nodes, compared with the registry: \
             1 consistent, 2 inconsistent, 3 unknown.\n# TYPE {GAUGE} gauge\n"
        );
        for (name, group) in &self.0 {
            text.push_str(GAUGE);
            text.push_str("{group=");
            quote(name, &mut text);
            let status = i32::from(group.status);
            writeln!(text, "}} {status}").expect("writing to a string cannot fail");
        }
        text
    }
}

impl GroupHistory {
    fn compare(&mut self, round: Round, issues: &[SchemaIssue], evidence: &GroupEvidence<'_>) {
        let before = std::mem::take(&mut self.differences);
        let mut is_confirmed = false;
        for issue in issues {
            let mut hasher = DefaultHasher::new();
            issue.hash(&mut hasher);
            let key = hasher.finish();
            let now = Sighting {
                ended: round.ended,
                evidence: evidence.nodes[&issue.node],
            };
            let first = before.get(&key).copied().unwrap_or(now);
            is_confirmed |= before.contains_key(&key) && first.precedes(round, now.evidence);
            self.differences.insert(key, first);
        }
        self.status = if is_confirmed {
            ConsistencyStatus::Inconsistent
        } else if !issues.is_empty() || evidence.is_partial {
            ConsistencyStatus::Unknown
        } else {
            ConsistencyStatus::Consistent
        };
    }
}

impl Sighting {
    /// Returns true if the evidence of a round was certainly gathered after this sighting. Rounds of two
    /// pages may overlap.
    fn precedes(self, round: Round, evidence: Evidence) -> bool {
        let is_same = self.evidence == evidence && evidence != Evidence::Fresh;
        let wait = if is_same { CACHE_TTL } else { Duration::ZERO };
        round.began >= self.ended + wait
    }
}

/// Returns the differences between the registry and each node: at most one for each object and node, the one
/// that causes the others.
fn issues(registry: &Fingerprints, evidence: &GroupEvidence<'_>) -> Vec<SchemaIssue> {
    let mut issues = Vec::new();
    let keys: BTreeSet<_> = registry.keys().chain(evidence.objects.keys()).collect();
    for key in keys {
        let expected = registry.get(key).copied();
        let found = evidence.objects.get(key).into_iter().flatten();
        let found: BTreeMap<&str, &NodeFingerprint> =
            found.map(|found| (&*found.node, found)).collect();
        for node in evidence.nodes.keys() {
            let found = found.get(&**node);
            let (cache, runtime) = found.map_or((0, 0), |found| {
                (found.cache_fingerprint, found.runtime_fingerprint)
            });
            if let Some(kind) = difference(&key.0, expected, cache, runtime) {
                issues.push(SchemaIssue {
                    kind: key.0.clone(),
                    name: key.1.clone(),
                    node: node.clone(),
                    r#type: kind.into(),
                });
                if issues.len() >= ISSUES_MAX {
                    return issues;
                }
            }
        }
    }
    issues
}

/// Returns the difference between the registry and a node. An object that is absent there has the
/// fingerprint 0.
fn difference(
    kind: &str,
    registry: Option<u64>,
    cache: u64,
    runtime: u64,
) -> Option<SchemaIssueType> {
    let Some(registry) = registry else {
        let is_absent = cache == 0 && runtime == 0;
        return (!is_absent).then_some(SchemaIssueType::Orphan);
    };
    // Index rules are applied as a part of what they are bound to, and a group with its first data.
    let may_be_unapplied = matches!(kind, "group" | "indexRule");
    if cache == 0 {
        Some(SchemaIssueType::MissingInCache)
    } else if cache != registry {
        Some(SchemaIssueType::CacheStale)
    } else if runtime != cache && !(runtime == 0 && may_be_unapplied) {
        Some(SchemaIssueType::RuntimeNotApplied)
    } else {
        None
    }
}

/// Returns all objects of the registry and of the nodes, sorted.
fn objects(registry: Option<&Fingerprints>, mut nodes: NodeObjects) -> Vec<ObjectConsistency> {
    for key in registry.into_iter().flat_map(BTreeMap::keys) {
        if !nodes.contains_key(key) {
            nodes.insert(key.clone(), Vec::new());
        }
    }
    let objects = nodes.into_iter().map(|(key, mut nodes)| {
        nodes.sort_by(|a, b| a.node.cmp(&b.node));
        nodes.dedup();
        ObjectConsistency {
            registry_fingerprint: registry.and_then(|all| all.get(&key)).copied().unwrap_or(0),
            node_fingerprints: nodes,
            kind: key.0,
            name: key.1,
        }
    });
    objects.collect()
}

#[cfg(test)]
mod tests;
