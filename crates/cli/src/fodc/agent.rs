//! `steadfast fodc agent`.

use std::{net::IpAddr, path::PathBuf, process::ExitCode, time::Duration};

use anyhow::bail;
use steadfast::session::{State, Status};
use steadfast_fodc_agent::{
    Agent, Config, ConfigFault, StartError, Storage, UplinkConfig, identity::Identity,
    scrape::Endpoint, uplink::Uplink,
};
use steadfast_recorder::OpenError;
use tokio::{select, sync::watch};
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};

use crate::{
    config::{Listen, Setting, Settings, Several, Size, keys},
    output::{self, FAINT, styled},
    own_process::{READY, orphaned},
    wiring::Written,
};

/// Arguments of `fodc agent`.
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// A page to record; several with commas or repeated
    #[arg(long, value_name = "URL", value_delimiter = ',')]
    metrics_endpoint: Vec<String>,
    /// Ports of this machine whose /metrics to record [default: 2121, unless there is an endpoint]
    #[arg(long, value_name = "PORT", value_delimiter = ',')]
    poll_metrics_ports: Vec<String>,
    /// Names of the containers behind the ports and then the endpoints, as many as there are
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    container_names: Vec<String>,
    /// How often [default: 1s]
    #[arg(long, value_name = "DURATION")]
    poll_metrics_interval: Option<String>,
    /// Directory of the record; made if it is not there, continued if it is
    /// [default: steadfast-record]
    #[arg(long, value_name = "DIR")]
    data: Option<String>,
    /// Keep the record in memory only; it ends with the process
    #[arg(long, conflicts_with = "data")]
    in_memory: bool,
    /// Bytes of the record, in memory with what pages need; the oldest data leaves first
    /// [default: 64MiB]
    #[arg(long, value_name = "SIZE")]
    budget: Option<String>,
    /// Where to serve /metrics, /livez, /readyz and remote read [default: 127.0.0.1:9090]
    #[arg(long, value_name = "[IP]:PORT")]
    prometheus_listen_addr: Option<String>,
    /// The proxy to answer [default: 127.0.0.1:17912 if the node is named, else none]
    #[arg(long, value_name = "HOST:PORT", help_heading = "Proxy")]
    proxy_addr: Option<String>,
    /// Name of the pod or node [default: the host's name]
    #[arg(long, value_name = "NAME", help_heading = "Proxy")]
    pod_name: Option<String>,
    #[arg(long, help = ROLE_HELP, value_name = "ROLE", help_heading = "Proxy")]
    node_role: Option<String>,
    /// Labels of the node
    #[arg(
        long,
        value_name = "KEY=VALUE",
        value_delimiter = ',',
        help_heading = "Proxy"
    )]
    node_labels: Vec<String>,
    /// Where the node listens, for proxies of the first version; with --node-port
    #[arg(
        long,
        value_name = "IP",
        hide_short_help = true,
        help_heading = "Proxy"
    )]
    node_ip: Option<String>,
    /// See --node-ip
    #[arg(
        long,
        value_name = "PORT",
        hide_short_help = true,
        help_heading = "Proxy"
    )]
    node_port: Option<String>,
    /// How often to say that it lives, unless the proxy says how often [default: 10s]
    #[arg(
        long,
        value_name = "DURATION",
        hide_short_help = true,
        help_heading = "Proxy"
    )]
    heartbeat_interval: Option<String>,
    /// First wait before the proxy is tried again; it doubles up to 30s [default: 5s]
    #[arg(
        long,
        value_name = "DURATION",
        hide_short_help = true,
        help_heading = "Proxy"
    )]
    reconnect_interval: Option<String>,
    /// Limit on one reading [default: the interval, at most 5s]
    #[arg(long, value_name = "DURATION", hide_short_help = true)]
    scrape_timeout: Option<String>,
    /// Bytes of a page, packed and unpacked; a longer one is missed [default: 64MiB]
    #[arg(long, value_name = "SIZE", hide_short_help = true)]
    max_page_size: Option<String>,
    /// Samples taken of a page; what is beyond is counted and left out
    /// [default: as many as the memory for pages holds, at most 500000]
    #[arg(long, value_name = "N", hide_short_help = true)]
    max_page_samples: Option<String>,
    /// Memory for the pages of all endpoints, in equal shares; with --in-memory part of the budget
    /// [default: an eighth of the budget; at least 1MiB for each endpoint, at most 64MiB]
    #[arg(long, value_name = "SIZE", hide_short_help = true)]
    page_memory: Option<String>,
    /// Keep the times that stand on lines beside the time of the reading
    #[arg(long, hide_short_help = true)]
    honor_timestamps: bool,
    /// How often the record is made safe against the loss of power [default: 5s]
    #[arg(long, value_name = "DURATION", hide_short_help = true)]
    sync_every: Option<String>,
    /// Stop in order when standard input ends, so that an agent does not outlive its parent
    #[arg(long, hide = true)]
    stop_with_stdin: bool,
}

