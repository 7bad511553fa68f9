//! The flight recorder's agent and proxy, wire-compatible with FODC of Apache `SkyWalking` `BanyanDB`.

pub mod agent;
pub mod columns;
mod http1;
pub mod identity;
mod matching;
pub mod proxy;
pub mod scrape;
mod stall;
pub mod uplink;
