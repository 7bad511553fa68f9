use proptest::prelude::*;
use steadfast_wire::fodc::{Address, AgentProfile};

use super::*;

const TIMEOUT: Duration = Duration::from_secs(30);
const CLEANUP: Duration = Duration::from_secs(300);

fn registry(max: usize) -> Registry {
    Registry::new(TIMEOUT, CLEANUP, max)
}

fn at(seconds: u64) -> Time {
    Time::from_micros(seconds * 1_000_000)
}

fn id(text: &str) -> AgentId {
    AgentId::new(text)
}

fn pod(name: &str, role: &str) -> RegisterAgentRequest {
    RegisterAgentRequest {
        node_role: role.to_owned(),
        pod_name: name.to_owned(),
        ..RegisterAgentRequest::default()
    }
}

fn ours(name: &str, instance: &str) -> RegisterAgentRequest {
    RegisterAgentRequest {
        profile: Some(AgentProfile {
            version: 1,
            instance: instance.to_owned(),
            ..AgentProfile::default()
        }),
        ..pod(name, "ROLE_DATA")
    }
}

fn try_register(
    registry: &mut Registry,
    seconds: u64,
    name: &str,
    request: &RegisterAgentRequest,
) -> Result<Displaced, Refusal> {
    registry.register(at(seconds), id(name), Identity::of(request))
}

fn register(
    registry: &mut Registry,
    seconds: u64,
    name: &str,
    request: &RegisterAgentRequest,
) -> Displaced {
    try_register(registry, seconds, name, request).unwrap()
}

/// Sends a heartbeat of agent `a`.
fn heartbeat(registry: &mut Registry, seconds: u64, request: &RegisterAgentRequest) {
    registry.heartbeat(at(seconds), &id("a"), request).unwrap();
}

fn replacing(old: &str) -> Displaced {
    Displaced {
        replaced: vec![id(old)],
        forgotten: None,
    }
}

fn labelled(role: &str, value: &str) -> RegisterAgentRequest {
    RegisterAgentRequest {
        labels: [("type".to_owned(), value.to_owned())]
            .into_iter()
            .collect(),
        ..pod("db-0", role)
    }
}

fn is_online(registry: &Registry, now: Time, name: &str) -> Option<bool> {
    let agent = registry.find(&id(name))?;
    Some(registry.is_online(now, agent))
}

fn identity(registry: &Registry) -> (String, Option<String>) {
    let agent = registry.find(&id("a")).unwrap();
    let label = agent.identity.labels.get("type").cloned();
    (agent.identity.role.clone(), label)
}

#[test]
fn registration_needs_a_role_and_a_pod_or_address() {
    let mut registry = registry(10);
    let address = |ip: &str, port| RegisterAgentRequest {
        node_role: "liaison".to_owned(),
        primary_address: Some(Address {
            ip: ip.to_owned(),
            port,
        }),
        ..RegisterAgentRequest::default()
    };
    let mut refused = |request| try_register(&mut registry, 0, "x", &request).unwrap_err();
    assert_eq!(refused(pod("db-0", "")), Refusal::NoRole);
    assert_eq!(refused(pod("", "ROLE_DATA")), Refusal::NoName);
    assert_eq!(refused(address("", 17_912)), Refusal::NoName);
    assert_eq!(refused(address("10.0.0.1", 0)), Refusal::NoName);
    assert_eq!(refused(address("10.0.0.1", 70_000)), Refusal::NoName);
    register(&mut registry, 0, "a", &address("10.0.0.1", 17_912));
    let agent = registry.find(&id("a")).unwrap();
    assert_eq!(agent.identity.name, "10.0.0.1:17912");
    assert!(!agent.identity.has_pod);
}

#[test]
fn agent_is_online_until_its_timeout_and_known_until_cleanup() {
    let mut registry = registry(10);
    register(&mut registry, 0, "a", &pod("db-0", "r"));
    heartbeat(&mut registry, 5, &RegisterAgentRequest::default());
    assert_eq!(is_online(&registry, at(35), "a"), Some(true));
    let past = at(35) + Duration::from_micros(1);
    assert_eq!(is_online(&registry, past, "a"), Some(false));
    assert_eq!(registry.sweep(at(305)), []);
    assert_eq!(
        registry.sweep(at(305) + Duration::from_micros(1)),
        [id("a")]
    );
    let late = registry.heartbeat(at(306), &id("a"), &RegisterAgentRequest::default());
    assert_eq!(late.unwrap_err().to_string(), "agent a not found");
}

