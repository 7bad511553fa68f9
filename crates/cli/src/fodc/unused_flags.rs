//! Flags of the original agent that have no effect here. They are accepted, so that a manifest of the
//! original starts this agent, and each is named once at the start.

use clap::{Arg, ArgAction, ArgMatches, Command, error::Error, parser::ValueSource};

use crate::output;

/// A flag of the original.
struct Flag {
    name: &'static str,
    /// It needs no value, as a switch of the original. A value stands behind an equals sign only.
    is_switch: bool,
    /// The reason why it has no effect, or what to use instead.
    reason: &'static str,
}

const fn valued(name: &'static str, reason: &'static str) -> Flag {
    Flag {
        name,
        is_switch: false,
        reason,
    }
}

const fn switch(name: &'static str, reason: &'static str) -> Flag {
    Flag {
        name,
        is_switch: true,
        reason,
    }
}

const KERNEL: &str = "kernel metrics are not collected; scrape an exporter that has them";
const PANICS: &str = "this agent writes no crash reports of itself";

/// The flags of all versions that this agent has no use for.
const FLAGS: [Flag; 10] = [
    valued(
        "max-metrics-memory-usage-percentage",
        "the record has a size in bytes; give it with --budget",
    ),
    valued(
        "diagnosis-listen-addr",
        "status and metrics have one address, --prometheus-listen-addr",
    ),
    switch("ktm-enabled", KERNEL),
    valued("ktm-interval", KERNEL),
    switch("panic-diagnostics-enabled", PANICS),
    valued("panic-diagnostics-dir", PANICS),
    valued("panic-diagnostics-max-artifacts", PANICS),
    valued(
        "max-diagnosis-memory-usage-percentage",
        "memory is bounded by --budget and --page-memory",
    ),
    valued(
        "max-fodc-diagnosis-memory-usage-percentage",
        "memory is bounded by --budget and --page-memory",
    ),
    // The name of `--container-names` for some weeks.
    valued("container-name", "give the names with --container-names"),
];

/// The flags without an effect that the command line has.
#[derive(Debug)]
pub(super) struct UnusedFlags(Vec<&'static Flag>);

impl UnusedFlags {
    /// Prints a line for each.
    pub(super) fn report(&self) {
        for flag in &self.0 {
            output::note(&format!(
                "--{} has no effect here: {}",
                flag.name, flag.reason
            ));
        }
    }
}

impl std::fmt::Debug for Flag {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name)
    }
}

