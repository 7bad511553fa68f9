//! Which labels say whose sample it is, and that no two samples of different agents look the same
//! (`docs/protocol-fodc.md`, R-135 to R-137).

use std::collections::BTreeMap;

use super::{
    gather::{Filter, Told},
    registry::Identity,
    series::{Labels, Rendered, Series},
};

/// The labels of one agent's samples that the series itself does not have.
#[derive(Debug)]
pub(super) struct Naming<'a> {
    told: &'a Told,
    /// Another agent says that it is the same one: its id tells them apart.
    is_double: bool,
}

impl<'a> Naming<'a> {
    pub(super) fn new(told: &'a Told, is_double: bool) -> Self {
        Self { told, is_double }
    }

    /// Labels of samples stamped in this way, whether by the agent or by us. `own` are labels of the
    /// series, which are never overwritten.
    pub(super) fn labels(&self, stamp: &Labels, series: &Series) -> Vec<(String, String)> {
        let identity = &self.told.identity;
        let mut labels: Vec<(String, String)> = stamp
            .iter()
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .collect();
        let mut add = |name: &str, value: &str| {
            let present = labels.iter().any(|(known, _)| known == name)
                || series.labels.iter().any(|(known, _)| known == name);
            if !present && !value.is_empty() {
                labels.push((name.to_owned(), value.to_owned()));
            }
        };
        add("node_role", &identity.role);
        add("pod_name", &identity.name);
        for (name, value) in &identity.labels {
            if name != "pod_name" && name != "container_name" {
                add(&format!("node_{name}"), value);
            }
        }
        if series.foreign {
            add("agent_pod_name", &identity.name);
        }
        if self.is_double {
            add("agent_id", self.told.id.as_str());
        }
        labels.sort_unstable();
        labels
    }

    pub(super) fn rendered(&self, stamp: &Labels, series: &Series) -> Rendered {
        let labels = self.labels(stamp, series);
        Rendered::of(labels.iter().map(|(name, value)| (&**name, &**value)))
    }

    pub(super) fn identity(&self) -> &'a Identity {
        &self.told.identity
    }
}

/// Which of the agents of an answer say that they are the same one as another.
pub(super) fn doubles(told: &[Told]) -> Vec<bool> {
    let mut known: BTreeMap<(&str, &str), usize> = BTreeMap::new();
    for one in told {
        *known.entry(name(&one.identity)).or_default() += 1;
    }
    told.iter()
        .map(|one| known[&name(&one.identity)] > 1)
        .collect()
}

fn name(identity: &Identity) -> (&str, &str) {
    (&identity.name, &identity.role)
}

/// Whether a series has labels of its own that an agent could have, so that what is added depends on
/// the series.
pub(super) fn meddles(series: &Series) -> bool {
    series.labels.iter().any(|(name, _)| {
        name == "pod_name" || name.starts_with("node_") || name.starts_with("agent_")
    })
}

/// Whether the filter wants this series of an agent that it chose.
pub(super) fn admits(filter: &Filter, series: &Series) -> bool {
    filter.names.admit(&series.name) && filter.admits(series.labels.iter())
}
