//! `steadfast fodc proxy`.

use std::{process::ExitCode, time::Duration};

use steadfast_fodc_proxy::{Config, Proxy, StartError};
use tokio::select;
use tokio_util::sync::CancellationToken;

use crate::{
    config::{Key, Listen, Setting, Settings, Size, keys},
    output,
    own_process::{READY, orphaned},
};

/// Arguments of `fodc proxy`.
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// Where agents connect; port 0 takes a free one [default: 127.0.0.1:17912]
    #[arg(long, value_name = "[IP]:PORT")]
    grpc_listen_addr: Option<String>,
    /// Where to serve /metrics, /metrics-windows, /health, /agents [default: 127.0.0.1:17913]
    #[arg(long, value_name = "[IP]:PORT")]
    http_listen_addr: Option<String>,
    /// Agents that may be online [default: 1000]
    #[arg(long, value_name = "N")]
    max_agents: Option<String>,
    /// How often agents shall show that they live [default: 10s]
    #[arg(long, value_name = "DURATION")]
    heartbeat_interval: Option<String>,
    /// Without a heartbeat for longer, an agent is not online [default: 30s]
    #[arg(long, value_name = "DURATION")]
    agent_heartbeat_timeout: Option<String>,
    /// Without a heartbeat for longer, an agent is forgotten [default: 5m]
    #[arg(long, value_name = "DURATION")]
    agent_cleanup_timeout: Option<String>,
    /// Longest message taken from an agent [default: 32MiB]
    #[arg(long, value_name = "SIZE", hide_short_help = true)]
    grpc_max_msg_size: Option<String>,
    /// How long an agent may take to answer for its latest values [default: 2s]
    #[arg(long, value_name = "DURATION", hide_short_help = true)]
    agent_deadline: Option<String>,
    /// How long agents may take to answer for a window [default: 5s]
    #[arg(long, value_name = "DURATION", hide_short_help = true)]
    window_deadline: Option<String>,
    /// How long the head of an HTTP request may take [default: 10s]
    #[arg(long, value_name = "DURATION", hide_short_help = true)]
    http_read_timeout: Option<String>,
    /// How long the reader of an HTTP response may take nothing [default: 10s]
    #[arg(long, value_name = "DURATION", hide_short_help = true)]
    http_write_timeout: Option<String>,
    /// Stop in order when standard input ends, so that a proxy does not outlive its parent
    #[arg(long, hide = true)]
    stop_with_stdin: bool,
}

const EXAMPLES: &str =
    "Prints `ready GRPC HTTP` with its addresses once it takes connections. SIGTERM and ctrl-c stop it,
also with agents connected.

Examples:
  steadfast fodc proxy
  steadfast fodc proxy --grpc-listen-addr :17912 --http-listen-addr :17913
  curl 'http://127.0.0.1:17913/metrics?role=ROLE_DATA'";

/// An orderly stop takes no longer.
const DRAIN: Duration = Duration::from_secs(3);

/// Serves until interrupted.
pub(crate) async fn run(
    args: Args,
    mut settings: Settings,
    stop: &CancellationToken,
) -> anyhow::Result<ExitCode> {
    let config = config(&args, &mut settings);
    if let Err(invalid) = config.check() {
        for fault in invalid.faults {
            match key_of(fault.field) {
                Some(key) => settings.unusable(key, fault.problem),
                None => settings.fault(fault.field, fault.problem),
            }
        }
    }
    settings.finish()?;
    let proxy = Proxy::start(config).await.map_err(advised)?;
    output::line(&format!(
        "{READY}{} {}",
        proxy.grpc_address(),
        proxy.http_address()
    ))?;
    let reason = select! {
        () = stop.cancelled() => "interrupted",
        () = orphaned(args.stop_with_stdin) => "the parent process ended",
    };
    output::note(&format!("stopping: {reason}"));
    proxy.drain(DRAIN).await;
    Ok(ExitCode::SUCCESS)
}

/// What the setting of this field is called.
fn key_of(field: &str) -> Option<Key> {
    Some(match field {
        "heartbeat_interval" => keys::PROXY_HEARTBEAT,
        "heartbeat_timeout" => keys::HEARTBEAT_TIMEOUT,
        "cleanup_timeout" => keys::CLEANUP_TIMEOUT,
        "agent_deadline" => keys::AGENT_DEADLINE,
        "window_deadline" => keys::WINDOW_DEADLINE,
        "http_read_timeout" => keys::HTTP_READ_TIMEOUT,
        "http_write_timeout" => keys::HTTP_WRITE_TIMEOUT,
        "max_agents" => keys::MAX_AGENTS,
        "max_message_bytes" => keys::MAX_MESSAGE,
        _ => return None,
    })
}

/// What to do, where the error can not know how its setting is called.
fn advised(error: StartError) -> anyhow::Error {
    match &error {
        StartError::Bind { .. } => anyhow::Error::new(error).context(format!(
            "the proxy did not start; {} and {} name other places",
            keys::GRPC_LISTEN.flag,
            keys::HTTP_LISTEN.flag
        )),
        _ => error.into(),
    }
}

fn config(args: &Args, settings: &mut Settings) -> Config {
    fn set<T: Setting>(settings: &mut Settings, key: Key, flag: Option<&str>, put: impl FnOnce(T)) {
        if let Some(value) = settings.get(key, flag) {
            put(value);
        }
    }
    let mut config = Config::default();
    let durations: [(Key, &Option<String>, &mut Duration); 7] = [
        (
            keys::PROXY_HEARTBEAT,
            &args.heartbeat_interval,
            &mut config.heartbeat_interval,
        ),
        (
            keys::HEARTBEAT_TIMEOUT,
            &args.agent_heartbeat_timeout,
            &mut config.heartbeat_timeout,
        ),
        (
            keys::CLEANUP_TIMEOUT,
            &args.agent_cleanup_timeout,
            &mut config.cleanup_timeout,
        ),
        (
            keys::AGENT_DEADLINE,
            &args.agent_deadline,
            &mut config.agent_deadline,
        ),
        (
            keys::WINDOW_DEADLINE,
            &args.window_deadline,
            &mut config.window_deadline,
        ),
        (
            keys::HTTP_READ_TIMEOUT,
            &args.http_read_timeout,
            &mut config.http_read_timeout,
        ),
        (
            keys::HTTP_WRITE_TIMEOUT,
            &args.http_write_timeout,
            &mut config.http_write_timeout,
        ),
    ];
    for (key, flag, field) in durations {
        set(settings, key, flag.as_deref(), |value| *field = value);
    }
    let flag = args.grpc_listen_addr.as_deref();
    set(settings, keys::GRPC_LISTEN, flag, |Listen(listen)| {
        config.grpc_listen = listen;
    });
    let flag = args.http_listen_addr.as_deref();
    set(settings, keys::HTTP_LISTEN, flag, |Listen(listen)| {
        config.http_listen = listen;
    });
    let flag = args.max_agents.as_deref();
    set(settings, keys::MAX_AGENTS, flag, |count: u32| {
        config.max_agents = count as usize;
    });
    let flag = args.grpc_max_msg_size.as_deref();
    set(settings, keys::MAX_MESSAGE, flag, |Size(bytes)| {
        config.max_message_bytes = bytes as usize;
    });
    config
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_fault_that_a_person_can_make_has_the_name_of_its_setting() {
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
        for fault in faults {
            assert!(key_of(fault.field).is_some(), "{fault}");
        }
    }
}
