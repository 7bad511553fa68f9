//! Who an agent is: what it registers as, and what it stamps on its samples.

use std::{collections::BTreeMap, fmt};

use steadfast_wire::fodc::Address;

/// Who an agent is.
///
/// It speaks both dialects at once: the first version knows an agent by `address`, every release by
/// `pod_name`. One of the two is enough; the other is derived from it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Identity {
    /// What the node does: free text, as `ROLE_DATA`. Never empty; [`Identity::ROLE_UNKNOWN`] while
    /// it is not known.
    pub role: String,
    /// Labels of the node. Samples carry them as `node_` and their name.
    pub labels: BTreeMap<String, String>,
    /// Where the node listens: host, as an IP address, and port.
    pub address: Option<(String, u16)>,
    /// Name of the pod, or of the node.
    pub pod_name: String,
    /// Names of the containers whose metrics are recorded.
    pub container_names: Vec<String>,
}

/// Everything that is wrong with an [`Identity`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IdentityFaults(Vec<IdentityFault>);

/// One thing that is wrong with an [`Identity`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum IdentityFault {
    /// Every proxy refuses it.
    #[error(
        "the role is empty, and {} stands for one that is not known",
        Identity::ROLE_UNKNOWN
    )]
    NoRole,
    /// Neither dialect has anything to know the agent by.
    #[error("there is neither a pod name nor an address, and one of the two is needed")]
    Nobody,
    /// The first version refuses it.
    #[error("the address has an empty host")]
    NoHost,
    /// The first version refuses it.
    #[error("the address has port 0")]
    NoPort,
    /// A label without a name can not be written.
    #[error("a label has an empty name")]
    UnnamedLabel,
    /// A container without a name can not be told.
    #[error("the name of container {0} is empty")]
    UnnamedContainer(usize),
}

/// The port that stands in the address of an agent that was given none: the first version dies
/// without an address and refuses one without a port.
const PORT_UNKNOWN: u16 = 17_912;

impl Identity {
    /// What the originals register as while the role is not known.
    pub const ROLE_UNKNOWN: &'static str = "ROLE_UNSPECIFIED";

    /// Looks at everything.
    ///
    /// # Errors
    ///
    /// All faults at once.
    pub fn check(&self) -> Result<(), IdentityFaults> {
        let mut faults = Vec::new();
        if self.role.is_empty() {
            faults.push(IdentityFault::NoRole);
        }
        match &self.address {
            None if self.pod_name.is_empty() => faults.push(IdentityFault::Nobody),
            None => {}
            Some((host, port)) => {
                if host.is_empty() {
                    faults.push(IdentityFault::NoHost);
                }
                if *port == 0 {
                    faults.push(IdentityFault::NoPort);
                }
            }
        }
        if self.labels.contains_key("") {
            faults.push(IdentityFault::UnnamedLabel);
        }
        for (index, name) in self.container_names.iter().enumerate() {
            if name.is_empty() {
                faults.push(IdentityFault::UnnamedContainer(index));
            }
        }
        if faults.is_empty() {
            Ok(())
        } else {
            Err(IdentityFaults(faults))
        }
    }

    /// The name in the releases' dialect: the pod's, or made of the address.
    #[must_use]
    pub fn pod(&self) -> String {
        match &self.address {
            Some((host, port)) if self.pod_name.is_empty() => format!("{host}:{port}"),
            Some(_) | None => self.pod_name.clone(),
        }
    }

    /// The name in the first version's dialect: the address, or made of the pod's name.
    #[must_use]
    pub fn primary_address(&self) -> Address {
        let (ip, port) = match &self.address {
            Some((host, port)) => (host.clone(), *port),
            None => (self.pod_name.clone(), PORT_UNKNOWN),
        };
        Address {
            ip,
            port: i32::from(port),
        }
    }

