//! The allocations of a client's core, which do not depend on the load of the machine.

use std::time::Duration;

use allocation_counter::measure;
use bytes::Bytes;
use prost::Message as _;
use steadfast_session::{
    Config, End, Endpoint, Generation, Initiator, Ready, Reason, Session, Time,
    endpoint::{Action, Input},
    session,
};
use steadfast_streamer_core::{
    client::{
        self, ClientMessage, Command, Core, Event, ServerMessage, Start, SubscribeOptions,
        SubscriptionId,
    },
    filter::Filter,
};
use steadfast_wire::streamer::{
    EventDelivery, GatewayMessage, HeartbeatAck, OperationType, Position, StreamerEvent,
    StreamerMessage, SubscribeResponse, Welcome, gateway_message, streamer_message::Payload,
};

/// A client whose server answers when the test says so.
struct Client {
    endpoint: Endpoint<Core>,
    actions: Vec<Action<ClientMessage, Event>>,
    generation: Generation,
    now: Time,
}

impl Client {
    fn new() -> Self {
        let mut config = Config::default();
        config.ready = Ready::Restored;
        let session = Session::new(config.check().expect("it is valid"), 7);
        let core = Core::new(client::Config::new("0c9e4b1e-5a0f-4e4e", "test", 0));
        Self {
            endpoint: Endpoint::new(session, core),
            actions: Vec::with_capacity(64),
            generation: Generation(1),
            now: Time::ZERO,
        }
    }

    fn step(&mut self, input: Input<ServerMessage, Command>) {
        self.actions.clear();
        self.endpoint.step(self.now, input, &mut self.actions);
    }

    fn receive(&mut self, payload: Payload) {
        self.receive_bytes(encode(payload));
    }

    /// Receives a message as a link does.
    fn receive_bytes(&mut self, message: Bytes) {
        let message = ServerMessage::decode(message).expect("it is valid");
        self.step(Input::Message(self.generation, message));
    }

    fn subscribe(&mut self, number: u64) {
        let filter = Filter::from_text([format!("user == \"user-{number}\"")]);
        self.step(Input::Command(Command::Subscribe {
            id: SubscriptionId(number),
            database: "default".to_owned(),
            collection: "messages".to_owned(),
            filter: filter.expect("it is valid"),
            start: Start::Now,
            options: SubscribeOptions::default(),
        }));
    }

    /// Opens a stream to a server with the resume profile, and returns its subscribe requests.
    fn open(&mut self) -> Vec<(String, u64)> {
        self.step(Input::Session(session::Input::Headers(self.generation)));
        self.receive(welcome());
        self.actions.drain(..).filter_map(request).collect()
    }

    fn accept(&mut self, (subscription_id, request): (String, u64)) {
        self.receive(accepted(subscription_id, request));
    }

    /// Loses the stream, and connects again.
    fn reconnect(&mut self) {
        let lost = End::retry(Initiator::Network, Reason::Lost("cut".into()));
        self.step(Input::Session(session::Input::Ended(self.generation, lost)));
        self.now = self.now + Duration::from_secs(60);
        self.step(Input::Session(session::Input::Tick));
        self.generation = Generation(self.generation.0 + 1);
    }
}

fn encode(payload: Payload) -> Bytes {
    let payload = Some(payload);
    let message = Bytes::from(StreamerMessage { payload }.encode_to_vec());
    // The first clone makes it shared, as messages are on a link: they are parts of one buffer.
    drop(message.clone());
    message
}

fn welcome() -> Payload {
    Payload::Welcome(Welcome {
        version: 1,
        server_id: "test".to_owned(),
        head: Some(position(0)),
        ..Welcome::default()
    })
}

fn accepted(subscription_id: String, request: u64) -> Payload {
    Payload::SubscribeResponse(SubscribeResponse {
        subscription_id,
        success: true,
        position: Some(position(0)),
        request,
        ..SubscribeResponse::default()
    })
}

fn request(action: Action<ClientMessage, Event>) -> Option<(String, u64)> {
    let Action::Send(_, message) = action else {
        return None;
    };
    match message.into_message().payload {
        Some(gateway_message::Payload::Subscribe(request)) => {
            Some((request.subscription_id, request.request))
        }
        _ => None,
    }
}

