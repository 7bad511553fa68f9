//! Everything that can happen to a proxy, again and again, on real sockets: nothing is registered
//! twice, nothing dials more than it says, nothing is left.
//!
//! ```text
//! cargo test --release -p steadfast-fodc-agent --test uplink_soak -- --ignored --nocapture
//! STEADFAST_SOAK_SECONDS=3600 cargo test … the same, for an hour
//! ```
#![expect(
    clippy::unwrap_used,
    reason = "a test stops at the first thing that is not as it should be"
)]

mod uplink_support;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use steadfast::session::{Recovery, State};
use steadfast_chaos::{Fault, Reach};
use steadfast_fodc_agent::uplink::Uplink;
use tokio::{runtime::Runtime, time::sleep};
use tonic::Code;
use uplink_support::{
    agent, connected, latest,
    record::Regular,
    server::{Behaviour, Dialect, Proxy},
    until, within,
};

/// The agent's times here: thirtieths of the real ones, so that an hour of trouble is two minutes.
const MAX_BACKOFF: Duration = Duration::from_secs(1);
const OPEN_TIMEOUT: Duration = Duration::from_millis(400);
const ACTIVITY_TIMEOUT: Duration = Duration::from_secs(3);

/// What a busy machine may add to a recovery.
const SLACK: Duration = Duration::from_secs(10);

/// One thing that happens to the proxy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Trouble {
    /// Killed, away for a while, there again.
    Killed,
    /// Every connection is reset, and new ones are refused for a while.
    Refused,
    /// Nothing passes for a moment; too short to be taken for dead.
    FrozenShortly,
    /// Nothing passes for longer than the agent believes in it.
    FrozenLong,
    /// There again, but it accepts and never responses.
    Mute,
    /// There again, with a registry that is full.
    Full,
    /// Its registry forgets the agent.
    Evicted,
    /// There again, without the metrics stream.
    WithoutMetrics,
    /// The metrics stream alone ends.
    MetricsEnded,
}

const TROUBLES: [Trouble; 9] = [
    Trouble::Killed,
    Trouble::Refused,
    Trouble::FrozenShortly,
    Trouble::FrozenLong,
    Trouble::Mute,
    Trouble::Full,
    Trouble::Evicted,
    Trouble::WithoutMetrics,
    Trouble::MetricsEnded,
];

struct World {
    proxy: Option<Proxy>,
    between: steadfast_chaos::Proxy,
    uplink: Uplink,
    /// Registrations there must have been.
    expected: u64,
    longest: Duration,
    /// Registration requests whose response nobody waited for any more.
    may_be_ghosts: bool,
}

fn normal() -> Behaviour {
    Behaviour::of(Dialect::Newest)
}

fn uplink(address: &str) -> Uplink {
    agent(address, Regular::of(20))
        .reconnect_interval(Duration::from_millis(160))
        .heartbeat_interval(Duration::from_millis(300))
        .activity_timeout(ACTIVITY_TIMEOUT)
        .tune(|mut config| {
            config.max_backoff = MAX_BACKOFF;
            config.open_timeout = OPEN_TIMEOUT;
            config.greeting_timeout = OPEN_TIMEOUT;
            config.probe_timeout = Duration::from_millis(500);
            config.stable_after = Duration::from_millis(500);
            config.recovery = Recovery::Spread(Duration::from_millis(100));
            config
        })
        .build()
        .unwrap()
}

impl World {
    fn proxy(&self) -> &Proxy {
        self.proxy
            .as_ref()
            .expect("there is always one between troubles")
    }

    fn take_proxy(&mut self) -> Proxy {
        let proxy = self.proxy.take();
        proxy.expect("there is always one between troubles")
    }

    fn restart(&mut self, behaviour: Behaviour) {
        let proxy = self.take_proxy().restart(behaviour);
        self.proxy = Some(proxy);
    }

