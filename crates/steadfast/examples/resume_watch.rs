//! Keeps the stream of an ordinary service up: its server is killed and restarted twice, and no
//! reading is lost or counted twice.
//!
//! ```text
//! cargo run -p steadfast --example resume_watch
//! ```

/// The code that `tonic-prost-build` generates from `meter.proto`.
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
#[path = "resume_watch/service.rs"]
pub(crate) mod service;

use std::{error::Error, time::Duration};

use meter::{Reading, WatchRequest, meter_server::SERVICE_NAME};
use service::{Server, Store, value};
use steadfast::{
    LinkOptions, Observed, Outage, Resume,
    grpc::{Address, Grpc},
    session::Config,
    transport::Call,
};
use tokio::time::sleep;

// begin user code
/// Watches the readings after the one with this sequence number.
struct Watch(u64);

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

/// Passes readings to `each` until it returns false.
pub(crate) async fn follow(
    server: Address,
    config: Config,
    mut each: impl FnMut(Reading) -> bool,
) -> Result<Vec<Outage>, Box<dyn Error>> {
    let call = Call::new(format!("/{SERVICE_NAME}/Watch"));
    let options = LinkOptions::from(config);
    let mut readings = options.resume(call, Grpc::new(server), Watch(0))?;
    while let Some(reading) = readings.next().await {
        if !each(reading?) {
            break;
        }
    }
    Ok(readings.link().outages())
}
// end user code

/// The number of readings to follow.
const READINGS: u64 = 200;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let store = Store::growing(Duration::from_millis(25));
    let server = Server::start(([127, 0, 0, 1], 0).into(), store.clone()).await?;
    let address = server.addr.into();

    let mut total = 0;
    let following = follow(address, Config::default(), |reading| {
        total += reading.value;
        if reading.sequence % 20 == 0 {
            println!("{:>4} readings, total {total:>6}", reading.sequence);
        }
        reading.sequence < READINGS
    });
    let (outages, server) = tokio::join!(following, kill_twice(server, store));
    server?.kill().await;
    for outage in outages? {
        println!(
            "{}: detected after {:.1?}, reconnected after {:.1?} and {} attempts",
            outage.reason, outage.detection, outage.redial, outage.attempts
        );
    }
    let expected: u64 = (1..=READINGS).map(value).sum();
    println!("total {total}, expected {expected}");
    if total == expected {
        Ok(())
    } else {
        Err("readings were lost or counted twice".into())
    }
}

async fn kill_twice(mut server: Server, store: Store) -> std::io::Result<Server> {
    for _ in 0..2 {
        sleep(Duration::from_secs(1)).await;
        let addr = server.addr;
        server.kill().await;
        println!("     server killed after reading {}", store.newest());
        sleep(Duration::from_millis(500)).await;
        server = Server::start(addr, store.clone()).await?;
        println!("     server restarted at reading {}", store.newest());
    }
    Ok(server)
}
