//! The parts that the measurements share: taking figures, and generating pages.
//!
//! A figure is the ratio of two operations that are measured side by side in one run, in CPU time of
//! the thread, because a shared machine is never idle. Promises that every test run checks are counts
//! instead: allocations and bytes.

pub mod child;
pub mod figure;
pub mod measure;
pub mod pages;
pub mod subscriptions;
