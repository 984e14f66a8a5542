//! Clients that write and read while things break, and note what each was told. A resource is used by
//! several clients at once for some dozens of operations, then never again, so that its history stays
//! small enough to be decided.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use reqwest::Method;

use super::stage::{Mode, Stage, Tenant};
use crate::client::{Answer, Request};
use crate::history::{Clock, Event, Expect, Nanos, Operation, Outcome, Value};

/// Resources of a tenant that are in use at a time.
const SLOTS: usize = 3;
/// Operations on these resources together before new ones take their place.
const OPERATIONS_EACH: u64 = 120;
/// How often a write with an idempotency key is sent before its outcome stays unknown.
const ATTEMPTS: usize = 4;
const BETWEEN_ATTEMPTS: Duration = Duration::from_millis(150);
/// Between two operations of a client.
const PAUSE: Duration = Duration::from_millis(8);
/// After one that was refused: who has no leader is not asked thousands of times.
const AFTER_REFUSAL: Duration = Duration::from_millis(60);
/// Values are filled up to less than so many bytes: logs grow beyond what is kept of them.
const MAX_FILLING: u64 = 4000;
/// What a client remembers; resources that are used no more fill it up.
const MAX_KNOWN: usize = 64;

/// A tenant's resource.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Key {
    pub tenant: usize,
    pub id: String,
}

/// What all clients were told.
#[derive(Debug, Default)]
pub struct Record {
    pub clock: Clock,
    events: Mutex<BTreeMap<Key, Vec<Event>>>,
    refusals: Mutex<Refusals>,
    values: AtomicU64,
    operations: Mutex<BTreeMap<usize, u64>>,
}

/// What was refused, so that nothing of it may be seen.
#[derive(Debug, Default)]
pub struct Refusals {
    /// How often, by code.
    pub counts: BTreeMap<String, usize>,
    /// Of puts: by what, where and when.
    pub of: BTreeMap<Value, String>,
    /// All of each resource, in the order in which they were told.
    pub on: BTreeMap<Key, Vec<String>>,
}

/// What one answer means for one operation.
#[derive(Debug)]
enum Told {
    Outcome(Outcome, Option<String>),
    /// Certainly without effect: the code, and all that was said.
    Nothing(String, String),
    Unknown,
}

impl Record {
    /// The histories, without what was refused.
    #[must_use]
    pub fn end(self) -> (BTreeMap<Key, Vec<Event>>, Refusals) {
        let events = self.events.into_inner();
        let refusals = self.refusals.into_inner();
        (
            events.unwrap_or_else(PoisonError::into_inner),
            refusals.unwrap_or_else(PoisonError::into_inner),
        )
    }

    fn add(&self, key: Key, event: Event) {
        let mut events = self.events.lock().expect("no client panicked");
        events.entry(key).or_default().push(event);
    }

    fn refused(&self, key: Key, operation: Operation, code: String, call: Nanos, by: &[String]) {
        let mut refusals = self.refusals.lock().expect("no client panicked");
        let from = call / 1_000_000;
        let until = self.clock.now() / 1_000_000;
        let text = format!("{code} ({}, {from} – {until} ms)", by.join(", "));
        let on = refusals.on.entry(key).or_default();
        on.push(format!("{operation}: {text}"));
        if let Operation::Write {
            leaves: Some(value),
            ..
        } = operation
        {
            refusals.of.insert(value, text);
        }
        *refusals.counts.entry(code).or_default() += 1;
    }

    /// A resource that is in use now.
    fn key(&self, tenant: usize, slot: usize) -> Key {
        let mut operations = self.operations.lock().expect("no client panicked");
        let count = operations.entry(tenant).or_default();
        *count += 1;
        let generation = *count / OPERATIONS_EACH;
        Key {
            tenant,
            id: format!("{generation}-{slot}"),
        }
    }
}

/// One client of one tenant.
#[derive(Debug)]
pub struct Worker<'a> {
    stage: &'a Stage,
    record: &'a Record,
    tenant: usize,
    random: fastrand::Rng,
    /// What it saw last, with its ETag.
    known: BTreeMap<Key, (Value, String)>,
}

