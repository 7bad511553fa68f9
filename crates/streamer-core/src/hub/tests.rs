//! The hub, driven by scripts. Time, the log and the peers are plain values here.

mod audit;
mod catching_up;
mod ends;
mod flow;
mod model;
mod plain;
mod positions;
mod scale;
mod server;
mod sessions;
