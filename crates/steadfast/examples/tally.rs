//! Somebody else's bidi stream, made to stay up: its server is killed and comes back twice, and the
//! total is right all the same.
//!
//! ```text
//! cargo run -p steadfast --example tally
//! ```

#[path = "tally/service.rs"]
pub(crate) mod service;

use std::{error::Error, time::Duration};

use service::{Event, Log, Server, WatchRequest, amount};
use steadfast::{
    Builder, Outage, Resume,
    grpc::{Address, Grpc},
    session::Config,
    transport::Call,
};
use tokio::time::sleep;

// begin user code
/// The number of the last event that was seen.
struct After(u64);

impl Resume for After {
    type Request = WatchRequest;
    type Response = Event;

    fn requests(&mut self) -> Vec<WatchRequest> {
        vec![WatchRequest { after: self.0 }]
    }

    fn observe(&mut self, event: &Event) -> bool {
        self.0 = event.number;
        true
    }
}

/// Follows the events until `each` has had enough.
pub(crate) async fn follow(
    server: Address,
    config: Config,
    mut each: impl FnMut(Event) -> bool,
) -> Result<Vec<Outage>, Box<dyn Error>> {
    let builder = Builder::new(Call::new("/tally.v1.Tally/Watch")).config(config);
    let mut events = builder.resume(Grpc::new(server), After(0))?;
    while let Some(event) = events.next().await {
        if !each(event?) {
            break;
        }
    }
    Ok(events.link().outages())
}
// end user code

/// Events to follow.
const EVENTS: u64 = 200;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let log = Log::growing(Duration::from_millis(25));
    let server = Server::start(([127, 0, 0, 1], 0).into(), log.clone()).await?;
    let address = server.addr.into();

    let mut total = 0;
    let following = follow(address, Config::default(), |event| {
        total += event.amount;
        if event.number % 20 == 0 {
            println!("{:>4} events, {total:>6} in total", event.number);
        }
        event.number < EVENTS
    });
    let (outages, server) = tokio::join!(following, kill_twice(server, log));
    server?.kill().await;
    for outage in outages? {
        println!(
            "lost ({}): {:.1?} until it was seen, {:.1?} until the next stream, {} attempts",
            outage.reason, outage.detection, outage.redial, outage.attempts
        );
    }
    let expected: u64 = (1..=EVENTS).map(amount).sum();
    println!("{total} in total, {expected} is right");
    if total == expected {
        Ok(())
    } else {
        Err("events were lost, or came twice".into())
    }
}

async fn kill_twice(mut server: Server, log: Log) -> std::io::Result<Server> {
    for _ in 0..2 {
        sleep(Duration::from_secs(1)).await;
        let addr = server.addr;
        server.kill().await;
        println!("     the server is killed after event {}", log.newest());
        sleep(Duration::from_millis(500)).await;
        server = Server::start(addr, log.clone()).await?;
        println!("     the server is back at event {}", log.newest());
    }
    Ok(server)
}
