//! `steadfast fodc proxy`.

use std::{process::ExitCode, time::Duration};

use steadfast_fodc_proxy::{Config, Proxy, StartError};
use tokio::select;
use tokio_util::sync::CancellationToken;

use crate::{
    child_process::{READY, parent_gone},
    config::policy_file,
    listen::{self, ListenTlsArgs},
    output,
    settings::{Given, Listen, Settings, Size},
    signals::ignore_hangups,
};

/// Arguments of `fodc proxy`.
#[derive(clap::Args)]
#[command(after_help = EXAMPLES, args_override_self = true)]
pub(crate) struct Args {
    /// Address for agents; port 0 takes a free one [default: 127.0.0.1:17912]
    #[arg(long, env)]
    grpc_listen_addr: Option<Given<Listen>>,
    /// Address for /metrics, /metrics-windows, /health, /agents [default: 127.0.0.1:17913]
    #[arg(long, env)]
    http_listen_addr: Option<Given<Listen>>,
    /// Maximum number of online agents [default: 1000]
    #[arg(long, env)]
    max_agents: Option<Given<usize>>,
    /// Heartbeat interval of agents [default: 10s]
    #[arg(long, env = "PROXY_HEARTBEAT_INTERVAL")]
    heartbeat_interval: Option<Given<Duration>>,
    /// Time without a heartbeat after which an agent is offline [default: 30s]
    #[arg(long, env)]
    agent_heartbeat_timeout: Option<Given<Duration>>,
    /// Time without a heartbeat after which an agent is removed [default: 5m]
    #[arg(long, env)]
    agent_cleanup_timeout: Option<Given<Duration>>,
    /// Maximum size of a message from an agent [default: 32MiB]
    #[arg(long, env, hide_short_help = true)]
    grpc_max_msg_size: Option<Given<Size>>,
    /// Timeout of a query for the latest values [default: 2s]
    #[arg(long, env, hide_short_help = true)]
    agent_deadline: Option<Given<Duration>>,
    /// Timeout of a query for a window [default: 5s]
    #[arg(long, env, hide_short_help = true)]
    window_deadline: Option<Given<Duration>>,
    /// Timeout of the head of an HTTP request [default: 10s]
    #[arg(long, env, hide_short_help = true)]
    http_read_timeout: Option<Given<Duration>>,
    /// Longest time without progress in an HTTP response [default: 10s]
    #[arg(long, env, hide_short_help = true)]
    http_write_timeout: Option<Given<Duration>>,
    /// Open connections of agents at one address, or in one /64 network of IPv6 [default: 2048]
    #[arg(long, env, hide_short_help = true)]
    max_client_connections: Option<Given<usize>>,
    /// Open calls of the agents of one principal at most, with a policy; an agent has seven [default: 16 for each
    /// of --max-agents]
    #[arg(long, env, hide_short_help = true)]
    max_principal_calls: Option<Given<usize>>,
    /// Policy file: the agents that may register, and who may read and diagnose; read again when it changes
    /// [default: everybody may do everything]
    #[arg(long, env, value_name = "FILE")]
    access: Option<Given<String>>,
    /// Offer gRPC reflection to everyone who can connect
    #[arg(long, env, hide_short_help = true)]
    reflection: Option<Given<bool>>,
    #[command(flatten)]
    listeners: ListenTlsArgs,
    /// Stop when standard input ends, so that a proxy does not outlive its parent
    #[arg(long, hide = true)]
    stop_with_stdin: bool,
}

const EXAMPLES: &str =
    "Prints `ready GRPC HTTP` with its addresses when it accepts connections. SIGTERM and ctrl-c stop
it, also with agents connected.

Examples:
  steadfast fodc proxy
  steadfast fodc proxy --grpc-listen-addr :17912 --http-listen-addr :17913 \\
      --tls-cert server.pem --tls-key server.key --access access.toml
  curl 'http://127.0.0.1:17913/metrics?role=ROLE_DATA'";

/// Longest orderly stop.
const DRAIN: Duration = Duration::from_secs(3);