impl clap::Args for UnusedFlags {
    fn augment_args(command: Command) -> Command {
        command.args(FLAGS.iter().map(|flag| {
            let arg = Arg::new(flag.name).long(flag.name).hide(true);
            // The original takes the last of several, and some of these are lists.
            let arg = arg.action(ArgAction::Append).allow_hyphen_values(true);
            if flag.is_switch {
                arg.num_args(0..=1).require_equals(true)
            } else {
                arg
            }
        }))
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl clap::FromArgMatches for UnusedFlags {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, Error> {
        let is_given =
            |flag: &&Flag| matches.value_source(flag.name) == Some(ValueSource::CommandLine);
        Ok(Self(FLAGS.iter().filter(is_given).collect()))
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::{Command as Fodc, agent, proxy},
        *,
    };
    use crate::settings::{self, Settings};

    /// Every flag of the original agent with the value that a manifest has, of the first version, of the
    /// releases and of the newest. `None` is a switch without a value.
    const AGENT: [(&str, Option<&str>); 43] = [
        ("poll-metrics-interval", Some("1m30s")),
        ("poll-metrics-interval", Some("1.5h0.5m")),
        ("metrics-endpoint", Some("http://localhost:2121/metrics")),
        ("poll-metrics-ports", Some("2121")),
        ("poll-metrics-ports", Some("2121,2122")),
        ("max-metrics-memory-usage-percentage", Some("10")),
        ("prometheus-listen-addr", Some(":9090")),
        ("diagnosis-listen-addr", Some(":9091")),
        ("proxy-addr", Some("localhost:17900")),
        ("node-ip", Some("")),
        ("node-port", Some("0")),
        ("node-role", Some("")),
        ("node-labels", Some("")),
        ("node-labels", Some("type=hot, tier = 1,")),
        ("pod-name", Some("")),
        ("pod-name", Some("db-0")),
        ("container-names", Some("")),
        ("container-name", Some("db")),
        ("heartbeat-interval", Some("10s")),
        ("reconnect-interval", Some("5s")),
        ("ktm-enabled", None),
        ("ktm-enabled", Some("false")),
        ("ktm-interval", Some("10s")),
        ("cluster-state-ports", Some("17912,17913")),
        ("cluster-state-poll-interval", Some("30s")),
        ("lifecycle-port", Some("18912")),
        ("lifecycle-report-dir", Some("/tmp/lifecycle")),
        ("lifecycle-cache-ttl", Some("10m")),
        ("schema-registry-port", Some("17912")),
        ("crash-source-dir", Some("")),
        ("panic-diagnostics-enabled", None),
        ("panic-diagnostics-enabled", Some("true")),
        ("panic-diagnostics-dir", Some("crash")),
        ("panic-diagnostics-max-artifacts", Some("10")),
        ("max-diagnosis-memory-usage-percentage", Some("50")),
        ("max-fodc-diagnosis-memory-usage-percentage", Some("5")),
        ("pressure-profiler-enabled", Some("false")),
        ("pressure-profiler-trigger-percent", Some("75")),
        ("pressure-profiler-pprof-port", Some("6060")),
        ("pressure-profiler-cooldown", Some("5m")),
        ("pressure-profiler-dir", Some("/tmp/pressure")),
        ("pressure-profiler-max-artifacts", Some("16")),
        ("pressure-profiler-max-disk-bytes", Some("536870912")),
    ];

    const PROXY: [(&str, &str); 11] = [
        ("grpc-listen-addr", ":17912"),
        ("http-listen-addr", ":17913"),
        ("agent-heartbeat-timeout", "30s"),
        ("agent-cleanup-timeout", "5m"),
        ("agent-cleanup-timeout", "1h0m0s"),
        ("max-agents", "1000"),
        ("grpc-max-msg-size", "4194304"),
        ("grpc-max-msg-size", "33554432"),
        ("http-read-timeout", "10s"),
        ("http-write-timeout", "1.5s"),
        ("heartbeat-interval", "10s"),
    ];

    /// Returns the flag in both spellings that the original takes.
    fn spellings(name: &str, value: &str) -> [Vec<String>; 2] {
        [
            vec![format!("--{name}={value}")],
            vec![format!("--{name}"), value.to_owned()],
        ]
    }

    /// Parses the flags of an agent or of a proxy as the program does.
    fn parsed(kind: &str, flags: &[String]) -> (Fodc, Settings) {
        let program = ["steadfast", "fodc", kind].map(str::to_owned);
        let line = [&program[..], flags].concat();
        let (args, settings) = settings::parse_line::<crate::Args>(&line, "");
        let crate::Command::Fodc(args) = args.command else {
            panic!("another command")
        };
        (args.command, settings)
    }

    #[test]
    fn every_flag_of_the_original_starts_the_agent() {
        for (name, value) in AGENT {
            let unused = FLAGS.iter().find(|flag| flag.name == name);
            let is_switch =
                unused.is_some_and(|flag| flag.is_switch) || name == "pressure-profiler-enabled";
            let lines = match value {
                None => vec![vec![format!("--{name}")]],
                // Go takes the value of a switch behind an equals sign only.
                Some(value) if is_switch => spellings(name, value)[..1].to_vec(),
                Some(value) => spellings(name, value).to_vec(),
            };
            for line in lines {
                let (Fodc::Agent(args), mut settings) = parsed("agent", &line) else {
                    panic!("another command")
                };
                let reported: Vec<_> = args.unused.0.iter().map(|flag| flag.name).collect();
                let expected: Vec<_> = unused.iter().map(|flag| flag.name).collect();
                assert_eq!(reported, expected, "{line:?}");
                agent::config(*args, &mut settings);
                assert_eq!(settings.finish(), Ok(()), "{line:?}");
            }
        }
        for flag in &FLAGS {
            assert!(AGENT.iter().any(|(name, _)| *name == flag.name), "{flag:?}");
        }
    }

    #[test]
    fn every_flag_of_the_original_starts_the_proxy() {
        for (name, value) in PROXY {
            for line in spellings(name, value) {
                let (Fodc::Proxy(args), mut settings) = parsed("proxy", &line) else {
                    panic!("another command")
                };
                proxy::config(*args, &mut settings);
                assert_eq!(settings.finish(), Ok(()), "{line:?}");
            }
        }
    }

    #[test]
    fn last_value_of_a_repeated_flag_counts() {
        let line = ["--heartbeat-interval=7s", "--heartbeat-interval", "3s"].map(str::to_owned);
        let (Fodc::Proxy(args), mut settings) = parsed("proxy", &line) else {
            panic!("another command")
        };
        let config = proxy::config(*args, &mut settings);
        assert_eq!(config.heartbeat_interval.as_secs(), 3);
    }
}
