//! The binary as its users meet it: processes, sockets, signals.
#![expect(
    clippy::unwrap_used,
    reason = "a test stops at the first thing that is not as it should be"
)]

mod access;
mod demo;
mod fodc;
mod fodc_frozen;
mod fodc_streams;
mod frames;
mod gateway;
#[cfg(target_os = "linux")]
mod limits;
mod log_clock;
mod log_faults;
#[cfg(target_os = "linux")]
mod log_outside;
#[cfg(target_os = "linux")]
mod memory;
mod operations;
mod process;
mod publish;
mod puller;
mod replay_damage;
mod settings;
mod streamer;
mod tls;
mod top;
mod unfinished;

// A database node with scripted services, which the agent's own tests have as well.
#[path = "../../../fodc-agent/tests/agent_support/node.rs"]
#[allow(dead_code, reason = "each test uses its part")]
mod node;
#[path = "../../../fodc-agent/tests/agent_support/schema.rs"]
#[allow(dead_code, reason = "each test uses its part")]
mod schema;
