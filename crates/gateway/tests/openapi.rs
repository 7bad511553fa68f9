//! The description of the HTTP paths, compared with what the server does.

#![allow(clippy::unwrap_used, reason = "the support of tests is test code")]

mod support;

use std::{collections::BTreeSet, fmt::Write as _, net::SocketAddr, time::Duration};

use serde_json::{Value, json};
use steadfast_gateway::{Gateway, GatewayOptions};
use support::{
    Policy, World,
    http::{Open, Reply, request},
    listener, upstream,
};

const COLLECTION: &str = "/v1/databases/{database}/collections/{collection}";
const CHANGES: &str = "/v1/databases/{database}/collections/{collection}/changes";

/// The description, and what of it was used.
struct Description {
    text: Value,
    used: BTreeSet<String>,
}

/// A request by the names of the description.
struct Asked<'a> {
    path: &'a str,
    method: &'a str,
    query: &'a [(&'a str, &'a str)],
    headers: &'a [(&'a str, &'a str)],
    body: &'a str,
}

impl Description {
    async fn read(gateway: SocketAddr) -> Self {
        let reply = request(gateway, ("GET", "/v1/openapi.json"), &[], "").await;
        let text = reply.json();
        let mut read = Self {
            text,
            used: BTreeSet::new(),
        };
        read.judge("/v1/openapi.json", "get", &reply);
        read
    }

    /// Returns everything that a test must use: responses with their types, and parameters.
    fn all(&self) -> BTreeSet<String> {
        let mut all = BTreeSet::new();
        for (path, item) in self.text["paths"].as_object().unwrap() {
            for method in ["get", "post"] {
                let Some(operation) = item.get(method) else {
                    continue;
                };
                let shared = item["parameters"].as_array();
                let own = operation["parameters"].as_array();
                for parameter in shared.into_iter().chain(own).flatten() {
                    let name = &self.resolve(parameter)["name"];
                    all.insert(format!("{method} {path} parameter {name}"));
                }
                for (status, response) in operation["responses"].as_object().unwrap() {
                    for kind in response["content"].as_object().unwrap().keys() {
                        all.insert(format!("{method} {path} {status} {kind}"));
                    }
                }
                let bodies = operation["requestBody"]["content"].as_object();
                for kind in bodies.into_iter().flat_map(|it| it.keys()) {
                    all.insert(format!("{method} {path} body {kind}"));
                }
            }
        }
        all
    }

    fn resolve<'a>(&'a self, value: &'a Value) -> &'a Value {
        match value["$ref"].as_str() {
            Some(reference) => self.text.pointer(&reference[1..]).expect(reference),
            None => value,
        }
    }

    fn check(&self, schema: &Value, value: &Value, what: &str) {
        // References are to the components of the description.
        let schema = json!({"allOf": [schema], "components": self.text["components"]});
        let validator = jsonschema::draft202012::new(&schema).unwrap();
        let faults: Vec<_> = validator
            .iter_errors(value)
            .map(|it| it.to_string())
            .collect();
        assert_eq!(faults, [""; 0], "{what}: {value}");
    }

    /// Sends a request and compares its response.
    async fn ask(&mut self, gateway: SocketAddr, asked: Asked<'_>) -> Reply {
        self.note_request(&asked);
        let (headers, target) = (asked.headers, target(&asked));
        let method = asked.method.to_uppercase();
        let reply = request(gateway, (&method, &target), headers, asked.body).await;
        self.judge(asked.path, asked.method, &reply);
        reply
    }

    fn note_request(&mut self, asked: &Asked<'_>) {
        let Asked { path, method, .. } = asked;
        let item = &self.text["paths"][path];
        let own = item[method]["parameters"].as_array();
        let parameters = item["parameters"]
            .as_array()
            .into_iter()
            .chain(own)
            .flatten();
        let known: Vec<_> = parameters.map(|it| self.resolve(it).clone()).collect();
        for parameter in &known {
            let name = parameter["name"].as_str().unwrap();
            let given = match parameter["in"].as_str().unwrap() {
                "path" => path.contains(&format!("{{{name}}}")),
                "query" => asked.query.iter().any(|(key, _)| *key == name),
                "header" => asked
                    .headers
                    .iter()
                    .any(|(key, _)| key.eq_ignore_ascii_case(name)),
                other => panic!("{other}"),
            };
            if given {
                self.used
                    .insert(format!("{method} {path} parameter {}", parameter["name"]));
            }
        }
        if *method == "post" {
            let kind = if asked.body.contains('\n') {
                "application/x-ndjson"
            } else {
                "application/json"
            };
            self.used.insert(format!("{method} {path} body {kind}"));
        }
    }

