//! The crashes that the proxy knows.

use std::{collections::BTreeMap, sync::Arc};

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
    crashes: BTreeMap<Key, Stored>,
    /// The keys in the order in which they were reported last.
    order: BTreeMap<u64, Key>,
    last: u64,
    bytes: usize,
}

/// The pod and the artifact. The agent's id would repeat each crash after a reconnect (O40).
type Key = (String, String);

#[derive(Debug)]
struct Stored {
    crash: Arc<Crash>,
    number: u64,
    bytes: usize,
}

/// The crashes that are kept; of more, those that nobody reported for longest are forgotten.
const CRASHES_MAX: usize = 1_000;

/// The encoded size of the crashes that are kept.
const BYTES_MAX: usize = 16 << 20;

impl CrashStore {
    /// Adds a crash, or replaces what was known of it.
    pub(super) fn insert(&mut self, crash: Crash) {
        let key = (
            crash.identity.name.clone(),
            crash.report.artifact_dir.clone(),
        );
        self.remove(&key);
        self.last += 1;
        let bytes = crash.report.encoded_len();
        self.order.insert(self.last, key.clone());
        self.bytes += bytes;
        let stored = Stored {
            crash: Arc::new(crash),
            number: self.last,
            bytes,
        };
        self.crashes.insert(key, stored);
        while self.crashes.len() > CRASHES_MAX || self.bytes > BYTES_MAX {
            let Some((_, oldest)) = self.order.pop_first() else {
                break;
            };
            self.remove(&oldest);
        }
    }

    /// Returns the crashes of these agents, by pod and artifact.
    pub(super) fn select(&self, filter: &Filter) -> Vec<Arc<Crash>> {
        let crashes = self.crashes.values().map(|stored| &stored.crash);
        let selected = crashes.filter(|crash| filter.selects(&crash.identity));
        selected.cloned().collect()
    }

    fn remove(&mut self, key: &Key) {
        if let Some(stored) = self.crashes.remove(key) {
            self.order.remove(&stored.number);
            self.bytes -= stored.bytes;
        }
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
        assert_eq!(store.order.len(), 15);
        store.insert(crash("p", "1", "huge", BYTES_MAX));
        assert_eq!((store.crashes.len(), store.bytes), (0, 0));
    }
}
