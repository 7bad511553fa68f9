//! Endpoints that do everything wrong: each costs its own scrape, with a reason, and no other.

#![allow(
    clippy::unwrap_used,
    reason = "a test stops at the first thing that is not as it should be"
)]

mod agent_support;

use std::{
    io::{self, Read as _, Write as _},
    net::TcpStream,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use agent_support::{
    LIMIT, config,
    exporter::{Exporter, Script, page_response, pause, raw_response, respond, response, silence},
    http, page_after, page_when, page_with, start, stop, value,
};
use flate2::{Compression, write::GzEncoder};
use steadfast_fodc_agent::{Agent, Config};
use tokio::time::sleep;

fn gzip(data: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
    encoder.write_all(data).unwrap();
    encoder.finish().unwrap()
}

const GZIP: &str = "Content-Encoding: gzip\r\n";

/// Bytes of this process in memory.
fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status
        .lines()
        .find(|line| line.starts_with("VmRSS:"))
        .unwrap();
    let kib: u64 = line.split_whitespace().nth(1).unwrap().parse().unwrap();
    kib << 10
}

/// Reads the hostile endpoint beside a good one until the hostile one was missed for the reason,
/// and the good one was read after that. Returns what the agent tells of the hostile one.
async fn missed(response: Script, reason: &str, adjust: impl Fn(&mut Config)) -> String {
    let (hostile, good) = (Exporter::new(response), Exporter::page("good 1\n"));
    let mut config = config([hostile.url(), good.url()]);
    adjust(&mut config);
    let agent = Agent::start(config).await.unwrap();
    let counter = "steadfast_agent_scrapes_missed_total{";
    let page = page_when(&agent, "the hostile endpoint is missed", |page| {
        value(page, counter).is_some_and(|count| count >= 2.0)
    })
    .await;
    let line = page.lines().find(|line| line.starts_with(counter)).unwrap();
    assert!(line.contains(&format!("reason=\"{reason}\"")), "{line}");
    assert!(line.contains(&hostile.address().to_string()), "{line}");
    let page = page_after(&agent, 2, &good).await;
    assert!(page.contains("\ngood{"), "{page}");
    assert!(
        !page.contains("\nhostile"),
        "nothing of a missed page is shown: {page}"
    );
    let text = http::get(agent.addresses().http.unwrap(), "/endpoints")
        .await
        .text();
    stop(agent).await;
    text
}

fn nothing(_: &mut Config) {}

#[tokio::test]
async fn a_gzip_bomb_is_cut_off_in_bounded_memory() {
    // A gigabyte in a megabyte.
    let part = gzip(&vec![b'\n'; 64 << 20]);
    let bomb: Vec<u8> = part.iter().copied().cycle().take(16 * part.len()).collect();
    let before = resident();
    let text = missed(response(GZIP, bomb), "body_too_large", |config| {
        config.page_bytes = 4 << 20;
    })
    .await;
    let grown = resident().saturating_sub(before);
    assert!(grown < 64 << 20, "{grown} bytes more are resident");
    assert!(text.contains("page is longer than 4194304 bytes"), "{text}");
}

/// Sends a head of a response, and then pieces until the agent closes the connection.
fn endless(
    head: &'static str,
    pieces: impl Fn(&mut TcpStream) -> io::Result<()> + Send + Sync + 'static,
) -> Script {
    Arc::new(move |_, stream| {
        stream.write_all(head.as_bytes()).ok();
        for _ in 0..100_000 {
            if pieces(stream).is_err() {
                break;
            }
        }
        false
    })
}

