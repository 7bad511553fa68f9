//! The promises of the state machine, by concern.

mod bench;
mod counting;
mod generations;
mod herd;
mod liveness;
mod model;
mod opening;
mod requests;
mod status;
mod stopping;
mod storm;
mod table;
mod waiting;