    /// Compares a response with the description.
    fn judge(&mut self, path: &str, method: &str, reply: &Reply) {
        let what = format!("{method} {path} {}", reply.status);
        let response = &self.text["paths"][path][method]["responses"][reply.status.to_string()];
        assert!(response.is_object(), "{what} is not described: {reply:?}");
        for (name, header) in response["headers"].as_object().into_iter().flatten() {
            let header = self.resolve(header).clone();
            let value = reply.headers.get(&name.to_lowercase());
            let value = value.unwrap_or_else(|| panic!("{what} has no {name}"));
            self.check(&header["schema"], &json!(value), &what);
        }
        let kind = reply.headers["content-type"].clone();
        let content = response["content"][&kind].clone();
        assert!(content.is_object(), "{what}: {kind} is not described");
        if content.get("x-steadfast-lines").is_some() {
            for line in reply.lines() {
                self.check(&content["schema"], &line, &what);
            }
        } else {
            self.check(&content["schema"], &reply.json(), &what);
        }
        self.used.insert(format!("{what} {kind}"));
    }
}

fn target(asked: &Asked<'_>) -> String {
    let mut target = asked
        .path
        .replace("{database}", "db")
        .replace("{collection}", "rooms%2Fr1%2Forders");
    for (index, (name, value)) in asked.query.iter().enumerate() {
        let value = value.replace(' ', "%20").replace('>', "%3E");
        write!(
            target,
            "{}{name}={value}",
            if index == 0 { '?' } else { '&' }
        )
        .unwrap();
    }
    target
}

fn read<'a>(
    path: &'a str,
    query: &'a [(&'a str, &'a str)],
    headers: &'a [(&'a str, &'a str)],
) -> Asked<'a> {
    Asked {
        path,
        method: "get",
        query,
        headers,
        body: "",
    }
}

fn publish<'a>(
    body: &'a str,
    query: &'a [(&'a str, &'a str)],
    headers: &'a [(&'a str, &'a str)],
) -> Asked<'a> {
    Asked {
        path: COLLECTION,
        method: "post",
        query,
        headers,
        body,
    }
}

