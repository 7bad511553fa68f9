//! What breaks while an agent begins, before it has everything it wants.

use std::sync::Mutex;

use super::*;

/// When it breaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum When {
    /// The connection, before the registration is answered.
    BeforeTheAnswer,
    /// The connection, with the response.
    WithTheAnswer,
    /// The connection, while the metrics stream opens.
    WithTheMetrics,
    /// The metrics stream alone.
    TheMetrics,
    /// The registration, and the metrics stream by itself; the connection stays.
    BothStreams,
}

/// Whose streams are open now.
#[derive(Clone, Default)]
struct Open(Arc<Mutex<Vec<String>>>);

struct Held {
    open: Open,
    agent_id: String,
}

impl Open {
    fn hold(&self, agent_id: String) -> Held {
        self.0.lock().unwrap().push(agent_id.clone());
        let open = self.clone();
        Held { open, agent_id }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let mut open = self.open.0.lock().unwrap();
        let at = open.iter().position(|agent_id| *agent_id == self.agent_id);
        open.remove(at.expect("it is held"));
    }
}

fn fragile(when: When, times: u64, open: &Open) -> Scripted {
    let (left, open) = (Arc::new(AtomicU64::new(times)), open.clone());
    Scripted::new(move |mut peer: Peer| {
        let (left, open) = (Arc::clone(&left), open.clone());
        async move {
            let breaks = |now: &[When]| {
                let one_less = |left: u64| left.checked_sub(1);
                now.contains(&when)
                    && left
                        .fetch_update(Ordering::AcqRel, Ordering::Acquire, one_less)
                        .is_ok()
            };
            if !peer.is_registration() {
                if breaks(&[When::WithTheMetrics]) {
                    return peer.cut();
                }
                if breaks(&[When::TheMetrics, When::BothStreams]) {
                    return peer.end(status(14, "not yet"));
                }
                let _held = open.hold(peer.agent_id().unwrap().to_owned());
                return peer.hold().await;
            }
            if breaks(&[When::BeforeTheAnswer]) {
                return peer.cut();
            }
            let Some(id) = peer.greet(RegisterAgentResponse::default()).await else {
                return;
            };
            if breaks(&[When::WithTheAnswer]) {
                return peer.cut();
            }
            if breaks(&[When::BothStreams]) {
                sleep(Duration::from_millis(1)).await;
                return peer.end(status(14, "not yet"));
            }
            let _held = open.hold(id);
            peer.receive_heartbeats().await;
        }
    })
}

#[tokio::test(start_paused = true)]
async fn fault_at_any_step_of_the_start_recovers() {
    for when in [
        When::BeforeTheAnswer,
        When::WithTheAnswer,
        When::WithTheMetrics,
        When::TheMetrics,
        When::BothStreams,
    ] {
        for times in 1..=6 {
            let open = Open::default();
            let proxy = fragile(when, times, &open);
            let uplink = on(&proxy);
            uplink.start();
            sleep(SECOND * 300).await;
            let id = format!("agent-{}", proxy.registered());
            let opened = open.0.lock().unwrap().clone();
            assert_eq!(opened, [id.clone(), id], "{when:?}, {times} times");
            assert!(proxy.registered() <= times + 1, "{when:?}, {times} times");
            let beats = proxy.heartbeats();
            let (last, _) = beats.last().unwrap();
            assert!(last.elapsed() <= SECOND * 10, "{when:?}, {times} times");
            someday("closed", uplink.close()).await;
        }
    }
}
