//! What `/metrics` shows is what the endpoints showed when they were last read.

#![allow(
    clippy::unwrap_used,
    reason = "a test stops at the first thing that is not as it should be"
)]

mod agent_support;

use std::{
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use agent_support::{
    config,
    exporter::{Exporter, page_response, pause, raw_response, respond},
    http, page_after, page_when, page_with, start, stop, value,
};
use steadfast_fodc_agent::{
    Agent, Config, StartError,
    scrape::{Endpoint, Protocol},
};
use tokio::time::sleep;

/// Lines of a page that are not the agent's own.
fn recorded(page: &str) -> Vec<&str> {
    let own = |line: &&str| {
        ["steadfast_", "up{", "scrape_"].iter().any(|prefix| {
            let bare = line
                .trim_start_matches("# HELP ")
                .trim_start_matches("# TYPE ");
            bare.starts_with(prefix) || bare.starts_with("up ")
        })
    };
    page.lines().filter(|line| !own(line)).collect()
}

fn now_ms() -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    now.as_millis() as i64
}

#[tokio::test]
async fn page_is_exported_as_scraped_with_its_time() {
    let exporter = Exporter::page(
        "# HELP h Times \\\"so\\\" far\n# TYPE h histogram\nh_bucket{le=\"1.0\"} 1\n\
         h_bucket{le=\"+Inf\"} 2\nh_sum 3.5\nh_count 2\n# TYPE c counter\nc{path=\"/a{b}, \\\"c\\\"\"} 7\n\
         plain NaN\n# TYPE q summary\nq{quantile=\"0.5\"} +Inf\r\n",
    );
    let before = now_ms();
    let agent = start([&exporter]).await;
    let page = page_with(&agent, "h_sum").await;
    let after = now_ms();

    let lines = recorded(&page);
    let stamp = lines[1].rsplit(' ').next().unwrap();
    let time: i64 = stamp.parse().unwrap();
    assert!(
        (before..=after).contains(&time),
        "{time} is between {before} and {after}"
    );
    let expected = format!(
        "# TYPE c counter\nc{{path=\"/a{{b}}, \\\"c\\\"\"}} 7 {time}\n\
         # HELP h Times \\\\\"so\\\\\" far\n# TYPE h histogram\nh_bucket{{le=\"1.0\"}} 1 {time}\n\
         h_bucket{{le=\"+Inf\"}} 2 {time}\nh_sum 3.5 {time}\nh_count 2 {time}\n\
         # TYPE plain untyped\nplain NaN {time}\n# TYPE q summary\nq{{quantile=\"0.5\"}} +Inf {time}"
    );
    assert_eq!(lines.join("\n"), expected);
    stop(agent).await;
}

#[tokio::test]
async fn vanished_series_is_not_exported() {
    let exporter = Exporter::page("stays 1\nleaves 2\n");
    let agent = start([&exporter]).await;
    page_with(&agent, "\nleaves 2 ").await;
    exporter.set(page_response("stays 1\n"));
    let page = page_when(&agent, "one is gone", |page| !page.contains("leaves")).await;
    assert!(page.contains("\nstays 1 "), "{page}");
    stop(agent).await;
}

#[tokio::test]
async fn series_of_a_dead_endpoint_are_not_exported() {
    let (dies, lives) = (Exporter::page("dies 1\n"), Exporter::page("lives 1\n"));
    let agent = start([&dies, &lives]).await;
    page_when(&agent, "both are read", |page| {
        page.contains("\ndies{") && page.contains("\nlives{")
    })
    .await;
    dies.set(raw_response(
        "HTTP/1.1 503 Gone\r\nContent-Length: 0\r\n\r\n",
    ));
    let page = page_when(&agent, "the dead one is gone", |page| {
        !page.contains("\ndies{")
    })
    .await;
    assert!(page.contains("\nlives{"), "{page}");
    let up = |address| format!("up{{instance=\"{address}\"");
    assert_eq!(value(&page, &up(dies.address())), Some(0.0), "{page}");
    assert_eq!(value(&page, &up(lives.address())), Some(1.0), "{page}");
    assert!(page.contains("reason=\"status\""), "{page}");
    stop(agent).await;
}

