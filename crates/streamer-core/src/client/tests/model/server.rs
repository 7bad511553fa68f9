//! A small server, correct except for the faults of a test. It lives as long as a run.

use std::collections::{BTreeMap, VecDeque};

use gateway_message::Payload as Request;
use wire::{Credit, HeartbeatAck};

use super::super::*;

/// A log of events, each of one of a few collections, and the subscriptions of the one stream.
pub(super) struct Server {
    pub(super) epoch: u64,
    /// Collections of the events; the event at index i has offset i + 1.
    pub(super) log: Vec<u64>,
    /// The offset before which nothing can be resumed.
    pub(super) trimmed: u64,
    pub(super) profile: bool,
    pub(super) held: BTreeMap<String, Held>,
    /// Plain ids of streams that are gone but not forgotten; true: an unsubscribe does not help.
    pub(super) lingering: BTreeMap<String, bool>,
    /// Subscribe requests to refuse for now.
    pub(super) refusals: u32,
    /// The next delivery is counted and not sent.
    pub(super) losing: bool,
    pub(super) lost: u64,
    pub(super) refused: u64,
    /// Answers that deliveries may overtake.
    late: VecDeque<Payload>,
}

/// A subscription as the server has it.
pub(super) struct Held {
    collection: u64,
    /// Everything up to here was looked at.
    looked: u64,
    /// The last position sent.
    sent: u64,
    /// A delivery was lost and none came after it.
    behind: bool,
    /// The client has a reason to ask again.
    excused: bool,
    credit: (u64, u64),
    used: (u64, u64),
}

impl Server {
    pub(super) fn new() -> Self {
        Self {
            epoch: EPOCH,
            log: Vec::new(),
            trimmed: 0,
            profile: true,
            held: BTreeMap::new(),
            lingering: BTreeMap::new(),
            refusals: 0,
            losing: false,
            lost: 0,
            refused: 0,
            late: VecDeque::new(),
        }
    }

    pub(super) fn head(&self) -> Position {
        Position::new(Epoch(self.epoch), self.log.len() as u64)
    }

    /// The stream is gone. `linger` says which of its ids a plain server still holds.
    pub(super) fn cut(&mut self, linger: impl Fn(usize) -> Option<bool>) {
        for (index, id) in std::mem::take(&mut self.held).into_keys().enumerate() {
            if let Some(sticky) = linger(index).filter(|_| !self.profile) {
                self.lingering.insert(id, sticky);
            }
        }
        self.late.clear();
    }

    /// Replaces the log by an empty one of another epoch.
    pub(super) fn replace_log(&mut self) {
        self.epoch += 1;
        self.log.clear();
        self.trimmed = 0;
    }

    /// Takes one message.
    pub(super) fn take(&mut self, message: Request, late: bool, out: &mut VecDeque<Payload>) {
        match message {
            Request::Hello(_) if self.profile => out.push_back(Payload::Welcome(Welcome {
                version: 1,
                server_id: "model".to_owned(),
                head: Some(on_wire(self.head())),
                heartbeat_interval_ms: 0,
                expires_in_ms: 0,
            })),
            Request::Hello(_) | Request::Authenticate(_) => {}
            Request::Heartbeat(heartbeat) => out.push_back(Payload::HeartbeatAck(HeartbeatAck {
                timestamp: heartbeat.timestamp,
                progress: None,
            })),
            Request::Subscribe(request) => {
                let response = if self.profile {
                    self.subscribe(&request)
                } else {
                    self.subscribe_plain(&request)
                };
                let response = Payload::SubscribeResponse(SubscribeResponse {
                    subscription_id: request.subscription_id,
                    request: request.request,
                    ..response
                });
                if late && !self.profile {
                    self.late.push_back(response);
                } else {
                    self.flush(out);
                    out.push_back(response);
                }
            }
            Request::Unsubscribe(request) => {
                self.flush(out);
                self.held.remove(&request.subscription_id);
                if self.lingering.get(&request.subscription_id) == Some(&false) {
                    self.lingering.remove(&request.subscription_id);
                }
            }
            Request::Credit(credit) => self.credit(&credit),
        }
    }

    /// Sends the answers that were held back.
    pub(super) fn flush(&mut self, out: &mut VecDeque<Payload>) {
        out.append(&mut self.late);
    }

    fn subscribe_plain(&mut self, request: &SubscribeRequest) -> SubscribeResponse {
        let id = &request.subscription_id;
        assert_eq!(
            (request.request, request.credit_messages, request.resume),
            (0, 0, None),
            "nothing of the profile for a plain peer"
        );
        if self.held.contains_key(id) || self.lingering.contains_key(id) {
            return SubscribeResponse {
                error: "subscription ID already exists".to_owned(),
                ..SubscribeResponse::default()
            };
        }
        self.hold(request, self.head().offset);
        SubscribeResponse {
            success: true,
            ..SubscribeResponse::default()
        }
    }