#[tokio::test]
async fn hostile_responses_are_missed_with_the_reason() {
    const OK: &str = "HTTP/1.1 200 OK\r\n";
    const PAGE: &str = "HTTP/1.1 200 OK\r\n\r\n";
    let raw = |rest: &str| raw_response(format!("{OK}{rest}"));
    let of_type = |content_type: &str, body: &str| {
        response(format!("Content-Type: {content_type}\r\n"), body)
    };
    let packed = gzip(b"hostile 1\n");
    let slowly = endless(PAGE, |stream| {
        pause(stream, Duration::from_millis(100));
        stream.write_all(b"hostile 1\n")
    });
    let lines = endless(PAGE, |stream| {
        stream.write_all(&b"hostile 1\n".repeat(10_000))
    });
    let headers = endless(OK, |stream| {
        write!(stream, "X-a: {}\r\n", "x".repeat(1_000))
    });
    let rows: [(Script, &str, &str); 14] = [
        (
            raw("Content-Length: 999999999999\r\n\r\nhostile 1\n"),
            "body_too_large",
            "",
        ),
        (
            raw("Content-Length: 100\r\n\r\nhostile 1\nhostile2 2\n"),
            "half_body",
            "response is incomplete",
        ),
        (
            raw("Transfer-Encoding: chunked\r\n\r\na\r\nhostile 1\n\r\n64\r\nhos"),
            "half_body",
            "",
        ),
        (raw_response("SSH-2.0-OpenSSH_9.2\r\n"), "broken", ""),
        (headers, "broken", ""),
        (lines, "body_too_large", "page is longer than 1048576 bytes"),
        (response(GZIP, &packed[..packed.len() - 6]), "gzip", ""),
        (response(GZIP, "hostile 1\n"), "gzip", ""),
        (
            response("Content-Encoding: br\r\n", "hostile 1\n"),
            "encoding",
            "",
        ),
        (silence(), "timeout", "no complete response within 1s"),
        (slowly, "timeout", ""),
        (
            of_type("application/vnd.google.protobuf", "hostile 1\n"),
            "content_type",
            "",
        ),
        (
            of_type("application/openmetrics-text; version=1.0.0", "hostile 1\n"),
            "eof_missing",
            "",
        ),
        (
            of_type("text/html", "<html>\n<p>Log in\n"),
            "not_metrics",
            "",
        ),
    ];
    for (response, reason, told) in rows {
        let text = missed(response, reason, |config| {
            config.page_bytes = 1 << 20;
            config.timeout = Some(Duration::from_secs(1));
        })
        .await;
        assert!(text.contains(told), "{reason}: {text}");
    }
}

#[tokio::test]
async fn unreachable_endpoint_is_missed() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/metrics", listener.local_addr().unwrap());
    drop(listener);
    let agent = Agent::start(config([url])).await.unwrap();
    page_with(&agent, "reason=\"connect\"").await;
    stop(agent).await;
}

#[tokio::test]
async fn redirects_on_the_same_host_are_followed_and_no_others() {
    let here: Script = Arc::new(|request, stream| {
        if request.head.starts_with("GET /metrics/ ") {
            respond(stream, "200 OK", "", b"good 1\n")
        } else {
            respond(
                stream,
                "301 Moved Permanently",
                "Location: /metrics/\r\n",
                b"",
            )
        }
    });
    let exporter = Exporter::new(here);
    let agent = start([&exporter]).await;
    page_with(&agent, "\ngood 1 ").await;
    stop(agent).await;

    let circle: Script =
        Arc::new(|_, stream| respond(stream, "302 Found", "Location: /metrics\r\n", b""));
    let text = missed(circle, "redirect", nothing).await;
    assert!(text.contains("which is not followed"), "{text}");

    let other = Exporter::page("hostile 1\n");
    let away = format!("Location: http://{}/elsewhere\r\n", other.address());
    let away: Script = Arc::new(move |request, stream| {
        if request.head.starts_with("GET /elsewhere ") {
            // Not what the redirect meant: that was another host's page of this name.
            respond(stream, "200 OK", "", b"hostile 1\n")
        } else {
            respond(stream, "307 Elsewhere", &away, b"")
        }
    });
    missed(away, "redirect", nothing).await;
    assert_eq!(other.requests(), 0);
}

#[tokio::test]
async fn page_of_another_content_type_is_read() {
    for content_type in ["", "Content-Type: text/html\r\n"] {
        let exporter = Exporter::new(response(content_type, "good 1\n"));
        let agent = start([&exporter]).await;
        page_with(&agent, "\ngood 1 ").await;
        stop(agent).await;
    }
}

#[tokio::test]
async fn a_page_of_gzip_is_read() {
    let exporter = Exporter::new(response(GZIP, gzip(b"good 1\n")));
    let agent = start([&exporter]).await;
    page_with(&agent, "\ngood 1 ").await;
    stop(agent).await;
}

