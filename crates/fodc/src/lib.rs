//! The flight recorder's agent and proxy, wire-compatible with FODC of Apache `SkyWalking` `BanyanDB`.
