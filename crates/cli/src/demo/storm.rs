//! The demo's faults: each at its time, at a moment when data is on its way.

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
    figures::Figures,
    plan::{Kind, Planned},
    report::Injected,
    screen::{Moment, Screen},
};
use crate::{server_process::ServerProcess, units::humane};

/// Everything the faults are done to, and where they are told.
pub(crate) struct Storm<'a> {
    pub(crate) server: &'a mut ServerProcess,
    pub(crate) proxy: &'a Proxy,
    pub(crate) figures: Arc<Figures>,
    pub(crate) screen: Screen,
    /// Sessions of subscribers and publishers together.
    pub(crate) sessions: usize,
    pub(crate) began: Instant,
}

/// How long to wait for a moment with data on its way.
const MOMENT_TIMEOUT: Duration = Duration::from_millis(400);
const SHOW_EVERY: Duration = Duration::from_millis(100);

impl Storm<'_> {
    /// Lets the faults come, until the load's time is over or `stop` is cancelled. None is in force
    /// afterwards.
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
            let held = self.strike(fault).await?;
            let entry = injected.entry(fault.kind).or_default();
            entry.count += 1;
            entry.in_flight += u64::from(held > 0);
        }
        self.wait(self.began + duration, stop).await?;
        self.screen.finish();
        Ok(injected)
    }

    /// Shows the figures and looks after the server until that time; `false` when stopped before.
    async fn wait(&mut self, until: Instant, stop: &CancellationToken) -> anyhow::Result<bool> {
        let mut ticks = interval(SHOW_EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
        loop {
            select! {
                () = stop.cancelled() => return Ok(false),
                () = sleep_until(until) => return Ok(true),
                _ = ticks.tick() => {
                    self.server.check()?;
                    let load = |count: &std::sync::atomic::AtomicU64| count.load(Ordering::Relaxed);
                    self.screen.show(&Moment {
                        elapsed: self.began.elapsed(),
                        acknowledged: load(&self.figures.acknowledged),
                        delivered: load(&self.figures.delivered),
                        connected: self.figures.connected.load(Ordering::Relaxed),
                        clients: self.sessions,
                    });
                }
            }
        }
    }

    /// Does one fault and tells of it. Gives the bytes that were on their way when it came.
    async fn strike(&mut self, fault: &Planned) -> anyhow::Result<u64> {
        self.moment().await;
        self.figures.outages().fault(fault.kind, Instant::now());
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
                let held = self.proxy.stats().held;
                self.server.kill().await?;
                self.tell(&format!(
                    "kill -9 of the server ({held} bytes on their way)"
                ));
                sleep(fault.lasts).await;
                self.server.restart().await?;
                self.proxy.set_upstream(self.server.addr());
                self.tell("the server is back");
                held
            }
        };
        if fault.kind == Kind::Reset {
            self.tell(&format!(
                "reset of every connection ({held} bytes on their way)"
            ));
        }
        Ok(held)
    }

    /// Waits for a moment with data on its way, so that the fault means something.
    async fn moment(&self) {
        let busy = async {
            while self.proxy.stats().held == 0 {
                sleep(Duration::from_millis(1)).await;
            }
        };
        // Without such a moment the fault comes all the same, and is not counted as one in flight.
        timeout(MOMENT_TIMEOUT, busy).await.ok();
    }

    /// A fault on the connections there are, for its time. Later connections are not touched, as
    /// with a path through the network that broke while another is whole.
    async fn hold(&mut self, fault: Fault, planned: &Planned) -> anyhow::Result<u64> {
        let guard: FaultGuard = self.proxy.inject(fault, Reach::Present);
        let held = guard.affected().held;
        let (name, lasts) = (
            planned.kind.as_str().replace('_', " "),
            humane(planned.lasts),
        );
        self.tell(&format!("{name} for {lasts} ({held} bytes on their way)"));
        let never = CancellationToken::new();
        self.wait(Instant::now() + planned.lasts, &never).await?;
        drop(guard);
        Ok(held)
    }

    fn tell(&self, text: &str) {
        self.screen.tell(self.began.elapsed(), text);
    }
}
