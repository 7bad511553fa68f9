//! The flight recorder as processes: recorded, killed, read back, served by a proxy.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    path::Path,
    process::Stdio,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use jiff::Timestamp;
use serde_json::Value;
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    net::{TcpListener, TcpStream},
    process::{Child, Command},
    time::{Instant, sleep, timeout},
};
use tokio_util::task::AbortOnDropHandle;

use crate::process::{LIMIT, next, run, steadfast, words};

/// An exporter with a counter of its own scrapes.
pub(crate) struct Exporter {
    pub(crate) port: u16,
    reads: Arc<AtomicU64>,
    _task: AbortOnDropHandle<()>,
}

impl Exporter {
    async fn start() -> Self {
        Self::with(String::new()).await
    }

    /// Starts an exporter with these additional lines.
    pub(crate) async fn with(more: String) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let reads = Arc::new(AtomicU64::new(0));
        let count = Arc::clone(&reads);
        let more = Arc::<str>::from(more);
        let task = tokio::spawn(async move {
            loop {
                let (socket, _) = listener.accept().await.unwrap();
                tokio::spawn(serve(socket, Arc::clone(&count), Arc::clone(&more)));
            }
        });
        Self {
            port,
            reads,
            _task: AbortOnDropHandle::new(task),
        }
    }
}

/// Responds to every request on a connection with the page.
async fn serve(socket: TcpStream, reads: Arc<AtomicU64>, more: Arc<str>) {
    let mut socket = BufReader::new(socket);
    loop {
        let mut line = String::new();
        while line != "\r\n" {
            line.clear();
            if !matches!(socket.read_line(&mut line).await, Ok(count) if count > 0) {
                return;
            }
        }
        let number = reads.fetch_add(1, Ordering::Relaxed) + 1;
        let page = format!(
            "# TYPE reads counter\nreads_total{{path=\"/a,b\"}} {number}\n# TYPE jobs gauge\njobs 7\n{more}"
        );
        let head = format!(
            "HTTP/1.1 200 OK\r\ncontent-type: text/plain; version=0.0.4\r\ncontent-length: {}\r\n\r\n",
            page.len()
        );
        if socket.write_all((head + &page).as_bytes()).await.is_err() {
            return;
        }
    }
}

/// A process that is ready, and the addresses it printed.
pub(crate) struct Ready {
    pub(crate) child: Child,
    pub(crate) addresses: Vec<SocketAddr>,
}

impl Ready {
    pub(crate) fn signal(&self, name: &str) {
        let id = self.child.id().expect("it runs").to_string();
        let kill = std::process::Command::new("kill")
            .args(["-s", name, &id])
            .status();
        assert!(kill.unwrap().success());
    }
}

pub(crate) async fn start(args: &[&str]) -> Ready {
    let mut command = steadfast(args);
    command.stderr(Stdio::inherit());
    started(command).await
}

async fn started(mut command: Command) -> Ready {
    let mut child = command.spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let ready = next(&mut lines).await.expect("a line when it is ready");
    let addresses = ready.strip_prefix("ready ").unwrap().split(' ');
    let addresses = addresses.map(|text| text.parse().unwrap()).collect();
    Ready { child, addresses }
}

pub(crate) async fn agent(port: u16, record: &Path, more: &[&str]) -> Ready {
    let agent = format!(
        "fodc agent --poll-metrics-ports {port} --poll-metrics-interval 100ms \
         --prometheus-listen-addr 127.0.0.1:0 --data {}",
        record.display()
    );
    start(&[&words(&agent), more].concat()).await
}

pub(crate) async fn fetch(server: SocketAddr, target: &str) -> String {
    let exchange = async {
        let mut socket = TcpStream::connect(server).await.unwrap();
        let request = format!("GET {target} HTTP/1.0\r\nhost: localhost\r\n\r\n");
        socket.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        socket.read_to_string(&mut answer).await.unwrap();
        answer
    };
    let answer = timeout(LIMIT, exchange).await.expect("an answer in time");
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    assert!(head.contains(" 200 "), "{answer}");
    body.to_owned()
}

