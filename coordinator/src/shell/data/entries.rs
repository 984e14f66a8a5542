//! Committed entries for those who follow a tenant or a group: read here where this node has the
//! group's data, else asked of a member that has it (I7: nothing of it is kept here). Entries are
//! JSON from where they are read on; nobody in between looks inside.

use std::time::{Duration, Instant};

use bytes::Bytes;
use maia_common::error_code::ErrorCode;
use maia_common::ids::{GroupId, NodeId, TenantId};
use maia_common::limits;
use maia_common::placement::Placement;
use maia_common::position::{GroupPosition, Index, Position, Term};
use maia_common::wire::peer as wire;

use super::{DataService, PLACEMENT_PATIENCE, unknown_tenant};
use crate::core::{data, entries, keyspace};
use crate::metastore;
use crate::raft::{AppliedEntry, EntriesError, ReadError};
use crate::shell::peers::PeerError;
use crate::shell::placements::Refusal;

/// How long a reader that knows more than this node is let wait: another may be further.
const NOT_YET_PATIENCE: Duration = Duration::from_secs(2);
/// How long the last entry of a tenant that is gone is waited for, which this node may not have applied yet.
const LAST_ENTRY_PATIENCE: Duration = Duration::from_secs(1);

/// Whose entries.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Followed {
    /// One tenant's, wherever it is placed.
    Tenant(TenantId),
    /// Those of all tenants of a group.
    Group(GroupId),
}

/// Which entries of a group's log.
#[derive(Debug, Clone)]
pub struct EntriesQuery {
    /// Of this tenant only.
    pub tenant: Option<TenantId>,
    /// What follows this position; none: from the first on.
    pub after: Option<Position>,
    /// At most so many.
    pub limit: usize,
    /// How long to wait for the first one.
    pub wait: Duration,
}

/// Committed entries, in order.
#[derive(Debug, Clone, Default)]
pub struct EntriesPage {
    /// Each with its position, as a JSON object.
    pub entries: Vec<(Position, Bytes)>,
    /// Up to here all is read; none: the log has nothing yet.
    pub upto: Option<Position>,
    /// Whether there is more already.
    pub more: bool,
}

/// How far a group is applied where it was asked.
#[derive(Debug, Clone, Copy, Default)]
pub struct Reach {
    /// The last position; none: nothing is applied.
    pub applied: Option<Position>,
    /// The oldest position behind which the log has everything; none: it has all from the first on.
    pub oldest: Option<Position>,
}

impl DataService {
    /// The group whose log has these entries.
    ///
    /// # Errors
    /// [`Refusal`]: no such tenant or group.
    pub async fn group_of(
        &self,
        followed: &Followed,
        deadline: Instant,
    ) -> Result<GroupId, Refusal> {
        let tenant = match followed {
            Followed::Tenant(tenant) => tenant,
            Followed::Group(group) if self.0.cluster.state().groups.contains_key(group) => {
                return Ok(*group);
            }
            Followed::Group(group) => {
                let text = format!("there is no placement group {group}");
                return Err(Refusal::new(ErrorCode::NotFound, text));
            }
        };
        let stored = || metastore::get::<Placement>(&*self.0.store, &keyspace::tenant(tenant));
        // Whatever its state: that writes are held, or that it is being deleted, is no reason not to read.
        if let Some(stored) = stored()? {
            return Ok(stored.value.group);
        }
        let patience = deadline.min(Instant::now() + PLACEMENT_PATIENCE);
        self.0.store.catch_up(patience).await?;
        let stored = stored()?.ok_or_else(|| unknown_tenant(tenant))?;
        Ok(stored.value.group)
    }

    /// Committed entries of a tenant or a group after a position. Of a tenant that is gone, what follows the
    /// position in that position's group: the purge at last.
    ///
    /// # Errors
    /// [`Refusal`]: `not_retained`, `diverged_history` (also when the tenant is in another group now),
    /// `not_yet`, or why nobody could be asked.
    pub async fn entries(
        &self,
        followed: &Followed,
        after: Option<GroupPosition>,
        (limit, wait): (usize, Duration),
        deadline: Instant,
    ) -> Result<(GroupId, EntriesPage), Refusal> {
        let group = match (self.group_of(followed, deadline).await, after) {
            (Err(gone), Some(after)) if gone.code == ErrorCode::UnknownTenant => {
                let asked = (limit, wait.min(LAST_ENTRY_PATIENCE));
                let last = self.entries_of(after.group, followed, Some(after), asked, deadline);
                let page = last.await.ok();
                let page = page.filter(|page| page.more || !page.entries.is_empty());
                return page.map(|page| (after.group, page)).ok_or(gone);
            }
            (group, _) => group?,
        };
        if let Some(other) = after.filter(|after| after.group != group) {
            let text =
                format!("the position {other} is of another group's log: this is group {group}");
            return Err(Refusal::new(ErrorCode::DivergedHistory, text));
        }
        let asked = (limit, wait);
        let page = self.entries_of(group, followed, after, asked, deadline);
        Ok((group, page.await?))
    }

