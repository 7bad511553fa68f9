//! The selection of agents and samples by the parameters of a request.

use super::{query::MetricNames, registry::Identity};

/// The agents and the samples that a request selects.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Filter {
    pub(super) role: Option<String>,
    pub(super) pod: Option<String>,
    pub(super) address: Option<String>,
    pub(super) names: MetricNames,
}

impl Filter {
    /// Returns true if the filter selects an agent: roles are compared exactly, pods without regard
    /// to case, and an address is a part of `ip:port`.
    pub(super) fn selects(&self, identity: &Identity) -> bool {
        self.admits_role(&identity.role)
            && self.admits_pod(&identity.name)
            && self.address.as_ref().is_none_or(|wanted| {
                identity
                    .address
                    .as_ref()
                    .is_some_and(|(ip, port)| format!("{ip}:{port}").contains(wanted))
            })
    }

    /// Returns true unless a label of the sample contradicts the filter. The comparisons are those of
    /// [`Filter::selects`]: a selected agent must not lose samples by the case of a label.
    pub(super) fn admits<'a>(&self, mut labels: impl Iterator<Item = (&'a str, &'a str)>) -> bool {
        labels.all(|(name, value)| match name {
            "node_role" => self.admits_role(value),
            "pod_name" => self.admits_pod(value),
            _ => true,
        })
    }

    fn admits_role(&self, role: &str) -> bool {
        self.role.as_ref().is_none_or(|wanted| wanted == role)
    }

    fn admits_pod(&self, pod: &str) -> bool {
        let wanted = self.pod.as_ref();
        wanted.is_none_or(|wanted| wanted.eq_ignore_ascii_case(pod))
    }
}
