//! The memory of an agent under hostile endpoints.

use std::{
    fmt::Write as _,
    io::{BufRead as _, BufReader, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::Arc,
    thread,
    time::Duration,
};

use flate2::{Compression, write::GzEncoder};
use serde_json::Value;
use tokio::time::{Instant, sleep};

use crate::{
    fodc::{fetch, start, terminate},
    process::{LIMIT, words},
};

/// Makes the body of a response, given its number.
type Body = Arc<dyn Fn(u64) -> Vec<u8> + Send + Sync>;

/// Starts a thread that responds to every request with the next body until the test ends.
fn endpoint(packed: bool, body: Body) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        let encoding = if packed {
            "content-encoding: gzip\r\n"
        } else {
            ""
        };
        let mut number = 0;
        for socket in listener.incoming() {
            let Ok(socket) = socket else { return };
            while asked(&socket) {
                let body = body(number);
                number += 1;
                let head = format!(
                    "HTTP/1.1 200 OK\r\n{encoding}content-length: {}\r\n\r\n",
                    body.len()
                );
                let mut to = &socket;
                if to.write_all(head.as_bytes()).is_err() || to.write_all(&body).is_err() {
                    break;
                }
            }
        }
    });
    address
}

/// Waits for the end of a request's head.
fn asked(socket: &TcpStream) -> bool {
    let mut lines = BufReader::new(socket).lines();
    lines
        .find(|line| line.as_ref().map_or(true, String::is_empty))
        .is_some_and(|line| line.is_ok())
}

/// Returns the repeated line, up to that many bytes, as gzip with many members.
fn packed(line: &str, bytes: usize) -> Vec<u8> {
    const MEMBER: usize = 4 << 20;
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    let block = line.repeat(MEMBER / line.len());
    encoder.write_all(block.as_bytes()).unwrap();
    encoder.finish().unwrap().repeat(bytes / MEMBER)
}

/// Returns the bytes of a process in memory that belong to no file. Pages of the program that the loader has written
/// addresses into are anonymous as well: they grow with the program, whose size is not in question here.
fn held(process: u32) -> usize {
    let maps = std::fs::read_to_string(format!("/proc/{process}/smaps")).unwrap();
    let mut is_of_file = false;
    let mut kib = 0;
    for line in maps.lines() {
        let words: Vec<_> = line.split_whitespace().collect();
        match words[..] {
            ["Anonymous:", count, "kB"] if !is_of_file => kib += count.parse::<usize>().unwrap(),
            // The head of a mapping: addresses, rights, offset, device, inode, and a path.
            [range, _, _, _, inode, ..] if range.contains('-') => is_of_file = inode != "0",
            _ => {}
        }
    }
    assert!(kib > 0, "/proc/{process}/smaps has no memory");
    1024 * kib
}

const BUDGET: usize = 16 << 20;
const BESIDE: usize = 8 << 20;

/// Scrapes a few times and checks that the agent never exceeds its budget by more than [`BESIDE`].
async fn holds_its_budget(what: &str, packed: bool, more: &str, body: Body) {
    let agent = format!(
        "fodc agent --metrics-endpoint http://{}/metrics --in-memory --budget {BUDGET} --log error \
         --prometheus-listen-addr 127.0.0.1:0 --scrape-timeout 30s --poll-metrics-interval 200ms {more}",
        endpoint(packed, body)
    );
    let agent = start(&words(&agent)).await;
    let process = agent.child.id().unwrap();
    let end = Instant::now() + LIMIT;
    let mut most = 0;
    for round in 0.. {
        most = most.max(held(process));
        if round % 20 == 0 {
            let told = fetch(agent.addresses[0], "/endpoints").await;
            let told: Value = serde_json::from_str(&told).unwrap();
            if told[0]["scrapes"].as_u64().unwrap() >= 3 {
                break;
            }
        }
        assert!(Instant::now() < end, "{what}: it is not read");
        sleep(Duration::from_millis(10)).await;
    }
    assert!(
        most <= BUDGET + BESIDE,
        "{what}: {most} bytes are held, {} more than the budget",
        most - BUDGET
    );
    terminate(agent).await;
}

#[tokio::test]
async fn a_gzip_bomb_costs_no_more_than_the_budget_and_8_mib() {
    for line in ["a 1\n", "#\n", "0"] {
        let bomb = packed(line, 1 << 30);
        // Without optimisation a longer page takes too long to read; this one is cut off no less.
        holds_its_budget(
            line,
            true,
            "--max-page-size 8MiB",
            Arc::new(move |_| bomb.clone()),
        )
        .await;
    }
}

#[tokio::test]
async fn a_million_series_cost_no_more_than_the_budget_and_8_mib() {
    for head in ["", "# HELP m Much.\n# TYPE m gauge\n"] {
        let mut page = head.to_owned();
        for number in 0..1_000_000 {
            writeln!(page, "m{{pod=\"pod-{number:07}\"}} {number}").unwrap();
        }
        let page = page.into_bytes();
        holds_its_budget(head, false, "", Arc::new(move |_| page.clone())).await;
    }
}

#[tokio::test]
async fn new_series_in_each_scrape_stay_within_budget_plus_8_mib() {
    let long = "x".repeat(150);
    let page = move |number: u64| {
        let mut page = String::new();
        for series in 0..20_000 {
            writeln!(page, "m{{id=\"{number}-{series}\",path=\"/{long}\"}} 1").unwrap();
        }
        page.into_bytes()
    };
    holds_its_budget("new series", false, "", Arc::new(page)).await;
}
