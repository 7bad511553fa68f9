//! Settings of what the agent collects beside metrics.

use std::{path::PathBuf, time::Duration};

use steadfast_fodc_agent::{CrashPattern, CrashSources, PressureProfiler, scrape::Endpoint};

use super::Port;
use crate::settings::{Given, Setting, Settings, Several, Size};

/// Crashes and profiles of the process that the agent watches.
#[derive(clap::Args)]
#[command(next_help_heading = "Crashes and profiles")]
pub(super) struct SourceArgs {
    /// Directory in which each folder with a panic.json is a crash
    #[arg(long, env, value_name = "DIR")]
    crash_source_dir: Option<Given<Option<String>>>,
    /// Files that are a crash each, like /var/crash/core.*; comma-separated or repeated
    #[arg(long, env, value_name = "PATTERN")]
    crash_files: Vec<Given<Several<CrashPattern>>>,
    /// Capture profiles when memory is short [default: true with a proxy]
    #[arg(long, env)]
    pressure_profiler_enabled: Option<Given<bool>>,
    /// Share of the memory limit, in percent, from which on profiles are captured [default: 75]
    #[arg(long, env, hide_short_help = true)]
    pressure_profiler_trigger_percent: Option<Given<u32>>,
    /// Memory limit of a process whose page does not show it [default: none]
    #[arg(long, env, hide_short_help = true)]
    pressure_profiler_memory_limit: Option<Given<Size>>,
    /// Local port on which the process serves Go's profiles [default: 6060]
    #[arg(long, env, value_name = "PORT", hide_short_help = true)]
    pressure_profiler_pprof_port: Option<Given<Port>>,
    /// URL of the heap profile, for other processes [default: that of the port]
    #[arg(long, env, value_name = "URL", hide_short_help = true)]
    pressure_profiler_heap_url: Option<Given<Endpoint>>,
    /// URL of the goroutine profile, or of what stands for it [default: that of the port]
    #[arg(long, env, value_name = "URL", hide_short_help = true)]
    pressure_profiler_goroutine_url: Option<Given<Endpoint>>,
    /// Shortest time between two captures [default: 5m]
    #[arg(long, env, hide_short_help = true)]
    pressure_profiler_cooldown: Option<Given<Duration>>,
    /// Directory of the captures; each agent needs its own
    /// [default: steadfast-pressure-profiles in the temporary directory]
    #[arg(long, env, value_name = "DIR", hide_short_help = true)]
    pressure_profiler_dir: Option<Given<String>>,
    /// Number of captures; those with the least memory in use are evicted first [default: 16]
    #[arg(long, env, hide_short_help = true)]
    pressure_profiler_max_artifacts: Option<Given<usize>>,
    /// Size of all captures together [default: 512MiB]
    #[arg(long, env, hide_short_help = true)]
    pressure_profiler_max_disk_bytes: Option<Given<Size>>,
    /// Age at which a capture is deleted [default: none]
    #[arg(long, env, hide_short_help = true)]
    pressure_profiler_max_age: Option<Given<Duration>>,
}

impl SourceArgs {
    /// Returns the sources of crashes, and the pressure profiler unless it is off.
    pub(super) fn sources(
        self,
        has_proxy: bool,
        settings: &mut Settings,
    ) -> (CrashSources, Option<PressureProfiler>) {
        let mut crashes = CrashSources::default();
        // Manifests of the original write the default out: an empty text.
        crashes.directory = settings
            .get(self.crash_source_dir)
            .flatten()
            .map(PathBuf::from);
        crashes.files = settings.several(self.crash_files).unwrap_or_default();

        let Port(port) = settings.get_or(self.pressure_profiler_pprof_port, Port(PPROF_PORT));
        let mut pressure = PressureProfiler::new(port);
        settings.set(&mut pressure.heap, self.pressure_profiler_heap_url);
        settings.set(
            &mut pressure.goroutine,
            self.pressure_profiler_goroutine_url,
        );
        settings.set(&mut pressure.cooldown, self.pressure_profiler_cooldown);
        let percent = self.pressure_profiler_trigger_percent;
        settings.set(&mut pressure.trigger_percent, percent);
        let artifacts = self.pressure_profiler_max_artifacts;
        settings.set(&mut pressure.max_artifacts, artifacts);
        if let Some(directory) = settings.get(self.pressure_profiler_dir) {
            pressure.directory = directory.into();
        }
        if let Some(Size(bytes)) = settings.get(self.pressure_profiler_max_disk_bytes) {
            pressure.max_disk_bytes = bytes;
        }
        let limit = settings.get(self.pressure_profiler_memory_limit);
        pressure.limit_bytes = limit.map(|Size(bytes)| bytes);
        pressure.max_age = settings.get(self.pressure_profiler_max_age);
        // Without a proxy nobody could fetch the profiles, unless somebody looks into the directory.
        let enabled = settings.get_or(self.pressure_profiler_enabled, has_proxy);
        (crashes, enabled.then_some(pressure))
    }
}

/// The port of Go's profiles, as a database node serves them.
const PPROF_PORT: u16 = 6060;

impl Setting for CrashPattern {
    fn from_text(text: &str) -> Result<Self, String> {
        CrashPattern::new(text).map_err(|fault| fault.to_string())
    }
}
