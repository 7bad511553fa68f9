//! The identity of an agent.
//!
//! ```
//! use steadfast_fodc_model::identity::Identity;
//!
//! let identity = Identity {
//!     role: "ROLE_DATA".to_owned(),
//!     pod_name: "db-0".to_owned(),
//!     ..Identity::default()
//! };
//! assert!(identity.check().is_ok());
//! assert_eq!(identity.stamps(None)[0], ("node_role".to_owned(), "ROLE_DATA".to_owned()));
//! ```

use std::{collections::BTreeMap, fmt};

use steadfast_wire::fodc::Address;

/// The identity under which an agent registers.
///
/// A registration carries the names of both dialects: the first version of the proxy knows an agent
/// by `address`, every release by `pod_name`. One of them is enough; the other is derived.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Identity {
    /// The role of the node as free text, like `ROLE_DATA`; [`Identity::ROLE_UNKNOWN`] until it is
    /// known. Must not be empty.
    pub role: String,
    /// The labels of the node. Samples carry them with the prefix `node_`.
    pub labels: BTreeMap<String, String>,
    /// The address on which the node listens: an IP address and a port.
    pub address: Option<(String, u16)>,
    /// The name of the pod or node.
    pub pod_name: String,
    /// The names of the containers whose metrics are recorded.
    pub container_names: Vec<String>,
}

/// The faults of an [`Identity`], at least one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IdentityFaults(Vec<IdentityFault>);

/// One fault of an [`Identity`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum IdentityFault {
    /// The role is empty; every proxy refuses that.
    #[error("role is empty (use {} if it is unknown)", Identity::ROLE_UNKNOWN)]
    NoRole,
    /// The identity has neither a pod name nor an address.
    #[error("neither pod name nor address is set, and one of them is required")]
    NoName,
    /// The host of the address is empty; the first version refuses that.
    #[error("address has an empty host")]
    NoHost,
    /// The port of the address is 0; the first version refuses that.
    #[error("address has port 0")]
    NoPort,
    /// A label has an empty name.
    #[error("a label has an empty name")]
    UnnamedLabel,
    /// The container at this index has an empty name.
    #[error("name of container {0} is empty")]
    UnnamedContainer(usize),
}

/// The port of a derived address: the first version crashes without an address and refuses one
/// without a port. It is the default port of a node.
const PORT_UNKNOWN: u16 = 17_912;

impl Identity {
    /// The role under which the original registers until it knows its role.
    pub const ROLE_UNKNOWN: &'static str = "ROLE_UNSPECIFIED";

    /// Checks the identity.
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
            None if self.pod_name.is_empty() => faults.push(IdentityFault::NoName),
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

    /// Returns the name in the dialect of the releases: the pod's, or one derived from the address.
    #[must_use]
    pub fn pod(&self) -> String {
        match &self.address {
            Some((host, port)) if self.pod_name.is_empty() => format!("{host}:{port}"),
            Some(_) | None => self.pod_name.clone(),
        }
    }

    /// Returns the name in the dialect of the first version: the address, or one derived from the
    /// pod's name.
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

    /// Returns the labels that identify the node on samples from `container`, if known. They must not
    /// replace labels of the metric itself.
    #[must_use]
    pub fn stamps(&self, container: Option<&str>) -> Vec<(String, String)> {
        let own = [
            ("node_role", self.role.clone()),
            ("pod_name", self.pod()),
            ("container_name", container.unwrap_or_default().to_owned()),
        ];
        let own = own.map(|(name, value)| (name.to_owned(), value));
        // Labels of the node with these names would contradict the ones above.
        let reserved = ["role", "pod_name", "container_name"];
        let node = self.labels.iter();
        let node = node
            .filter(|(name, _)| !reserved.contains(&name.as_str()))
            .map(|(name, value)| (format!("node_{}", as_label_name(name)), value.clone()));
        let mut stamps: Vec<_> = own.into_iter().chain(node).collect();
        // An empty label is none in Prometheus, and proxies of the original skip it as well.
        stamps.retain(|(_, value)| !value.is_empty());
        stamps
    }
}

/// Replaces the characters that a label name of Prometheus must not have, as in
/// `app.kubernetes.io/name`.
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
    /// Returns the faults.
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
        use IdentityFault::{NoHost, NoName, NoPort, NoRole, UnnamedContainer, UnnamedLabel};
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
        assert_eq!(nobody.faults(), [NoRole, NoName]);
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
        let expected = [
            ("node_role", "ROLE_DATA"),
            ("pod_name", "db-0"),
            ("container_name", "data"),
            ("node_app_name", "x"),
            ("node_type", "hot"),
        ];
        assert_eq!(identity.stamps(Some("data")), pairs(&expected));
        let without = identity.stamps(None);
        assert!(without.iter().all(|(name, _)| name != "container_name"));
    }
}
