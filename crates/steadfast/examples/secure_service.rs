//! Follows one's own service over TLS, with a token that is renewed and two servers that stand in for
//! each other. The messages are those of `resume_watch`.
//!
//! ```text
//! cargo run -p steadfast --example secure_service ca.pem token-file host-a:443 host-b:443
//! ```

/// The code that `tonic-prost-build` generates from `resume_watch/meter.proto`.
#[allow(
    missing_docs,
    unreachable_pub,
    unused_qualifications,
    clippy::pedantic,
    reason = "generated"
)]
pub(crate) mod meter {
    include!("resume_watch/generated/meter.v1.rs");
}

use std::{error::Error, path::PathBuf};

use meter::{Reading, WatchRequest};
use steadfast::{
    BearerFile, LinkOptions, Observed, Resume, Resumed,
    dial::Dialer,
    grpc::{Address, Connection, Grpc},
    tls::TlsOptions,
    transport::Call,
};

// begin user code
/// Watches the readings after the one with this sequence number.
pub(crate) struct Watch(u64);

impl Resume for Watch {
    type Request = WatchRequest;
    type Response = Reading;

    fn requests(&mut self) -> Vec<WatchRequest> {
        vec![WatchRequest { after: self.0 }]
    }

    fn observe(&mut self, reading: &Reading) -> Observed {
        self.0 = reading.sequence;
        Observed::New
    }
}

pub(crate) fn watch(
    options: LinkOptions,
    servers: Vec<Address>,
    ca_file: PathBuf,
    token_file: PathBuf,
) -> Result<Resumed<Watch, Connection>, Box<dyn Error>> {
    let mut tls = TlsOptions::default();
    tls.ca_file = Some(ca_file);
    let dialer = Dialer::new(servers).tls(tls.load(&[b"h2"])?);
    let options = options.credentials(BearerFile::new(token_file));
    let call = Call::new("/meter.v1.Meter/Watch");
    Ok(options.resume(call, Grpc::with_dialer(dialer), Watch(0))?)
}
// end user code

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let (Some(ca), Some(token)) = (arguments.next(), arguments.next()) else {
        return Err("give a CA file, a token file and servers".into());
    };
    let servers = arguments.map(|server| server.parse());
    let servers = servers.collect::<Result<Vec<Address>, _>>()?;
    if servers.is_empty() {
        return Err("give at least one server behind the token file".into());
    }
    let mut readings = watch(LinkOptions::new(), servers, ca.into(), token.into())?;
    while let Some(reading) = readings.next().await {
        let reading = reading?;
        println!("{}: {}", reading.sequence, reading.value);
    }
    Ok(())
}
