//! What breaks, and for how long: all of it from a seed. Pure.

use std::time::Duration;

use super::relay::Node;

/// The load writes more than a group keeps in its log meanwhile.
const AWAY_MS: u64 = 12_000;

/// What the product takes for right (`failover.max_clock_offset`).
pub const CLOCK_BOUND_MS: u64 = 500;
/// A clock that stays wrong does so for longer than it takes to be noticed, as a rule.
const CLOCK_MS: u64 = 2_000;

/// Whom a fault strikes: found out when it strikes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target {
    /// Who leads this tenant's group.
    Leader {
        tenant: usize,
    },
    Node(Node),
}

/// One fault; healed at the end of its round.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// kill -9, and started again.
    Kill(Target),
    /// All coordinators at once.
    KillAll,
    /// Killed, and away for longer than its group keeps log.
    Away(Target),
    /// Its disk stops at once, with what was not synced gone; then it is killed.
    PowerCut(Target),
    /// All of them at once.
    PowerCutAll,
    /// Its disk has no room left.
    DiskFull(Target),
    /// SIGSTOP, SIGCONT.
    Stop(Target),
    /// Nothing goes to it or comes from it.
    Isolate(Target),
    /// What it sends reaches nobody.
    Mute(Target),
    /// What others send does not reach it.
    Deafen(Target),
    /// Two nodes that don't reach each other.
    Pair(Target),
    /// Every connection between nodes breaks.
    Sever,
    /// Its wall clock jumps.
    Clock { target: Target, ahead_ms: i64 },
}

/// A quiet time, then faults at once, which last.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Round {
    pub quiet: Duration,
    pub faults: Vec<Fault>,
    pub lasting: Duration,
}

/// The rounds of a seed, without an end.
#[derive(Debug)]
pub struct Plan {
    random: fastrand::Rng,
    tenants: usize,
    nodes: usize,
}

impl Fault {
    /// For counting.
    #[must_use]
    pub const fn kind(&self) -> &'static str {
        match self {
            Fault::Kill(Target::Leader { .. }) => "leader killed",
            Fault::Kill(Target::Node(_)) => "node killed",
            Fault::KillAll => "all killed",
            Fault::Away(_) => "node away for long",
            Fault::PowerCut(_) => "node without power",
            Fault::PowerCutAll => "all without power",
            Fault::DiskFull(_) => "disk full",
            Fault::Stop(Target::Leader { .. }) => "leader stopped",
            Fault::Stop(Target::Node(_)) => "node stopped",
            Fault::Isolate(_) => "node cut off",
            Fault::Mute(_) => "node mute",
            Fault::Deafen(_) => "node deaf",
            Fault::Pair(_) => "link cut",
            Fault::Sever => "connections broken",
            Fault::Clock { ahead_ms, .. } if ahead_ms.unsigned_abs() < CLOCK_BOUND_MS => {
                "clock a little off"
            }
            Fault::Clock { ahead_ms: 0.., .. } => "clock ahead",
            Fault::Clock { .. } => "clock behind",
        }
    }
}

impl Plan {
    /// The plan of a seed.
    #[must_use]
    pub fn new(seed: u64, tenants: usize, nodes: usize) -> Self {
        Self {
            random: fastrand::Rng::with_seed(seed),
            tenants,
            nodes,
        }
    }

    fn target(&mut self) -> Target {
        if self.random.u8(0..5) < 3 {
            let tenant = self.random.usize(0..self.tenants);
            Target::Leader { tenant }
        } else {
            Target::Node(self.random.usize(0..self.nodes))
        }
    }

    fn fault(&mut self) -> Fault {
        let target = self.target();
        match self.random.u8(0..110) {
            0..22 => Fault::Kill(target),
            22..25 => Fault::KillAll,
            25..27 => Fault::Away(target),
            27..34 => Fault::PowerCut(target),
            34..37 => Fault::PowerCutAll,
            37..41 => Fault::DiskFull(target),
            41..55 => Fault::Stop(target),
            55..69 => Fault::Isolate(target),
            69..77 => Fault::Mute(target),
            77..85 => Fault::Deafen(target),
            85..93 => Fault::Pair(target),
            93..100 => Fault::Sever,
            _ => Fault::Clock {
                target,
                ahead_ms: self.jump(),
            },
        }
    }

    /// From less than the bound to days: beyond what keys and tombstones live, and what certificates hold.
    fn jump(&mut self) -> i64 {
        let ms = match self.random.u8(0..8) {
            0..2 => self.random.i64(50..400),
            2..5 => self.random.i64(1_000..60_000),
            5 => 600_000,
            6 => 3 * 3_600_000,
            _ => 50 * 3_600_000,
        };
        if self.random.bool() { ms } else { -ms }
    }
}

impl Iterator for Plan {
    type Item = Round;

    fn next(&mut self) -> Option<Round> {
        let count = 1 + usize::from(self.random.u8(0..10) < 3);
        let faults: Vec<Fault> = (0..count).map(|_| self.fault()).collect();
        // Most are shorter than it takes to elect, or a little longer; some are long.
        let lasting = match self.random.u8(0..10) {
            0..3 => self.random.u64(20..300),
            3..8 => self.random.u64(300..1500),
            _ => self.random.u64(1500..5000),
        };
        let is_long = faults.iter().any(|fault| matches!(fault, Fault::Away(_)));
        let is_clock = |fault: &Fault| matches!(fault, Fault::Clock { .. });
        let is_seen = lasting >= 300 && faults.iter().any(is_clock);
        let lasting =
            lasting + if is_long { AWAY_MS } else { 0 } + if is_seen { CLOCK_MS } else { 0 };
        Some(Round {
            quiet: Duration::from_millis(self.random.u64(100..1500)),
            faults,
            lasting: Duration::from_millis(lasting),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_is_a_plan_and_every_kind_comes() {
        let plan = |seed| Plan::new(seed, 6, 3).take(300).collect::<Vec<_>>();
        assert_eq!(plan(1), plan(1));
        assert_ne!(plan(1), plan(2));
        let rounds = plan(1);
        let faults = rounds.iter().flat_map(|round| &round.faults);
        let kinds: std::collections::BTreeSet<_> = faults.map(Fault::kind).collect();
        assert_eq!(kinds.len(), 17, "{kinds:?}");
    }
}