/// Polls until there is a value.
pub(crate) async fn until<T>(what: &str, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    let end = Instant::now() + LIMIT;
    loop {
        if let Some(found) = look().await {
            return found;
        }
        assert!(Instant::now() < end, "{what}");
        sleep(Duration::from_millis(50)).await;
    }
}

/// Values of the counter by their times.
fn counted(json: &str) -> BTreeMap<Timestamp, u64> {
    let series: Value = serde_json::from_str(json).unwrap();
    let series = series.as_array().unwrap().iter();
    let mut counter = series.filter(|series| series["name"] == "reads_total");
    let Some(counter) = counter.next() else {
        return BTreeMap::new();
    };
    assert_eq!(counter["labels"]["path"], "/a,b");
    let points = counter["data"].as_array().unwrap().iter();
    points
        .map(|point| {
            let time = point["timestamp"].as_str().unwrap().parse().unwrap();
            (time, point["value"].as_f64().unwrap() as u64)
        })
        .collect()
}

/// Returns the samples on disk; none while there is no record yet.
pub(crate) async fn replay(record: &Path) -> BTreeMap<Timestamp, u64> {
    let replay = format!(
        "fodc replay {} --from 2020-01-01T00:00:00Z --json --name reads_total",
        record.display()
    );
    let ended = run(&words(&replay), None).await;
    if ended.stderr.contains("nothing in it yet") {
        return BTreeMap::new();
    }
    assert_eq!(ended.code, Some(0), "{ended:?}");
    counted(&ended.stdout)
}

pub(crate) async fn terminate(mut ready: Ready) {
    ready.signal("TERM");
    let status = timeout(LIMIT, ready.child.wait())
        .await
        .expect("an end in time");
    assert_eq!(status.unwrap().code(), Some(0));
}

/// A proxy on free ports.
pub(crate) const PROXY: &str =
    "fodc proxy --grpc-listen-addr 127.0.0.1:0 --http-listen-addr 127.0.0.1:0";

#[tokio::test]
async fn a_record_survives_kill_9_and_reads_the_same_everywhere() {
    let folder = tempfile::tempdir().unwrap();
    let record = folder.path().join("record");
    let exporter = Exporter::start().await;
    let proxy = start(&words(PROXY)).await;
    let (grpc, http) = (proxy.addresses[0], proxy.addresses[1]);
    let more = format!("--proxy-addr {grpc} --pod-name db-0 --node-role ROLE_DATA");
    let more = words(&more);

    let mut first = agent(exporter.port, &record, &more).await;
    until("ten samples are on the disk", async || {
        (replay(&record).await.len() >= 10).then_some(())
    })
    .await;
    first.child.kill().await.unwrap();
    let before = replay(&record).await;
    assert!(before.len() >= 10, "a killed agent's record is whole");

    let second = agent(exporter.port, &record, &more).await;
    let of_agent = until("the agent serves its page", async || {
        let page = fetch(second.addresses[0], "/metrics").await;
        page.contains("reads_total{").then_some(page)
    })
    .await;
    assert!(of_agent.contains("# TYPE jobs gauge"), "{of_agent}");
    let window = "/metrics-windows?start_time=2020-01-01T00:00:00Z&end_time=2100-01-01T00:00:00Z";
    let from_proxy = until("the proxy has what both lives recorded", async || {
        let counted = counted(&fetch(http, window).await);
        (counted.len() > before.len() + 5).then_some(counted)
    })
    .await;
    let latest = fetch(http, "/metrics?pod_name=db-0").await;
    assert!(latest.contains("jobs{"), "{latest}");
    assert!(latest.contains("# TYPE jobs gauge"), "{latest}");
    terminate(second).await;
    terminate(proxy).await;

    let on_disk = replay(&record).await;
    for (time, value) in before.iter().chain(&from_proxy) {
        assert_eq!(on_disk.get(time), Some(value), "at {time}");
    }
    let values: Vec<_> = on_disk.values().collect();
    assert!(
        values.is_sorted(),
        "times and values belong together: {values:?}"
    );
    assert!(**values.last().unwrap() <= exporter.reads.load(Ordering::Relaxed));
}