#[tokio::test]
async fn same_metric_of_two_sources_does_not_collide() {
    let (first, second) = (
        Exporter::page("# TYPE m counter\nm{a=\"1\"} 1\nm 2\n"),
        Exporter::page("# TYPE m counter\nm{b=\"1\",instance=\"own\"} 3\nm 4\n"),
    );
    let agent = start([&first, &second]).await;
    let page = page_when(&agent, "both are read", |page| {
        page.matches("\nm{").count() == 4
    })
    .await;
    assert_eq!(page.matches("# TYPE m ").count(), 1, "{page}");
    let (first, second) = (first.address(), second.address());
    for line in [
        format!("m{{a=\"1\",instance=\"{first}\",job=\"steadfast\"}} 1 "),
        format!("m{{instance=\"{first}\",job=\"steadfast\"}} 2 "),
        format!(
            "m{{b=\"1\",exported_instance=\"own\",instance=\"{second}\",job=\"steadfast\"}} 3 "
        ),
        format!("m{{instance=\"{second}\",job=\"steadfast\"}} 4 "),
    ] {
        assert!(page.contains(&line), "{line}\n{page}");
    }
    stop(agent).await;
}

#[tokio::test]
async fn late_or_changed_type_is_exported() {
    let exporter = Exporter::page("m_total 1\n# TYPE m_total counter\n# HELP m_total Late.\n");
    let mut config = config([exporter.url()]);
    // The record takes up to 64 scrapes to call a series something else.
    config.interval = Duration::from_millis(20);
    let agent = Agent::start(config).await.unwrap();
    let page = page_with(&agent, "\nm_total 1 ").await;
    assert!(
        page.contains("# HELP m_total Late.\n# TYPE m_total counter\n"),
        "{page}"
    );
    exporter.set(page_response(
        "# TYPE m_total gauge\n# HELP m_total Other.\nm_total 2\n",
    ));
    let other = "# HELP m_total Other.\n# TYPE m_total gauge\nm_total 2 ";
    page_with(&agent, other).await;
    stop(agent).await;
}

#[tokio::test]
async fn malformed_line_costs_only_that_line() {
    let exporter = Exporter::page(
        "good 1\nstamped 2 1767225600000\nbad{ 3\nm{a=\"1\" b} 4\nworse 1e\n\u{1}\nlast 5\n",
    );
    let agent = start([&exporter]).await;
    let page = page_with(&agent, "\nlast 5 ").await;
    assert!(
        page.contains("\ngood 1 ") && page.contains("\nstamped 2 "),
        "{page}"
    );
    assert!(!page.contains(" 1767225600000\n"), "{page}");
    assert!(value(&page, "steadfast_agent_line_timestamps_ignored_total").unwrap() >= 1.0);
    assert!(
        page.contains("\nsteadfast_agent_lines_rejected_total{"),
        "{page}"
    );
    assert_eq!(value(&page, "scrape_samples_scraped"), Some(3.0), "{page}");
    let text = http::get(agent.addresses().http.unwrap(), "/endpoints")
        .await
        .text();
    assert!(text.contains("\"last_rejected\":\"line "), "{text}");
    assert!(text.contains("\"newest_rejected\":[\"line "), "{text}");
    stop(agent).await;
}

#[tokio::test]
async fn first_of_duplicate_series_wins() {
    let exporter =
        Exporter::page("m{a=\"1\",b=\"2\"} 1\nm{b=\"2\",a=\"1\"} 2\nm{a=\"1\",b=\"2\"} 3\n");
    let agent = start([&exporter]).await;
    let page = page_with(&agent, "\nm{").await;
    assert!(page.contains("\nm{a=\"1\",b=\"2\"} 1 "), "{page}");
    let refused = "steadfast_scrape_samples_refused{";
    assert_eq!(value(&page, refused), Some(2.0), "{page}");
    stop(agent).await;
}

