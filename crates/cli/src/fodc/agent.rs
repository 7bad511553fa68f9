//! `steadfast fodc agent`.

mod sources;

use std::{
    collections::BTreeMap,
    env,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::PathBuf,
    process::ExitCode,
    time::Duration,
};

use anyhow::bail;
use steadfast::session::{State, Status};
use steadfast_fodc_agent::{
    Agent, Config, NodeConfig, StartError, Storage, UplinkConfig,
    identity::Identity,
    scrape::{Access, Endpoint, Protocol},
    uplink::Uplink,
};
use steadfast_recorder::OpenError;
use tokio::{select, sync::watch};
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};

use self::sources::SourceArgs;
use super::unused_flags::UnusedFlags;
use crate::{
    child_process::{READY, parent_gone},
    clients::{ServerAddress, TlsArgs},
    config::policy_file,
    credentials::CredentialArgs,
    listen::{self, ListenTlsArgs},
    output::{self, FAINT, styled},
    settings::{Given, Listen, Setting, Settings, Several, Size},
    signals::ignore_hangups,
};

/// Arguments of `fodc agent`.
#[derive(clap::Args)]
#[command(after_help = EXAMPLES, args_override_self = true)]
pub(crate) struct Args {
    /// URL of a metrics page to record; comma-separated or repeated. The file of settings may have a
    /// table instead: url, labels, container, protocol (prometheus or openmetrics)
    #[arg(long, env, value_name = "URL")]
    metrics_endpoint: Vec<Given<Several<Endpoint>>>,
    /// Local ports with a /metrics page to record [default: 2121, unless there is an endpoint]
    #[arg(long, env, value_name = "PORT")]
    poll_metrics_ports: Vec<Given<Several<Port>>>,
    /// One container name for each port and then for each endpoint
    #[arg(long, env, value_name = "NAME")]
    container_names: Vec<Given<Several<String>>>,
    /// Scrape interval [default: 1s]
    #[arg(long, env)]
    poll_metrics_interval: Option<Given<Duration>>,
    /// Directory of the record; created if missing, continued if present
    /// [default: steadfast-record]
    #[arg(long, env = "RECORD", value_name = "DIR")]
    data: Option<Given<String>>,
    /// Keep the record in memory only
    #[arg(long, env)]
    in_memory: Option<Given<bool>>,
    /// Maximum size of the record; the oldest data is evicted first. With --in-memory it includes
    /// scrape buffers [default: 64MiB]
    #[arg(long, env)]
    budget: Option<Given<Size>>,
    /// Address for /metrics, /livez, /readyz and remote read [default: 127.0.0.1:9090]
    #[arg(long, env)]
    prometheus_listen_addr: Option<Given<Listen>>,
    /// Timeout of one scrape [default: the interval, at most 5s]
    #[arg(long, env, hide_short_help = true)]
    scrape_timeout: Option<Given<Duration>>,
    /// Maximum size of a page, compressed and decompressed; a larger one fails [default: 64MiB]
    #[arg(long, env, hide_short_help = true)]
    max_page_size: Option<Given<Size>>,
    /// Maximum number of samples of a page; further ones are counted and dropped
    /// [default: as many as --page-memory holds, at most 500000]
    #[arg(long, env, hide_short_help = true)]
    max_page_samples: Option<Given<usize>>,
    /// Memory for scraped pages, shared equally by the endpoints; with --in-memory part of the budget
    /// [default: an eighth of the budget; at least 1MiB for each endpoint, at most 64MiB]
    #[arg(long, env, hide_short_help = true)]
    page_memory: Option<Given<Size>>,
    /// Maximum size of a response to a remote read before compression; all that are not sent yet share as
    /// much [default: an eighth of the budget; at least 8MiB, at most 64MiB]
    #[arg(long, env, hide_short_help = true)]
    read_max_size: Option<Given<Size>>,
    /// Maximum number of samples of a remote read [default: 4000000]
    #[arg(long, env, hide_short_help = true)]
    read_max_samples: Option<Given<usize>>,
    /// Timeout of a remote read [default: 30s]
    #[arg(long, env, hide_short_help = true)]
    read_timeout: Option<Given<Duration>>,
    /// Number of remote reads that run at a time; others wait [default: 2]
    #[arg(long, env, hide_short_help = true)]
    read_max_concurrent: Option<Given<usize>>,
    /// Store the timestamps on lines in addition to the time of the scrape
    #[arg(long, env, hide_short_help = true)]
    honor_timestamps: Option<Given<bool>>,
    /// Interval of syncs to disk; a power failure loses at most this [default: 5s]
    #[arg(long, env, hide_short_help = true)]
    sync_every: Option<Given<Duration>>,
    /// Policy file: who may read the pages of that address, and who may diagnose; read again when it changes
    /// [default: everybody may]
    #[arg(long, env, value_name = "FILE")]
    access: Option<Given<String>>,
    #[command(flatten)]
    listener: ListenTlsArgs,
    // The last ones, because the heading of a group also holds for what follows it.
    #[command(flatten)]
    node: NodeArgs,
    #[command(flatten)]
    sources: SourceArgs,
    /// Stop when standard input ends, so that an agent does not outlive its parent
    #[arg(long, hide = true)]
    stop_with_stdin: bool,
    #[command(flatten)]
    pub(super) unused: UnusedFlags,
}