#[test]
fn returning_agent_replaces_its_overdue_registration() {
    let mut registry = registry(10);
    for (name, now, request) in [
        ("left", 0, pod("db-0", "r")),
        ("overdue", 0, pod("db-1", "r")),
        ("lonely", 0, pod("db-2", "r")),
        ("other role", 0, pod("db-1", "q")),
        ("back 0", 1, pod("db-0", "r")),
        ("back 1", 1, pod("db-1", "r")),
    ] {
        register(&mut registry, now, name, &request);
    }
    assert_eq!(registry.drop_outlived(at(1)), [], "while both live");
    registry.leave(at(2), &id("left"));
    registry.leave(at(2), &id("lonely"));
    assert_eq!(registry.drop_outlived(at(2)), [id("left")]);
    let past = at(30) + Duration::from_micros(1);
    assert_eq!(registry.drop_outlived(past), [id("overdue")]);
    // The later of two is never outlived by the earlier.
    registry.leave(at(31), &id("back 1"));
    assert_eq!(registry.drop_outlived(at(31)), []);
    let left: Vec<&str> = registry.agents().map(|agent| agent.id.as_str()).collect();
    assert_eq!(left, ["back 0", "back 1", "lonely", "other role"]);
}

#[test]
fn offline_agents_do_not_count_and_stay_bounded() {
    let mut registry = registry(2);
    register(&mut registry, 0, "a", &pod("db-0", "r"));
    register(&mut registry, 0, "b", &pod("db-1", "r"));
    let full = try_register(&mut registry, 1, "c", &pod("db-2", "r"));
    assert_eq!(full, Err(Refusal::Full(2)));
    registry.leave(at(1), &id("a"));
    assert_eq!(is_online(&registry, at(1), "a"), Some(false));
    let displaced = register(&mut registry, 1, "c", &pod("db-2", "r"));
    assert_eq!(displaced, Displaced::default());
    registry.leave(at(2), &id("b"));
    register(&mut registry, 2, "d", &pod("db-3", "r"));
    registry.leave(at(3), &id("c"));
    let made_room = try_register(&mut registry, 3, "e", &pod("db-4", "r"));
    let oldest = Displaced {
        forgotten: Some(id("a")),
        ..Displaced::default()
    };
    assert_eq!(
        made_room,
        Ok(oldest),
        "the one that has been silent the longest"
    );
    assert_eq!(registry.agents().count(), 4);
}

#[test]
fn each_agent_is_known_once_after_all_reconnect() {
    let mut registry = registry(3);
    for number in 0..3 {
        let name = format!("db-{number}");
        let old = format!("old-{number}");
        register(&mut registry, 0, &old, &pod(&name, "r"));
        registry.leave(at(1), &id(&old));
    }
    for number in 0..3 {
        let (new, pod) = (format!("new-{number}"), pod(&format!("db-{number}"), "r"));
        let replaced = register(&mut registry, 2, &new, &pod);
        assert_eq!(replaced, replacing(&format!("old-{number}")));
    }
    assert_eq!(registry.agents().count(), 3);
}

#[test]
fn registration_replaces_an_overdue_or_gone_one_but_no_live_one() {
    let mut registry = registry(10);
    register(&mut registry, 0, "a", &pod("db-0", "r"));
    let displaced = register(&mut registry, 1, "b", &pod("db-0", "r"));
    assert_eq!(displaced, Displaced::default());
    assert_eq!(registry.duplicates(at(1)), [id("a"), id("b")]);
    let live = registry.heartbeat(at(31), &id("b"), &pod("db-0", "r"));
    live.unwrap();
    assert_eq!(registry.duplicates(at(31)), [], "one of them is overdue");
    let replaced = try_register(&mut registry, 31, "c", &pod("db-0", "r"));
    assert_eq!(replaced, Ok(replacing("a")));
    registry.leave(at(32), &id("b"));
    let displaced = register(&mut registry, 32, "d", &pod("db-0", "other"));
    assert_eq!(displaced, Displaced::default());
    let displaced = register(&mut registry, 32, "e", &pod("db-0", UNRESOLVED));
    assert_eq!(displaced, replacing("b"));
}

#[test]
fn registration_of_the_same_process_replaces_its_own_at_once() {
    let mut registry = registry(1);
    register(&mut registry, 0, "a", &ours("db-0", "i1"));
    let displaced = register(&mut registry, 0, "b", &ours("db-0", "i1"));
    assert_eq!(displaced, replacing("a"));
}

#[test]
fn returning_agent_takes_no_second_slot() {
    let mut registry = registry(1);
    register(&mut registry, 0, "a", &pod("db-0", "r"));
    let other = try_register(&mut registry, 1, "b", &pod("db-1", "r"));
    assert_eq!(other, Err(Refusal::Full(1)));
    let displaced = register(&mut registry, 1, "b", &pod("db-0", UNRESOLVED));
    assert_eq!(displaced, Displaced::default());
    assert_eq!(registry.duplicates(at(1)), [id("a"), id("b")]);
    let other_role = try_register(&mut registry, 1, "c", &pod("db-0", "s"));
    assert_eq!(other_role, Err(Refusal::Full(1)));
    // However often it comes back, no more than twice as many are known.
    let again = try_register(&mut registry, 2, "c", &pod("db-0", "r"));
    assert_eq!(again.map(|gone| gone.forgotten), Ok(Some(id("a"))));
    assert_eq!(registry.agents().count(), 2);
}

