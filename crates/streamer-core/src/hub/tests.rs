//! Tests of the hub. Time, the log and the peers are values of the test.

mod access;
mod access_property;
mod audit;
mod catching_up;
mod ends;
mod flow;
mod leaving;
mod model;
mod overload;
mod plain;
mod positions;
mod scale;
mod server;
mod sessions;
mod slices;
mod snapshot_messages;
mod snapshots;
mod survey;