/// The proxy, and the identity of the node.
#[derive(clap::Args)]
#[command(next_help_heading = "Proxy")]
struct NodeArgs {
    /// Address of the proxy, https:// as well; several with commas between them stand in for each other
    /// [default: 127.0.0.1:17912 if the node is named, else none]
    #[arg(long, env, value_name = "HOST:PORT")]
    proxy_addr: Option<Given<ServerAddress>>,
    #[command(flatten)]
    tls: TlsArgs,
    #[command(flatten)]
    credentials: CredentialArgs,
    /// Name of the pod or node [default: the host's name]
    #[arg(long, env, value_name = "NAME")]
    pod_name: Option<Given<Option<String>>>,
    #[arg(long, env, help = ROLE_HELP, value_name = "ROLE")]
    node_role: Option<Given<Option<String>>>,
    /// Labels of the node
    #[arg(long, env, value_name = "KEY=VALUE")]
    node_labels: Vec<Given<Several<Label>>>,
    /// Address of the node, for proxies of the first version; requires --node-port
    #[arg(long, env, value_name = "IP", hide_short_help = true)]
    node_ip: Option<Given<Option<Ip>>>,
    /// Port of the node; requires --node-ip
    #[arg(long, env, value_name = "PORT", hide_short_help = true)]
    node_port: Option<Given<u16>>,
    /// Local gRPC ports of the database node: its role, its labels and the cluster's topology are asked
    /// there [default: none]
    #[arg(long, env, value_name = "PORT")]
    cluster_state_ports: Vec<Given<Several<Port>>>,
    /// Interval of the questions for the role [default: 30s]
    #[arg(long, env, hide_short_help = true)]
    cluster_state_poll_interval: Option<Given<Duration>>,
    /// Local gRPC port of the database's lifecycle service; 0: none [default: 18912 with
    /// --cluster-state-ports]
    #[arg(long, env, value_name = "PORT", hide_short_help = true)]
    lifecycle_port: Option<Given<u16>>,
    /// Directory of the reports on moves between stages [default: lifecycle-reports in the directory for
    /// temporary files, with a lifecycle port]
    #[arg(long, env, value_name = "DIR", hide_short_help = true)]
    lifecycle_report_dir: Option<Given<Option<String>>>,
    /// Time for which the lifecycle service is not asked again [default: 10m]
    #[arg(long, env, hide_short_help = true)]
    lifecycle_cache_ttl: Option<Given<Duration>>,
    /// Local gRPC port of the database's schema registry, which liaison nodes have; 0: none [default: 17912
    /// with --cluster-state-ports]
    #[arg(long, env, value_name = "PORT", hide_short_help = true)]
    schema_registry_port: Option<Given<u16>>,
    /// Heartbeat interval, unless the proxy sets it [default: 10s]
    #[arg(long, env = "AGENT_HEARTBEAT_INTERVAL", hide_short_help = true)]
    heartbeat_interval: Option<Given<Duration>>,
    /// First delay before a new connection to the proxy [default: 5s]
    #[arg(long, env, hide_short_help = true)]
    reconnect_interval: Option<Given<Duration>>,
    /// Longest delay, up to which the first one doubles [default: 30s after a refusal of the proxy;
    /// otherwise the first one]
    #[arg(long, env, hide_short_help = true)]
    reconnect_interval_max: Option<Given<Duration>>,
}

