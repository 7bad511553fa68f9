use super::*;

fn node(roles: &[Role], labels: &[(&str, &str)]) -> Node {
    let labels = labels.iter();
    Node {
        roles: roles.iter().map(|role| i32::from(*role)).collect(),
        labels: labels
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect(),
        ..Node::default()
    }
}

fn discovery(role: &str, labels: &[(&str, &str)]) -> RoleDiscovery {
    let configured = Identity {
        role: role.to_owned(),
        labels: node(&[], labels).labels,
        pod_name: "db-0".to_owned(),
        ..Identity::default()
    };
    RoleDiscovery {
        nodes: Vec::new(),
        interval: Duration::from_secs(30),
        identity: watch::Sender::new(configured.clone()),
        configured,
    }
}

#[test]
fn first_liaison_or_data_role_counts() {
    use Role::{Data, Liaison, Meta, Unspecified};
    for (roles, expected) in [
        (&[Data][..], Some("ROLE_DATA")),
        (&[Meta, Liaison, Data], Some("ROLE_LIAISON")),
        (&[Unspecified, Data, Liaison], Some("ROLE_DATA")),
        (&[Meta], None),
        (&[], None),
    ] {
        assert_eq!(role(&node(roles, &[])), expected, "{roles:?}");
    }
    let unknown = Node {
        roles: vec![99, Data.into()],
        ..Node::default()
    };
    assert_eq!(role(&unknown), Some("ROLE_DATA"));
}

#[test]
fn role_never_returns_to_unspecified() {
    let discovery = discovery(Identity::ROLE_UNKNOWN, &[]);
    assert!(discovery.adopt(node(&[Role::Data], &[("type", "hot")])));
    assert!(!discovery.adopt(node(&[Role::Meta], &[])));
    let identity = discovery.identity.borrow().clone();
    assert_eq!(identity.role, "ROLE_DATA");
    assert_eq!(identity.labels["type"], "hot");
}

#[test]
fn labels_change_without_a_change_of_role() {
    let discovery = discovery(Identity::ROLE_UNKNOWN, &[]);
    let mut changes = discovery.identity.subscribe();
    for (labels, is_new) in [
        (&[("type", "hot")][..], true),
        (&[("type", "hot")], false),
        (&[("type", "warm")], true),
        (&[], true),
    ] {
        discovery.adopt(node(&[Role::Data], labels));
        assert_eq!(changes.has_changed().unwrap(), is_new, "{labels:?}");
        changes.mark_unchanged();
    }
}

#[test]
fn configured_identity_outweighs_the_node() {
    let discovery = discovery("datanode-hot", &[("type", "mine")]);
    let labels = [("type", "theirs"), ("zone", "a"), ("", "unnamed")];
    discovery.adopt(node(&[Role::Data], &labels));
    let identity = discovery.identity.borrow().clone();
    assert_eq!(identity.role, "datanode-hot");
    assert_eq!(
        identity.labels,
        node(&[], &[("type", "mine"), ("zone", "a")]).labels
    );
    assert!(identity.check().is_ok());
}
