//! Keeps a list of objects as clients of Kubernetes do: a watch continues after the last version seen,
//! and lists again when the server does not keep that version any more.
//!
//! ```text
//! cargo run -p steadfast --example pods_watch 127.0.0.1:9000
//! ```

/// The code that `tonic-prost-build` generates from `watches/pods.proto`.
#[allow(
    missing_docs,
    unreachable_pub,
    unused_qualifications,
    clippy::pedantic,
    reason = "generated"
)]
pub(crate) mod pods {
    include!("watches/generated/pods.v1.rs");
}

use std::error::Error;

use pods::{WatchEvent, WatchRequest, watch_event::Type};
use steadfast::{
    LinkOptions, Observed, Resume, Resumed,
    grpc::{Address, Connection, Grpc},
    session::ConfigFaults,
    transport::Call,
};

// begin user code
/// The version that was seen with everything before it; 0 asks for the list.
#[derive(Default)]
pub(crate) struct Since {
    version: u64,
    listed: bool,
}

impl Resume for Since {
    type Request = WatchRequest;
    type Response = WatchEvent;

    fn requests(&mut self) -> Vec<WatchRequest> {
        let resource_version = self.version;
        vec![WatchRequest { resource_version }]
    }

    fn observe(&mut self, event: &WatchEvent) -> Observed {
        match event.r#type() {
            Type::Gone => {
                *self = Self::default();
                return Observed::Restart;
            }
            Type::Reset => self.listed = false,
            Type::Bookmark => self.listed = true,
            Type::Added | Type::Modified | Type::Deleted => {}
        }
        // A version of the middle of a list says nothing about the rest of it.
        if self.listed {
            self.version = event.resource_version;
        }
        Observed::New
    }
}
// end user code

/// Watches the pods of a server.
pub(crate) fn watch(
    options: LinkOptions,
    server: Address,
) -> Result<Resumed<Since, Connection>, ConfigFaults> {
    let call = Call::new("/pods.v1.Pods/Watch").with_single_request();
    options.resume(call, Grpc::new(server), Since::default())
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let server = std::env::args().nth(1);
    let server = server.as_deref().unwrap_or("127.0.0.1:9000").parse()?;
    let mut events = watch(LinkOptions::new(), server)?;
    while let Some(event) = events.next().await {
        let event = event?;
        println!(
            "{} {:?} {}",
            event.resource_version,
            event.r#type(),
            event.name
        );
    }
    Ok(())
}