/// Not a doc comment, because rustdoc would read the brackets as a link.
const ROLE_HELP: &str =
    "Role of the node, like ROLE_DATA [default: what --cluster-state-ports tell]";

const EXAMPLES: &str =
    "Prints `ready IP:PORT` when it records. SIGTERM and ctrl-c stop it within 5 s.

Examples:
  steadfast fodc agent --poll-metrics-ports 9100 --data ./record
  steadfast fodc agent --metrics-endpoint http://db:2121/metrics --proxy-addr proxy:17912 \\
      --node-role ROLE_DATA --pod-name db-0
  steadfast fodc replay ./record";

/// The port of a database node's metrics: the default endpoint.
const DATABASE_PORT: u16 = 2121;
/// The port of the database's lifecycle service.
const LIFECYCLE_PORT: u16 = 18_912;
/// The port of the database's schema registry.
const SCHEMA_REGISTRY_PORT: u16 = 17_912;
/// The default address of our proxy.
const PROXY: &str = "127.0.0.1:17912";
/// Longest orderly stop. The whole process ends within 5 s.
const STOP: Duration = Duration::from_secs(4);

/// Records until interrupted.
pub(crate) async fn run(
    args: Args,
    mut settings: Settings,
    stop: &CancellationToken,
) -> anyhow::Result<ExitCode> {
    let stop_with_stdin = args.stop_with_stdin;
    args.unused.report();
    let config = config(args, &mut settings);
    // Also if settings are faulty: defaults stand in for them, and one run reports all faults.
    if let Err(faults) = config.check() {
        for fault in faults.iter() {
            settings.unusable(setting_of(fault.field), fault.problem.to_string());
        }
    }
    if let Some(listen) = config.listen {
        let listener = [("prometheus_listen_addr", listen)];
        listen::check(&config.security, &listener, &mut settings);
    }
    settings.finish()?;
    ignore_hangups()?;
    let mut agent = Agent::start(config).await.map_err(advised)?;
    // Only a note: the recorder goes on with what is intact.
    for damage in &agent.opened().damage {
        output::note(&format!(
            "the record is damaged; this part is skipped: {damage}"
        ));
    }
    let listens = agent.addresses().http;
    let listens = listens.map_or_else(|| "-".to_owned(), |address| address.to_string());
    output::line(&format!("{READY}{listens}"))?;
    let status = agent.uplink().map(Uplink::watch);
    let _reports = AbortOnDropHandle::new(tokio::spawn(async move {
        if let Some(status) = status {
            report_registration(status).await;
        }
    }));
    let reason = select! {
        () = stop.cancelled() => "interrupted",
        () = parent_gone(stop_with_stdin) => "the parent process ended",
        () = agent.failed() => bail!("recording stopped; the reason is above"),
    };
    output::note(&format!("stopping: {reason}"));
    agent.stop(STOP).await?;
    Ok(ExitCode::SUCCESS)
}

/// Adds the name of the setting, which the agent's error does not know.
fn advised(error: StartError) -> anyhow::Error {
    let flag = match &error {
        StartError::Listen { .. } => "--prometheus-listen-addr",
        StartError::Record(OpenError::Io { .. } | OpenError::Locked { .. }) => "--data",
        _ => return error.into(),
    };
    output::advised(&error.into(), flag)
}

/// Prints each change of the registration to stderr, and the first failure before it.
async fn report_registration(mut status: watch::Receiver<Status>) {
    let mut before = None;
    loop {
        // Copied, because a status that is borrowed blocks the session that publishes the next one.
        let (state, failing, cause) = {
            let status = status.borrow_and_update();
            (
                status.state,
                status.consecutive_failures > 0,
                status.cause.to_string(),
            )
        };
        if before != Some((state, failing)) {
            match state {
                State::Connected => output::note(&styled(FAINT, "registered with the proxy")),
                State::Connecting | State::Reconnecting if failing => {
                    let text = format!("not registered with the proxy, still trying: {cause}");
                    output::note(&styled(FAINT, &text));
                }
                State::Connecting | State::Reconnecting | State::Disconnected => {}
            }
            before = Some((state, failing));
        }
        if status.changed().await.is_err() {
            return;
        }
    }
}