/// Words of the wire, which are no links.
const ROLE_HELP: &str = "What the node does, like ROLE_DATA [default: ROLE_UNSPECIFIED]";

const EXAMPLES: &str =
    "Prints `ready IP:PORT` once it records. SIGTERM and ctrl-c stop it within 5 s.

Examples:
  steadfast fodc agent --poll-metrics-ports 9100 --data ./record
  steadfast fodc agent --metrics-endpoint http://db:2121/metrics --proxy-addr proxy:17912 \\
      --node-role ROLE_DATA --pod-name db-0
  steadfast fodc replay ./record";

/// Port of a database node's metrics, where nothing else is named.
const DATABASE_PORT: u16 = 2121;
/// Where our proxy listens unless told otherwise.
const PROXY: &str = "127.0.0.1:17912";
/// An orderly stop takes no longer; with what a process needs besides it is gone within 5 s.
const STOP: Duration = Duration::from_secs(4);

/// Records until interrupted.
pub(crate) async fn run(
    args: Args,
    mut settings: Settings,
    stop: &CancellationToken,
) -> anyhow::Result<ExitCode> {
    let config = config(&args, &mut settings);
    if let Err(faults) = config.check() {
        for fault in faults.iter() {
            tell(fault, &mut settings);
        }
    }
    settings.finish()?;
    let mut agent = Agent::start(config).await.map_err(advised)?;
    for damage in &agent.opened().damage {
        output::note(&format!(
            "the record is damaged, and goes on without this: {damage}"
        ));
    }
    let listens = agent.addresses().http;
    let listens = listens.map_or_else(|| "-".to_owned(), |address| address.to_string());
    output::line(&format!("{READY}{listens}"))?;
    let status = agent.uplink().map(Uplink::watch);
    let _told = AbortOnDropHandle::new(tokio::spawn(async move {
        if let Some(status) = status {
            tell_turns(status).await;
        }
    }));
    let reason = select! {
        () = stop.cancelled() => "interrupted",
        () = orphaned(args.stop_with_stdin) => "the parent process ended",
        () = agent.failed() => bail!("recording ended by itself; the reason is above"),
    };
    output::note(&format!("stopping: {reason}"));
    agent.stop(STOP).await?;
    Ok(ExitCode::SUCCESS)
}

/// What to do, where the error can not know how its setting is called.
fn advised(error: StartError) -> anyhow::Error {
    let flag = match &error {
        StartError::Listen { .. } => keys::AGENT_LISTEN.flag,
        StartError::Record(OpenError::Io { .. } | OpenError::Locked { .. }) => keys::RECORD.flag,
        _ => return error.into(),
    };
    let causes = output::causes(&error.into()).join(": ");
    anyhow::anyhow!("{causes}; {flag} names another place")
}