#[tokio::test]
async fn all_faults_of_agent_settings_are_reported_at_once() {
    let agent = "fodc agent --poll-metrics-ports 9100,http --metrics-endpoint ftp://db/metrics \
                 --budget lots --node-labels zone --container-names db,,cache --node-ip 10.0.0.1 \
                 --proxy-addr ftp://proxy:1 --page-memory some";
    let ended = run(&words(agent), None).await;
    assert_eq!(ended.code, Some(2), "{ended:?}");
    for expected in [
        "--poll-metrics-ports: \"http\" is not a port",
        "--metrics-endpoint: ",
        "--budget: \"lots\" is not a size",
        "--node-labels: \"zone\" is not a label",
        "--node-port: is missing",
        "--proxy-addr: ",
        "--page-memory: \"some\" is not a size",
    ] {
        let told = ended.stderr.matches(expected).count();
        assert_eq!(told, 1, "{expected:?} in {}", ended.stderr);
    }
    let places = ended.stderr.matches("--container-names").count();
    assert!(places <= 1, "told more than once: {}", ended.stderr);
}

#[tokio::test]
async fn an_invalid_address_is_reported_with_its_flag() {
    for (flags, told) in [
        (
            "fodc agent --node-ip banana --node-port 1",
            "--node-ip: \"banana\" is not an IP address",
        ),
        (
            "fodc agent --pod-name db-0 --proxy-addr foo:99999",
            "--proxy-addr: \"foo:99999\" is not an address: the port is not a number up to 65535",
        ),
        (
            "fodc agent --pod-name db-0 --metrics-endpoint http://foo:99999/metrics",
            "--metrics-endpoint: `http://foo:99999/metrics` has a port that is not a number",
        ),
    ] {
        let ended = run(&words(flags), None).await;
        assert_eq!(ended.code, Some(2), "{ended:?}");
        assert!(ended.stderr.contains(told), "{told}: {}", ended.stderr);
    }
}

#[tokio::test]
async fn a_proxy_with_a_taken_port_ends_and_names_the_flag() {
    let taken = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let taken = taken.local_addr().unwrap().to_string();
    for flag in ["--grpc-listen-addr", "--http-listen-addr"] {
        let proxy = PROXY.replace(&format!("{flag} 127.0.0.1:0"), &format!("{flag} {taken}"));
        let ended = run(&words(&proxy), None).await;
        assert_eq!(ended.code, Some(1), "{ended:?}");
        assert!(ended.stderr.contains(&taken), "{ended:?}");
        assert!(ended.stderr.contains("--http-listen-addr"), "{ended:?}");
        assert!(!ended.stdout.contains("ready"), "{ended:?}");
    }
}

#[tokio::test]
async fn replay_refuses_an_empty_directory_and_a_reversed_window() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().to_str().unwrap();
    let ended = run(&["fodc", "replay", path], None).await;
    assert_eq!(ended.code, Some(1), "{ended:?}");
    assert!(ended.stderr.contains(path), "{ended:?}");

    let exporter = Exporter::start().await;
    let record = folder.path().join("record");
    let agent = agent(exporter.port, &record, &[]).await;
    until("a sample is on the disk", async || {
        (!replay(&record).await.is_empty()).then_some(())
    })
    .await;
    terminate(agent).await;
    let reversed = format!("fodc replay {} --from -1s --to -1m", record.display());
    let ended = run(&words(&reversed), None).await;
    assert_eq!(ended.code, Some(2), "{ended:?}");
    assert!(
        ended.stderr.contains("--to: ends before it begins"),
        "{ended:?}"
    );
    let ended = run(&["fodc", "replay", record.to_str().unwrap()], None).await;
    assert!(ended.stdout.contains("localhost"), "{ended:?}");
}