pub(super) fn config(args: Args, settings: &mut Settings) -> Config {
    let containers = settings.several(args.container_names);
    let containers = containers.filter(|names| !names.is_empty());
    let ports = settings.several(args.poll_metrics_ports);
    let urls = settings.several(args.metrics_endpoint);
    let mut config = Config::new(endpoints(ports, urls, containers.as_deref(), settings));
    settings.set(&mut config.interval, args.poll_metrics_interval);
    settings.set(&mut config.sync_every, args.sync_every);
    config.timeout = settings.get(args.scrape_timeout);
    let Size(page_bytes) = settings.get_or(args.max_page_size, Size(config.page_bytes));
    config.page_bytes = page_bytes;
    let Size(budget) = settings.get_or(args.budget, Size(config.budget));
    config.budget = budget;
    settings.set(&mut config.page.samples, args.max_page_samples);
    config.page_memory = settings.get(args.page_memory).map(|Size(bytes)| bytes);
    settings.set(&mut config.honor_timestamps, args.honor_timestamps);
    let read_bytes = settings.get(args.read_max_size);
    config.read.bytes = read_bytes.map(|Size(bytes)| usize::try_from(bytes).unwrap_or(usize::MAX));
    settings.set(&mut config.read.samples, args.read_max_samples);
    settings.set(&mut config.read.deadline, args.read_timeout);
    settings.set(&mut config.read.concurrent, args.read_max_concurrent);
    // Only flags contradict each other: a flag overrides what the file or a variable says.
    if settings.is_flag("in_memory") && settings.is_flag("data") {
        let what = "cannot be used with --data; give one of the two".to_owned();
        settings.fault("--in-memory", what);
    }
    let folder = settings.get_or(args.data, "steadfast-record".to_owned());
    config.record = if settings.get_or(args.in_memory, false) {
        Storage::Memory
    } else {
        Storage::Directory(PathBuf::from(folder))
    };
    if let Some(Listen(listen)) = settings.get(args.prometheus_listen_addr) {
        config.listen = Some(listen);
    }
    config.security = args.listener.security(settings);
    config.access = policy_file(args.access, settings);
    let mut node = args.node;
    config.node = node.services(settings);
    config.uplink = node.uplink(containers, settings);
    let has_proxy = config.uplink.is_some();
    (config.crashes, config.pressure) = args.sources.sources(has_proxy, settings);
    config
}

/// Returns the ports, then the endpoints, with the names of the containers in that order.
fn endpoints(
    ports: Option<Vec<Port>>,
    urls: Option<Vec<Endpoint>>,
    names: Option<&[String]>,
    settings: &mut Settings,
) -> Vec<Endpoint> {
    let ports = match ports {
        // A URL alone must not bring the default port with it.
        None if urls.is_none() => vec![Port(DATABASE_PORT)],
        ports => ports.unwrap_or_default(),
    };
    let ports = ports.into_iter().map(|Port(port)| Endpoint::local(port));
    let mut endpoints: Vec<_> = ports.chain(urls.unwrap_or_default()).collect();
    Endpoint::distinguish(&mut endpoints);
    let Some(names) = names else {
        return endpoints;
    };
    if names.len() != endpoints.len() {
        settings.fault(
            "--container-names",
            format!(
                "names {} containers, but there are {} ports and endpoints; give as many names",
                names.len(),
                endpoints.len()
            ),
        );
    }
    let pairs = endpoints.into_iter().zip(names);
    pairs
        .map(|(endpoint, name)| endpoint.container_name(name))
        .collect()
}

impl NodeArgs {
    /// Takes the services of the node.
    fn services(&mut self, settings: &mut Settings) -> NodeConfig {
        let mut node = NodeConfig::default();
        let local = |port: u16| SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let ports = settings.several(std::mem::take(&mut self.cluster_state_ports));
        let ports = ports.unwrap_or_default().into_iter();
        node.cluster_state = ports.map(|Port(port)| local(port)).collect();
        settings.set(
            &mut node.cluster_state_interval,
            self.cluster_state_poll_interval.take(),
        );
        settings.set(
            &mut node.lifecycle_cache_ttl,
            self.lifecycle_cache_ttl.take(),
        );
        // An agent beside anything but a database has no such services.
        let is_database = !node.cluster_state.is_empty();
        let mut service = |port: Option<Given<u16>>, default| {
            let port = settings.get(port).or(is_database.then_some(default));
            port.filter(|port| *port != 0)
        };
        let port = service(self.lifecycle_port.take(), LIFECYCLE_PORT);
        let registry = service(self.schema_registry_port.take(), SCHEMA_REGISTRY_PORT);
        node.schema_registry = registry.map(local);
        let reports = settings.get(self.lifecycle_report_dir.take()).flatten();
        node.lifecycle = port.map(local);
        node.lifecycle_reports = port.map(|_| {
            reports.map_or_else(|| env::temp_dir().join("lifecycle-reports"), PathBuf::from)
        });
        node
    }

