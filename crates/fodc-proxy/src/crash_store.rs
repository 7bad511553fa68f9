//! The crashes that the proxy knows.

use std::{cmp::Reverse, collections::BTreeMap, sync::Arc};

use prost::Message as _;
use steadfast_wire::fodc::StreamCrashDiagnosticsRequest;

use crate::{
    filter::Filter,
    registry::{AgentId, Identity},
};

/// A crash as an agent reported it.
#[derive(Debug)]
pub(super) struct Crash {
    pub(super) agent: AgentId,
    pub(super) identity: Arc<Identity>,
    pub(super) report: StreamCrashDiagnosticsRequest,
}

/// The newest crashes, each once.
#[derive(Debug, Default)]
pub(super) struct CrashStore {
    // Not by the agent's id, which would repeat each crash after a reconnect (O40).
    pods: BTreeMap<String, PodCrashes>,
    last: u64,
    count: usize,
    bytes: usize,
}

/// The crashes of one pod.
#[derive(Debug, Default)]
struct PodCrashes {
    by_artifact: BTreeMap<String, Stored>,
    /// The artifacts in the order in which they were reported last.
    order: BTreeMap<u64, String>,
    bytes: usize,
}

#[derive(Debug)]
struct Stored {
    crash: Arc<Crash>,
    number: u64,
    bytes: usize,
}

/// The crashes that are kept. Of more, the pod that has the most loses the one that was not reported for
/// longest, so that no pod costs others theirs.
const CRASHES_MAX: usize = 1_000;

/// The encoded size of the crashes that are kept. The pod that has the most bytes loses crashes.
const BYTES_MAX: usize = 16 << 20;

impl CrashStore {
    /// Adds a crash, or replaces what was known of it.
    pub(super) fn insert(&mut self, crash: Crash) {
        let pod = crash.identity.name.clone();
        let artifact = crash.report.artifact_dir.clone();
        self.remove(&pod, &artifact);
        self.last += 1;
        let stored = Stored {
            number: self.last,
            bytes: crash.report.encoded_len(),
            crash: Arc::new(crash),
        };
        self.count += 1;
        self.bytes += stored.bytes;
        self.pods.entry(pod).or_default().insert(artifact, stored);
        while self.count > CRASHES_MAX {
            self.forget_oldest_of_largest(|pod| pod.by_artifact.len());
        }
        while self.bytes > BYTES_MAX {
            self.forget_oldest_of_largest(|pod| pod.bytes);
        }
    }

    /// Returns the crashes of these agents, by pod and artifact.
    pub(super) fn select(&self, filter: &Filter) -> Vec<Arc<Crash>> {
        let pods = self.pods.values();
        let crashes = pods.flat_map(|pod| pod.by_artifact.values());
        let crashes = crashes.map(|stored| &stored.crash);
        let selected = crashes.filter(|crash| filter.selects(&crash.identity));
        selected.cloned().collect()
    }

    /// Forgets the crash that was not reported for longest, of the pod with the largest share.
    fn forget_oldest_of_largest(&mut self, share: impl Fn(&PodCrashes) -> usize) {
        let pods = self.pods.iter();
        // Of equal pods, the one with the oldest crash.
        let largest = pods.max_by_key(|(_, pod)| (share(pod), Reverse(pod.oldest())));
        let oldest = largest.and_then(|(name, pod)| {
            let (_, artifact) = pod.order.first_key_value()?;
            Some((name.clone(), artifact.clone()))
        });
        if let Some((pod, artifact)) = oldest {
            self.remove(&pod, &artifact);
        }
    }

    fn remove(&mut self, name: &str, artifact: &str) {
        let Some(pod) = self.pods.get_mut(name) else {
            return;
        };
        if let Some(stored) = pod.by_artifact.remove(artifact) {
            pod.order.remove(&stored.number);
            pod.bytes -= stored.bytes;
            self.count -= 1;
            self.bytes -= stored.bytes;
        }
        if pod.by_artifact.is_empty() {
            self.pods.remove(name);
        }
    }
}

impl PodCrashes {
    fn insert(&mut self, artifact: String, stored: Stored) {
        self.bytes += stored.bytes;
        self.order.insert(stored.number, artifact.clone());
        self.by_artifact.insert(artifact, stored);
    }

    fn oldest(&self) -> Option<u64> {
        self.order.keys().next().copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn crash(pod: &str, agent: &str, artifact: &str, stack: usize) -> Crash {
        Crash {
            agent: AgentId::new(agent),
            identity: Arc::new(Identity::of_pod(pod, "r")),
            report: StreamCrashDiagnosticsRequest {
                artifact_dir: artifact.to_owned(),
                source_endpoint: "x".repeat(stack),
                ..Default::default()
            },
        }
    }

    fn known(store: &CrashStore) -> Vec<String> {
        let crashes = store.select(&Filter::default()).into_iter();
        let text = |crash: Arc<Crash>| {
            let artifact = &crash.report.artifact_dir;
            format!("{}/{artifact} by {}", crash.identity.name, crash.agent)
        };
        crashes.map(text).collect()
    }

    #[test]
    fn crash_is_kept_once_whoever_reports_it() {
        let mut store = CrashStore::default();
        for (pod, agent) in [("db-0", "1"), ("db-1", "2"), ("db-0", "3")] {
            store.insert(crash(pod, agent, "a", 1));
        }
        store.insert(crash("db-0", "3", "b", 1));
        assert_eq!(known(&store), ["db-0/a by 3", "db-0/b by 3", "db-1/a by 2"]);
        let filter = Filter {
            pod: Some("DB-1".to_owned()),
            ..Filter::default()
        };
        assert_eq!(store.select(&filter).len(), 1);
    }

    #[test]
    fn crashes_that_nobody_reports_are_forgotten_first() {
        let mut store = CrashStore::default();
        for number in 0..CRASHES_MAX {
            store.insert(crash("p", "1", &number.to_string(), 1));
        }
        store.insert(crash("p", "1", "0", 1));
        store.insert(crash("p", "1", "new", 1));
        let known = known(&store);
        assert_eq!(known.len(), CRASHES_MAX);
        assert!(known.contains(&"p/0 by 1".to_owned()));
        assert!(!known.contains(&"p/1 by 1".to_owned()));
    }

    #[test]
    fn size_of_all_crashes_is_bounded() {
        let mut store = CrashStore::default();
        for number in 0..40 {
            store.insert(crash("p", "1", &number.to_string(), 1 << 20));
            assert!(store.bytes <= BYTES_MAX);
        }
        assert_eq!(known(&store).len(), 15);
        store.insert(crash("p", "1", "huge", BYTES_MAX));
        assert_eq!((store.pods.len(), store.count, store.bytes), (0, 0, 0));
    }

    #[test]
    fn pod_with_the_most_crashes_loses_its_own() {
        // By number, and by size.
        for (reports, stack) in [(2 * CRASHES_MAX, 1), (40, 1 << 20)] {
            let mut store = CrashStore::default();
            for pod in ["db-0", "db-1"] {
                store.insert(crash(pod, "1", "a", 1));
            }
            for number in 0..reports {
                store.insert(crash("noisy", "2", &number.to_string(), stack));
            }
            let known = known(&store);
            assert_eq!(known[..2], ["db-0/a by 1", "db-1/a by 1"], "{stack}");
            let newest = format!("noisy/{} by 2", reports - 1);
            assert!(known.contains(&newest), "{stack}");
        }
    }
}