    /// The labels that say whose samples these are, of a source in that container if it is known.
    /// Nothing of them replaces a label that the metric itself has.
    #[must_use]
    pub fn stamps(&self, container: Option<&str>) -> Vec<(String, String)> {
        let own = [
            ("node_role", self.role.clone()),
            ("pod_name", self.pod()),
            ("container_name", container.unwrap_or_default().to_owned()),
        ];
        let own = own.map(|(name, value)| (name.to_owned(), value));
        // Of these the agent speaks for itself, whatever the node says.
        let spoken_for = ["role", "pod_name", "container_name"];
        let node = self.labels.iter();
        let node = node
            .filter(|(name, _)| !spoken_for.contains(&name.as_str()))
            .map(|(name, value)| (format!("node_{}", as_label_name(name)), value.clone()));
        let mut stamps: Vec<_> = own.into_iter().chain(node).collect();
        stamps.retain(|(_, value)| !value.is_empty());
        stamps
    }
}

/// Labels of nodes have names as `app.kubernetes.io/name`, which no exposition may carry.
fn as_label_name(name: &str) -> String {
    let fit = |c: char| {
        if c.is_ascii_alphanumeric() || c == '_' {
            c
        } else {
            '_'
        }
    };
    name.chars().map(fit).collect()
}

impl IdentityFaults {
    /// The faults, at least one.
    #[must_use]
    pub fn faults(&self) -> &[IdentityFault] {
        &self.0
    }
}

impl fmt::Display for IdentityFaults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, fault) in self.0.iter().enumerate() {
            if index > 0 {
                f.write_str("; ")?;
            }
            fault.fmt(f)?;
        }
        Ok(())
    }
}

impl std::error::Error for IdentityFaults {}

#[cfg(test)]
mod tests {
    use super::*;

    fn pairs(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
        let owned = pairs.iter();
        owned
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect()
    }

    #[test]
    fn pod_name_and_address_derive_from_each_other() {
        let by_address = Identity {
            role: "data".to_owned(),
            address: Some(("10.0.0.1".to_owned(), 17_912)),
            ..Identity::default()
        };
        assert_eq!(by_address.pod(), "10.0.0.1:17912");
        let by_pod = Identity {
            role: "data".to_owned(),
            pod_name: "db-0".to_owned(),
            ..Identity::default()
        };
        let address = by_pod.primary_address();
        assert_eq!((address.ip.as_str(), address.port), ("db-0", 17_912));
        assert_eq!(
            (by_address.check(), by_pod.check()),
            (Ok(()), Ok(())),
            "one of the two is enough"
        );
    }

    #[test]
    fn identity_reports_all_faults_at_once() {
        use IdentityFault::{NoHost, NoPort, NoRole, Nobody, UnnamedContainer, UnnamedLabel};
        let wrong = Identity {
            labels: BTreeMap::from([(String::new(), "x".to_owned())]),
            address: Some((String::new(), 0)),
            container_names: vec!["data".to_owned(), String::new()],
            ..Identity::default()
        };
        let faults = wrong.check().unwrap_err();
        let all = [NoRole, NoHost, NoPort, UnnamedLabel, UnnamedContainer(1)];
        assert_eq!(faults.faults(), all);
        assert_eq!(faults.to_string().matches("; ").count(), 4);
        let nobody = Identity::default().check().unwrap_err();
        assert_eq!(nobody.faults(), [NoRole, Nobody]);
    }

    #[test]
    fn identity_labels_leave_out_unknown_values() {
        let identity = Identity {
            role: "ROLE_DATA".to_owned(),
            pod_name: "db-0".to_owned(),
            labels: BTreeMap::from(
                [
                    ("type", "hot"),
                    ("app/name", "x"),
                    ("empty", ""),
                    ("pod_name", "other"),
                    ("container_name", "other"),
                    ("role", "other"),
                ]
                .map(|(name, value)| (name.to_owned(), value.to_owned())),
            ),
            ..Identity::default()
        };
        let told = [
            ("node_role", "ROLE_DATA"),
            ("pod_name", "db-0"),
            ("container_name", "data"),
            ("node_app_name", "x"),
            ("node_type", "hot"),
        ];
        assert_eq!(identity.stamps(Some("data")), pairs(&told));
        let without = identity.stamps(None);
        assert!(without.iter().all(|(name, _)| name != "container_name"));
    }
}