/// Tells on stderr what becomes of the registration: each turn, and the first failure before it.
async fn tell_turns(mut status: watch::Receiver<Status>) {
    let mut before = None;
    loop {
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

fn config(args: &Args, settings: &mut Settings) -> Config {
    let containers = several::<String>(settings, keys::CONTAINERS, &args.container_names);
    let mut config = Config::new(endpoints(args, settings, containers.as_deref()));
    let duration = |settings: &mut Settings, key, flag: &Option<String>, default| {
        settings.get_or(key, flag.as_deref(), default)
    };
    let flag = &args.poll_metrics_interval;
    config.interval = duration(settings, keys::POLL_INTERVAL, flag, config.interval);
    config.sync_every = duration(
        settings,
        keys::SYNC_EVERY,
        &args.sync_every,
        config.sync_every,
    );
    config.timeout = settings.get(keys::SCRAPE_TIMEOUT, args.scrape_timeout.as_deref());
    let size = |settings: &mut Settings, key, flag: &Option<String>, default| {
        settings.get_or(key, flag.as_deref(), Size(default)).0
    };
    config.page_bytes = size(
        settings,
        keys::PAGE_SIZE,
        &args.max_page_size,
        config.page_bytes,
    );
    config.budget = size(settings, keys::BUDGET, &args.budget, config.budget);
    if let Some(samples) = settings.get::<u32>(keys::PAGE_SAMPLES, args.max_page_samples.as_deref())
    {
        config.page.samples = samples as usize;
    }
    let memory = settings.get(keys::PAGE_MEMORY, args.page_memory.as_deref());
    config.page_memory = memory.map(|Size(bytes)| bytes);
    let given = args.honor_timestamps.then_some("true");
    config.honor_timestamps = settings.get_or(keys::HONOR_TIMESTAMPS, given, false);
    let given = args.in_memory.then_some("true");
    config.record = if settings.get_or(keys::IN_MEMORY, given, false) {
        Storage::Memory
    } else {
        let default = "steadfast-record".to_owned();
        let folder = settings.get_or(keys::RECORD, args.data.as_deref(), default);
        Storage::Directory(PathBuf::from(folder))
    };
    let listen = settings.get(keys::AGENT_LISTEN, args.prometheus_listen_addr.as_deref());
    config.listen = listen.map(|Listen(listen)| listen).or(config.listen);
    config.uplink = uplink(args, settings, containers);
    config
}

/// The ports, then the endpoints, with the containers' names in that order.
fn endpoints(args: &Args, settings: &mut Settings, names: Option<&[String]>) -> Vec<Endpoint> {
    let ports = several::<Port>(settings, keys::POLL_PORTS, &args.poll_metrics_ports);
    let urls = several::<Endpoint>(settings, keys::ENDPOINTS, &args.metrics_endpoint);
    let ports = match ports {
        None if urls.is_none() => vec![Port(DATABASE_PORT)],
        ports => ports.unwrap_or_default(),
    };
    let endpoints: Vec<_> = ports
        .into_iter()
        .map(|Port(port)| Endpoint::local(port))
        .chain(urls.unwrap_or_default())
        .collect();
    let Some(names) = names else {
        return endpoints;
    };
    if names.len() != endpoints.len() {
        settings.fault(
            keys::CONTAINERS.flag,
            format!(
                "names {} containers, but there are {} ports and endpoints; give as many names",
                names.len(),
                endpoints.len()
            ),
        );
    }
    endpoints
        .into_iter()
        .zip(names)
        .map(|(endpoint, name)| endpoint.container_name(name))
        .collect()
}

/// The proxy and who the node is, if one of the two is given.
fn uplink(
    args: &Args,
    settings: &mut Settings,
    containers: Option<Vec<String>>,
) -> Option<UplinkConfig> {
    let proxy: Option<Written> = settings.get(keys::PROXY_ADDR, args.proxy_addr.as_deref());
    let role: Option<String> = settings.get(keys::NODE_ROLE, args.node_role.as_deref());
    let pod: Option<String> = settings.get(keys::POD_NAME, args.pod_name.as_deref());
    let labels = several::<Label>(settings, keys::NODE_LABELS, &args.node_labels);
    let ip: Option<Ip> = settings.get(keys::NODE_IP, args.node_ip.as_deref());
    let port: Option<Port> = settings.get(keys::NODE_PORT, args.node_port.as_deref());
    let heartbeat = Duration::from_secs(10);
    let flag = args.heartbeat_interval.as_deref();
    let heartbeat = settings.get_or(keys::AGENT_HEARTBEAT, flag, heartbeat);
    let reconnect = Duration::from_secs(5);
    let flag = args.reconnect_interval.as_deref();
    let reconnect = settings.get_or(keys::RECONNECT, flag, reconnect);
    if ip.is_some() != port.is_some() {
        let flag = if ip.is_some() {
            keys::NODE_PORT.flag
        } else {
            keys::NODE_IP.flag
        };
        settings.fault(flag, "is missing; an address needs both".to_owned());
    }
    let named = role.is_some() || pod.is_some() || ip.is_some() || labels.is_some();
    if proxy.is_none() && !named {
        return None;
    }
    let proxy = proxy.map_or_else(|| PROXY.to_owned(), |Written(proxy)| proxy);
    Some(UplinkConfig {
        proxy,
        identity: Identity {
            role: role.unwrap_or_else(|| Identity::ROLE_UNKNOWN.to_owned()),
            labels: labels
                .unwrap_or_default()
                .into_iter()
                .map(|Label(key, value)| (key, value))
                .collect(),
            address: ip.map(|Ip(ip)| ip).zip(port.map(|Port(port)| port)),
            pod_name: pod.unwrap_or_else(host_name),
            container_names: containers.unwrap_or_default(),
        },
        heartbeat_interval: heartbeat,
        reconnect_interval: reconnect,
    })
}

/// All values of a setting; a flag that is repeated counts as one with commas.
fn several<T: Setting>(
    settings: &mut Settings,
    key: crate::config::Key,
    flags: &[String],
) -> Option<Vec<T>> {
    let joined = (!flags.is_empty()).then(|| flags.join(","));
    settings
        .get(key, joined.as_deref())
        .map(|Several(values)| values)
}

/// What a pod's name is by default in a cluster: the host's.
fn host_name() -> String {
    rustix::system::uname()
        .nodename()
        .to_string_lossy()
        .into_owned()
}

impl Setting for Endpoint {
    fn from_text(text: &str) -> Result<Self, String> {
        Endpoint::new(text).map_err(|fault| fault.to_string())
    }
}

/// A port that somebody listens on.
struct Port(u16);

impl Setting for Port {
    fn from_text(text: &str) -> Result<Self, String> {
        match u16::from_text(text)? {
            0 => Err("nobody listens on port 0; write the port of the endpoint".to_owned()),
            port => Ok(Self(port)),
        }
    }
}

/// An address of the node, as it was written.
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

/// Tells a fault of the agent's configuration where its setting stands.
fn tell(fault: &ConfigFault, settings: &mut Settings) {
    let key = match fault.field {
        "endpoints" => keys::ENDPOINTS,
        "interval" => keys::POLL_INTERVAL,
        "timeout" => keys::SCRAPE_TIMEOUT,
        "page_bytes" => keys::PAGE_SIZE,
        "page.samples" => keys::PAGE_SAMPLES,
        "page_memory" => keys::PAGE_MEMORY,
        "budget" => keys::BUDGET,
        "sync_every" => keys::SYNC_EVERY,
        "uplink.proxy" => keys::PROXY_ADDR,
        "uplink.heartbeat_interval" => keys::AGENT_HEARTBEAT,
        "uplink.reconnect_interval" => keys::RECONNECT,
        other => return settings.fault(place_of(other), fault.problem.to_string()),
    };
    settings.unusable(key, fault.problem.to_string());
}

/// What several settings are together.
fn place_of(field: &'static str) -> &'static str {
    match field {
        "uplink.identity" => "name and address of the node",
        other => other,
    }
}
