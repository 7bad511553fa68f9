use std::collections::BTreeMap;

use steadfast_session::{Advice, Effect};

use super::*;

const AT: Time = Time::ZERO;
const FIRST: Generation = Generation(1);

fn identity(role: &str) -> Arc<Identity> {
    Arc::new(Identity {
        role: role.to_owned(),
        labels: BTreeMap::from([("type".to_owned(), "hot".to_owned())]),
        address: Some(("10.0.0.1".to_owned(), 17_912)),
        pod_name: "p0".to_owned(),
        container_names: vec!["data".to_owned()],
    })
}

/// The protocol and what it asks for in one call.
struct Rig(Registration);

impl Rig {
    fn new() -> Self {
        Self(Registration::new(
            identity("ROLE_UNSPECIFIED"),
            "one".to_owned(),
        ))
    }

    /// One whose request is out.
    fn asked() -> Self {
        let mut rig = Self::new();
        rig.opened(FIRST);
        rig
    }

    fn registered() -> Self {
        let mut rig = Self::asked();
        rig.response(yes());
        rig.effects(|protocol, cx| protocol.on_live(AT, cx));
        rig
    }

    /// Opens a stream, and returns the effects of its connection's being ready.
    fn opened(&mut self, generation: Generation) -> Vec<Effect<RegisterAgentRequest, Event>> {
        let opened = self.effects(|protocol, cx| protocol.on_open(AT, generation, cx));
        assert_eq!(opened, [], "a request would be old when the dial ends");
        self.effects(|protocol, cx| protocol.on_connected(AT, cx))
    }

    fn effects(
        &mut self,
        call: impl FnOnce(&mut Registration, &mut Context<RegisterAgentRequest, Event>),
    ) -> Vec<Effect<RegisterAgentRequest, Event>> {
        let mut cx = Context::new(true);
        call(&mut self.0, &mut cx);
        cx.into_effects()
    }

    fn response(
        &mut self,
        response: RegisterAgentResponse,
    ) -> Vec<Effect<RegisterAgentRequest, Event>> {
        self.effects(|protocol, cx| protocol.on_message(AT, response, cx))
    }
}

fn yes() -> RegisterAgentResponse {
    RegisterAgentResponse {
        success: true,
        agent_id: "id-1".to_owned(),
        ..RegisterAgentResponse::default()
    }
}

fn sent(effects: &[Effect<RegisterAgentRequest, Event>]) -> Vec<&RegisterAgentRequest> {
    let sent = effects.iter().filter_map(|effect| match effect {
        Effect::Send(request) => Some(request),
        Effect::Event(_) | Effect::Signal(_) => None,
    });
    sent.collect()
}

#[test]
fn request_always_has_all_five_fields() {
    let effects = Rig::new().opened(FIRST);
    let [request] = sent(&effects)[..] else {
        panic!("{effects:?}")
    };
    assert_eq!(request.node_role, "ROLE_UNSPECIFIED");
    assert_eq!(request.labels.len(), 1);
    let address = request.primary_address.as_ref().unwrap();
    assert_eq!((address.ip.as_str(), address.port), ("10.0.0.1", 17_912));
    assert_eq!(request.pod_name, "p0");
    assert_eq!(request.container_names, ["data"]);
    let profile = request.profile.as_ref().unwrap();
    assert_eq!((profile.version, profile.instance.as_str()), (1, "one"));
}

#[test]
fn registration_needs_success_and_an_id() {
    let refused = |why: &str| End::retry(Initiator::Peer, Reason::Refused(why.to_owned()));
    let response = |success, agent_id: &str, message: &str| RegisterAgentResponse {
        success,
        agent_id: agent_id.to_owned(),
        message: message.to_owned(),
        ..RegisterAgentResponse::default()
    };
    for (response, why) in [
        (
            response(false, "id", "max agents (1000)"),
            "max agents (1000)",
        ),
        (response(false, "", ""), "no reason given"),
        (
            response(true, "", "ok"),
            "registered, but without an agent id",
        ),
    ] {
        let effects = Rig::asked().response(response);
        let end = refused(why);
        assert_eq!(end.advice, Advice::Retry);
        let expected = [
            Effect::Event(Event::Refused),
            Effect::Signal(Signal::Fail(end)),
        ];
        assert_eq!(effects, expected);
    }
    let effects = Rig::asked().response(yes());
    assert_eq!(effects, [Effect::Signal(Signal::Greeted)]);
}