#[tokio::test]
async fn agent_logs_a_rejected_line_once_with_its_time() {
    // Ten faulty lines, of which the last eight are kept.
    let faulty = (0..10).map(|number| format!("faulty{{ {number}\n"));
    let exporter = Exporter::with(faulty.collect()).await;
    let folder = tempfile::tempdir().unwrap();
    let log = folder.path().join("log");
    let line = format!(
        "--log debug fodc agent --poll-metrics-ports {} --poll-metrics-interval 50ms \
         --in-memory --prometheus-listen-addr 127.0.0.1:0",
        exporter.port
    );
    let mut command = steadfast(&words(&line));
    command.stderr(std::fs::File::create(&log).unwrap());
    let agent = started(command).await;
    until("ten scrapes", async || {
        let rejected = "steadfast_agent_lines_rejected_total{";
        let page = fetch(agent.addresses[0], "/metrics").await;
        let line = page.lines().find(|line| line.starts_with(rejected))?;
        let count: f64 = line.rsplit(' ').next()?.parse().unwrap();
        (count >= 100.0).then_some(())
    })
    .await;
    let status: Value =
        serde_json::from_str(&fetch(agent.addresses[0], "/endpoints").await).unwrap();
    let kept = status[0]["newest_rejected"].as_array().unwrap();
    assert_eq!(kept.len(), 8, "{kept:?}");
    terminate(agent).await;

    let log = std::fs::read_to_string(log).unwrap();
    for kept in kept {
        let told = format!("line={:?}", kept.as_str().unwrap());
        assert_eq!(log.matches(&told).count(), 1, "{told}: {log}");
    }
    // The end of the process is told beside the log.
    for line in log.lines().filter(|line| !line.starts_with("stopping")) {
        let time = line.split(' ').next().unwrap();
        assert!(time.parse::<Timestamp>().is_ok(), "{line}");
    }
}

/// No file may grow at all, as on a full disk; the log must not be one either.
#[tokio::test]
async fn a_page_that_cannot_be_written_is_missed_and_still_shown() {
    let exporter = Exporter::start().await;
    let record = tempfile::tempdir().unwrap();
    let line = format!(
        "fodc agent --poll-metrics-ports {} --poll-metrics-interval 100ms \
         --prometheus-listen-addr 127.0.0.1:0 --data {}",
        exporter.port,
        record.path().display()
    );
    let mut shell = Command::new("sh");
    let script = "trap '' XFSZ; ulimit -f 0; exec \"$0\" \"$@\" 2>/dev/null";
    shell
        .args(["-c", script, env!("CARGO_BIN_EXE_steadfast")])
        .args(words(&line))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .kill_on_drop(true);
    let agent = started(shell).await;
    let server = agent.addresses[0];
    let reads = |page: &str| {
        let line = page.lines().find(|line| line.starts_with("reads_total"))?;
        line.split(' ').nth(1)?.parse::<u64>().ok()
    };
    let page = until("a page", async || {
        let page = fetch(server, "/metrics").await;
        (reads(&page)? > 3).then_some(page)
    })
    .await;
    // Its health says the truth, and so does everything else.
    let line = |start: &str| page.lines().find(|line| line.starts_with(start)).unwrap();
    assert!(line("up{").contains("} 0 "), "{page}");
    assert!(
        line("steadfast_scrape_missed{").contains("reason=\"not_recorded\""),
        "{page}"
    );
    assert_eq!(
        line("steadfast_agent_record_failing "),
        "steadfast_agent_record_failing 1"
    );
    let first = reads(&page).unwrap();
    until("a later page", async || {
        (reads(&fetch(server, "/metrics").await)? > first).then_some(())
    })
    .await;
    let status = fetch(server, "/endpoints").await;
    assert!(
        status.contains("page is not recorded: cannot write"),
        "{status}"
    );
    terminate(agent).await;
}
