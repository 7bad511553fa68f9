#![doc = include_str!("../README.md")]

pub mod limits;
pub mod machine;
pub mod rights;
pub mod subscription;
pub mod upstream;