fn position(offset: u64) -> Position {
    Position { epoch: 1, offset }
}

fn delivery(id: &str, offset: u64) -> Payload {
    let event = StreamerEvent {
        event_id: format!("0000000000000001.{offset}"),
        database: "default".to_owned(),
        collection: "messages".to_owned(),
        document_id: "document-007".to_owned(),
        operation: OperationType::Update.into(),
        document_data: "x".repeat(200).into(),
        timestamp: 0,
    };
    Payload::Delivery(EventDelivery {
        subscription_ids: vec![id.to_owned()],
        event: Some(event),
        position: Some(position(offset)),
        previous: vec![offset - 1],
        ..EventDelivery::default()
    })
}

#[test]
fn delivered_change_allocates_only_its_two_ids() {
    const EVENTS: u64 = 500;
    let mut client = Client::new();
    client.subscribe(1);
    client.step(Input::Session(session::Input::Connect));
    let request = client.open().remove(0);
    let id = request.0.clone();
    client.accept(request);
    client.receive(Payload::HeartbeatAck(HeartbeatAck::default()));
    client.receive(delivery(&id, 1));
    let mut messages: Vec<_> = (2..2 + EVENTS)
        .map(|at| encode(delivery(&id, at)))
        .collect();
    messages.reverse();
    let mut delivered = 0;
    let allocations = measure(|| {
        while let Some(message) = messages.pop() {
            client.receive_bytes(message);
            let items = client.actions.iter();
            let is_item = |it: &&Action<_, _>| matches!(it, Action::Event(Event::Item { .. }));
            delivered += items.filter(is_item).count() as u64;
        }
    });
    assert_eq!(delivered, EVENTS);
    // The queue that counts what waits for the application grows now and then.
    let each = 2 * EVENTS;
    assert!(
        allocations.count_total <= each + 16,
        "{} allocations for {EVENTS} changes",
        allocations.count_total
    );
}

#[test]
fn restored_subscription_allocates_only_its_request() {
    const SUBSCRIPTIONS: u64 = 500;
    let mut client = Client::new();
    for number in 1..=SUBSCRIPTIONS {
        client.subscribe(number);
    }
    client.step(Input::Session(session::Input::Connect));
    for request in client.open() {
        client.accept(request);
    }
    client.reconnect();
    client.step(Input::Session(session::Input::Headers(client.generation)));
    let welcome = encode(welcome());
    let mut requests = Vec::with_capacity(SUBSCRIPTIONS as usize);
    let requested = measure(|| {
        client.receive_bytes(welcome);
        let sent = client.actions.iter().filter_map(|action| match action {
            Action::Send(_, message) => Some(message.encode_to_vec()),
            _ => None,
        });
        requests.extend(sent);
    });
    assert_eq!(requests.len() as u64, SUBSCRIPTIONS);
    let responses: Vec<_> = requests.iter().map(|sent| response(sent)).collect();
    let mut restored = 0;
    let answered = measure(|| {
        for message in responses {
            client.receive_bytes(message);
            let is_up = |it: &Action<_, _>| matches!(it, Action::Up(_));
            restored += u64::from(client.actions.iter().any(is_up));
        }
    });
    assert_eq!(restored, 1, "everything is restored");
    let rows = [("requests", requested, 1), ("responses", answered, 0)];
    for (what, allocations, each) in rows {
        // Tables and buffers grow now and then.
        let most = each * SUBSCRIPTIONS + 32;
        let count = allocations.count_total;
        assert!(
            count <= most,
            "{count} allocations for {SUBSCRIPTIONS} {what}"
        );
    }
}

/// Returns the acceptance of an encoded subscribe request.
fn response(request: &[u8]) -> Bytes {
    let message = GatewayMessage::decode(request).expect("it is valid");
    match message.payload {
        Some(gateway_message::Payload::Subscribe(request)) => {
            encode(accepted(request.subscription_id, request.request))
        }
        other => panic!("{other:?} is no subscribe request"),
    }
}