    async fn entries_of(
        &self,
        group: GroupId,
        followed: &Followed,
        after: Option<GroupPosition>,
        (limit, wait): (usize, Duration),
        deadline: Instant,
    ) -> Result<EntriesPage, Refusal> {
        let query = EntriesQuery {
            tenant: match followed {
                Followed::Tenant(tenant) => Some(tenant.clone()),
                Followed::Group(_) => None,
            },
            after: after.map(|after| after.at),
            limit,
            wait,
        };
        if self.has_entries(group) {
            return self.entries_here(group, &query, deadline).await;
        }
        let request = wire::EntriesRequest {
            group: group.get(),
            tenant: query
                .tenant
                .as_ref()
                .map_or_else(String::new, ToString::to_string),
            has_after: query.after.is_some(),
            after_term: query.after.map_or(0, |at| at.term.get()),
            after_index: query.after.map_or(0, |at| at.index.get()),
            limit: u32::try_from(limit).unwrap_or(u32::MAX),
            wait_ms: u32::try_from(wait.as_millis()).unwrap_or(u32::MAX),
            timeout_ms: 0,
        };
        let reply = self.ask_member(group, request, deadline).await?;
        Ok(page_of(reply))
    }

    /// How far the group is applied: here, or at a member that has its data.
    ///
    /// # Errors
    /// [`Refusal`]: nobody could be asked.
    pub async fn reach(&self, group: GroupId, deadline: Instant) -> Result<Reach, Refusal> {
        if self.has_entries(group) {
            return self.reach_here(group);
        }
        let request = wire::EntriesRequest {
            group: group.get(),
            ..wire::EntriesRequest::default()
        };
        let reply = self.ask_member(group, request, deadline).await?;
        let at =
            |has: bool, term, index| has.then(|| Position::new(Term::new(term), Index::new(index)));
        Ok(Reach {
            applied: at(reply.has_upto, reply.upto_term, reply.upto_index),
            oldest: at(reply.has_oldest, reply.oldest_term, reply.oldest_index),
        })
    }

    /// As [`DataService::reach`], of this node.
    ///
    /// # Errors
    /// [`Refusal`]: the group's data is not here.
    pub fn reach_here(&self, group: GroupId) -> Result<Reach, Refusal> {
        let found = self.0.engine.applied_and_oldest(group);
        let (applied, oldest) = found.map_err(|error| refusal_of(group, error))?;
        Ok(Reach { applied, oldest })
    }

    /// Whether the group's entries are kept here.
    #[must_use]
    pub fn has_entries(&self, group: GroupId) -> bool {
        let status = self.0.engine.status(group);
        status.is_some_and(|s| s.stopped.is_none() && s.has_copy(self.0.me.0))
    }

    /// As [`DataService::entries`], from this node's log alone. Answers with what it has, if only how far
    /// it looked, when half of the time to the deadline is over: an answer that comes too late would be asked
    /// for again and again.
    ///
    /// # Errors
    /// As [`DataService::entries`].
    pub async fn entries_here(
        &self,
        group: GroupId,
        query: &EntriesQuery,
        deadline: Instant,
    ) -> Result<EntriesPage, Refusal> {
        let now = Instant::now();
        let answer_at = now + deadline.saturating_duration_since(now) / 2;
        let wait_until = answer_at.min(now + query.wait);
        let not_yet_until = answer_at.min(now + NOT_YET_PATIENCE);
        let mut page = EntriesPage {
            upto: query.after,
            ..EntriesPage::default()
        };
        let (mut scanned, mut scanned_bytes, mut bytes) = (0, 0, 0);
        loop {
            let most = limits::MAX_ENTRIES_SCAN - scanned;
            let engine = &self.0.engine;
            let read = engine.entries(group, page.upto, limits::STREAM_CHUNK_BYTES, most);
            let stretch = match read.await {
                Ok(stretch) => stretch,
                Err(EntriesError::NotYet) if Instant::now() < not_yet_until => {
                    let next = page.upto.map_or(0, |at| at.index.get());
                    self.wait_for(group, next, not_yet_until).await?;
                    continue;
                }
                Err(error) => return Err(refusal_of(group, error)),
            };
            (page.upto, page.more) = (stretch.upto, stretch.more);
            scanned += stretch.entries.len();
            for entry in stretch.entries {
                if page.entries.len() >= query.limit {
                    page.more = true;
                    break;
                }
                page.upto = Some(entry.position);
                scanned_bytes += entry.size_bytes();
                if let Some(shown) = show(group, query, &entry)? {
                    bytes += shown.len();
                    page.entries.push((entry.position, shown));
                }
            }
            let full = page.entries.len() >= query.limit || bytes >= limits::STREAM_CHUNK_BYTES;
            let much = scanned >= limits::MAX_ENTRIES_SCAN
                || scanned_bytes >= limits::MAX_ENTRIES_SCAN_BYTES;
            if full || much {
                return Ok(page);
            }
            if page.more && Instant::now() < answer_at {
                continue;
            }
            if page.more || !page.entries.is_empty() || Instant::now() >= wait_until {
                return Ok(page);
            }
            let next = page.upto.map_or(0, |at| at.index.get() + 1);
            self.wait_for(group, next, wait_until).await?;
        }
    }