    fn subscribe(&mut self, request: &SubscribeRequest) -> SubscribeResponse {
        if let Some(held) = self.held.get(&request.subscription_id) {
            assert!(
                held.excused,
                "requested twice on one stream without a reason"
            );
        }
        if self.refusals > 0 {
            self.refusals -= 1;
            self.refused += 1;
            self.held.remove(&request.subscription_id);
            return SubscribeResponse {
                error: "not now".to_owned(),
                code: RefusalCode::Unavailable.into(),
                ..SubscribeResponse::default()
            };
        }
        let head = self.head();
        let (from, resync) = match request.resume {
            None => (head.offset, None),
            Some(resume) if resume.epoch != self.epoch => (0, Some(wire::ResyncReason::Epoch)),
            Some(resume) if resume.offset < self.trimmed => {
                (self.trimmed, Some(wire::ResyncReason::Trimmed))
            }
            Some(resume) if resume.offset > head.offset => {
                (head.offset, Some(wire::ResyncReason::Future))
            }
            Some(resume) => (resume.offset, None),
        };
        self.hold(request, from);
        let position = on_wire(Position::new(head.epoch, from));
        SubscribeResponse {
            success: true,
            position: Some(position),
            resync: resync.map(|reason| wire::Resync {
                reason: reason.into(),
                resumes_at: Some(position),
            }),
            ..SubscribeResponse::default()
        }
    }

    fn hold(&mut self, request: &SubscribeRequest, from: u64) {
        let held = Held {
            collection: request.collection.parse().expect("a number"),
            looked: from,
            sent: from,
            behind: false,
            excused: false,
            credit: (request.credit_messages, request.credit_bytes),
            used: (0, 0),
        };
        self.held.insert(request.subscription_id.clone(), held);
    }

    fn credit(&mut self, credit: &Credit) {
        // One for a subscription that was just ended or refused is late, not wrong.
        if let Some(held) = self.held.get_mut(&credit.subscription_id) {
            let total = (credit.messages, credit.bytes);
            assert!(
                total.0 >= held.credit.0 && total.1 >= held.credit.1,
                "taken back"
            );
            held.credit = total;
        }
    }

    /// Sends the next event to whoever may have it; `twice` repeats it where credit allows.
    /// Whether anything was sent.
    pub(super) fn pump(&mut self, twice: bool, out: &mut VecDeque<Payload>) -> bool {
        let (profile, epoch, losing) = (self.profile, self.epoch, self.losing);
        let mut sent = false;
        for (id, held) in &mut self.held {
            let next = (held.looked..self.log.len() as u64)
                .find(|index| self.log[*index as usize] == held.collection);
            let Some(index) = next else {
                held.looked = self.log.len() as u64;
                continue;
            };
            let offset = index + 1;
            let copies = if profile { 1 + u64::from(twice) } else { 1 };
            let weight = weight(offset);
            for copy in 0..copies {
                if profile && !(held.used.0 < held.credit.0 && held.used.1 < held.credit.1) {
                    break;
                }
                held.used = (held.used.0 + 1, held.used.1 + weight);
                let spare = held.used.0 < held.credit.0 && held.used.1 < held.credit.1;
                if copy == 0 && losing && profile && spare {
                    self.losing = false;
                    self.lost += 1;
                    (held.behind, held.excused) = (true, true);
                } else {
                    out.push_back(delivery(id, profile.then_some((epoch, held.sent)), offset));
                    if copy == 0 {
                        held.behind = false;
                    }
                }
                (held.looked, sent) = (offset, true);
                if copy + 1 == copies || held.behind {
                    break;
                }
            }
            if held.looked == offset {
                held.sent = offset;
            }
        }
        sent
    }

    /// Tells how far it has looked.
    pub(super) fn progress(&mut self, out: &mut VecDeque<Payload>) {
        if !self.profile || self.held.is_empty() {
            return;
        }
        let head = self.head();
        let log = &self.log;
        let is_behind =
            |held: &Held| held.behind || log[held.looked as usize..].contains(&held.collection);
        let behind = self.held.iter().filter(|(_, held)| is_behind(held));
        out.push_back(Payload::Progress(Progress {
            position: Some(on_wire(head)),
            behind: behind.map(|(id, _)| id.clone()).collect(),
        }));
    }
}

/// Weight of the event at this offset.
pub(super) fn weight(offset: u64) -> u64 {
    let event = event(offset);
    let names = [&event.database, &event.collection, &event.document_id];
    let names: usize = names.iter().map(|name| name.len()).sum();
    (names + event.document_data.len()) as u64
}

fn delivery(id: &str, after: Option<(u64, u64)>, offset: u64) -> Payload {
    Payload::Delivery(EventDelivery {
        left: false,
        subscription_ids: vec![id.to_owned()],
        event: Some(event(offset)),
        position: after.map(|(epoch, _)| wire::Position { epoch, offset }),
        previous: after.map(|(_, previous)| previous).into_iter().collect(),
    })
}
