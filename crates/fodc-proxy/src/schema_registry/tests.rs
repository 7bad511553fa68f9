use http_body_util::BodyExt as _;
use steadfast_net::Responses;
use steadfast_wire::fodc::{RegisterAgentRequest, SchemaObjectFingerprint};
use tokio::{task::JoinHandle, time::timeout};

use super::*;
use crate::{
    config::Config,
    frames::Outbound,
    lanes::{Delivery, Message},
};

/// An agent with an open stream for the schema registry.
struct Liaison {
    id: AgentId,
    generation: u64,
    queries: Responses<bytes::Bytes>,
}

impl Liaison {
    fn open(state: &State, id: &str, role: &str) -> Self {
        let registration = RegisterAgentRequest {
            node_role: role.to_owned(),
            pod_name: id.to_owned(),
            ..RegisterAgentRequest::default()
        };
        let id = AgentId::new(id);
        state.register(&id, &registration, None).unwrap();
        let (outbound, queries) = Outbound::new();
        let opened = state.agents().open_wire::<SchemaRegistry>(&id, outbound);
        Self {
            id,
            generation: opened.unwrap(),
            queries,
        }
    }

    /// Returns true if the agent is asked within this time.
    async fn is_asked(&mut self, within: Duration) -> bool {
        let frame = timeout(within, self.queries.frame()).await;
        matches!(frame, Ok(Some(Ok(frame))) if frame.is_data())
    }

    /// Sends a message, and returns the receiver's channel.
    async fn send(&self, state: &State, body: StreamSchemaRegistryRequest) {
        let delivery = {
            let mut agents = state.agents();
            let wire = agents.wire::<SchemaRegistry>(&self.id).unwrap();
            wire.on_message(self.generation, &body)
        };
        let Delivery::To(sender, is_last) = delivery else {
            panic!("nobody waits for {body:?}")
        };
        let reservation = state.stream_memory.empty_reservation();
        let part = (Message { body, reservation }, is_last);
        sender.send(Ok(part)).await.unwrap();
    }

    fn end(&self, state: &State) {
        let mut agents = state.agents();
        let wire = agents.wire::<SchemaRegistry>(&self.id).unwrap();
        wire.close(self.generation, "killed");
    }
}

fn state() -> Arc<State> {
    Arc::new(State::new(Config::default()))
}

fn reading(state: &Arc<State>) -> JoinHandle<Reading> {
    let state = Arc::clone(state);
    tokio::spawn(async move { read(&state, Instant::now() + Duration::from_secs(50)).await })
}

fn chunk(group: &str, names: &[&str], error: &str) -> StreamSchemaRegistryRequest {
    let objects = names.iter().map(|name| SchemaObjectFingerprint {
        kind: "stream".to_owned(),
        name: (*name).to_owned(),
        fingerprint: 7,
    });
    StreamSchemaRegistryRequest {
        group: Some(SchemaRegistryGroup {
            group: group.to_owned(),
            objects: objects.collect(),
            error: error.to_owned(),
        }),
        done: false,
    }
}

fn done() -> StreamSchemaRegistryRequest {
    StreamSchemaRegistryRequest {
        group: None,
        done: true,
    }
}

fn names(schema: &RegistrySchema, group: &str) -> Option<Vec<String>> {
    let group = schema.group(group)?;
    Some(group.keys().map(|(_, name)| name.clone()).collect())
}

const SOON: Duration = Duration::from_millis(1);

