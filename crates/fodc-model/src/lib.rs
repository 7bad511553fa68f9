//! What the flight recorder's agent and proxy share, wire-compatible with FODC of Apache `SkyWalking` `BanyanDB`.

pub mod columns;
pub mod identity;
pub mod matching;