/// Serves until interrupted.
pub(crate) async fn run(
    args: Args,
    mut settings: Settings,
    stop: &CancellationToken,
) -> anyhow::Result<ExitCode> {
    let stop_with_stdin = args.stop_with_stdin;
    let config = config(args, &mut settings);
    // Also if settings are faulty: defaults stand in for them, and one run reports all faults.
    if let Err(invalid) = config.check() {
        for fault in invalid.faults {
            settings.unusable(setting_of(fault.field), fault.problem.to_string());
        }
    }
    let listeners = [
        ("grpc_listen_addr", config.grpc_listen),
        ("http_listen_addr", config.http_listen),
    ];
    listen::check(&config.security, &listeners, &mut settings);
    settings.finish()?;
    ignore_hangups()?;
    let proxy = Proxy::start(config).await.map_err(advised)?;
    output::line(&format!(
        "{READY}{} {}",
        proxy.grpc_address(),
        proxy.http_address()
    ))?;
    let reason = select! {
        () = stop.cancelled() => "interrupted",
        () = parent_gone(stop_with_stdin) => "the parent process ended",
    };
    output::note(&format!("stopping: {reason}"));
    proxy.drain(DRAIN).await;
    Ok(ExitCode::SUCCESS)
}

/// Returns the setting that holds a field of the proxy's configuration.
fn setting_of(field: &str) -> &str {
    match field {
        "heartbeat_timeout" => "agent_heartbeat_timeout",
        "cleanup_timeout" => "agent_cleanup_timeout",
        "max_message_bytes" => "grpc_max_msg_size",
        same => same,
    }
}

/// Adds the names of the settings, which the proxy's error does not know.
fn advised(error: StartError) -> anyhow::Error {
    match &error {
        StartError::Bind { .. } => anyhow::Error::new(error).context(
            "the proxy did not start; choose other addresses with --grpc-listen-addr and --http-listen-addr",
        ),
        _ => error.into(),
    }
}

pub(super) fn config(args: Args, settings: &mut Settings) -> Config {
    let mut config = Config::default();
    settings.set(&mut config.heartbeat_interval, args.heartbeat_interval);
    settings.set(&mut config.heartbeat_timeout, args.agent_heartbeat_timeout);
    settings.set(&mut config.cleanup_timeout, args.agent_cleanup_timeout);
    settings.set(&mut config.agent_deadline, args.agent_deadline);
    settings.set(&mut config.window_deadline, args.window_deadline);
    settings.set(&mut config.http_read_timeout, args.http_read_timeout);
    settings.set(&mut config.http_write_timeout, args.http_write_timeout);
    settings.set(&mut config.max_agents, args.max_agents);
    settings.set(
        &mut config.max_client_connections,
        args.max_client_connections,
    );
    config.max_principal_calls = settings.get(args.max_principal_calls);
    settings.set(&mut config.reflection, args.reflection);
    config.access = policy_file(args.access, settings);
    config.security = args.listeners.security(settings);
    if let Some(Listen(listen)) = settings.get(args.grpc_listen_addr) {
        config.grpc_listen = listen;
    }
    if let Some(Listen(listen)) = settings.get(args.http_listen_addr) {
        config.http_listen = listen;
    }
    if let Some(Size(bytes)) = settings.get(args.grpc_max_msg_size) {
        config.max_message_bytes = bytes as usize;
    }
    config
}

#[cfg(test)]
mod tests {
    use clap::Args as _;

    use super::*;

    #[test]
    fn each_configuration_fault_names_its_setting() {
        let mut config = Config::default();
        config.heartbeat_interval = Duration::ZERO;
        config.heartbeat_timeout = Duration::ZERO;
        config.cleanup_timeout = Duration::ZERO;
        config.agent_deadline = Duration::MAX;
        config.window_deadline = Duration::MAX;
        config.http_read_timeout = Duration::ZERO;
        config.http_write_timeout = Duration::ZERO;
        config.max_agents = 0;
        config.max_message_bytes = 0;
        let faults = config.check().unwrap_err().faults;
        assert_eq!(faults.len(), 9, "{faults:#?}");
        let command = Args::augment_args(clap::Command::new("proxy"));
        for fault in faults {
            let id = setting_of(fault.field);
            assert!(
                command.get_arguments().any(|arg| arg.get_id() == id),
                "{fault}"
            );
        }
    }
}