#[tokio::test]
async fn huge_and_invalid_lines_cost_only_themselves() {
    let mut page = b"good 1\nlong{a=\"".to_vec();
    page.resize(10 << 20, b'x');
    page.extend_from_slice(b"\"} 1\nbad{a=\"\xff\xfe\"} 2\nlast 3\n");
    let before = resident();
    let exporter = Exporter::new(response("", page));
    let agent = start([&exporter]).await;
    let page = page_with(&agent, "\nlast 3 ").await;
    assert!(page.contains("\ngood 1 "), "{page}");
    for reason in ["line_too_long", "invalid_utf8"] {
        let line = format!(
            "steadfast_scrape_lines_rejected{{instance=\"{}\",job=\"steadfast\",reason=\"{reason}\"}} 1 ",
            exporter.address()
        );
        assert!(page.contains(&line), "{line}\n{page}");
    }
    let grown = resident().saturating_sub(before);
    assert!(grown < 64 << 20, "{grown} bytes more are resident");
    stop(agent).await;
}

#[tokio::test]
async fn a_million_series_are_bounded_by_the_limit_and_the_budget() {
    let response: Script = Arc::new(|_, stream| {
        stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").ok();
        let mut piece = Vec::new();
        for number in 0..1_000_000 {
            writeln!(piece, "m{{n=\"{number}\"}} {number}").unwrap();
            if piece.len() > 60_000 {
                if stream.write_all(&piece).is_err() {
                    return false;
                }
                piece.clear();
            }
        }
        stream.write_all(&piece).ok();
        false
    });
    let (hostile, good) = (Exporter::new(response), Exporter::page("good 1\n"));
    let before = resident();
    let mut config = config([hostile.url(), good.url()]);
    config.budget = 16 << 20;
    config.page.samples = 100_000;
    let agent = Agent::start(config).await.unwrap();
    let page = page_with(&agent, "too_many_samples").await;
    assert!(page.contains("\ngood{"), "the other endpoint is there");
    let rejected = "steadfast_agent_lines_rejected_total{";
    assert!(value(&page, rejected).unwrap() >= 900_000.0);
    assert!(value(&page, "steadfast_agent_record_bytes").unwrap() <= f64::from(16 << 20));
    drop(page);
    page_after(&agent, 2, &good).await;
    let grown = resident().saturating_sub(before);
    assert!(grown < 256 << 20, "{grown} bytes more are resident");
    stop(agent).await;
}

#[tokio::test]
async fn label_bombs_cost_their_lines() {
    let labels: Vec<_> = (0..1_000)
        .map(|number| format!("l{number}=\"x\""))
        .collect();
    let (labels, value, name) = (labels.join(","), "v".repeat(60_000), "n".repeat(60_000));
    let page = format!(
        "good 1\nmany{{{labels}}} 1\nvalue{{a=\"{value}\"}} 1\n{name}{{a=\"1\"}} 1\nlast 1\n"
    );
    let exporter = Exporter::new(page_response(page));
    let agent = start([&exporter]).await;
    let page = page_with(&agent, "\nlast 1 ").await;
    for reason in ["too_many_labels", "label_value_too_long", "name_too_long"] {
        assert!(page.contains(&format!("reason=\"{reason}\"")), "{reason}");
    }
    stop(agent).await;
}

#[tokio::test]
async fn reset_of_a_kept_connection_costs_no_scrape() {
    let connections = Arc::new(AtomicU64::new(0));
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/metrics", listener.local_addr().unwrap());
    let accepted = Arc::clone(&connections);
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            accepted.fetch_add(1, Ordering::SeqCst);
            let mut head = [0; 4_096];
            let length = stream.read(&mut head).unwrap_or(0);
            if length > 0 {
                respond(&mut stream, "200 OK", "", b"m 1\n");
                // The next request arrives, and closing without reading it resets the connection.
                stream.peek(&mut head).ok();
            }
        }
    });
    let agent = Agent::start(config([url])).await.unwrap();
    page_with(&agent, "\nm 1 ").await;
    let deadline = Instant::now() + LIMIT;
    while connections.load(Ordering::SeqCst) < 5 {
        assert!(Instant::now() < deadline, "no further connection");
        sleep(Duration::from_millis(20)).await;
    }
    let page = page_with(&agent, "\nm 1 ").await;
    assert!(
        !page.contains("steadfast_agent_scrapes_missed_total{"),
        "{page}"
    );
    stop(agent).await;
}
