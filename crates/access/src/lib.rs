#![doc = include_str!("../README.md")]

mod access;
mod certificate;
mod fault;
mod files;
mod identity;
mod jwt;
mod node;
mod pattern;
mod policy;
mod reader;
mod template;
mod token;

#[cfg(test)]
mod testing;

pub use self::{
    access::{Access, Presented, Refused},
    certificate::{Certificate, CertificateFault, CertificateName},
    fault::{Fault, FaultKind, Faults},
    files::Source,
    identity::{Identity, Method},
    jwt::{Algorithm, JwtFault, KeyFault},
    node::Node,
    pattern::{Pattern, PatternFault},
    policy::{Action, Decision},
    template::{Condition, FilterTemplate, TemplateFault},
    token::NewToken,
};