#[tokio::test]
async fn endpoint_with_status_404_costs_one_connection() {
    let exporter = Exporter::new(Arc::new(|_, stream| {
        respond(stream, "404 Not Found", "", b"no such page\n")
    }));
    let agent = start([&exporter]).await;
    page_after(&agent, 10, &exporter).await;
    assert_eq!(exporter.connections(), 1);
    stop(agent).await;
}

#[tokio::test]
async fn closing_endpoint_is_scraped_at_each_tick() {
    let exporter = Exporter::new(Arc::new(|_, stream| {
        respond(stream, "200 OK", "", b"m 1\n");
        false
    }));
    let agent = start([&exporter]).await;
    let page = page_after(&agent, 10, &exporter).await;
    assert!(
        !page.contains("steadfast_agent_scrapes_missed_total{"),
        "{page}"
    );
    stop(agent).await;
}

#[tokio::test]
async fn slow_endpoint_delays_no_other() {
    let slow = Exporter::new(Arc::new(|_, stream| {
        pause(stream, Duration::from_millis(900));
        respond(stream, "200 OK", "", b"slow 1\n")
    }));
    let quick = Exporter::page("quick 1\n");
    let agent = start([&slow, &quick]).await;
    let page = page_after(&agent, 2, &slow).await;
    assert!(
        quick.requests() > 2 * slow.requests(),
        "{} {}",
        quick.requests(),
        slow.requests()
    );
    let skipped = format!(
        "steadfast_agent_scrape_ticks_skipped_total{{instance=\"{}\"",
        slow.address()
    );
    assert!(value(&page, &skipped).unwrap() > 0.0, "{page}");
    stop(agent).await;
}

