//! Reads and writes the text formats in which metrics are exposed.
//!
//! [`Parser`] reads the Prometheus text format (0.0.4, and 1.0.0 with names in quotes) and
//! `OpenMetrics` text 1.0. A page arrives in pieces of any size and is never held whole; what is
//! held is bounded by [`Limits`]. A line that cannot be read costs that line: it is counted,
//! shown to the [`Sink`], and the next one is read.
//!
//! An exporter repeats nearly the same lines every second. A parser is therefore kept per endpoint
//! and remembers the lines of the last finished scrape without their values, each with the id that
//! the sink gave its series; a line that begins with the same bytes costs one comparison and the
//! reading of its value. Whatever differs takes the full way, so a parser that remembers reports
//! exactly what a fresh one would.
//!
//! [`Writer`] writes the Prometheus text format.
//!
//! This crate never reads a clock or a socket, never starts a thread and draws no randomness.
//! Equal pages give equal calls, however they are cut.

mod excerpt;
mod families;
mod fault;
mod format;
mod grammar;
mod index;
mod layout;
mod limits;
mod line_cache;
mod metadata;
mod number;
mod parser;
mod series;
mod shape;
mod sink;
mod summary;
mod writer;

pub use crate::{
    fault::{LineFault, Reason, Rejections},
    format::{Format, Kind},
    limits::Limits,
    parser::Parser,
    sink::{FamilyRef, Labels, Refused, SeriesRef, Sink},
    summary::{Refusals, Summary},
    writer::{Numbers, Writer},
};