/// What an open gateway does.
async fn ask_everything(it: &mut Description, gateway: SocketAddr) {
    let key = [("idempotency-key", "k1")];
    it.ask(gateway, publish(r#"{"id":"1","n":1.10}"#, &[], &key))
        .await;
    it.ask(gateway, publish(r#"{"id":"1","n":1.10}"#, &[], &key))
        .await;
    it.ask(gateway, publish(r#"{"id":"2","n":2}"#, &[], &key))
        .await;
    it.ask(
        gateway,
        publish("{\"id\":\"2\",\"n\":2}\n{\"id\":\"3\"}\n", &[], &[]),
    )
    .await;
    it.ask(
        gateway,
        publish(r#"[{"id":"3"}]"#, &[("op", "delete")], &[]),
    )
    .await;
    it.ask(gateway, publish(r#"[{"id":3}]"#, &[], &[])).await;
    let large = format!("{{\"id\":\"1\",\"x\":\"{}\"}}", "x".repeat(8 << 20));
    it.ask(gateway, publish(&large, &[], &[])).await;

    let query = [("filter", "n > 0"), ("filter", "n > 1.5"), ("fields", "n")];
    let lines = it.ask(gateway, read(COLLECTION, &query, &[])).await;
    assert_eq!(lines.body, "{\"id\":\"2\",\"n\":2}\n");
    let json = [("accept", "application/json")];
    let whole = it.ask(gateway, read(COLLECTION, &[], &json)).await;
    assert!(
        whole.body.contains(r#""n":1.10"#),
        "the text of numbers is kept: {}",
        whole.body
    );
    // With all that was published, with more, and with that of another log, also with the same offset.
    let positions = [
        ("0000000000000007-4", 200),
        ("0000000000000007-99", 503),
        ("0000000000000001-1", 400),
        ("0000000000000001-4", 400),
    ];
    for (at, status) in positions {
        let query = [("at", at), ("wait", "0")];
        let reply = it.ask(gateway, read(COLLECTION, &query, &[])).await;
        assert_eq!(reply.status, status, "{at}: {reply:?}");
    }
    it.ask(gateway, read(COLLECTION, &[("filter", "n >")], &[]))
        .await;
    it.ask(gateway, read(COLLECTION, &[("token", "secret")], &[]))
        .await;

    let from = ("from", "0000000000000007-0");
    let query = [
        from,
        ("left", "true"),
        ("filter", "n > 1"),
        ("fields", "n"),
        ("wait", "1"),
        ("limit", "9"),
    ];
    let poll = it.ask(gateway, read(CHANGES, &query, &[])).await.json();
    assert!(!poll["items"].as_array().unwrap().is_empty());
    // Of another log, so that the changes between are lost.
    it.ask(
        gateway,
        read(CHANGES, &[("from", "0000000000000001-1")], &[]),
    )
    .await;
    it.ask(gateway, read(CHANGES, &[("limit", "0")], &[])).await;
    it.ask(gateway, read(CHANGES, &[("token", "secret")], &[]))
        .await;
    it.ask(gateway, read("/v1/status", &[], &[])).await;
    for headers in [
        &[("accept", "text/event-stream")][..],
        &[
            ("accept", "text/event-stream"),
            ("last-event-id", "0000000000000007-1"),
        ],
    ] {
        events(it, gateway, headers).await;
    }
}

/// Reads items of a stream of events.
async fn events(it: &mut Description, gateway: SocketAddr, headers: &[(&str, &str)]) {
    let asked = read(CHANGES, &[("snapshot", "true")], headers);
    it.note_request(&asked);
    let mut open = Open::request(gateway, ("GET", &target(&asked)), headers, "").await;
    assert_eq!(
        (open.status, &*open.headers["content-type"]),
        (200, "text/event-stream")
    );
    let content = &it.text["paths"][CHANGES]["get"]["responses"]["200"]["content"];
    let schema = content["text/event-stream"]["schema"].clone();
    let position = it.text["components"]["schemas"]["Position"].clone();
    let mut items = 0;
    while items < 3 {
        let event = open.event().await.unwrap();
        if let Some(id) = event.id {
            it.check(&position, &json!(id), "the id of an event");
        }
        if let Some(item) = event.data {
            it.check(&schema, &item, "an event");
            items += 1;
        }
    }
    it.used
        .insert(format!("get {CHANGES} 200 text/event-stream"));
}

/// What a gateway with a policy refuses.
async fn ask_without_rights(it: &mut Description) {
    let policy = Policy::new(&["alice"]);
    policy.write(&[("alice", "r")], &[("r", "other", "")], "");
    let path = policy.path();
    let world = World::with(|options| {
        options.access = Some(path);
        options.limits.sockets_per_principal = 1;
        options.limits.subscriptions_per_principal = 1;
    })
    .await;
    let gateway = world.gateway.address();
    let bearer = format!("Bearer {}", policy.token("alice"));
    let alice = [("authorization", &*bearer)];
    for (headers, status) in [(&[][..], 401), (&alice, 403)] {
        for asked in [
            read(COLLECTION, &[], headers),
            read(CHANGES, &[], headers),
            publish(r#"{"id":"1"}"#, &[], headers),
            read("/v1/status", &[], headers),
        ] {
            assert_eq!(it.ask(gateway, asked).await.status, status);
        }
    }
    let events = [alice[0], ("accept", "text/event-stream")];
    let other = CHANGES
        .replace("{database}", "db")
        .replace("{collection}", "other");
    let _open = Open::request(gateway, ("GET", &other), &events, "").await;
    let limit = request(gateway, ("GET", &other), &events, "").await;
    it.judge(CHANGES, "get", &limit);
    let documents = other.strip_suffix("/changes").unwrap();
    let limit = request(gateway, ("GET", documents), &alice, "").await;
    assert_eq!(limit.status, 429);
    it.judge(COLLECTION, "get", &limit);
}

/// What a gateway does whose Streamer is gone.
async fn ask_without_a_streamer(it: &mut Description) {
    let nobody = listener().await;
    let mut options = GatewayOptions::new(upstream(nobody.local_addr().unwrap()));
    drop(nobody);
    options.upstream.open_timeout = Duration::from_millis(500);
    let gateway = Gateway::start(listener().await, options).unwrap();
    let address = gateway.address();
    for asked in [
        read(COLLECTION, &[], &[]),
        read(CHANGES, &[], &[]),
        publish(r#"{"id":"1"}"#, &[], &[]),
    ] {
        assert_eq!(it.ask(address, asked).await.status, 503);
    }
    // Each waits for the Streamer on a connection of its own.
    let mut waiting = tokio::task::JoinSet::new();
    for n in 0..65 {
        let asked = publish(r#"{"id":"1"}"#, &[], &[]);
        let target = target(&asked);
        waiting.spawn(async move {
            let key = format!("k{n}");
            request(
                address,
                ("POST", &target),
                &[("idempotency-key", &key)],
                r#"{"id":"1"}"#,
            )
            .await
        });
    }
    let replies = waiting.join_all().await;
    let statuses: BTreeSet<_> = replies.iter().map(|it| it.status).collect();
    assert_eq!(statuses, BTreeSet::from([429, 503]));
    for reply in &replies {
        it.judge(COLLECTION, "post", reply);
    }
}

#[tokio::test]
async fn server_and_description_are_the_same() {
    let world = World::start().await;
    let gateway = world.gateway.address();
    let mut it = Description::read(gateway).await;
    ask_everything(&mut it, gateway).await;
    ask_without_rights(&mut it).await;
    ask_without_a_streamer(&mut it).await;
    assert_eq!(it.used, it.all());
    // What is not described is refused as an error of the same form.
    for (method, path, status) in [
        ("PUT", "/v1/databases/d/collections/c", 405),
        ("POST", "/v1/openapi.json", 405),
    ] {
        let reply = request(gateway, (method, path), &[], "").await;
        assert_eq!(reply.status, status);
        let error = it.text["components"]["schemas"]["Error"].clone();
        it.check(&error, &reply.json(), path);
    }
}