    /// Returns the connection to the proxy, if the proxy or the node is named.
    fn uplink(
        self,
        containers: Option<Vec<String>>,
        settings: &mut Settings,
    ) -> Option<UplinkConfig> {
        // Manifests of the original write the defaults out: an empty text, and the port 0.
        let role = settings.get(self.node_role).flatten();
        let pod = settings.get(self.pod_name).flatten();
        let ip = settings.get(self.node_ip).flatten();
        let port = settings.get(self.node_port).filter(|port| *port != 0);
        let (labels, proxy) = (
            settings.several(self.node_labels),
            settings.get(self.proxy_addr),
        );
        if ip.is_some() != port.is_some() {
            let missing = if ip.is_some() {
                "--node-port"
            } else {
                "--node-ip"
            };
            settings.fault(missing, "is missing; an address needs both".to_owned());
        }
        let labels = labels.filter(|labels| !labels.is_empty());
        let is_named = role.is_some() || pod.is_some() || ip.is_some() || labels.is_some();
        // Read before the return below, so that an invalid one is a fault without a proxy, too.
        let heartbeat = settings.get_or(self.heartbeat_interval, Duration::from_secs(10));
        let reconnect = settings.get_or(self.reconnect_interval, Duration::from_secs(5));
        let reconnect_max = settings.get(self.reconnect_interval_max);
        let credentials = self.credentials.into_credentials(settings);
        // An agent that nobody named records on its own; dialling a default proxy would only fail.
        if proxy.is_none() && !is_named {
            return None;
        }
        let labels = labels.unwrap_or_default().into_iter();
        let proxy = proxy.unwrap_or_else(|| ServerAddress::local(PROXY));
        let proxy = self
            .tls
            .apply(proxy, b"h2", "proxy_addr", &credentials, settings);
        Some(UplinkConfig {
            proxy: proxy.into(),
            identity: Identity {
                role: role.unwrap_or_else(|| Identity::ROLE_UNKNOWN.to_owned()),
                labels: labels.map(|Label(key, value)| (key, value)).collect(),
                address: ip.map(|Ip(ip)| ip).zip(port),
                pod_name: pod.unwrap_or_else(host_name),
                container_names: containers.unwrap_or_default(),
            },
            heartbeat_interval: heartbeat,
            reconnect_interval: reconnect,
            reconnect_interval_max: reconnect_max,
            credentials,
        })
    }
}

/// Returns the host's name, which in a cluster is the pod's.
fn host_name() -> String {
    rustix::system::uname()
        .nodename()
        .to_string_lossy()
        .into_owned()
}

impl Setting for Endpoint {
    fn from_text(text: &str) -> Result<Self, String> {
        if text.starts_with('{') {
            let table: EndpointTable =
                serde_json::from_str(text).map_err(|fault| fault_of_table(&fault))?;
            return table.endpoint();
        }
        Endpoint::new(text).map_err(|fault| fault.to_string())
    }
}

/// An endpoint as a table of the file of settings.
#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct EndpointTable {
    url: String,
    #[serde(default)]
    labels: BTreeMap<String, String>,
    container: Option<String>,
    protocol: Option<String>,
    ca: Option<PathBuf>,
    cert: Option<PathBuf>,
    key: Option<PathBuf>,
    crl: Option<PathBuf>,
    server_name: Option<String>,
    bearer_file: Option<PathBuf>,
    user: Option<String>,
    password_file: Option<PathBuf>,
    #[serde(default)]
    headers: BTreeMap<String, String>,
}

