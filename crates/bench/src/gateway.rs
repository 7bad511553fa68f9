//! What a socket of the gateway costs, beside Centrifugo if its program is given: resident memory and CPU time
//! of idle subscribers, and CPU time of deliveries.

mod load;
mod socket;

use std::{path::Path, time::Duration};

use anyhow::{Result, ensure};
use steadfast_bench::{
    figure::Figures,
    measure::{kernel_socket_bytes, load_average},
};
use tokio::time::{Instant, sleep};

use self::load::{Broker, Sockets};
use crate::target::load_runtime;

/// The goals for an idle subscriber: resident bytes, and CPU time per second in nanoseconds.
const PER_SOCKET: f64 = 12.0 * 1_024.0;
const IDLE_CPU: f64 = 2_000.0;

/// Sockets with a filter of their own. A gateway that may open 20,000 files takes 9,488 of one address.
const IDLE_SOCKETS: usize = 8_000;

/// Sockets that receive every event, and the events of a measurement.
const RECEIVING_SOCKETS: usize = 1_000;
const EVENTS: usize = 200;

/// The time of an idle measurement: several heartbeats.
const IDLE: Duration = Duration::from_secs(60);

pub(crate) fn run(quick: bool, centrifugo: Option<&Path>) -> Result<Figures> {
    load_runtime()?.block_on(async {
        let mut figures = Figures::new();
        let ours = measure(&Broker::gateway()?, quick).await?;
        let theirs = match centrifugo {
            Some(program) => Some(measure(&Broker::centrifugo(program).await?, quick).await?),
            None => None,
        };
        for (index, &(name, unit, value, goal)) in ours.iter().enumerate() {
            if let Some(goal) = goal {
                figures.put_less(format!("gateway_{name}"), unit, value, goal);
            } else {
                figures.put(format!("gateway_{name}"), unit, value);
            }
            if let Some(theirs) = &theirs {
                let name = format!("gateway_{name}_and_centrifugo");
                figures.put_less(name, unit, value, theirs[index].2);
            }
        }
        let per_socket = ours[0].2;
        figures.put(
            "gateway_sockets_per_gib",
            "sockets",
            (1u64 << 30) as f64 / per_socket,
        );
        figures.put("gateway_load_average", "tasks", load_average()?);
        Ok(figures)
    })
}

/// A figure: its name, unit and value, and its goal.
type Row = (&'static str, &'static str, f64, Option<f64>);

async fn measure(broker: &Broker, quick: bool) -> Result<Vec<Row>> {
    let idle_sockets = if quick {
        IDLE_SOCKETS / 10
    } else {
        IDLE_SOCKETS
    };
    // One socket first: a server allocates something once.
    let _first = Sockets::open(broker, "first", 1).await?;
    let (start, kernel_start) = (broker.resident()?, kernel_socket_bytes()?);
    let idle = Sockets::open(broker, "idle", idle_sockets).await?;
    // Buffers of the handshake become small again, and freed memory is returned.
    sleep(Duration::from_secs(12)).await;
    let each = |bytes: f64| bytes / idle_sockets as f64;
    let resident = each(broker.resident()? - start);
    let kernel = each(kernel_socket_bytes()? - kernel_start);
    let before = broker.cpu_seconds()?;
    let time = if quick { IDLE / 6 } else { IDLE };
    sleep(time).await;
    let spent = broker.cpu_seconds()? - before;
    let idle_cpu = each(spent / time.as_secs_f64() * 1e9);
    drop(idle);
    let receiving = Sockets::open(broker, "all", RECEIVING_SOCKETS).await?;
    let delivery = deliver(broker, &receiving).await?;
    Ok(vec![
        (
            "resident_per_idle_socket",
            "bytes",
            resident,
            Some(PER_SOCKET),
        ),
        ("idle_cpu_per_socket", "ns/s", idle_cpu, Some(IDLE_CPU)),
        (
            "kernel_buffers_per_idle_socket_both_ends",
            "bytes",
            kernel,
            None,
        ),
        ("cpu_per_delivery", "ns", delivery, None),
    ])
}

/// Returns the CPU time of all servers per delivery in nanoseconds.
async fn deliver(broker: &Broker, sockets: &Sockets) -> Result<f64> {
    // What is not measured: the first events warm the connections.
    broker.publish("all", 10).await?;
    sockets.wait_for(10 * RECEIVING_SOCKETS).await?;
    let (before, began) = (broker.cpu_seconds()?, Instant::now());
    broker.publish("all", EVENTS).await?;
    sockets.wait_for((10 + EVENTS) * RECEIVING_SOCKETS).await?;
    let spent = broker.cpu_seconds()? - before;
    ensure!(
        began.elapsed() < load::TIMEOUT,
        "the deliveries took too long to be compared"
    );
    Ok(spent / (EVENTS * RECEIVING_SOCKETS) as f64 * 1e9)
}
