//! A server with a policy: tokens, who sees what, and the check of the file.

use std::{fs, path::Path, time::Duration};

use serde_json::Value;
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    net::TcpStream,
};

use crate::{
    process::{Server, Subscription, next, publish, run, words},
    tls::{start, told},
};

/// Roles for three tokens, without the tokens. A reader sees its own orders.
const POLICY: &str = r#"
[[grants]]
role = "writer"
databases = ["shop"]
collections = ["orders"]
actions = ["publish"]

[[grants]]
role = "reader"
databases = ["shop"]
collections = ["orders"]
actions = ["subscribe"]
filter = ["owner == $sub"]

[[grants]]
role = "operator"
actions = ["admin"]

[[members]]
roles = ["writer"]
principals = ["token:feeder"]

[[members]]
roles = ["reader"]
principals = ["token:alice"]

[[members]]
roles = ["operator"]
principals = ["token:root"]
"#;

/// Makes the tokens and the policy file in a directory. Returns the path of the policy.
async fn policy(directory: &Path) -> String {
    let mut text = String::new();
    for name in ["feeder", "alice", "root"] {
        let token = directory.join(format!("{name}.token"));
        let line = format!("token new {name} --out {}", token.display());
        let made = run(&words(&line), None).await;
        assert_eq!(made.code, Some(0), "{made:?}");
        let token = fs::read_to_string(token).unwrap();
        assert!(
            !made.stdout.contains(token.trim()),
            "the entry has the hash only"
        );
        let again = run(&words(&line), None).await;
        assert_eq!((again.code, &*again.stdout), (Some(1), ""), "{again:?}");
        text += &made.stdout;
    }
    fs::write(directory.join("access.toml"), text + POLICY).unwrap();
    directory.join("access.toml").to_str().unwrap().to_owned()
}

#[tokio::test]
async fn tokens_and_a_policy_decide_who_sees_what() {
    let directory = tempfile::tempdir().unwrap();
    let path = policy(directory.path()).await;
    let checked = run(&["config", "check", &path], None).await;
    assert_eq!(checked.code, Some(0), "{checked:?}");
    let flags = ["--listen", "127.0.0.1:0", "--access", &path];
    let mut server = Server::start_with(&directory.path().join("data"), &flags).await;
    let operations = next(&mut server.out).await.unwrap();
    let operations = operations.strip_prefix("operations ").unwrap().to_owned();
    let token = |name: &str| format!("--token-file {}/{name}.token", directory.path().display());
    let to = format!("--addr {} -d shop -c", server.addr);

    let own = format!(
        "streamer subscribe {to} orders --limit 2 --json {}",
        token("alice")
    );
    let own = Subscription::start(&words(&own)).await;
    let feeder = token("feeder");
    let lines = r#"{"id":"1","owner":"alice"}
{"id":"2","owner":"bob"}
{"id":"3","owner":"alice"}
"#;
    publish(&format!("{to} orders {feeder}"), lines).await;
    let (seen, code) = own.rest().await;
    let ids = seen
        .iter()
        .map(|line| serde_json::from_str::<Value>(line).unwrap()["id"].clone());
    assert_eq!(
        (ids.collect::<Vec<_>>(), code),
        (vec!["1".into(), "3".into()], Some(0))
    );

    let alice = token("alice");
    for (line, input, told) in [
        (
            format!("subscribe {to} orders"),
            None,
            "credentials are required",
        ),
        (
            format!("subscribe {to} orders --metadata authorization=x"),
            None,
            "the credentials are not valid",
        ),
        (
            format!("subscribe {to} others {alice}"),
            None,
            "you may not subscribe to this collection",
        ),
        (
            format!("publish {to} orders"),
            Some("{\"id\":\"4\"}\n"),
            "credentials are required",
        ),
        (
            format!("publish {to} orders {alice}"),
            Some("{\"id\":\"4\"}\n"),
            "you may not publish to this collection",
        ),
        (
            format!("status --operations {operations}"),
            None,
            "401 Unauthorized: credentials",
        ),
        (
            format!("status --operations {operations} {alice}"),
            None,
            "only an administrator",
        ),
    ] {
        let refused = run(&words(&format!("streamer {line}")), input).await;
        assert_eq!(refused.code, Some(1), "{line}: {refused:?}");
        assert!(refused.stderr.contains(told), "{line}: {refused:?}");
        assert_eq!(refused.stdout, "", "{line}");
    }
    let status = format!(
        "streamer status --operations {operations} {}",
        token("root")
    );
    let status = run(&words(&status), None).await;
    assert_eq!(status.code, Some(0), "{status:?}");
    assert!(
        status.stdout.contains("events after 0 up to 3,"),
        "{status:?}"
    );
}

