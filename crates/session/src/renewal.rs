//! The renewal of the credentials of a stream before they expire.

use std::{
    fmt,
    hash::{BuildHasher as _, BuildHasherDefault, DefaultHasher},
    time::Duration,
};

use crate::Time;

/// The value of the header `authorization`, which no output shows.
#[derive(Clone, PartialEq, Eq)]
pub struct Authorization(pub String);

/// The times of one stream at which newer credentials are wanted.
///
/// The server says for how long they are still valid, so that its clock does not matter. They are wanted
/// after some 70 % of that time, and again after as much of the rest, until the server has accepted newer
/// ones: a source may have none yet, or fail, or take long.
#[derive(Debug, Default)]
pub struct Renewal {
    expires_at: Option<Time>,
    due: Option<Time>,
    sent_at: Option<Time>,
    /// Spreads the clients of one server, and the streams of one client.
    spread: u64,
}

/// The shortest time between two requests. Servers end a stream that sends credentials twice in a second.
const MIN_INTERVAL: Duration = Duration::from_secs(2);

impl fmt::Debug for Authorization {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Authorization({} bytes)", self.0.len())
    }
}

impl Renewal {
    /// Begins with a stream whose credentials are valid for some time; 0 for ever. `stream` names it.
    #[must_use]
    pub fn start(now: Time, expires_in_ms: u64, stream: (&str, u64)) -> Self {
        let spread = BuildHasherDefault::<DefaultHasher>::default().hash_one(stream);
        let mut renewal = Self {
            spread,
            ..Self::default()
        };
        renewal.set_expiry(now, expires_in_ms);
        renewal.due = renewal.after_part(now);
        renewal
    }

    /// Takes note that the server accepted newer credentials, or the same ones.
    pub fn on_authenticated(&mut self, now: Time, expires_in_ms: u64) {
        self.set_expiry(now, expires_in_ms);
        self.schedule(now);
    }

    /// Returns the time at which credentials are wanted.
    #[must_use]
    pub fn deadline(&self) -> Option<Time> {
        self.due
    }

    /// Returns true if credentials are wanted now.
    #[must_use]
    pub fn on_timer(&mut self, now: Time) -> bool {
        let is_due = self.due.is_some_and(|at| at <= now);
        if is_due {
            self.schedule(now);
        }
        is_due
    }

    /// Returns true if credentials that the source returned may be sent now.
    #[must_use]
    pub fn may_send(&mut self, now: Time) -> bool {
        let is_early = self.sent_at.is_some_and(|at| now < at + MIN_INTERVAL);
        // Without an expiry nobody has asked for them on this stream.
        let sends = self.expires_at.is_some() && !is_early;
        if sends {
            self.sent_at = Some(now);
            // The answer, or else the next request.
            self.schedule(now);
        }
        sends
    }

    fn set_expiry(&mut self, now: Time, expires_in_ms: u64) {
        let expires_in = Duration::from_millis(expires_in_ms);
        self.expires_at = (expires_in_ms > 0).then(|| now + expires_in);
    }

    /// Sets the next time, which is not too soon after what happens now.
    fn schedule(&mut self, now: Time) {
        let after = self.after_part(now);
        self.due = after.map(|at| at.max(now + MIN_INTERVAL));
    }

    /// Returns the time after 60 to 80 % of the rest; `None` if the credentials never expire, or have.
    fn after_part(&self, now: Time) -> Option<Time> {
        let rest = self.expires_at?.since(now);
        let part = 60 + u32::try_from(self.spread % 21).unwrap_or(0);
        (!rest.is_zero()).then(|| now + rest.saturating_mul(part) / 100)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn renewal_follows_the_newest_expiry() {
        let seconds = |count| Time::ZERO + Duration::from_secs(count);
        let mut renewal = Renewal::start(Time::ZERO, 100_000, ("session", 1));
        let within = |renewal: &Renewal, from: u64, expires_in: u64| {
            let due = renewal.deadline().expect("they expire");
            let part = |part: u64| seconds(from + expires_in * part / 100);
            assert!(
                part(60) <= due && due <= part(80),
                "{due:?} of {expires_in} s"
            );
        };
        within(&renewal, 0, 100);
        renewal.on_authenticated(seconds(50), 1_000_000);
        within(&renewal, 50, 1_000);
        renewal.on_authenticated(seconds(60), 10_000);
        within(&renewal, 60, 10);
        renewal.on_authenticated(seconds(62), 0);
        assert_eq!(renewal.deadline(), None, "they do not expire");
    }
}
