//! What the measurements share: how a figure is taken, and the pages that are read.
//!
//! Figures are ratios of two things measured side by side in one run, in CPU time of the thread,
//! since a shared machine is never quiet. What has to hold in every run of the tests is counted
//! instead: allocations and bytes.

pub mod figure;
pub mod measure;
pub mod pages;
