//! Whether a leader's log denies what this node knows to be committed. Raft rules that out, and openraft takes it for
//! granted: it skips entries up to its committed one unread. But a member's disk that said "synced" and lost it breaks
//! the rule: two members elect a leader without a committed record, and the third, which applied it, would go on
//! behind it with another state than theirs, and nobody would know (I13). So it stops here, and says why.
//!
//! ```text
//! node 1  … 1460 1461(t4) 1462(t4)  applied          term 5: "at 1462 I have a record of t5" ─▶ stops
//! node 2  … 1460 [1461 1462: said to be synced, lost]  ─▶ leads term 5: 1461(t5) 1462(t5) …
//! ```
//! One look at each message: whoever makes this node accept anything behind its committed entry says, before that, what
//! stands at that entry's index, as the entry before its own or among them.

use openraft::async_runtime::watch::WatchReceiver;
use openraft::raft::AppendEntriesRequest;

use super::group::Group;
use super::types::{RaftLogId, RaftVote, TypeConfig, term_of};

/// The term of what the message says stands at the index, if it says that.
fn term_at(request: &AppendEntriesRequest<TypeConfig>, index: u64) -> Option<u64> {
    if let Some(before) = request
        .prev_log_id
        .as_ref()
        .filter(|id| id.index() == index)
    {
        return Some(term_of(before));
    }
    let first = request.entries.first()?.log_id.index();
    let nth = usize::try_from(index.checked_sub(first)?).ok()?;
    Some(term_of(&request.entries.get(nth)?.log_id))
}

/// The term that a leader, unless it is a deposed one, has at the index of what is committed here, if that is
/// another term.
fn denied(
    committed: &RaftLogId,
    voted: &RaftVote,
    request: &AppendEntriesRequest<TypeConfig>,
) -> Option<u64> {
    let is_deposed = request.vote.leader_id.term < voted.leader_id.term;
    let said = term_at(request, committed.index()).filter(|_| !is_deposed)?;
    (said != term_of(committed)).then_some(said)
}

impl Group {
    /// Ends the instance, for good, when the leader's log denies what is committed here.
    ///
    /// # Errors
    /// Why it has ended.
    pub(super) async fn check_denial(
        &self,
        request: &AppendEntriesRequest<TypeConfig>,
    ) -> Result<(), String> {
        let found = {
            let metrics = self.raft.metrics();
            let m = metrics.borrow_watched();
            let committed = m.local_committed.max(m.last_applied);
            committed.and_then(|id| Some((id, denied(&id, &m.vote, request)?)))
        };
        let Some((committed, said)) = found else {
            return Ok(());
        };
        let reason = format!(
            "group {}: at index {} this node has a committed record of term {}, and its leader (node {}, term {}) has one of term {said} \
             there. A disk of another member has lost what it had acknowledged. This group stops here; others go on. \
             This copy may have records that the others lost: keep its folder, remove this node from the group and add \
             a new node",
            self.id,
            committed.index(),
            term_of(&committed),
            request.vote.leader_id.voted_for,
            request.vote.leader_id.term,
        );
        let is_news = {
            let mut tail = self.tail.lock();
            tail.damaged = true;
            tail.denied.replace(reason.clone()).is_none()
        };
        if is_news {
            tracing::error!(%reason, "a group stops");
            self.end().await;
        }
        Err(reason)
    }
}

#[cfg(test)]
mod tests {
    use openraft::EntryPayload;

    use super::super::types::{RaftEntry, log_id};
    use super::*;

    fn message(
        term: u64,
        before: Option<(u64, u64)>,
        entries: &[(u64, u64)],
    ) -> AppendEntriesRequest<TypeConfig> {
        let entry = |&(term, index): &(u64, u64)| RaftEntry {
            log_id: log_id(term, index),
            payload: EntryPayload::Blank,
        };
        AppendEntriesRequest {
            vote: RaftVote::new_committed(term, 2),
            prev_log_id: before.map(|(term, index)| log_id(term, index)),
            entries: entries.iter().map(entry).collect(),
            leader_commit: None,
        }
    }

    #[test]
    fn another_term_at_the_committed_index_is_a_denial() {
        let (committed, voted) = (log_id(4, 10), RaftVote::new_committed(5, 2));
        let cases = [
            (message(5, Some((5, 10)), &[]), Some(5)),
            (message(5, Some((4, 8)), &[(4, 9), (5, 10)]), Some(5)),
            (message(5, None, &[(3, 10)]), Some(3)),
            (message(6, Some((6, 10)), &[(6, 11)]), Some(6)),
            // The same, or nothing is said of that index.
            (message(5, Some((4, 10)), &[(5, 11)]), None),
            (message(5, Some((4, 9)), &[(4, 10), (5, 11)]), None),
            (message(5, Some((4, 8)), &[(4, 9)]), None),
            (message(5, Some((5, 12)), &[(5, 13)]), None),
            (message(5, None, &[]), None),
            // A leader of before may have anything there.
            (message(4, Some((3, 10)), &[]), None),
        ];
        for (n, (request, expected)) in cases.iter().enumerate() {
            assert_eq!(denied(&committed, &voted, request), *expected, "{n}");
        }
    }
}
