//! The labels that say which agent a sample is from (`docs/protocol-fodc.md`, R-135 to R-137). They
//! never replace a label of the series, and no two agents' samples have equal labels.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use super::{
    catalog::{Labels, RenderedLabels, Series, is_agent_label, label_name},
    filter::Filter,
    gather::AgentResponse,
    registry::Identity,
};

/// The labels that one agent's samples get in addition to those of their series.
#[derive(Debug)]
pub(super) struct OriginLabels<'a> {
    response: &'a AgentResponse,
    /// Another agent has the same identity, so that only the id tells them apart.
    is_duplicate: bool,
}

impl<'a> OriginLabels<'a> {
    pub(super) fn new(response: &'a AgentResponse, is_duplicate: bool) -> Self {
        Self {
            response,
            is_duplicate,
        }
    }

    /// Returns the additional labels of a sample of this series, sorted: the agent's own origin labels,
    /// and those of its identity that neither these nor the series have.
    pub(super) fn labels(&self, origin: &Labels, series: &Series) -> Vec<(String, String)> {
        let identity = &self.response.identity;
        let origin = origin.iter();
        let mut labels: BTreeMap<String, String> = origin
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .collect();
        // A set: a sample may have a million labels, and a node thousands.
        let own: HashSet<&str> = series.labels.iter().map(|(name, _)| name).collect();
        // Returns true if the sample has a label of this name already, or one that looks like it on a page.
        let mut add = |name: &str, value: &str| {
            let present = labels.contains_key(name)
                || own.contains(name)
                || !own.is_empty() && own.contains(&*label_name(name));
            if !present && !value.is_empty() {
                labels.insert(name.to_owned(), value.to_owned());
            }
            present
        };
        add("node_role", &identity.role);
        add("pod_name", &identity.name);
        for (name, value) in &identity.labels {
            // A node's label of these names would be taken for the pod's.
            if name != "pod_name" && name != "container_name" {
                add(&format!("node_{name}"), value);
            }
        }
        let of_pod = series
            .names_pod
            .then_some(("agent_pod_name", &*identity.name));
        let of_agent = ("agent_id", self.response.id.as_str());
        let of_agent = self.is_duplicate.then_some(of_agent);
        for (name, value) in of_pod.into_iter().chain(of_agent) {
            let mut name = name.to_owned();
            // A page may have the label itself, and must not pass for one of another agent.
            while add(&name, value) {
                name.insert_str(0, "proxy_");
            }
        }
        labels.into_iter().collect()
    }

    pub(super) fn rendered(&self, origin: &Labels, series: &Series) -> RenderedLabels {
        let labels = self.labels(origin, series);
        RenderedLabels::of_agent(labels.iter().map(|(name, value)| (&**name, &**value)))
    }
}

/// The names and roles that several agents of a response have.
#[derive(Debug, Default)]
pub(super) struct Duplicates(BTreeSet<(String, String)>);

impl Duplicates {
    pub(super) fn among<'a>(agents: impl Iterator<Item = &'a Identity>) -> Self {
        let mut known = BTreeSet::new();
        let names = agents.map(|identity| (identity.name.clone(), identity.role.clone()));
        Self(names.filter(|name| !known.insert(name.clone())).collect())
    }

    pub(super) fn contain(&self, identity: &Identity) -> bool {
        // Nearly always empty: the name is not cloned for nothing.
        !self.0.is_empty()
            && self
                .0
                .contains(&(identity.name.clone(), identity.role.clone()))
    }
}

/// Returns true if a series has labels that an agent adds, so that the additional labels of a sample
/// depend on its series.
pub(super) fn has_agent_labels(series: &Series) -> bool {
    series.labels.iter().any(|(name, _)| is_agent_label(name))
}

/// Returns true if the filter admits this series of an agent that it selected.
pub(super) fn admits(filter: &Filter, series: &Series) -> bool {
    filter.names.admit(&series.name) && filter.admits(series.labels.iter())
}
