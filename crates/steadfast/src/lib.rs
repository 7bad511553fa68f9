#![doc = include_str!("../README.md")]

mod backpressure;
mod counters;
mod credentials;
#[cfg(feature = "grpc")]
pub mod dial;
mod driver;
#[cfg(feature = "grpc")]
pub mod grpc;
mod link;
mod metadata;
#[cfg(feature = "metrics")]
mod metrics;
mod options;
mod outage;
mod outbound;
mod regular_file;
mod resume;
mod shared;
#[cfg(feature = "opentelemetry")]
mod spans;
mod state_event;
mod stream;
#[cfg(feature = "testing")]
pub mod testing;
#[cfg(feature = "tls")]
pub mod tls;
pub mod transport;

pub use steadfast_session as session;

pub use crate::{
    backpressure::Backpressure,
    counters::Counters,
    credentials::{
        BasicFile, BearerCommand, BearerFile, CallCredentials, Credentials, CredentialsError,
        RenewalRequests, Renewer, TokenProblem,
    },
    link::{Closed, CommandError, CommandPermit, ConnectError, Link},
    metadata::{InvalidMetadata, Metadata, MetadataProblem},
    options::LinkOptions,
    outage::Outage,
    outbound::Outbound,
    resume::{Observed, Resume, ResumeEvent, Resumed, Resuming},
    shared::{SharedConnection, SharedTransport},
    state_event::StateEvent,
};
