//! The network's moods and what breaks: partitions (also one-way), loss, kills, power cuts of one
//! or all with loss of what is not synced, pauses, clock jumps, slow disks, transfers of leadership.

use crate::plan::{MEMBERS, MS, Micros};
use crate::world::{Event, World};

/// The network between the members.
#[derive(Debug, Default)]
pub struct Net {
    /// Until when nothing goes from one to another.
    cut_until: [[Micros; MEMBERS]; MEMBERS],
    /// Until when a fifth of all messages is lost.
    lossy_until: Micros,
    pub lost: u64,
}

impl Net {
    /// Whether a message from one to another is lost.
    pub fn loses(&mut self, from: usize, to: usize, now: Micros, rng: &mut fastrand::Rng) -> bool {
        let percent = if self.lossy_until > now { 20 } else { 1 };
        let is_lost = self.cut_until[from][to] > now || rng.u8(0..100) < percent;
        self.lost += u64::from(is_lost);
        is_lost
    }

    /// How long a message takes: mostly little, so that some overtake others by far.
    pub fn delay(&self, rng: &mut fastrand::Rng) -> Micros {
        match rng.u16(0..1000) {
            0..900 => rng.u64(300..4 * MS),
            900..990 => rng.u64(MS..60 * MS),
            _ => rng.u64(50 * MS..900 * MS),
        }
    }
}

impl World {
    /// One fault, and when the next comes.
    pub fn strike(&mut self) {
        if self.now > self.plan.busy {
            return;
        }
        let next = self.rng.u64(50 * MS..self.plan.calm);
        self.after(next, Event::Fault);
        let n = self.rng.usize(0..MEMBERS);
        let leader = (0..MEMBERS).find(|n| self.nodes[*n].leads());
        // Half of all faults hit a leader.
        let n = leader.filter(|_| self.rng.bool()).unwrap_or(n);
        match self.rng.u8(0..100) {
            0..30 => self.cut(n),
            30..37 => self.net.lossy_until = self.now + self.rng.u64(100 * MS..800 * MS),
            37..47 => self.crash(n, false),
            47..57 => self.crash(n, true),
            57..61 => (0..MEMBERS).for_each(|n| self.crash(n, true)),
            61..74 => self.pause(n),
            74..82 => self.jump(n),
            82..91 => self.hand_over(leader),
            _ => {
                self.oracle.counts.stalls += 1;
                let until = self.now + self.rng.u64(100 * MS..1000 * MS);
                self.nodes[n].slow_disk_until = until;
                self.trace(|| format!("node {n}'s disk is slow"));
            }
        }
    }

    /// Cuts a node off, or one way between it and one or all others.
    fn cut(&mut self, n: usize) {
        self.oracle.counts.partitions += 1;
        let until = self.now + self.rng.u64(100 * MS..1500 * MS);
        let only = self.rng.bool().then(|| self.rng.usize(0..MEMBERS));
        let way = self.rng.u8(0..4);
        for other in (0..MEMBERS).filter(|other| *other != n) {
            if only.is_some_and(|only| only != other) {
                continue;
            }
            if way != 0 {
                self.net.cut_until[n][other] = until;
            }
            if way != 1 {
                self.net.cut_until[other][n] = until;
            }
        }
        self.trace(|| format!("node {n} is cut off, way {way}, from {only:?}"));
    }

    /// The process ends. What it wrote survives, unless the power was cut: then what was not synced
    /// is lost, or some of it.
    fn crash(&mut self, n: usize, is_power_cut: bool) {
        if !self.nodes[n].up {
            return;
        }
        let unsynced = self.nodes[n].disk.unsynced();
        let survivors = if is_power_cut {
            self.oracle.counts.cuts += 1;
            self.rng.usize(0..=unsynced)
        } else {
            self.oracle.counts.kills += 1;
            unsynced
        };
        self.nodes[n].crash(survivors, is_power_cut);
        self.trace(|| format!("node {n} crashes; {survivors} of {unsynced} batches survive"));
        let down = self.rng.u64(20 * MS..1500 * MS);
        self.after(down, Event::Start(n));
    }

    pub fn start(&mut self, n: usize) {
        if !self.nodes[n].up {
            self.trace(|| format!("node {n} starts"));
            let plan = self.plan;
            let now = self.now;
            self.nodes[n].start(&plan, now);
        }
    }

    fn pause(&mut self, n: usize) {
        self.oracle.counts.pauses += 1;
        self.nodes[n].paused_until = self.now + self.rng.u64(50 * MS..1200 * MS);
        self.trace(|| format!("node {n} is paused"));
    }

    /// The wall clock is set, mostly by little; after a while it is set right.
    fn jump(&mut self, n: usize) {
        self.oracle.counts.jumps += 1;
        let far = if self.rng.u8(0..4) == 0 { 20_000 } else { 1900 };
        let ahead_ms = self.rng.i64(-far..=far);
        self.nodes[n].clocks.ahead_ms = ahead_ms;
        self.trace(|| format!("node {n}'s clock is set to {ahead_ms} ms ahead"));
        let until = self.rng.u64(300 * MS..3000 * MS);
        self.after(until, Event::SetClock(n));
    }

    pub fn set_clock(&mut self, n: usize) {
        self.nodes[n].clocks.ahead_ms = self.rng.i64(-100..=100);
    }

    fn hand_over(&mut self, leader: Option<usize>) {
        let Some(leader) = leader else { return };
        let to = (leader + 1 + self.rng.usize(0..MEMBERS - 1)) % MEMBERS;
        if self.plan.is_data(to) {
            self.oracle.counts.transfers += 1;
            self.transfer(leader, to);
        }
    }

    /// The one who is to leave: half of the time the leader.
    pub fn cut_off_leaver(&mut self) {
        let leader = (0..MEMBERS).find(|n| self.nodes[*n].leads());
        let any = self.rng.usize(0..MEMBERS);
        let n = leader.filter(|_| self.rng.bool()).unwrap_or(any);
        for other in (0..MEMBERS).filter(|other| *other != n) {
            self.net.cut_until[n][other] = self.plan.busy;
            self.net.cut_until[other][n] = self.plan.busy;
        }
        self.leaver = Some(n);
        self.trace(|| format!("node {n} is cut off, and will leave"));
    }

    /// All faults end, and clients stop: the world comes to rest.
    pub fn heal(&mut self) {
        self.trace(|| "all is healed".to_owned());
        self.oracle.counts.lost = self.net.lost;
        self.net = Net::default();
        for n in 0..MEMBERS {
            self.nodes[n].paused_until = 0;
            self.nodes[n].slow_disk_until = 0;
            self.set_clock(n);
            self.start(n);
        }
        if self.plan.has_leaver {
            let n = self.leaver;
            let n = n.unwrap_or_else(|| self.rng.usize(0..MEMBERS));
            self.leave(n);
        }
    }
}