    /// Lets it happen and be over; the agent has then to come back.
    async fn suffer(&mut self, trouble: Trouble, span: Duration) {
        match trouble {
            Trouble::Killed => {
                let proxy = self.take_proxy();
                let (addr, log) = (proxy.addr, Arc::clone(&proxy.log));
                drop(proxy);
                sleep(span).await;
                log.lock().unwrap().online.clear();
                self.proxy = Some(Proxy::start_at(addr, normal(), log));
                self.expected += 1;
            }
            Trouble::Refused => {
                let refused = self.between.inject(Fault::Refuse, Reach::Later);
                self.between.reset();
                sleep(span).await;
                drop(refused);
                self.expected += 1;
            }
            Trouble::FrozenShortly => {
                let frozen = self.between.inject(Fault::Freeze, Reach::Everything);
                sleep(ACTIVITY_TIMEOUT / 10).await;
                drop(frozen);
            }
            Trouble::FrozenLong => {
                let frozen = self.between.inject(Fault::Freeze, Reach::Everything);
                let lost = until(self.uplink.watch(), |now| now.state == State::Reconnecting);
                within("a loss", lost).await;
                sleep(span).await;
                drop(frozen);
                self.expected += 1;
                self.may_be_ghosts = true;
            }
            Trouble::Mute | Trouble::Full => {
                let mut behaviour = normal();
                if trouble == Trouble::Mute {
                    behaviour.mute = true;
                } else {
                    behaviour.capacity = 0;
                }
                self.restart(behaviour);
                sleep(span).await;
                self.restart(normal());
                self.expected += 1;
            }
            Trouble::Evicted => {
                self.proxy().forget_agents();
                self.expected += 1;
            }
            Trouble::WithoutMetrics => {
                let unimplemented = (Code::Unimplemented, "unknown method StreamMetrics");
                self.restart(Behaviour {
                    metrics_refusal: Some(unimplemented),
                    ..normal()
                });
                self.expected += 1;
                self.back(trouble).await;
                sleep(span).await;
                self.restart(normal());
                self.expected += 1;
            }
            Trouble::MetricsEnded => {
                self.proxy()
                    .end_metrics(tonic::Status::internal("a trouble"));
            }
        }
    }

    /// Waits until the agent is registered as often as it must be, and measures how long that took.
    async fn back(&mut self, trouble: Trouble) {
        let over = Instant::now();
        let expected = self.expected;
        let uplink = self.uplink.clone();
        let registered = async {
            while uplink.counters().registrations < expected || !connected(&uplink.status()) {
                sleep(Duration::from_millis(2)).await;
            }
        };
        let bound = MAX_BACKOFF + OPEN_TIMEOUT + SLACK;
        let back = tokio::time::timeout(bound, registered).await;
        let state = (uplink.status(), uplink.counters(), uplink.link_counters());
        assert!(
            back.is_ok(),
            "not back {bound:?} after {trouble:?}: {state:?}"
        );
        self.longest = self.longest.max(over.elapsed());
    }

    /// What must be true whenever the agent is back.
    async fn check(&mut self, trouble: Trouble) {
        let proxy = self
            .proxy
            .as_mut()
            .expect("there is always one between troubles");
        proxy.query(latest()).await;
        let (_, reply) = proxy.response().await;
        assert_eq!(reply.metrics.len(), 20, "{trouble:?}");
        let counters = self.uplink.counters();
        assert_eq!(counters.registrations, self.expected, "after {trouble:?}");
        let attempts = self.uplink.link_counters().attempts;
        let accepted = self.between.stats().accepted;
        assert!(
            accepted <= attempts,
            "{accepted} connections, {attempts} attempts"
        );
        let seen = proxy.log().registrations.len() as u64;
        assert!((self.expected..=attempts).contains(&seen));
        if !self.may_be_ghosts {
            assert_eq!(seen, self.expected, "after {trouble:?}");
        }
        assert_eq!(proxy.log().crashes, 0);
    }
}

fn descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}

fn threads() -> usize {
    std::fs::read_dir("/proc/self/task").unwrap().count()
}