#[tokio::test]
async fn open_subscription_ends_when_its_right_is_withdrawn() {
    let directory = tempfile::tempdir().unwrap();
    let path = policy(directory.path()).await;
    let flags = ["--listen", "127.0.0.1:0", "--access", &path];
    let server = Server::start_with(&directory.path().join("data"), &flags).await;
    let (addr, directory) = (server.addr, directory.path().display());
    let subscribe = format!(
        "streamer subscribe --addr {addr} -d shop -c orders --initial-backoff 10ms \
         --token-file {directory}/alice.token"
    );
    let mut open = Subscription::start(&words(&subscribe)).await;
    let text = fs::read_to_string(&path).unwrap();
    // A file with a fault changes nothing; the next one withdraws the right.
    fs::write(&path, text.clone() + "oops").unwrap();
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(
        open.child.try_wait().unwrap(),
        None,
        "the good file stays in force"
    );
    fs::write(&path, text.replace("[\"token:alice\"]", "[\"token:bob\"]")).unwrap();
    let (lines, code) = open.rest().await;
    assert_eq!((lines, code), (Vec::new(), Some(1)));
}

#[tokio::test]
async fn proxy_knows_its_agents_by_their_tokens() {
    let directory = tempfile::tempdir().unwrap();
    let folder = directory.path().display();
    let mut entries = Vec::new();
    for name in ["old", "new", "prometheus"] {
        // Two tokens of one agent, of which the second replaces the first.
        let principal = if name == "prometheus" { name } else { "db-0" };
        let line = format!("token new {principal} --out {folder}/{name}.token");
        entries.push(run(&words(&line), None).await.stdout);
    }
    let grants = r#"
[[grants]]
role = "agent"
actions = ["register"]
pods = ["$sub"]
[[grants]]
role = "scraper"
actions = ["read"]
[[members]]
roles = ["agent"]
principals = ["token:db-*"]
[[members]]
roles = ["scraper"]
principals = ["token:prometheus"]
"#;
    let path = directory.path().join("access.toml");
    fs::write(&path, entries.concat() + grants).unwrap();
    let (_proxy, ready) = start(&format!(
        "fodc proxy --grpc-listen-addr 127.0.0.1:0 --http-listen-addr 127.0.0.1:0 --access {}",
        path.display()
    ))
    .await;
    let agent = async |pod: &str, credentials: &str| {
        let line = format!(
            "fodc agent --in-memory --poll-metrics-ports 9 --pod-name {pod} --proxy-addr {} \
             --prometheus-listen-addr 127.0.0.1:0 --reconnect-interval 100ms {credentials}",
            ready[1]
        );
        let (mut agent, _) = start(&line).await;
        let lines = BufReader::new(agent.stderr.take().unwrap()).lines();
        (agent, lines)
    };
    fs::copy(
        directory.path().join("old.token"),
        directory.path().join("token"),
    )
    .unwrap();
    let credentials = format!("--token-file {folder}/token");
    for (pod, credentials, told_text) in [
        ("db-0", "", "credentials are required"),
        ("db-1", &*credentials, "you may not register as this node"),
    ] {
        let (_agent, mut lines) = agent(pod, credentials).await;
        told(&mut lines, told_text).await;
    }
    let (_agent, mut lines) = agent("db-0", &credentials).await;
    told(&mut lines, "registered with the proxy").await;
    // The token is replaced: first in the file of the agent, then in the policy.
    fs::copy(
        directory.path().join("new.token"),
        directory.path().join("token"),
    )
    .unwrap();
    fs::write(&path, entries[1..].concat() + grants).unwrap();
    told(&mut lines, "registered with the proxy").await;
    let scraper = fs::read_to_string(directory.path().join("prometheus.token")).unwrap();
    let header = format!("authorization: Bearer {}\r\n", scraper.trim());
    let page = fetch(&ready[2], "/agents", &header).await;
    assert!(page.contains("\"name\":\"db-0\""), "{page}");
    assert!(!page.contains("db-1"), "{page}");
    let page = fetch(&ready[2], "/agents", "").await;
    assert!(page.starts_with("HTTP/1.1 401 "), "{page}");
    let page = fetch(&ready[2], "/diagnostics", &header).await;
    assert!(page.starts_with("HTTP/1.1 403 "), "{page}");
}

