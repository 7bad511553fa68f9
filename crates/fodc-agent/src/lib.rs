//! The flight recorder's agent, wire-compatible with FODC of Apache `SkyWalking` `BanyanDB`.

mod agent;
pub mod scrape;
pub mod uplink;

pub use steadfast_fodc_model::identity;

pub use self::agent::{
    Addresses, Agent, Clock, Config, ConfigFault, ConfigFaults, ReadLimits, RecordPlace,
    StartError, SystemClock, UplinkConfig, page_kind,
};
