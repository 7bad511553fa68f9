//! Injects the demo's faults, each at its time and while data is in flight.

use std::{
    collections::BTreeMap,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use steadfast_chaos::{Direction, Fault, FaultGuard, Proxy, Reach};
use tokio::{
    select,
    time::{Instant, MissedTickBehavior, interval, sleep, sleep_until, timeout},
};
use tokio_util::sync::CancellationToken;

use super::{
    display::{Display, Progress},
    plan::Planned,
    report::Injected,
};
use crate::{
    load::{counters::Counters, fault::Kind},
    server_process::ServerProcess,
    units::readable,
};

/// The targets of the faults, and the display that reports them.
pub(crate) struct Injector<'a> {
    pub(crate) server: &'a mut ServerProcess,
    pub(crate) proxy: &'a Proxy,
    pub(crate) counters: Arc<Counters>,
    pub(crate) display: Display,
    /// Sessions of subscribers and publishers together.
    pub(crate) sessions: usize,
    pub(crate) began: Instant,
}

/// Longest wait for data in flight.
const IN_FLIGHT_TIMEOUT: Duration = Duration::from_millis(400);
const DISPLAY_INTERVAL: Duration = Duration::from_millis(100);

impl Injector<'_> {
    /// Injects the faults until `duration` is over or `stop` is cancelled. No fault is active afterwards.
    pub(crate) async fn run(
        mut self,
        faults: &[Planned],
        duration: Duration,
        stop: &CancellationToken,
    ) -> anyhow::Result<BTreeMap<Kind, Injected>> {
        let mut injected: BTreeMap<Kind, Injected> = BTreeMap::new();
        for fault in faults {
            if !self.wait(self.began + fault.at, stop).await? {
                break;
            }
            let held = self.inject(fault).await?;
            let entry = injected.entry(fault.kind).or_default();
            entry.count += 1;
            entry.in_flight += u64::from(held > 0);
        }
        self.wait(self.began + duration, stop).await?;
        self.display.finish();
        Ok(injected)
    }

    /// Updates the display and checks the server until that time. Returns false if stopped before.
    async fn wait(&mut self, until: Instant, stop: &CancellationToken) -> anyhow::Result<bool> {
        let mut ticks = interval(DISPLAY_INTERVAL);
        // A display that is late needs one update, not all that it missed.
        ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
        loop {
            select! {
                () = stop.cancelled() => return Ok(false),
                () = sleep_until(until) => return Ok(true),
                _ = ticks.tick() => {
                    self.server.check()?;
                    let load = |count: &std::sync::atomic::AtomicU64| count.load(Ordering::Relaxed);
                    self.display.show(&Progress {
                        elapsed: self.began.elapsed(),
                        acknowledged: load(&self.counters.acknowledged),
                        delivered: load(&self.counters.delivered),
                        connected: self.counters.connected.load(Ordering::Relaxed),
                        clients: self.sessions,
                    });
                }
            }
        }
    }

    /// Injects one fault and returns the bytes that were in flight at that time.
    async fn inject(&mut self, fault: &Planned) -> anyhow::Result<u64> {
        self.wait_for_data().await;
        self.counters.outages().fault(fault.kind, Instant::now());
        let held = match fault.kind {
            Kind::Reset => self.proxy.reset().held,
            Kind::BlackHole => self.hold(Fault::Blackhole(Direction::Both), fault).await?,
            Kind::BlackHoleToServer => {
                self.hold(Fault::Blackhole(Direction::ToServer), fault)
                    .await?
            }
            Kind::BlackHoleToClient => {
                self.hold(Fault::Blackhole(Direction::ToClient), fault)
                    .await?
            }
            Kind::Freeze => self.hold(Fault::Freeze, fault).await?,
            Kind::Kill => {
                // Before the kill, which ends the connections and discards what they hold.
                let held = self.proxy.stats().held;
                let refusal = self.server.kill_behind(self.proxy).await?;
                self.report(&format!("kill -9 of the server ({held} bytes in flight)"));
                sleep(fault.lasts).await;
                self.server.restart_behind(self.proxy, refusal).await?;
                self.report("the server is back");
                held
            }
        };
        if fault.kind == Kind::Reset {
            self.report(&format!(
                "reset of every connection ({held} bytes in flight)"
            ));
        }
        Ok(held)
    }

    /// Waits until data is in flight, so that the fault can do harm.
    async fn wait_for_data(&self) {
        let busy = async {
            while self.proxy.stats().held == 0 {
                sleep(Duration::from_millis(1)).await;
            }
        };
        // After the timeout the fault is injected anyway, and is not counted as one in flight.
        timeout(IN_FLIGHT_TIMEOUT, busy).await.ok();
    }

    /// Holds a fault on the present connections for its time. Later connections are not affected, as
    /// if one of several network paths were broken.
    async fn hold(&mut self, fault: Fault, planned: &Planned) -> anyhow::Result<u64> {
        let guard: FaultGuard = self.proxy.inject(fault, Reach::Present);
        let held = guard.affected().held;
        let (name, lasts) = (
            planned.kind.as_str().replace('_', " "),
            readable(planned.lasts),
        );
        self.report(&format!("{name} for {lasts} ({held} bytes in flight)"));
        let never = CancellationToken::new();
        self.wait(Instant::now() + planned.lasts, &never).await?;
        drop(guard);
        Ok(held)
    }

    fn report(&self, text: &str) {
        self.display.report(self.began.elapsed(), text);
    }
}