#[tokio::test]
async fn get_and_head_and_readiness() {
    let silent = Exporter::new(agent_support::exporter::silence());
    let agent = start([&silent]).await;
    let address = agent.addresses().http.unwrap();
    let unready = http::get(address, "/readyz").await;
    assert_eq!(unready.status, 503);
    assert!(
        unready
            .text()
            .contains("1 endpoints have not been scraped yet")
    );
    assert!(agent.unready().is_some());
    assert_eq!(http::get(address, "/livez").await.status, 200);
    silent.set(page_response("m 1\n"));
    for (path, status) in [
        ("/metrics", 200),
        ("/livez", 200),
        ("/endpoints", 200),
        ("/nope", 404),
    ] {
        let get = http::get(address, path).await;
        let head = http::send(address, "HEAD", path, "", b"").await;
        assert_eq!((get.status, head.status), (status, status), "{path}");
        assert!(head.body.is_empty(), "{path}");
    }
    assert_eq!(
        http::send(address, "POST", "/metrics", "", b"")
            .await
            .status,
        405
    );
    stop(agent).await;

    let exporter = Exporter::page("m 1\n");
    let agent = start([&exporter]).await;
    let address = agent.addresses().http.unwrap();
    while http::get(address, "/readyz").await.status != 200 {
        sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(agent.unready(), None);
    stop(agent).await;
}

#[tokio::test]
async fn page_is_gzipped_if_the_client_accepts_it() {
    use std::io::Read as _;

    let exporter = Exporter::page("m 1\n");
    let agent = start([&exporter]).await;
    page_with(&agent, "\nm 1 ").await;
    let address = agent.addresses().http.unwrap();
    let accepting = async |encodings: &str| {
        let header = format!("Accept-Encoding: {encodings}\r\n");
        http::send(address, "GET", "/metrics", &header, b"").await
    };
    let packed = accepting("br, gzip").await;
    assert_eq!(packed.header("content-encoding"), Some("gzip"));
    let mut page = String::new();
    flate2::read::GzDecoder::new(&packed.body[..])
        .read_to_string(&mut page)
        .unwrap();
    assert!(page.contains("\nm 1 "), "{page}");
    for never in ["gzip;q=0", "br, gzip; q=0.000"] {
        let plain = accepting(never).await;
        assert_eq!(plain.header("content-encoding"), None, "{never}");
    }
    stop(agent).await;
}

#[tokio::test]
async fn request_carries_accept_timeout_and_user_agent() {
    for (protocol, accepted) in [
        (
            Protocol::Any,
            "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,text/plain",
        ),
        (
            Protocol::Prometheus,
            "text/plain;version=1.0.0;escaping=allow-utf-8;q=0.5,text/plain",
        ),
        (
            Protocol::OpenMetrics,
            "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8,application",
        ),
    ] {
        let head = Arc::new(std::sync::Mutex::new(String::new()));
        let kept = Arc::clone(&head);
        let exporter = Exporter::new(Arc::new(move |request, stream| {
            kept.lock().unwrap().clone_from(&request.head);
            respond(stream, "200 OK", "", b"m 1\n")
        }));
        let url = format!("{}?collect[]=cpu", exporter.url());
        let mut config = config([url.clone()]);
        config.endpoints = vec![Endpoint::new(&url).unwrap().protocol(protocol)];
        let agent = Agent::start(config).await.unwrap();
        page_with(&agent, "\nm 1 ").await;
        stop(agent).await;
        let head = head.lock().unwrap().to_ascii_lowercase();
        assert!(
            head.starts_with("get /metrics?collect[]=cpu http/1.1\r\n"),
            "{head}"
        );
        for line in [
            format!("host: {}", exporter.address()),
            "accept-encoding: gzip".to_owned(),
            format!("\naccept: {accepted}"),
            "x-prometheus-scrape-timeout-seconds: 20".to_owned(),
            "user-agent: steadfast/".to_owned(),
        ] {
            assert!(head.contains(&line), "{line}\n{head}");
        }
    }
}

#[tokio::test]
async fn start_reports_all_faults_and_a_taken_port() {
    let mut wrong = Config::new(vec![Endpoint::local(1), Endpoint::local(1)]);
    wrong.interval = Duration::ZERO;
    wrong.budget = 1;
    let Err(StartError::Config(faults)) = Agent::start(wrong).await else {
        panic!("it is wrong");
    };
    let fields: Vec<_> = faults.iter().map(|fault| fault.field).collect();
    assert_eq!(fields, ["endpoints", "interval", "budget"]);

    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let mut config = config(["http://127.0.0.1:1/metrics".to_owned()]);
    config.listen = Some(taken.local_addr().unwrap());
    let text = Agent::start(config).await.unwrap_err().to_string();
    assert!(
        text.contains(&taken.local_addr().unwrap().to_string()),
        "{text}"
    );
}

#[tokio::test]
async fn line_timestamps_are_kept_if_honored() {
    let exporter = Exporter::page("a 1\nb 2 1700000000000\nc 3\nd 4 1700000001000\n");
    let mut config = config([exporter.url()]);
    config.honor_timestamps = true;
    let agent = Agent::start(config).await.unwrap();
    let page = page_with(&agent, "\nd 4 ").await;
    assert!(page.contains("\nb 2 1700000000000\n"), "{page}");
    assert!(page.contains("\nd 4 1700000001000\n"), "{page}");
    for own in ["a 1", "c 3"] {
        let line = page.lines().find(|line| line.starts_with(own)).unwrap();
        assert!(!line.contains(" 17000000"), "{line}");
    }
    stop(agent).await;
}

#[tokio::test]
async fn byte_order_mark_is_skipped_at_the_beginning_only() {
    let exporter = Exporter::page("\u{feff}first 1\n\u{feff}second 2\nthird 3\n");
    let agent = Agent::start(config([exporter.url()])).await.unwrap();
    let page = page_with(&agent, "\nthird 3 ").await;
    assert!(
        page.contains("\nfirst 1 ") && !page.contains("second 2"),
        "{page}"
    );
    stop(agent).await;
}