async fn fetch(address: &str, path: &str, header: &str) -> String {
    let mut socket = TcpStream::connect(address).await.unwrap();
    let request =
        format!("GET {path} HTTP/1.1\r\nhost: localhost\r\n{header}connection: close\r\n\r\n");
    socket.write_all(request.as_bytes()).await.unwrap();
    let mut page = String::new();
    socket.read_to_string(&mut page).await.unwrap();
    page
}

#[tokio::test]
async fn check_of_files_prints_each_fault_with_its_place() {
    let directory = tempfile::tempdir().unwrap();
    let file = |name: &str| directory.path().join(name).to_str().unwrap().to_owned();
    let (policy, settings) = (file("p.toml"), file("s.toml"));
    let faulty = "[[grants]]
role = \"r\"
databases = [\"shop\"]
collections = [\"or**ders\"]
actions = [\"publish\"]
colour = 1

[[members]]
roles = [\"nobody\"]
principals = [\"bob\"]
";
    let of_policy = [":4:16: ", ":6:1: ", ":9:10: ", ":10:15: "];
    for (name, text, places) in [
        (&policy, "", &[][..]),
        (&policy, faulty, &of_policy),
        (&policy, "[grants]\nrole = \"r\"\n", &[":1:"]),
        (
            &policy,
            "[[grants]]\nrole = \"r\n",
            &[":1:1: ", ":1:1: ", ":1:1: ", ":2:"],
        ),
        (
            &settings,
            "[server]\nlissten = \"x\"\n",
            &[":2: server.lissten"],
        ),
    ] {
        fs::write(name, text).unwrap();
        let checked = run(&["config", "check", name], None).await;
        assert_eq!(
            checked.code,
            Some(i32::from(!places.is_empty())),
            "{text}: {checked:?}"
        );
        let found: Vec<_> = checked.stdout.lines().collect();
        assert_eq!(found.len(), places.len(), "{text}: {checked:?}");
        for (fault, place) in found.iter().zip(places) {
            assert!(
                fault.starts_with(&format!("{name}{place}")),
                "{fault}: {place}"
            );
            assert!(fault.len() < 1000, "{fault}");
        }
    }
    // A file of settings brings the faults of the policy that it names; and a server does not start.
    fs::write(&policy, faulty).unwrap();
    for table in ["server", "gateway", "proxy"] {
        fs::write(&settings, format!("[{table}]\naccess = \"{policy}\"\n")).unwrap();
        let checked = run(&["config", "check", &settings], None).await;
        let found = checked.stdout.lines().count();
        assert_eq!((checked.code, found), (Some(1), 4), "{checked:?}");
    }
    let (data, missing) = (file("data"), file("missing.toml"));
    for path in [&policy, &missing] {
        for serve in [
            &["streamer", "serve", "--data", &data, "--access", path][..],
            &["fodc", "proxy", "--access", path],
        ] {
            let refused = run(serve, None).await;
            assert_eq!(refused.code, Some(2), "{refused:?}");
            assert!(refused.stderr.contains(path.as_str()), "{refused:?}");
        }
    }
    // A device may have no end, and a pipe no writer.
    for (file, told) in [(&*missing, "cannot be read"), ("/dev/zero", "regular file")] {
        let checked = run(&["config", "check", file], None).await;
        assert_eq!(checked.code, Some(1), "{checked:?}");
        let said = checked.stdout + &checked.stderr;
        assert!(said.contains(told), "{said}");
    }
}
