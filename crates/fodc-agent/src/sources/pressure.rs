//! Profiles of the process beside the agent, captured when its memory runs short.
//!
//! After each scrape the watcher compares the process's resident memory with its limit. Above the
//! threshold it fetches the profiles and keeps them in a bounded directory, for the proxy to list and
//! to download.

mod capture;
mod response;
mod store;
mod trigger;
mod watcher;

use std::{env, path::PathBuf, time::Duration};

use crate::scrape::Endpoint;

pub(crate) use self::{
    capture::PressureCounters,
    store::ProfileStore,
    watcher::{MemorySource, PressureWatcher, Values},
};

/// The settings of the pressure profiler.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct PressureProfiler {
    /// The directory of the profiles, created with the first capture. Two agents need two.
    /// Default: a folder of the system's temporary directory.
    pub directory: PathBuf,
    /// The share of the limit, in percent from 1 to 100, from which on profiles are captured.
    /// Default 75.
    pub trigger_percent: u32,
    /// The memory limit of the process in bytes, where its page of metrics has no
    /// `banyandb_memory_protector_cgroup_limit_bytes`. Default: none.
    pub limit_bytes: Option<u64>,
    /// The page of the heap profile. Default: port 6060 of this machine, as Go's pprof serves it.
    pub heap: Endpoint,
    /// The page of the goroutine profile, or of what stands for it in other languages.
    pub goroutine: Endpoint,
    /// The least time between two captures. Default 5 min.
    pub cooldown: Duration,
    /// The number of captures that are kept; of more, those with the least memory in use go first.
    /// Default 16.
    pub max_artifacts: usize,
    /// The size of all captures, in bytes. Default 512 MiB.
    pub max_disk_bytes: u64,
    /// The age at which a capture is deleted. Default: none.
    pub max_age: Option<Duration>,
}

impl PressureProfiler {
    /// Creates settings for the profiles that a Go process serves on this local port, with the
    /// defaults of the fields.
    ///
    /// # Panics
    ///
    /// Never.
    #[must_use]
    pub fn new(pprof_port: u16) -> Self {
        let page = |path: &str| {
            let url = format!("http://localhost:{pprof_port}/debug/pprof/{path}");
            Endpoint::new(&url).expect("a constant with a port is a URL")
        };
        Self {
            directory: env::temp_dir().join("steadfast-pressure-profiles"),
            trigger_percent: 75,
            limit_bytes: None,
            heap: page("heap"),
            goroutine: page("goroutine?debug=0"),
            cooldown: Duration::from_secs(5 * 60),
            max_artifacts: 16,
            max_disk_bytes: 512 << 20,
            max_age: None,
        }
    }

    /// Returns the type of each profile as the proxy names it, with its page.
    fn pages(&self) -> [(&'static str, &Endpoint); 2] {
        [("heap", &self.heap), ("goroutine", &self.goroutine)]
    }
}
