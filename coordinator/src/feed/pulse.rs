//! The feed's pulse: once a second it gives all streams a sign of life, ends those whose proxies
//! acknowledge nothing, drops images and stretches that nobody asks for, and moves proxies away from a coordinator
//! that hears no leader of the metastore.
//!
//! Without a leader nothing new is known here, which is no harm as long as there is none anywhere; but
//! this coordinator alone may be cut off, and its proxies would not know what they miss. It can't tell
//! the two apart, so: a sign of life says that no leader is heard; streams that came before the loss
//! end after [`LEADERLESS_PATIENCE`], and their proxies go to the next coordinator; streams that come
//! during the loss are served and stay for [`LEADERLESS_STAY`]. So where one coordinator is cut off,
//! its proxies are elsewhere within seconds; where no coordinator has a leader, each proxy stays
//! somewhere, keeps what it has, and looks around about twice a minute: it does not flap.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::hub::Hub;
use super::stats::CutOff;

const EVERY: Duration = Duration::from_secs(1);
/// Longer than an election, shorter than an operator's patience.
const LEADERLESS_PATIENCE: Duration = Duration::from_secs(3);
/// A little more for each stream, so that not all move at once.
const LEADERLESS_STAY: Duration = Duration::from_secs(30);

/// The loop's state.
pub struct Pulse {
    hub: Arc<Hub>,
    expire: Box<dyn Fn(Instant) + Send>,
    lost_since: Option<Instant>,
}

impl Pulse {
    /// `expire` drops what nobody has asked for lately.
    pub(super) fn new(hub: Arc<Hub>, expire: impl Fn(Instant) + Send + 'static) -> Self {
        Self {
            hub,
            expire: Box::new(expire),
            lost_since: None,
        }
    }

    /// Runs until it is dropped; `is_led` says whether a leader of the metastore is heard.
    pub async fn run(mut self, is_led: impl Fn() -> bool + Send) {
        let mut ticks = tokio::time::interval(EVERY);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            self.beat(is_led(), Instant::now());
        }
    }

    pub(super) fn beat(&mut self, is_led: bool, now: Instant) {
        if is_led {
            self.lost_since = None;
        } else {
            self.lost_since.get_or_insert(now);
        }
        let lost = self.lost_since;
        let lost_for = lost.map(|since| now.saturating_duration_since(since));
        for seat in self.hub.seats() {
            if seat.is_overdue(now) {
                seat.cut(CutOff::Unacknowledged);
            }
            let Some(lost_for) = lost_for else {
                seat.heard_leader();
                continue;
            };
            let stays = match seat.leaderless_for(now) {
                Some(here_for) => here_for < LEADERLESS_STAY.mul_f64(1.0 + fastrand::f64()),
                None => lost_for < LEADERLESS_PATIENCE,
            };
            if !stays {
                seat.cut(CutOff::Leaderless);
            }
        }
        (self.expire)(now);
        self.hub.pulse(lost.is_some());
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;
    use maia_common::ids::{ProxyId, RegionName};

    use super::super::seats::Seated;
    use super::*;

    fn enter(hub: &Hub, id: &str) -> Seated {
        let region = RegionName::new("a").unwrap();
        hub.enter(ProxyId::new(id).unwrap(), region).unwrap()
    }

    #[test]
    fn without_a_leader_streams_move_once_and_later_ones_stay() {
        let hub = Arc::<Hub>::default();
        let mut pulse = Pulse::new(Arc::clone(&hub), |_| {});
        let now = Instant::now();
        pulse.beat(true, now);
        let before = enter(&hub, "before");
        pulse.beat(false, now);
        let during = enter(&hub, "during");
        assert_eq!(before.seat().cut_off().now_or_never(), None);
        pulse.beat(false, now + LEADERLESS_PATIENCE);
        let cut = before.seat().cut_off().now_or_never();
        assert_eq!(cut, Some(CutOff::Leaderless));
        pulse.beat(false, now + LEADERLESS_STAY / 2);
        assert_eq!(during.seat().cut_off().now_or_never(), None);
        pulse.beat(true, now + LEADERLESS_STAY);
        pulse.beat(false, now + LEADERLESS_STAY * 2);
        assert_eq!(during.seat().cut_off().now_or_never(), None, "a new loss");
        pulse.beat(false, now + LEADERLESS_STAY * 2 + LEADERLESS_PATIENCE);
        let cut = during.seat().cut_off().now_or_never();
        assert_eq!(cut, Some(CutOff::Leaderless));
    }
}