#[test]
fn resolved_role_is_kept_when_a_heartbeat_loses_it() {
    let mut registry = registry(10);
    register(&mut registry, 0, "a", &labelled(UNRESOLVED, ""));
    let mut heartbeat = |request| {
        heartbeat(&mut registry, 1, &request);
        identity(&registry)
    };
    let resolved = ("ROLE_LIAISON".to_owned(), Some("hot".to_owned()));
    assert_eq!(heartbeat(labelled("ROLE_LIAISON", "hot")), resolved);
    assert_eq!(heartbeat(labelled(UNRESOLVED, "cold")), resolved);
    assert_eq!(heartbeat(RegisterAgentRequest::default()), resolved);
}

#[test]
fn heartbeat_updates_labels_without_a_new_role() {
    let mut registry = registry(10);
    register(&mut registry, 0, "a", &labelled("ROLE_DATA", "hot"));
    heartbeat(&mut registry, 1, &labelled("ROLE_DATA", "warm"));
    assert_eq!(identity(&registry).1.as_deref(), Some("warm"));
}

#[derive(Clone, Debug)]
enum Step {
    Register(u8, bool),
    Heartbeat(u8),
    Leave(u8),
    Sweep,
    Wait(u16),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        3 => (0u8..6, any::<bool>()).prop_map(|(name, same)| Step::Register(name, same)),
        3 => (0u8..60).prop_map(Step::Heartbeat),
        2 => (0u8..60).prop_map(Step::Leave),
        1 => Just(Step::Sweep),
        3 => (0u16..120).prop_map(Step::Wait),
    ]
}

/// A list in which everything is looked up the slow way.
#[derive(Default)]
struct Model {
    /// Id, name, instance, last heartbeat, left.
    agents: Vec<(AgentId, u8, Option<u8>, u64, bool)>,
}

impl Model {
    fn online(&self, now: u64) -> Vec<AgentId> {
        let online = self
            .agents
            .iter()
            .filter(|agent| !agent.4 && now - agent.3 <= 30);
        let mut ids: Vec<AgentId> = online.map(|agent| agent.0.clone()).collect();
        ids.sort();
        ids
    }
}

proptest! {
    #[test]
    fn registry_agrees_with_its_model(steps in prop::collection::vec(step(), 1..120)) {
        let mut registry = registry(4);
        let mut model = Model::default();
        let mut now = 0;
        for (number, step) in steps.into_iter().enumerate() {
            let known = |index: u8| model.agents.get(index as usize).map(|agent| agent.0.clone());
            match step {
                Step::Wait(seconds) => now += u64::from(seconds),
                Step::Sweep => {
                    registry.sweep(at(now));
                    model.agents.retain(|agent| now - agent.3 <= 300);
                }
                Step::Leave(index) => if let Some(id) = known(index) {
                    registry.leave(at(now), &id);
                    model.agents[index as usize].4 = true;
                },
                Step::Heartbeat(index) => if let Some(id) = known(index) {
                    registry.heartbeat(at(now), &id, &RegisterAgentRequest::default()).unwrap();
                    model.agents[index as usize].3 = now;
                },
                Step::Register(name, same) => {
                    let instance = same.then_some(name);
                    let mut request = pod(&format!("db-{name}"), "r");
                    request.profile = instance.map(|instance| AgentProfile {
                        version: 1,
                        instance: instance.to_string(),
                        ..AgentProfile::default()
                    });
                    let new = id(&format!("{number:04}"));
                    let online = model.online(now);
                    let mut left = model.agents.clone();
                    left.retain(|agent| {
                        let replaced = agent.1 == name
                            && (!online.contains(&agent.0) || (same && agent.2 == instance));
                        !replaced
                    });
                    let live = left.iter().filter(|agent| online.contains(&agent.0));
                    let others: BTreeSet<u8> = live.map(|agent| agent.1).collect();
                    let others = others.into_iter().filter(|other| *other != name).count();
                    let registered = try_register(&mut registry, now, new.as_str(), &request);
                    prop_assert_eq!(registered.is_ok(), others < 4);
                    if let Ok(gone) = registered {
                        let gone = |id: &AgentId| {
                            gone.replaced.contains(id) || gone.forgotten.as_ref() == Some(id)
                        };
                        model.agents.retain(|agent| !gone(&agent.0));
                        prop_assert!(left.len() - model.agents.len() <= 1, "one may be forgotten");
                        model.agents.push((new, name, instance, now, false));
                    }
                }
            }
            let online = registry.online(at(now)).map(|agent| agent.id.clone());
            let online: Vec<AgentId> = online.collect();
            prop_assert_eq!(online, model.online(now));
            prop_assert_eq!(registry.agents().count(), model.agents.len());
            prop_assert!(model.agents.len() <= 8);
        }
    }
}