async fn soak(span: Duration) {
    let elsewhere = Runtime::new().unwrap();
    let proxy = Proxy::start(normal());
    let between = {
        let _entered = elsewhere.enter();
        steadfast_chaos::Proxy::start(proxy.addr).unwrap()
    };
    // The agent is there before its proxy.
    let (addr, log) = (proxy.addr, Arc::clone(&proxy.log));
    drop(proxy);
    let uplink = uplink(&between.addr().to_string());
    uplink.start();
    sleep(Duration::from_secs(1)).await;
    let mut world = World {
        proxy: Some(Proxy::start_at(addr, normal(), log)),
        between,
        uplink,
        expected: 1,
        longest: Duration::ZERO,
        may_be_ghosts: false,
    };
    world.back(Trouble::Killed).await;
    let began = Instant::now();
    let mut rounds = 0_usize;
    while rounds < TROUBLES.len() || began.elapsed() < span {
        // Each trouble meets each other one before it, and lasts for different times.
        let trouble = TROUBLES[(rounds + rounds / TROUBLES.len() * (rounds % 4)) % TROUBLES.len()];
        let lasts = Duration::from_millis([10, 700, 150, 2_000, 400][rounds % 5]);
        world.suffer(trouble, lasts).await;
        world.back(trouble).await;
        world.check(trouble).await;
        // Every third loss meets a registration that has proved itself.
        if rounds.is_multiple_of(3) {
            sleep(Duration::from_millis(600)).await;
        }
        rounds += 1;
    }
    let World {
        uplink,
        between,
        proxy,
        expected,
        longest,
        ..
    } = world;
    println!(
        "{rounds} troubles in {:?}: {expected} registrations, {} connections, {} attempts, back within {longest:?}",
        began.elapsed(),
        between.stats().accepted,
        uplink.link_counters().attempts,
    );
    let stopping = Instant::now();
    uplink.disconnect().await;
    uplink.close().await;
    assert!(stopping.elapsed() < Duration::from_secs(5));
    drop(uplink);
    // The task that says it is done is alive while it says so.
    let metrics = tokio::runtime::Handle::current().metrics();
    let none = async {
        while metrics.num_alive_tasks() > 0 {
            sleep(Duration::from_millis(2)).await;
        }
    };
    within("no task of the uplink is left", none).await;
    drop(proxy);
    drop(between);
    elsewhere.shutdown_background();
}

#[test]
#[ignore = "takes a minute, or as many seconds as STEADFAST_SOAK_SECONDS says"]
fn soak_registers_only_after_restarts_and_evictions() {
    let seconds = std::env::var("STEADFAST_SOAK_SECONDS");
    let seconds = seconds.map_or(60, |seconds| seconds.parse().unwrap());
    run(Duration::from_secs(seconds));
}

#[test]
fn each_fault_once_costs_one_registration_each() {
    run(Duration::ZERO);
}

fn runtime() -> Runtime {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .thread_keep_alive(Duration::from_millis(10))
        .enable_all()
        .build()
        .unwrap()
}

fn run(span: Duration) {
    // What the first runtime of a process makes for all that follow is not of this test.
    drop(runtime());
    let before = (descriptors(), threads());
    let runtime = runtime();
    // On a task of the runtime's own, so that what is alive can be counted.
    runtime.block_on(soak(span));
    drop(runtime);
    // What the kernel and the threads still have to clear away they clear away soon.
    let waiting = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .unwrap();
    waiting.block_on(async {
        let deadline = Instant::now() + Duration::from_secs(10);
        while (descriptors() > before.0 || threads() > before.1) && Instant::now() < deadline {
            sleep(Duration::from_millis(20)).await;
        }
    });
    drop(waiting);
    let after = (descriptors(), threads());
    let none_left = after.0 <= before.0 && after.1 <= before.1;
    assert!(
        none_left,
        "descriptors and threads: {after:?}, {before:?} before"
    );
}
