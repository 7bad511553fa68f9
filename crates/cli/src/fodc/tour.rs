//! `steadfast fodc tour`: real exporters, an incident, and its seconds read back.

mod chart;
mod exporters;
mod incident;
mod window;

use std::{
    ffi::{OsStr, OsString},
    net::SocketAddr,
    path::Path,
    process::ExitCode,
    time::Duration,
};

use anyhow::{Context as _, bail};
use jiff::Timestamp;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use self::{
    chart::{Chart, Happening, NODE, PROMETHEUS, Shown},
    exporters::Exporter,
    incident::Burn,
    window::Window,
};
use super::http;
use crate::{
    config::Settings,
    output::{self, BAD, GOOD, styled},
    own_process::OwnProcess,
    tour::telling::{head, note, rest},
    units::{grouped, humane},
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

Status 0 if the record shows the incident and is the same from the proxy and from the disk.

Examples:
  steadfast fodc tour
  steadfast fodc tour --keep ./incident && steadfast fodc replay ./incident";

/// Undisturbed time before and after the incident.
const CALM: Duration = Duration::from_secs(6);
/// How much of it is shown.
const MARGIN: Duration = Duration::from_secs(4);
/// How long every processor is busy.
const BURN: Duration = Duration::from_secs(8);
/// Into the incident, Prometheus and then the agent are killed.
const BEFORE_KILLS: Duration = Duration::from_secs(2);
/// How long the agent stays away.
const AWAY: Duration = Duration::from_millis(2_500);
const _: () = assert!(
    AWAY.as_millis() > chart::GAP.as_millis(),
    "a shorter absence may look like any second"
);
/// The proxy takes so long at most to have the agent again.
const PATIENCE: Duration = Duration::from_secs(20);

/// Runs the tour.
pub(crate) async fn run(
    args: Args,
    settings: Settings,
    stop: &CancellationToken,
) -> anyhow::Result<ExitCode> {
    settings.finish()?;
    let scratch = tempfile::tempdir().context("make a directory for the tour")?;
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
    head(
        1,
        "two exporters",
        &format!(
            "the node exporter on port {}, Prometheus on port {}",
            node.port, prometheus.port
        ),
    );
    let mut scene = Scene::start(&record, node, prometheus).await?;
    let Some(happenings) = scene.incident(stop).await? else {
        return Ok(ExitCode::FAILURE);
    };
    let (from, to) = span(&happenings);
    let window = scene.ask(from, to).await?;
    head(
        5,
        "the seconds around it",
        &format!(
            "{} samples of {} series, from the proxy",
            grouped(window.samples() as u64),
            grouped(window.series() as u64)
        ),
    );
    output::line("")?;
    let chart = Chart::new(&window);
    output::line(&chart.table(&happenings))?;
    scene.stop().await?;
    let on_disk = replayed(&record, from, to).await?;
    output::line("")?;
    conclude(&window, &on_disk, chart.shown())
}

/// Agent and proxy as child processes, and what the agent scrapes.
struct Scene {
    record: std::path::PathBuf,
    /// Held so that it runs.
    _node: Exporter,
    ports: String,
    prometheus: Exporter,
    proxy: OwnProcess,
    grpc: SocketAddr,
    http: SocketAddr,
    agent: OwnProcess,
}

impl Scene {
    async fn start(record: &Path, node: Exporter, prometheus: Exporter) -> anyhow::Result<Self> {
        let listen = "127.0.0.1:0";
        let listens = ["--grpc-listen-addr", listen, "--http-listen-addr", listen];
        let args = ["fodc", "proxy"].iter().chain(&listens);
        let (proxy, ready) = OwnProcess::start(args).await?;
        let (grpc, http) = ready
            .split_once(' ')
            .context("read the proxy's addresses")?;
        let (grpc, http) = (grpc.parse()?, http.parse()?);
        head(2, "a proxy", &format!("gRPC on {grpc}, HTTP on {http}"));
        let ports = format!("{},{}", node.port, prometheus.port);
        let agent = agent(record, &ports, grpc).await?;
        head(
            3,
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

    /// What happened, or nothing when stopped before the end.
    async fn incident(
        &mut self,
        stop: &CancellationToken,
    ) -> anyhow::Result<Option<Vec<Happening>>> {
        let mut happenings = Vec::new();
        let mut happens = |what| {
            note(what);
            let at = Timestamp::now();
            happenings.push(Happening { at, what });
        };
        if !rest(CALM, stop).await {
            return Ok(None);
        }
        head(
            4,
            "an incident",
            "busy processors, an exporter dies, and the agent is killed with -9",
        );
        happens("every processor gets busy");
        let burn = Burn::start(BURN);
        if !rest(BEFORE_KILLS, stop).await {
            return Ok(None);
        }
        self.prometheus.kill().await?;
        happens("Prometheus dies");
        if !rest(BEFORE_KILLS, stop).await {
            return Ok(None);
        }
        self.agent.kill().await?;
        happens("the agent is killed");
        sleep(AWAY).await;
        self.agent = agent(&self.record, &self.ports, self.grpc).await?;
        happens("the agent is back");
        self.prometheus.restart()?;
        happens("Prometheus is started again");
        tokio::task::spawn_blocking(|| burn.join())
            .await
            .context("wait for the busy threads")?;
        happens("the processors are free");
        let whole = rest(CALM, stop).await;
        Ok(whole.then_some(happenings))
    }

    /// The window from the proxy, as soon as the agent is there again.
    async fn ask(&mut self, from: Timestamp, to: Timestamp) -> anyhow::Result<Window> {
        self.proxy.check("the proxy")?;
        self.agent.check("the agent")?;
        let target = format!("/metrics-windows?start_time={from}&end_time={to}");
        let body = http::fetch(self.http, &target, PATIENCE).await?;
        Window::from_json(&body)
    }

    async fn stop(self) -> anyhow::Result<()> {
        self.agent.stop().await.context("stop the agent")?;
        self.proxy.stop().await.context("stop the proxy")
    }
}

async fn agent(record: &Path, ports: &str, proxy: SocketAddr) -> anyhow::Result<OwnProcess> {
    let names = format!("{NODE},{PROMETHEUS}");
    let proxy = proxy.to_string();
    let args: Vec<OsString> = [
        "fodc",
        "agent",
        "--poll-metrics-interval",
        "1s",
        "--poll-metrics-ports",
        ports,
        "--container-names",
        &names,
        "--proxy-addr",
        &proxy,
        "--node-role",
        "ROLE_DATA",
        "--pod-name",
        "tour",
        "--prometheus-listen-addr",
        "127.0.0.1:0",
        // That an exporter does not answer is what the tour is about.
        "--log",
        "error",
        "--data",
    ]
    .iter()
    .map(OsString::from)
    .chain([record.as_os_str().to_owned()])
    .collect();
    let (agent, _ready) = OwnProcess::start(args).await?;
    Ok(agent)
}

/// What the record on disk has of that time, by another process.
async fn replayed(record: &Path, from: Timestamp, to: Timestamp) -> anyhow::Result<Window> {
    let (from, to) = (from.to_string(), to.to_string());
    let args = ["fodc", "replay", "--json", "--from", &from, "--to", &to];
    let program = std::env::current_exe().context("find our own program")?;
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

/// From somewhat before the first to somewhat after the last happening.
fn span(happenings: &[Happening]) -> (Timestamp, Timestamp) {
    let times = || happenings.iter().map(|happening| happening.at);
    let from = times().min().unwrap_or_default();
    let to = times().max().unwrap_or_default();
    (from - MARGIN, to + MARGIN)
}

fn conclude(window: &Window, on_disk: &Window, shown: Shown) -> anyhow::Result<ExitCode> {
    let silence = shown.longest_silence.map_or_else(String::new, humane);
    output::line(&format!(
        "{} scrapes of the node exporter; processors up to {:.0} % busy; Prometheus down in {} of them; \
         the agent silent for {silence}",
        shown.rows,
        shown.busiest * 100.0,
        shown.prometheus_down,
    ))?;
    let checks = [
        ("the record shows the busy processors", shown.busiest > 0.8),
        (
            "it shows that Prometheus was down",
            shown.prometheus_down > 0,
        ),
        (
            "it shows that the agent was away",
            shown.longest_silence.is_some_and(|silence| silence >= AWAY),
        ),
        (
            "the record on disk has exactly the samples that the proxy gave",
            on_disk.triples() == window.triples(),
        ),
    ];
    for (what, holds) in checks {
        let (style, word) = if holds { (GOOD, "yes") } else { (BAD, "NO ") };
        output::note(&format!("{} {what}", styled(style, word)));
    }
    Ok(if checks.iter().all(|(_, holds)| *holds) {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}
