#![doc = include_str!("../README.md")]

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
mod sink;
mod span;
mod summary;
mod writer;

pub use crate::{
    fault::{LineFault, Reason, Rejections},
    format::{Format, Kind},
    limits::Limits,
    parser::Parser,
    sink::{FamilyRef, Labels, Refused, SeriesRef, Sink},
    summary::{Refusals, Summary},
    writer::{Numbers, Writer, quote},
};
