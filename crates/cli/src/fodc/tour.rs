//! `steadfast fodc tour`: real exporters, an incident, and its record.

mod busy_threads;
mod chart;
mod exporters;
mod window;

use std::{ffi::OsStr, net::SocketAddr, path::Path, process::ExitCode, time::Duration};

use anyhow::{Context as _, bail};
use jiff::Timestamp;
use steadfast::{CallCredentials, dial::Dialer};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use self::{
    busy_threads::BusyThreads,
    chart::{Chart, Findings, Incident, NODE, PROMETHEUS},
    exporters::Exporter,
    window::Window,
};

use crate::{
    child_process::ChildProcess,
    output,
    settings::Settings,
    tour::steps::{Steps, conclude, note},
    units::{grouped, readable},
};

/// Arguments of `fodc tour`.
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// Keep the record in this directory, which must not exist yet, for `fodc replay`
    #[arg(long, value_name = "DIR")]
    keep: Option<std::path::PathBuf>,
}

const EXAMPLES: &str = "Needs the node exporter and Prometheus of the system's packages, on Debian:
  apt-get install --no-install-recommends prometheus-node-exporter prometheus

Exits with status 0 if the record shows the incident and is the same from the proxy and from disk.

Examples:
  steadfast fodc tour
  steadfast fodc tour --keep ./incident && steadfast fodc replay ./incident";

/// Undisturbed time before and after the incident.
const CALM: Duration = Duration::from_secs(6);
/// The part of it that the chart shows.
const MARGIN: Duration = Duration::from_secs(4);
/// Time in which every processor is busy.
const BUSY: Duration = Duration::from_secs(8);
/// Time before the kill of Prometheus, and again before that of the agent.
const BEFORE_KILLS: Duration = Duration::from_secs(2);
/// Time between the kill of the agent and its restart.
const DOWNTIME: Duration = Duration::from_millis(2_500);
const _: () = assert!(
    DOWNTIME.as_millis() > chart::GAP.as_millis(),
    "a shorter absence could be the usual time between two scrapes"
);
/// Longest wait until the agent is registered again.
const WINDOW_TIMEOUT: Duration = Duration::from_secs(20);

/// Runs the tour.
pub(crate) async fn run(
    args: Args,
    settings: Settings,
    stop: &CancellationToken,
) -> anyhow::Result<ExitCode> {
    settings.finish()?;
    let scratch = tempfile::tempdir().context("create a directory for the tour")?;
    let record = args.keep.unwrap_or_else(|| scratch.path().join("record"));
    if record.exists() {
        bail!(
            "{} exists already; name a directory that does not",
            record.display()
        );
    }
    let (node, prometheus) = exporters::find()?;
    let node = Exporter::node(node)?;
    let prometheus = Exporter::prometheus(prometheus, node.port, scratch.path())?;
    let mut steps = Steps::new(stop);
    steps.begin(
        "two exporters",
        &format!(
            "the node exporter on port {}, Prometheus on port {}",
            node.port, prometheus.port
        ),
    );
    let mut setup = Setup::start(&record, node, prometheus, &mut steps).await?;
    let incidents = setup.cause_incidents(&mut steps).await?;
    let (from, to) = span(&incidents);
    let window = setup.window(from, to).await?;
    steps.begin(
        "the seconds around it",
        &format!(
            "{} samples of {} series, from the proxy",
            grouped(window.samples() as u64),
            grouped(window.series() as u64)
        ),
    );
    output::line("")?;
    let chart = Chart::new(&window);
    output::line(&chart.table(&incidents))?;
    setup.stop().await?;
    let on_disk = replayed(&record, from, to).await?;
    output::line("")?;
    report(&window, &on_disk, chart.findings())
}

/// Agent and proxy as child processes, and the exporters.
struct Setup {
    record: std::path::PathBuf,
    /// Kept so that it runs.
    _node: Exporter,
    ports: String,
    prometheus: Exporter,
    proxy: ChildProcess,
    grpc: SocketAddr,
    http: SocketAddr,
    agent: ChildProcess,
}

impl Setup {
    async fn start(
        record: &Path,
        node: Exporter,
        prometheus: Exporter,
        steps: &mut Steps<'_>,
    ) -> anyhow::Result<Self> {
        let args = "fodc proxy --grpc-listen-addr 127.0.0.1:0 --http-listen-addr 127.0.0.1:0";
        let (proxy, ready) = ChildProcess::start(args.split(' ')).await?;
        let (grpc, http) = ready
            .split_once(' ')
            .context("read the proxy's addresses")?;
        let (grpc, http) = (grpc.parse()?, http.parse()?);
        steps.begin("a proxy", &format!("gRPC on {grpc}, HTTP on {http}"));
        let ports = format!("{},{}", node.port, prometheus.port);
        let agent = agent(record, &ports, grpc).await?;
        steps.begin(
            "an agent",
            &format!(
                "scrapes both every second into {}, and is connected to the proxy",
                record.display()
            ),
        );
        Ok(Self {
            record: record.to_owned(),
            _node: node,
            ports,
            prometheus,
            proxy,
            grpc,
            http,
            agent,
        })
    }