#[test]
fn proxy_heartbeat_interval_wins_if_positive() {
    for (seconds, interval) in [
        (7, Some(Duration::from_secs(7))),
        (0, None),
        (-3, None),
        (i64::MIN, None),
        (i64::MAX, Some(Duration::from_secs(i64::MAX as u64))),
    ] {
        let effects = Rig::asked().response(RegisterAgentResponse {
            heartbeat_interval_seconds: seconds,
            ..yes()
        });
        let wished = effects.iter().find_map(|effect| match effect {
            Effect::Signal(Signal::HeartbeatInterval(interval)) => Some(*interval),
            Effect::Signal(_) | Effect::Send(_) | Effect::Event(_) => None,
        });
        assert_eq!(wished, interval, "{seconds}");
    }
}

#[test]
fn registration_event_carries_the_profile() {
    for (sent, taken) in [(Some(1), Some(1)), (Some(0), None), (None, None)] {
        let mut rig = Rig::asked();
        let profile = |version| ProxyProfile {
            version,
            max_message_bytes: 9,
            ..ProxyProfile::default()
        };
        rig.response(RegisterAgentResponse {
            profile: sent.map(profile),
            ..yes()
        });
        let effects = rig.effects(|protocol, cx| protocol.on_live(AT, cx));
        let registered = Registered {
            agent_id: "id-1".to_owned(),
            generation: FIRST,
            heartbeat_interval: None,
            profile: taken.map(profile),
            stream_key: StreamKey::default(),
        };
        assert_eq!(effects, [Effect::Event(Event::Registered(registered))]);
    }
}

#[test]
fn identity_change_is_sent_at_once() {
    let mut rig = Rig::registered();
    let beat = rig.effects(|protocol, cx| protocol.on_heartbeat(AT, cx));
    assert_eq!(sent(&beat)[0].node_role, "ROLE_UNSPECIFIED");

    let same = Command::SetIdentity(identity("ROLE_UNSPECIFIED"));
    assert_eq!(
        rig.effects(|protocol, cx| protocol.on_command(AT, same, cx)),
        [],
        "nothing new is nothing to tell"
    );
    let resolved = Command::SetIdentity(identity("ROLE_LIAISON"));
    let effects = rig.effects(|protocol, cx| protocol.on_command(AT, resolved, cx));
    assert_eq!(sent(&effects)[0].node_role, "ROLE_LIAISON");
    let labels = BTreeMap::from([("zone".to_owned(), "b".to_owned())]);
    let labelled = Arc::new(Identity {
        labels: labels.clone(),
        ..(*identity("ROLE_LIAISON")).clone()
    });
    let command = Command::SetIdentity(labelled);
    let effects = rig.effects(|protocol, cx| protocol.on_command(AT, command, cx));
    assert_eq!(sent(&effects)[0].labels, labels);
    let beat = rig.effects(|protocol, cx| protocol.on_heartbeat(AT, cx));
    assert_eq!(sent(&beat)[0].labels, labels);
    assert_eq!(sent(&beat)[0].node_role, "ROLE_LIAISON");
}

#[test]
fn offline_identity_change_is_in_the_next_request() {
    let mut rig = Rig::registered();
    let end = End::retry(Initiator::Peer, Reason::Finished);
    let down = rig.effects(|protocol, cx| protocol.on_down(AT, &end, cx));
    assert_eq!(down, [Effect::Event(Event::Down)]);
    let mut closed = Context::new(false);
    let resolved = Command::SetIdentity(identity("ROLE_DATA"));
    rig.0.on_command(AT, resolved, &mut closed);
    assert_eq!(closed.into_effects(), []);
    let again = rig.opened(Generation(2));
    assert_eq!(sent(&again)[0].node_role, "ROLE_DATA");
}