impl<'a> Worker<'a> {
    /// A client; the seed sets its choices, not their times.
    #[must_use]
    pub fn new(stage: &'a Stage, record: &'a Record, tenant: usize, seed: u64) -> Self {
        Self {
            stage,
            record,
            tenant,
            random: fastrand::Rng::with_seed(seed),
            known: BTreeMap::new(),
        }
    }

    /// Works until it is told to stop; every operation that it began is in the record then.
    pub async fn run(&mut self, stop: &AtomicBool) {
        while !stop.load(Ordering::Relaxed) {
            let slot = self.random.usize(0..SLOTS);
            let key = self.record.key(self.tenant, slot);
            if self.known.len() > MAX_KNOWN {
                self.known.clear();
            }
            let operation = self.choose(&key);
            let pause = if self.operate(key, operation).await {
                PAUSE
            } else {
                AFTER_REFUSAL
            };
            tokio::time::sleep(pause).await;
        }
    }

    fn tenant(&self) -> &'a Tenant {
        &self.stage.tenants[self.tenant]
    }

    fn choose(&mut self, key: &Key) -> Operation {
        let value = Value(self.record.values.fetch_add(1, Ordering::Relaxed));
        let write = |expect, leaves| Operation::Write { expect, leaves };
        let put = write(Expect::Anything, Some(value));
        // Asynchronous writes have no order before they are applied: puts alone.
        if self.tenant().mode == Mode::Async {
            return put;
        }
        let known = self.known.get(key).map(|(value, _)| *value);
        match (self.random.u8(0..100), known) {
            (0..35, _) => put,
            (35..55, Some(known)) => write(Expect::Exactly(known), Some(value)),
            (55..60, Some(known)) => write(Expect::Exactly(known), None),
            (35..60, None) => write(Expect::Absent, Some(value)),
            (60..68, _) => write(Expect::Present, None),
            _ => Operation::Read,
        }
    }

    /// One operation with its further attempts; false when it was refused.
    async fn operate(&mut self, key: Key, operation: Operation) -> bool {
        let is_write = operation != Operation::Read;
        let idempotency = (is_write && self.random.bool())
            .then(|| format!("k-{}-{}", self.tenant, self.random.u64(..)));
        let call = self.record.clock.now();
        let mut may_have = false;
        let mut by = Vec::new();
        for attempt in 0..ATTEMPTS {
            let (entry, request) = self.request(&key, operation, idempotency.as_deref());
            by.push(entry);
            let answer = self.stage.client.try_follow(&request).await;
            if let Ok(answer) = &answer
                && !answer.hops.is_empty()
            {
                by.push("redirected".to_owned());
            }
            match told(operation, answer) {
                Told::Outcome(outcome, tag) => {
                    self.learn(&key, operation, outcome, tag.as_deref());
                    let answer = Some(self.record.clock.now());
                    let event = event(operation, outcome, (call, answer), tag, &by);
                    self.record.add(key, event);
                    return true;
                }
                Told::Nothing(code, said) if !may_have => {
                    by.push(said);
                    self.record.refused(key, operation, code, call, &by);
                    return false;
                }
                Told::Nothing(..) => {}
                Told::Unknown => may_have = true,
            }
            if idempotency.is_none() || attempt + 1 == ATTEMPTS {
                break;
            }
            tokio::time::sleep(BETWEEN_ATTEMPTS).await;
        }
        if is_write {
            let event = event(operation, Outcome::Unknown, (call, None), None, &by);
            self.record.add(key, event);
        }
        false
    }

    fn learn(&mut self, key: &Key, operation: Operation, outcome: Outcome, tag: Option<&str>) {
        let value = match (operation, outcome) {
            (Operation::Write { leaves, .. }, Outcome::Done) => leaves,
            (_, Outcome::Saw(value)) => value,
            _ => None,
        };
        match (value, tag) {
            (Some(value), Some(tag)) => {
                self.known.insert(key.clone(), (value, tag.to_owned()));
            }
            _ => {
                self.known.remove(key);
            }
        }
    }

    /// Any coordinator answers any request, and so does any proxy.
    fn request(
        &mut self,
        key: &Key,
        operation: Operation,
        idempotency: Option<&str>,
    ) -> (String, Request) {
        let cluster = &self.stage.cluster;
        let region = self.random.usize(0..cluster.regions().len());
        let through_proxy = self.random.u8(0..3) == 0;
        let path = format!("/v1/data/k/{}", key.id);
        let (method, query) = match operation {
            Operation::Read => (Method::GET, "?consistency=strong"),
            Operation::Write { leaves: None, .. } => (Method::DELETE, ""),
            Operation::Write { .. } => (Method::PUT, ""),
        };
        let path = format!("{path}{query}");
        let tenant = &self.tenant().name;
        let mut request = if through_proxy {
            cluster.through(region, tenant, method, &path)
        } else {
            let request = cluster.api(region, method, &path);
            request.header("x-maia-tenant-id", tenant)
        };
        if let Operation::Write { expect, leaves } = operation {
            request = match (expect, self.known.get(key)) {
                (Expect::Exactly(_), Some((_, tag))) => request.header("if-match", tag),
                (Expect::Absent, _) => request.header("if-none-match", "*"),
                _ => request,
            };
            if let Some(value) = leaves {
                request = request.body(body(value));
            }
        }
        if let Some(idempotency) = idempotency {
            request = request.header("idempotency-key", idempotency);
        }
        let entry = if through_proxy { "proxy" } else { "node" };
        (format!("{entry} {}", region + 1), request)
    }
}

