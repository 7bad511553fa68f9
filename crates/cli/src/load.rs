//! Load on a server, and the verdict on what arrived: shared by the demo and the tour.

pub(crate) mod author;
pub(crate) mod condition;
pub(crate) mod counters;
pub(crate) mod fault;
pub(crate) mod judge;
pub(crate) mod outages;
pub(crate) mod publishers;
mod reference;
pub(crate) mod start;
pub(crate) mod subscribers;
