//! Types that the flight recorder's agent and proxy share, wire-compatible with FODC of Apache
//! `SkyWalking` `BanyanDB`.
//!
//! - [`identity`]: the identity under which an agent registers, and the labels it adds to samples.
//! - [`kind`]: the kind of a metric on the wire.
//! - [`columns`]: samples of many series with each time encoded once.
//! - [`matching`]: label matchers with the semantics of Prometheus.
//! - [`stream_kind`]: the streams on which the proxy queries an agent.

pub mod columns;
pub mod identity;
pub mod kind;
pub mod matching;
pub mod stream_kind;