    /// Waits until the index is applied here, or the time is over.
    async fn wait_for(&self, group: GroupId, index: u64, until: Instant) -> Result<(), Refusal> {
        // Of no term: it is the index that counts, and records of a later term are no reason to look.
        let position = Position::new(Term::new(u64::MAX), Index::new(index));
        match self.0.engine.wait_applied(group, position, until).await {
            Ok(()) | Err(ReadError::Timeout) => Ok(()),
            Err(_) => Err(refusal_of(group, EntriesError::NotHere)),
        }
    }

    /// Asks the leader first, then the other members with data, until one answers: each may take half of
    /// what is left of the time, the last one all. When none has the entries, the first that said so counts.
    async fn ask_member(
        &self,
        group: GroupId,
        mut request: wire::EntriesRequest,
        deadline: Instant,
    ) -> Result<wire::EntriesReply, Refusal> {
        let state = self.0.cluster.state();
        let leader = self.leader_of(group);
        let mut members: Vec<NodeId> = leader.into_iter().collect();
        if let Some(record) = state.groups.get(&group) {
            let others = record.staying().map(|member| member.node);
            members.extend(others.filter(|node| Some(*node) != leader));
        }
        members.retain(|node| *node != self.0.me.0);
        let text = format!("no member of group {group} that has its data can be reached");
        let mut refused = Refusal::new(ErrorCode::Unavailable, text);
        let mut lacking = None;
        let count = members.len();
        for (asked, node) in members.into_iter().enumerate() {
            let left = deadline.saturating_duration_since(Instant::now());
            let patience = if asked + 1 < count { left / 2 } else { left };
            request.timeout_ms = u32::try_from(patience.as_millis()).unwrap_or(u32::MAX);
            let by = Instant::now() + patience;
            match self.0.peers.entries(node, request.clone(), by).await {
                Ok(reply) => return Ok(reply),
                // It has no copy, or not these entries, or can't tell now: another may.
                Err(PeerError::Refused { code, detail }) => {
                    let refusal = Refusal::new(code, detail);
                    match code {
                        ErrorCode::StalePlacement | ErrorCode::Unavailable => refused = refusal,
                        ErrorCode::NotYet | ErrorCode::NotRetained => {
                            lacking.get_or_insert(refusal);
                        }
                        _ => return Err(refusal),
                    }
                }
                Err(_) => {}
            }
        }
        Err(lacking.unwrap_or(refused))
    }
}

fn show(
    group: GroupId,
    query: &EntriesQuery,
    entry: &AppliedEntry,
) -> Result<Option<Bytes>, Refusal> {
    let Some(record) = &entry.record else {
        return Ok(None);
    };
    if query.tenant.is_some() && record.tenant != query.tenant {
        return Ok(None);
    }
    let trace = entry.trace.clone().map(data::decode_trace).transpose();
    let trace = trace.map_err(|error| refusal_of(group, EntriesError::Failed(error.reason)))?;
    let shown = entries::shown(group, entry.position, record, trace.as_ref());
    let shown = shown.map_err(|error| {
        let text = format!("{error}: {}", entry.position.index);
        refusal_of(group, EntriesError::Failed(text))
    });
    Ok(shown?.map(Bytes::from))
}

fn page_of(reply: wire::EntriesReply) -> EntriesPage {
    let at = |term: u64, index: u64| Position::new(Term::new(term), Index::new(index));
    let positions = reply.terms.iter().zip(&reply.indexes);
    let entries = positions.map(|(term, index)| at(*term, *index));
    EntriesPage {
        entries: entries.zip(reply.entries).collect(),
        upto: reply
            .has_upto
            .then(|| at(reply.upto_term, reply.upto_index)),
        more: reply.more,
    }
}

fn refusal_of(group: GroupId, error: EntriesError) -> Refusal {
    let refuse = Refusal::new;
    match error {
        EntriesError::NotRetained { from } => {
            let from = GroupPosition { group, at: from };
            let text = format!(
                "the log no longer has what follows this position; the oldest position to go on from is \
                 {from}. Read the whole state, then go on from where it was read"
            );
            refuse(ErrorCode::NotRetained, text)
        }
        EntriesError::Diverged => refuse(ErrorCode::DivergedHistory, error.to_string()),
        EntriesError::NotYet => refuse(ErrorCode::NotYet, error.to_string()),
        EntriesError::NotHere => refuse(ErrorCode::StalePlacement, error.to_string()),
        EntriesError::Replacing => refuse(ErrorCode::Unavailable, error.to_string()),
        EntriesError::Failed(reason) => {
            tracing::error!(%group, reason, "entries can't be read");
            refuse(ErrorCode::Internal, "the log can't be read".to_owned())
        }
    }
}