/// Returns what is wrong with the table of an endpoint. Values are left out: they may be secrets.
fn fault_of_table(fault: &serde_json::Error) -> String {
    let text = fault.to_string();
    let names = ["unknown field", "missing field", "duplicate field"];
    if names.iter().any(|name| text.starts_with(name)) {
        return text;
    }
    "a value of the table has the wrong kind; labels and headers are tables, all others texts"
        .into()
}

impl EndpointTable {
    fn endpoint(self) -> Result<Endpoint, String> {
        let mut endpoint = Endpoint::from_text(&self.url)?;
        for (name, value) in self.labels {
            endpoint = endpoint.label(name, value);
        }
        if let Some(container) = self.container {
            endpoint = endpoint.container_name(container);
        }
        let mut access = Access::default();
        access.tls.ca_file = self.ca;
        access.tls.cert_file = self.cert;
        access.tls.key_file = self.key;
        access.tls.crl_file = self.crl;
        access.tls.server_name = self.server_name;
        access.bearer_file = self.bearer_file;
        access.basic = match (self.user, self.password_file) {
            (Some(user), Some(file)) => Some((user, file)),
            (None, None) => None,
            (Some(_), None) | (None, Some(_)) => {
                return Err("there is one of user and password_file; write both".to_owned());
            }
        };
        access.headers = self.headers.into_iter().collect();
        endpoint = endpoint.access(access);
        match self.protocol.as_deref() {
            None => Ok(endpoint),
            Some("prometheus") => Ok(endpoint.protocol(Protocol::Prometheus)),
            Some("openmetrics") => Ok(endpoint.protocol(Protocol::OpenMetrics)),
            Some(other) => Err(format!(
                "{other:?} is not a protocol; write prometheus or openmetrics"
            )),
        }
    }
}

/// The port of an endpoint.
#[derive(Clone)]
struct Port(u16);

impl Setting for Port {
    fn from_text(text: &str) -> Result<Self, String> {
        match u16::from_text(text)? {
            0 => Err("port 0 is never open; write the port of the endpoint".to_owned()),
            port => Ok(Self(port)),
        }
    }
}

/// The address of the node as it was given.
#[derive(Clone)]
struct Ip(String);

impl Setting for Ip {
    fn from_text(text: &str) -> Result<Self, String> {
        match text.parse::<IpAddr>() {
            Ok(_) => Ok(Self(text.to_owned())),
            Err(_) => Err(format!(
                "{text:?} is not an IP address; write one like 10.1.2.3 or fd00::7"
            )),
        }
    }
}

/// A label of the node.
#[derive(Clone)]
struct Label(String, String);

impl Setting for Label {
    fn from_text(text: &str) -> Result<Self, String> {
        let label = text.split_once('=');
        let label = label.map(|(key, value)| (key.trim(), value.trim()));
        match label {
            Some((key, value)) if !key.is_empty() && !value.is_empty() => {
                Ok(Self(key.to_owned(), value.to_owned()))
            }
            _ => Err(format!(
                "{text:?} is not a label; write KEY=VALUE, neither of them empty"
            )),
        }
    }
}