#[tokio::test(start_paused = true)]
async fn chunks_of_a_group_are_merged_until_the_end() {
    let state = state();
    let mut data = Liaison::open(&state, "a", "ROLE_DATA");
    let mut first = Liaison::open(&state, "b", "ROLE_LIAISON");
    let mut second = Liaison::open(&state, "c", "ROLE_LIAISON");
    let read = reading(&state);
    assert!(first.is_asked(SOON).await);
    for message in [
        chunk("g", &["s"], ""),
        chunk("empty", &[], ""),
        chunk("torn", &["s"], ""),
        chunk("torn", &[], "unavailable"),
        chunk("g", &["t"], ""),
        done(),
    ] {
        first.send(&state, message).await;
    }
    let schema = read.await.unwrap().schema.unwrap();
    assert_eq!(names(&schema, "g").unwrap(), ["s", "t"]);
    assert_eq!(names(&schema, "empty").unwrap().len(), 0);
    assert_eq!(names(&schema, "absent").unwrap().len(), 0);
    assert_eq!(
        names(&schema, "torn"),
        None,
        "a part would look like orphans"
    );
    assert!(!data.is_asked(SOON).await, "only liaisons have a registry");
    assert!(!second.is_asked(SOON).await, "one is enough");
}

#[tokio::test(start_paused = true)]
async fn next_agent_is_asked_at_once_when_one_fails() {
    let state = state();
    let mut killed = Liaison::open(&state, "a", "ROLE_LIAISON");
    let mut failing = Liaison::open(&state, "b", "ROLE_LIAISON");
    let mut good = Liaison::open(&state, "c", "ROLE_LIAISON");
    let began = Instant::now();
    let read = reading(&state);
    assert!(killed.is_asked(SOON).await);
    killed.send(&state, chunk("g", &["old"], "")).await;
    killed.end(&state);
    assert!(failing.is_asked(SOON).await);
    failing.send(&state, chunk("", &[], "no leader")).await;
    assert!(good.is_asked(SOON).await);
    good.send(&state, chunk("g", &["new"], "")).await;
    good.send(&state, done()).await;
    let reading = read.await.unwrap();
    assert_eq!(names(&reading.schema.unwrap(), "g").unwrap(), ["new"]);
    assert!(began.elapsed() < Duration::from_secs(1));
    assert_eq!(
        reading.failures,
        [
            (
                "a".to_owned(),
                "schema registry: stream ended: killed".to_owned()
            ),
            ("b".to_owned(), "schema registry: no leader".to_owned()),
        ]
    );
}

#[tokio::test(start_paused = true)]
async fn agent_that_hangs_delays_the_registry_by_ten_seconds() {
    let state = state();
    let mut hanging = Liaison::open(&state, "a", "ROLE_LIAISON");
    let mut good = Liaison::open(&state, "b", "ROLE_LIAISON");
    let read = reading(&state);
    assert!(hanging.is_asked(SOON).await);
    assert!(
        !good.is_asked(Duration::from_secs(9)).await,
        "it may be slow"
    );
    assert!(good.is_asked(Duration::from_secs(2)).await);
    good.send(&state, chunk("g", &["s"], "")).await;
    good.send(&state, done()).await;
    assert!(read.await.unwrap().schema.is_some());
}

#[tokio::test(start_paused = true)]
async fn slow_agent_is_waited_for_while_others_are_asked() {
    let state = state();
    let mut slow = Liaison::open(&state, "a", "ROLE_LIAISON");
    let mut failing = Liaison::open(&state, "b", "ROLE_LIAISON");
    let read = reading(&state);
    assert!(slow.is_asked(SOON).await);
    assert!(failing.is_asked(Duration::from_secs(11)).await);
    failing.end(&state);
    tokio::time::advance(Duration::from_secs(20)).await;
    slow.send(&state, chunk("g", &["s"], "")).await;
    slow.send(&state, done()).await;
    let reading = read.await.unwrap();
    assert!(reading.schema.is_some());
    assert_eq!(reading.failures.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn registry_is_unknown_without_a_liaison_or_a_response() {
    let state = state();
    let reading_of_nobody = reading(&state).await.unwrap();
    assert!(reading_of_nobody.schema.is_none() && reading_of_nobody.failures.is_empty());
    let mut hanging = Liaison::open(&state, "a", "ROLE_LIAISON");
    let read = reading(&state);
    assert!(hanging.is_asked(SOON).await);
    let reading = read.await.unwrap();
    assert!(reading.schema.is_none());
    assert_eq!(reading.failures[0].1, "schema registry: late");
}
