//! The appends of [`super`], and what is seen meanwhile: acknowledgements, how far the leader has the
//! one follower, and the processor time of each process. Looks are kept in order; whoever waits for
//! something waits for a look that shows it, at most so long.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use futures::future::join_all;
use reqwest::Method;
use tokio::sync::watch;
use tokio::time::{MissedTickBehavior, interval, timeout};

use super::super::appends::{CLIENTS, VALUE, key};
use super::super::puts::Puts;
use super::{Stage, TENANT};
use crate::client::{Client, Request};
use crate::show::two::process::{cpu_time, idle_time};

const LOOK_EVERY: Duration = Duration::from_millis(50);
/// Rates are of windows of this length.
const WINDOW: Duration = Duration::from_millis(250);
const ANSWERS_WITHIN: Duration = Duration::from_secs(2);

/// Whose processor time is seen.
const PROCESSES: [&str; 4] = ["leader", "other follower", "the one away", "clients"];

/// What was so at one moment.
#[derive(Debug, Clone, Copy)]
pub struct Look {
    pub at: Instant,
    pub acknowledged: u64,
    pub refused: u64,
    /// How many entries the leader knows the follower to lack.
    pub lag: u64,
    /// Whether the follower answers the leader.
    pub answers: bool,
    cpu: [Duration; PROCESSES.len()],
    idle: Duration,
}

/// Appends a second, by windows.
#[derive(Debug, Clone, Copy)]
pub struct Rate {
    pub median: f64,
    pub worst: f64,
}

/// The load and the looks.
pub struct Watch<'a> {
    stage: &'a Stage,
    client: Client,
    followers: Request,
    acknowledged: AtomicU64,
    refused: AtomicU64,
    looks: watch::Sender<Vec<Look>>,
}

impl<'a> Watch<'a> {
    pub fn new(stage: &'a Stage) -> Self {
        let path = format!("/v1/replication/followers?group={}", stage.group);
        Self {
            stage,
            client: Client::new(ANSWERS_WITHIN),
            followers: stage.cluster.api(stage.leader, Method::GET, &path),
            acknowledged: AtomicU64::new(0),
            refused: AtomicU64::new(0),
            looks: watch::Sender::default(),
        }
    }

    /// Appends, and looks, until dropped; ends by itself only when no client has a connection.
    pub async fn run(&self) {
        tokio::select! { _ = join_all((0..CLIENTS).map(|_| self.append())) => (), () = self.look() => () }
    }

    async fn append(&self) {
        let files = self.stage.cluster.files_now();
        let url = &files.regions[self.stage.leader].api_url;
        let connected = Puts::connect(url, &files.admin_token, TENANT).await;
        let mut client = connected.expect("the leader listens");
        let mut put = Ok(true);
        while put.is_ok() {
            let path = format!("/v1/data/appends/{}", key());
            put = client.put(&path, &VALUE).await;
            let is_acknowledged = put.as_ref().is_ok_and(|acknowledged| *acknowledged);
            let count = if is_acknowledged {
                &self.acknowledged
            } else {
                &self.refused
            };
            count.fetch_add(1, Ordering::Relaxed);
        }
    }

    async fn look(&self) {
        let mut ticks = interval(LOOK_EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            let Some((lag, answers)) = self.follower().await else {
                continue;
            };
            let look = Look {
                at: Instant::now(),
                acknowledged: self.acknowledged.load(Ordering::Relaxed),
                refused: self.refused.load(Ordering::Relaxed),
                lag,
                answers,
                cpu: self.stage.pids().map(|pid| cpu_time(&[pid])),
                idle: idle_time(),
            };
            self.looks.send_modify(|looks| looks.push(look));
        }
    }

    /// How far the follower is behind, and whether it answers.
    async fn follower(&self) -> Option<(u64, bool)> {
        let answer = self.client.try_send(&self.followers).await.ok()?.json();
        let away = self.stage.cluster.region(self.stage.away).coordinator_id;
        let mut followers = answer["followers"].as_array()?.iter();
        let found = followers.find(|follower| follower["id"] == away)?;
        Some((
            found["lag_entries"].as_u64()?,
            found["state"] != "unreachable",
        ))
    }

    /// The newest look once it is as wanted; none: not within the time.
    pub async fn first(&self, within: Duration, is_it: impl Fn(&Look) -> bool) -> Option<Look> {
        let mut looks = self.looks.subscribe();
        let found = looks.wait_for(|looks| looks.last().is_some_and(&is_it));
        let found = timeout(within, found).await.ok()?.ok()?;
        found.last().copied()
    }

    /// The first look from this moment on that there is.
    pub fn since(&self, moment: Instant) -> Option<Look> {
        let looks = self.looks.borrow();
        looks.iter().find(|look| look.at >= moment).copied()
    }

    /// Appends between two looks; of less than one window as a whole.
    pub fn rate(&self, from: &Look, to: &Look) -> Rate {
        let looks = self.looks.borrow();
        let (mut rates, mut start) = (Vec::new(), *from);
        for look in looks.iter().filter(|l| l.at > from.at && l.at <= to.at) {
            if look.at - start.at >= WINDOW {
                rates.push(look.rate_since(&start));
                start = *look;
            }
        }
        if rates.is_empty() {
            rates.push(to.rate_since(from));
        }
        rates.sort_by(f64::total_cmp);
        Rate {
            median: rates[rates.len() / 2],
            worst: rates[0],
        }
    }
}

impl Look {
    /// Seconds since an earlier look; never 0, to divide by.
    pub fn seconds_since(&self, earlier: &Look) -> f64 {
        (self.at - earlier.at).as_secs_f64().max(1e-3)
    }

    fn rate_since(&self, earlier: &Look) -> f64 {
        (self.acknowledged - earlier.acknowledged) as f64 / self.seconds_since(earlier)
    }

    /// How many of the machine's processors each process had since an earlier look; what else runs on
    /// the machine disturbs the figures.
    pub fn processors_since(&self, earlier: &Look) -> String {
        let share = |now: Duration, then: Duration| {
            now.saturating_sub(then).as_secs_f64() / self.seconds_since(earlier)
        };
        let (mut told, mut known) = (String::new(), share(self.idle, earlier.idle));
        let had = self.cpu.iter().zip(&earlier.cpu);
        for (name, (now, then)) in PROCESSES.iter().zip(had) {
            let share = share(*now, *then);
            known += share;
            told = format!("{told}{name} {share:.2}, ");
        }
        let all = std::thread::available_parallelism().map_or(0, std::num::NonZero::get);
        let others = (all as f64 - known).max(0.0);
        let idle = share(self.idle, earlier.idle);
        format!("{told}all others {others:.2}, idle {idle:.2} of {all}")
    }
}