/// Returns the setting that holds a field of the agent's configuration.
fn setting_of(field: &str) -> &str {
    match field {
        "endpoints" => "metrics_endpoint",
        "interval" => "poll_metrics_interval",
        "timeout" => "scrape_timeout",
        "page_bytes" => "max_page_size",
        "page.samples" => "max_page_samples",
        "read.bytes" => "read_max_size",
        "read.samples" => "read_max_samples",
        "read.deadline" => "read_timeout",
        "read.concurrent" => "read_max_concurrent",
        "uplink.proxy" => "proxy_addr",
        "uplink.heartbeat_interval" => "heartbeat_interval",
        "uplink.reconnect_interval" => "reconnect_interval",
        "uplink.reconnect_interval_max" => "reconnect_interval_max",
        "pressure.trigger_percent" => "pressure_profiler_trigger_percent",
        "pressure.max_artifacts" => "pressure_profiler_max_artifacts",
        "pressure.max_disk_bytes" => "pressure_profiler_max_disk_bytes",
        "node.cluster_state_interval" => "cluster_state_poll_interval",
        "uplink.identity" => "name and address of the node",
        same => same,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings;

    fn parsed(file: &str) -> (Config, Settings) {
        let line = ["steadfast", "fodc", "agent"].map(str::to_owned);
        let (args, mut settings) = settings::parse_line::<crate::Args>(&line, file);
        let crate::Command::Fodc(args) = args.command else {
            panic!("another command")
        };
        let super::super::Command::Agent(args) = args.command else {
            panic!("another command")
        };
        (config(*args, &mut settings), settings)
    }

    #[test]
    fn endpoint_of_the_file_has_labels_and_a_protocol() {
        let (config, settings) = parsed(
            r#"
            [agent]
            metrics_endpoint = [
                "http://db:9100/metrics",
                { url = "http://db:9100/probe?target=a,b", protocol = "prometheus" },
                { url = "http://db:9101/", labels = { job = "db", rack = "r 1" }, container = "x" },
            ]
            "#,
        );
        assert_eq!(settings.finish(), Ok(()));
        let endpoint = |url| Endpoint::new(url).unwrap();
        let expected = [
            endpoint("http://db:9100/metrics").label("metrics_path", "/metrics"),
            endpoint("http://db:9100/probe?target=a,b")
                .label("metrics_path", "/probe?target=a,b")
                .protocol(Protocol::Prometheus),
            endpoint("http://db:9101/")
                .label("job", "db")
                .label("rack", "r 1")
                .container_name("x"),
        ];
        assert_eq!(config.endpoints, expected);
        assert_eq!(config.check(), Ok(()));
        // The longer notation of the same.
        let (config, settings) = parsed(
            "[[agent.metrics_endpoint]]\nurl = \"http://a/\"\nprotocol = \"openmetrics\"\n\
             [[agent.metrics_endpoint]]\nurl = \"http://b/\"\n[agent.metrics_endpoint.labels]\nx = \"y\"",
        );
        assert_eq!(settings.finish(), Ok(()));
        let expected = [
            endpoint("http://a/").protocol(Protocol::OpenMetrics),
            endpoint("http://b/").label("x", "y"),
        ];
        assert_eq!(config.endpoints, expected);
    }

    #[test]
    fn settings_of_the_way_to_the_proxy_are_checked() {
        let (config, settings) = parsed(
            "[agent]\nproxy_addr = \"db-1:1, https://db-2:2\"\ndirect = true\n\
             metrics_endpoint = \"http://a/\"",
        );
        assert_eq!(settings.finish(), Ok(()));
        let dialer = config.uplink.unwrap().proxy.dialer().unwrap();
        let servers = dialer.fixed_servers().iter().map(ToString::to_string);
        assert_eq!(servers.collect::<Vec<_>>(), ["db-1:1", "https://db-2:2"]);
        for (lines, told) in [
            (
                "proxy_addr = \"http://db:1\"\nserver_name = \"db\"",
                "http://db:1 is plain text",
            ),
            (
                "proxy_addr = \"db:1\"\nca = \"/nowhere.pem\"",
                "cannot read /nowhere.pem",
            ),
            (
                "proxy_addr = \"db:1\"\nkey = \"client.key\"",
                "must be given together",
            ),
        ] {
            let (_, settings) = parsed(&format!("[agent]\n{lines}\n"));
            let faults = settings.finish().unwrap_err().to_string();
            assert!(faults.contains(told), "{lines}: {faults}");
        }
    }

    #[test]
    fn faulty_endpoint_of_the_file_names_its_line() {
        for (table, told) in [
            (
                "{ url = \"http://a/\", label = \"x\" }",
                "unknown field `label`",
            ),
            ("{ labels = { a = \"b\" } }", "missing field `url`"),
            ("{ url = \"ftp://a/\" }", "only http:// and https://"),
            (
                "{ url = \"https://a/\", headers = \"x: secret\" }",
                "a value of the table has the wrong kind",
            ),
            ("{ url = \"https://a/\", user = \"me\" }", "write both"),
            (
                "{ url = \"http://a/\", protocol = \"protobuf\" }",
                "write prometheus or openmetrics",
            ),
        ] {
            let (_, settings) = parsed(&format!("[agent]\nmetrics_endpoint = [{table}]\n"));
            let faults = settings.finish().unwrap_err().to_string();
            assert!(
                faults.contains(told) && faults.contains(":2 ("),
                "{table}: {faults}"
            );
            assert!(!faults.contains("secret"), "{faults}");
        }
    }
}