fn event(
    operation: Operation,
    outcome: Outcome,
    (call, answer): (u64, Option<u64>),
    tag: Option<String>,
    by: &[String],
) -> Event {
    Event {
        operation,
        outcome,
        call,
        answer,
        tag,
        by: by.join(", "),
    }
}

/// A value's bytes: the same for each try of a write.
fn body(value: Value) -> String {
    format!(
        "{}:{}",
        value.0,
        ".".repeat((value.0 % MAX_FILLING) as usize)
    )
}

/// The value of these bytes.
#[must_use]
pub fn value_of(body: &[u8]) -> Option<Value> {
    let text = std::str::from_utf8(body).ok()?;
    Some(Value(text.split_once(':')?.0.parse().ok()?))
}

/// Whether a refusal with this code says that nothing was written.
fn is_certain(code: &str) -> bool {
    const CERTAIN: [&str; 11] = [
        "not_leader",
        "stale_placement",
        "tenant_held",
        "group_leaderless",
        "not_enough_replicas",
        "hold_queue_full",
        "unavailable",
        "disk_full",
        "region_unavailable",
        "rate_limited",
        "unknown_tenant",
    ];
    CERTAIN.contains(&code)
}

fn told(operation: Operation, answer: reqwest::Result<Answer>) -> Told {
    let answer = match answer {
        Ok(answer) => answer,
        // Nothing was sent.
        Err(error) if error.is_connect() => {
            return Told::Nothing("no connection".to_owned(), String::new());
        }
        Err(_) => return Told::Unknown,
    };
    let tag = answer.header("etag").map(str::to_owned);
    let code = answer.code();
    match (operation, answer.status) {
        (Operation::Read, 200) => Told::Outcome(Outcome::Saw(value_of(&answer.body)), tag),
        (Operation::Read, 404) if code == "not_found" => Told::Outcome(Outcome::Saw(None), None),
        (Operation::Read, _) => Told::Nothing(code, answer.text()),
        (_, 200 | 201 | 204) => Told::Outcome(Outcome::Done, tag),
        (_, 412) => Told::Outcome(Outcome::Unmet, None),
        (_, 404) if code == "not_found" => Told::Outcome(Outcome::Unmet, None),
        _ if is_certain(&code) => Told::Nothing(code, answer.text()),
        _ => Told::Unknown,
    }
}
