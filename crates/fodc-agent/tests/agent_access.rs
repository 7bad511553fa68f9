//! An agent with a policy: who may read its pages.
#![expect(
    clippy::unwrap_used,
    reason = "a test stops at the first thing that is not as it should be"
)]

mod agent_support;

use std::fs;

use agent_support::{LIMIT, config, exporter::Exporter, http, stop};
use steadfast_access::NewToken;
use steadfast_fodc_agent::{Agent, StartError};
use tokio::time::{Instant, sleep};

const POLICY: &str = "
[[grants]]
role = 'reader'
actions = ['read']
[[grants]]
role = 'doctor'
actions = ['diagnose']
[[members]]
roles = ['reader']
principals = ['token:reader']
[[members]]
roles = ['doctor']
principals = ['token:doctor']
";

async fn get(agent: &Agent, path: &str, token: Option<&str>) -> http::Response {
    let address = agent.addresses().http.unwrap();
    let method = if path == "/api/v1/read" {
        "POST"
    } else {
        "GET"
    };
    let header = token.map(|token| format!("Authorization: Bearer {token}\r\n"));
    http::send(address, method, path, &header.unwrap_or_default(), b"").await
}

#[tokio::test]
async fn pages_of_an_agent_need_the_rights_of_the_policy() {
    let [reader, doctor] = [(); 2].map(|()| NewToken::generate().unwrap());
    let (entry, other) = (reader.entry("reader"), doctor.entry("doctor"));
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("access.toml");
    fs::write(&path, format!("{entry}\n{other}\n{POLICY}")).unwrap();
    let exporter = Exporter::page("m 1\n");
    let mut config = config([exporter.url()]);
    config.access = Some(path.clone());
    let agent = Agent::start(config).await.unwrap();
    let (reader, doctor) = (Some(reader.reveal()), Some(doctor.reveal()));
    for page in ["/", "/metrics", "/endpoints", "/api/v1/read", "/nothing"] {
        for (token, status) in [(None, 401), (Some("unknown"), 401), (doctor, 403)] {
            let response = get(&agent, page, token).await;
            assert_eq!(response.status, status, "{page}: {}", response.text());
            assert!(!response.text().contains("steadfast"), "{page}");
        }
        let status = get(&agent, page, reader).await.status;
        assert!(!matches!(status, 401 | 403), "{page} {status}");
    }
    for (token, status) in [(None, 401), (reader, 403), (doctor, 501)] {
        let response = get(&agent, "/diagnostics", token).await;
        assert_eq!(response.status, status, "{}", response.text());
    }
    for (token, shows) in [(None, false), (reader, true)] {
        assert_eq!(get(&agent, "/livez", token).await.status, 200);
        let ready = get(&agent, "/readyz", token).await.text();
        // What is not there yet is told to readers only.
        assert!(
            shows || ["ready\n", "not ready\n"].contains(&&*ready),
            "{ready}"
        );
    }
    let page = get(&agent, "/metrics", reader).await.text();
    let counted = |reason: &str, count| {
        let name = "steadfast_agent_access_refused_total";
        let line = format!("{name}{{reason=\"{reason}\"}} {count}");
        assert!(page.lines().any(|it| it == line), "{line}\n{page}");
    };
    counted("missing", 6);
    counted("invalid", 5);
    counted("forbidden", 6);

    let beside = path.with_extension("new");
    fs::write(&beside, format!("{other}\n{POLICY}")).unwrap();
    fs::rename(&beside, &path).unwrap();
    let deadline = Instant::now() + LIMIT;
    while get(&agent, "/metrics", reader).await.status != 401 {
        assert!(Instant::now() < deadline, "the change is not in force");
        sleep(std::time::Duration::from_millis(20)).await;
    }
    stop(agent).await;
}

#[tokio::test]
async fn agent_with_a_faulty_policy_does_not_start() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("access.toml");
    fs::write(&path, "[[grants]]\nrole = 'reader'\n").unwrap();
    let exporter = Exporter::page("m 1\n");
    let mut config = config([exporter.url()]);
    config.access = Some(path);
    let error = Agent::start(config).await.err().unwrap();
    assert!(matches!(error, StartError::Access(_)), "{error}");
}

#[tokio::test]
async fn agent_on_loopback_refuses_pages_of_other_hosts() {
    let exporter = Exporter::page("m 1\n");
    let mut config = config([exporter.url()]);
    config.security.allow_hosts = vec!["agent.example".to_owned()];
    let agent = Agent::start(config).await.unwrap();
    let address = agent.addresses().http.unwrap();
    for (host, status) in [
        ("evil.example", 421),
        ("localhost", 200),
        ("agent.example", 200),
    ] {
        let header = format!("Host: {host}\r\n");
        let response = http::send(address, "GET", "/metrics", &header, b"").await;
        assert_eq!(response.status, status, "{host}");
        let names_setting = response.text().contains("--allow-host");
        assert_eq!(names_setting, status == 421, "{host}: {}", response.text());
    }
    stop(agent).await;
}
