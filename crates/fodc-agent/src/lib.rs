//! The flight recorder's agent, wire-compatible with FODC of Apache `SkyWalking` `BanyanDB`.

mod agent;
mod clock;
mod node;
pub mod scrape;
mod sources;
pub mod uplink;

pub use steadfast_fodc_model::identity;

pub use self::{
    agent::{
        Addresses, Agent, Config, ConfigFault, ConfigFaults, ConfigProblem, NodeConfig, ReadLimits,
        StartError, StopTimeout, Storage, UplinkConfig,
    },
    clock::{Clock, SystemClock},
    sources::{
        crash::{CrashPattern, CrashPatternFault, CrashSources},
        pressure::PressureProfiler,
    },
};