    /// Causes the incidents and returns them with their times.
    async fn cause_incidents(&mut self, steps: &mut Steps<'_>) -> anyhow::Result<Vec<Incident>> {
        let mut incidents = Vec::new();
        let mut happened = |what| {
            note(what);
            let at = Timestamp::now();
            incidents.push(Incident { at, what });
        };
        steps.pause(CALM).await?;
        steps.begin(
            "an incident",
            "busy processors, a dead exporter, an agent killed with SIGKILL",
        );
        happened("every processor gets busy");
        let busy = BusyThreads::start(BUSY);
        steps.pause(BEFORE_KILLS).await?;
        self.prometheus.kill().await?;
        happened("Prometheus dies");
        steps.pause(BEFORE_KILLS).await?;
        self.agent.kill().await?;
        happened("the agent is killed");
        sleep(DOWNTIME).await;
        self.agent = agent(&self.record, &self.ports, self.grpc).await?;
        happened("the agent is back");
        self.prometheus.restart()?;
        happened("Prometheus is restarted");
        tokio::task::spawn_blocking(|| busy.join())
            .await
            .context("wait for the busy threads")?;
        happened("the processors are free");
        steps.pause(CALM).await?;
        Ok(incidents)
    }

    /// Queries the proxy for the window as soon as the agent is registered again.
    async fn window(&mut self, from: Timestamp, to: Timestamp) -> anyhow::Result<Window> {
        // A process that has ended explains more than a missing window.
        self.proxy.check("the proxy")?;
        self.agent.check("the agent")?;
        let target = format!("/metrics-windows?start_time={from}&end_time={to}");
        let (dialer, server) = (Dialer::new([self.http.into()]), self.http.to_string());
        let none = CallCredentials::default();
        let body = crate::http::fetch(&dialer, &server, &target, &none, WINDOW_TIMEOUT).await?;
        Window::from_json(&body)
    }

    async fn stop(self) -> anyhow::Result<()> {
        self.agent.stop().await.context("stop the agent")?;
        self.proxy.stop().await.context("stop the proxy")
    }
}

async fn agent(record: &Path, ports: &str, proxy: SocketAddr) -> anyhow::Result<ChildProcess> {
    // The failing exporter is part of the tour; warnings about it would only be noise.
    let args = format!(
        "fodc agent --poll-metrics-interval 1s --poll-metrics-ports {ports} \
         --container-names {NODE},{PROMETHEUS} --proxy-addr {proxy} --node-role ROLE_DATA \
         --pod-name tour --prometheus-listen-addr 127.0.0.1:0 --log error --data"
    );
    let args = args
        .split_whitespace()
        .map(OsStr::new)
        .chain([record.as_os_str()]);
    let (agent, _ready) = ChildProcess::start(args).await?;
    Ok(agent)
}

/// Reads the window from disk with `fodc replay`.
async fn replayed(record: &Path, from: Timestamp, to: Timestamp) -> anyhow::Result<Window> {
    let (from, to) = (from.to_string(), to.to_string());
    let args = ["fodc", "replay", "--json", "--from", &from, "--to", &to];
    let program = std::env::current_exe().context("find this program")?;
    let output = tokio::process::Command::new(program)
        .args(args.iter().map(OsStr::new).chain([record.as_os_str()]))
        .stderr(std::process::Stdio::inherit())
        .output()
        .await
        .context("run `fodc replay`")?;
    if !output.status.success() {
        bail!("`fodc replay` ended with {}", output.status);
    }
    Window::from_json(&output.stdout)
}

/// Returns the time from before the first to after the last incident.
fn span(incidents: &[Incident]) -> (Timestamp, Timestamp) {
    let times = || incidents.iter().map(|incident| incident.at);
    let from = times().min().unwrap_or_default();
    let to = times().max().unwrap_or_default();
    (from - MARGIN, to + MARGIN)
}

fn report(window: &Window, on_disk: &Window, findings: Findings) -> anyhow::Result<ExitCode> {
    let silence = findings.longest_silence.map_or_else(String::new, readable);
    output::line(&format!(
        "{} scrapes of the node exporter; processors up to {:.0} % busy; Prometheus down in {} of them; \
         the agent silent for {silence}",
        findings.rows,
        findings.busiest * 100.0,
        findings.prometheus_down,
    ))?;
    let silent = findings
        .longest_silence
        .is_some_and(|silence| silence >= DOWNTIME);
    Ok(conclude(&[
        (
            "the record shows the busy processors",
            findings.busiest > 0.8,
        ),
        (
            "it shows that Prometheus was down",
            findings.prometheus_down > 0,
        ),
        ("it shows that the agent was away", silent),
        (
            "the record on disk has exactly the samples that the proxy returned",
            on_disk.triples() == window.triples(),
        ),
    ]))
}