#[test]
fn agent_is_named_in_two_spellings() {
    let mut registered = Registered {
        agent_id: "id-1".to_owned(),
        generation: FIRST,
        heartbeat_interval: None,
        profile: None,
        stream_key: StreamKey::default(),
    };
    let metadata = registered.metadata().unwrap();
    assert_eq!(metadata.get(AGENT_KEY), None, "a proxy without a policy");
    // The first for the releases, the second for relays that drop names with an underscore.
    for name in ["agent_id", "agent-id"] {
        assert_eq!(metadata.get(name), Some("id-1"), "{name}");
    }
    registered.stream_key = StreamKey("secret".to_owned());
    let metadata = registered.metadata().unwrap();
    assert_eq!(metadata.get(AGENT_KEY), Some("secret"));
    assert!(!format!("{registered:?}").contains("secret"));
}

#[test]
fn response_to_a_heartbeat_is_ignored() {
    let mut rig = Rig::registered();
    let no = RegisterAgentResponse::default();
    assert_eq!(rig.response(yes()), []);
    assert_eq!(rig.response(no), []);
}

#[test]
fn nothing_is_sent_before_the_registration_response() {
    let mut rig = Rig::asked();
    let beat = rig.effects(|protocol, cx| protocol.on_heartbeat(AT, cx));
    assert_eq!(beat, []);
}

/// Returns the response to a registration, or to newer credentials, that are valid for so long.
fn valid_for(seconds: u64) -> RegisterAgentResponse {
    RegisterAgentResponse {
        profile: Some(ProxyProfile {
            version: 1,
            expires_in_ms: Some(seconds * 1_000),
            stream_key: "secret".to_owned(),
            ..ProxyProfile::default()
        }),
        ..yes()
    }
}

#[test]
fn credentials_are_renewed_by_heartbeats_before_they_expire() {
    let mut rig = Rig::asked();
    rig.response(valid_for(60));
    let mut now = AT;
    for _ in 0..3 {
        let due = rig.0.deadline().expect("they expire");
        assert!((36..=48).contains(&due.since(now).as_secs()), "{due:?}");
        now = due;
        let effects = rig.effects(|protocol, cx| protocol.on_timer(now, cx));
        assert_eq!(effects, [Effect::Event(Event::CredentialsDue)]);
        let newer = Command::Authenticate(Authorization("Bearer newer".to_owned()));
        let effects = rig.effects(|protocol, cx| protocol.on_command(now, newer, cx));
        let [heartbeat] = sent(&effects)[..] else {
            panic!("{effects:?}")
        };
        let profile = heartbeat.profile.as_ref().unwrap();
        assert_eq!(profile.authorization, "Bearer newer");
        assert_eq!(heartbeat.pod_name, "p0", "a whole heartbeat for any proxy");
        // The response to a heartbeat before it changes nothing.
        assert_eq!(rig.response(yes()), []);
        let accepted = rig.effects(|protocol, cx| protocol.on_message(now, valid_for(60), cx));
        assert_eq!(accepted, [Effect::Event(Event::Renewed)]);
    }
    let beat = rig.effects(|protocol, cx| protocol.on_heartbeat(now, cx));
    let profile = sent(&beat)[0].profile.as_ref().unwrap();
    assert_eq!(profile.authorization, "", "other heartbeats have none");
    // Nothing of it outlives the stream.
    let end = End::retry(Initiator::Peer, Reason::Finished);
    rig.effects(|protocol, cx| protocol.on_down(now, &end, cx));
    assert_eq!(rig.0.deadline(), None);
}

#[test]
fn credentials_that_do_not_expire_are_not_renewed() {
    for response in [valid_for(0), yes()] {
        let mut rig = Rig::asked();
        rig.response(response);
        assert_eq!(rig.0.deadline(), None);
        let newer = Command::Authenticate(Authorization("Bearer newer".to_owned()));
        let effects = rig.effects(|protocol, cx| protocol.on_command(AT, newer, cx));
        assert_eq!(effects, [], "nobody has asked for them");
    }
}
