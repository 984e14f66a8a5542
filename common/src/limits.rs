//! Every cap of the system, each with its reason (I12: nothing is unbounded). A cap that an
//! operator may change is a configuration key whose default stands here.

use std::time::Duration;

/// A host label may have 63 bytes; 32 keep metric labels and log lines readable.
pub const MAX_REGION_NAME_BYTES: usize = 32;
/// A host label: the authority of the URIs in certificates.
pub const MAX_CLUSTER_NAME_BYTES: usize = 63;
/// Tenant ids come with every request and are kept a million times.
pub const MAX_TENANT_ID_BYTES: usize = 128;
/// Part of every data key.
pub const MAX_RESOURCE_TYPE_BYTES: usize = 64;
/// Part of every data key.
pub const MAX_RESOURCE_ID_BYTES: usize = 256;
/// Stored with every outcome until the key's lifetime ends.
pub const MAX_IDEMPOTENCY_KEY_BYTES: usize = 128;
/// A file name and a metric label.
pub const MAX_PROXY_ID_BYTES: usize = 64;
/// The largest resource that the built-in origin takes: a record goes through memory of every
/// replica at once, and must leave room for heartbeats on the same disk.
pub const MAX_RESOURCE_BYTES: usize = 4 << 20;
/// The largest body of an admin request: placements are small.
pub const MAX_ADMIN_BODY_BYTES: usize = 256 << 10;
/// Placement groups of a cluster: an idle group costs about 6 ms CPU/s over three nodes at 50 ms.
pub const MAX_GROUPS: usize = 64;
/// Tenants whose home a coordinator keeps decoded, some 300 bytes each; with more, all are read anew.
pub const MAX_KNOWN_HOMES: usize = 16_384;
/// Regions of a cluster: one data-bearing node each, and a group's key names them all.
pub const MAX_REGIONS: usize = 16;
/// A region's public URL: it is in every redirect.
pub const MAX_PUBLIC_URL_BYTES: usize = 512;
/// Coordinators of a cluster: group 0 is replicated to each, voter or not.
pub const MAX_NODES: usize = 32;
/// Deletions of tenants that were interrupted and that the controller takes up at one look: the rest
/// waits for the next.
pub const MAX_RESUMED_DELETIONS: usize = 64;
/// Voters of one group; more members are learners. Five tolerate two faults; more slow each write.
pub const MAX_VOTERS: usize = 5;
/// Revisions that the metastore's watch history keeps, and for which it knows a transaction by its
/// id; a watcher further behind resyncs, a retry that comes later is a new transaction.
pub const WATCH_HISTORY_REVISIONS: u64 = 100_000;
/// Bytes of the watch history: a load of many tenants writes a few MB/s, so this is half a minute of
/// it, and what a snapshot of the metastore carries beside its keys.
pub const WATCH_HISTORY_BYTES: u64 = 64 << 20;
/// Old revisions that one transaction drops from the history at most: bounds the apply step. One
/// revision is added each time, so the history shrinks to its caps within a few transactions.
pub const MAX_HISTORY_DROPS: u64 = 1024;
/// The largest body of a load of placements, and the most tenants in it: one metastore transaction
/// with up to four parts for each tenant (see `MAX_TXN_OPERATIONS`).
pub const MAX_LOAD_BODY_BYTES: usize = 1 << 20;
/// See [`MAX_LOAD_BODY_BYTES`].
pub const MAX_LOAD_ITEMS: usize = 1000;
/// How long a load waits for new groups to elect their first leader, before it reports their
/// tenants as failed and goes on with the others.
pub const LOAD_GROUP_PATIENCE: Duration = Duration::from_secs(5);
/// Events kept in the metastore; older ones are dropped by the transaction that adds one.
pub const MAX_EVENTS: u64 = 10_000;
/// Comparisons and operations of one metastore transaction: bounds the record and the apply step.
/// What a load needs: up to four for each tenant, and a few for each group.
pub const MAX_TXN_OPERATIONS: usize = 4 * MAX_LOAD_ITEMS + 4 * MAX_GROUPS;
/// What is remembered with a client's idempotency key for the answer to a repetition.
pub const MAX_MEMO_BYTES: usize = 4096;
/// Failed lines of a load that are remembered with its idempotency key; of others only the count. So
/// many have room in `MAX_MEMO_BYTES`.
pub const MAX_REMEMBERED_FAILURES: usize = 16;
/// The largest value under one metastore key.
pub const MAX_META_VALUE_BYTES: usize = 64 << 10;
/// Rows in one page of a list.
pub const MAX_PAGE: usize = 1000;
/// Tenants that are looked at for one page of a list with a filter: some 30 ms. The page says where
/// to go on.
pub const MAX_LIST_SCAN: usize = 10_000;
/// Rows in one page of a list that names no limit.
pub const DEFAULT_PAGE: usize = 100;
/// The largest gRPC message: one resource, its metadata, and room.
pub const MAX_RPC_BYTES: usize = 16 << 20;
/// Deltas that are kept ready for all feed subscribers: one that is further behind reads the history.
/// A delta of a bulk load has tens of KB.
pub const FEED_BACKLOG_DELTAS: usize = 1024;
/// Tenants in one chunk of a feed snapshot: about 100 KiB, so that control messages interleave.
pub const FEED_CHUNK_TENANTS: usize = 2048;
/// Subscribers of one coordinator's feed.
pub const MAX_FEED_SUBSCRIBERS: usize = 2000;
/// Answers of the feed that may be open at once: those of subscribers, and of as many that were cut
/// off and whose connections have not noticed yet.
pub const MAX_FEED_STREAMS: usize = 2 * MAX_FEED_SUBSCRIBERS;
/// Messages ready for one subscriber beside the shared backlog; they are references, not copies, but
/// for the first stretch of a subscriber that was cut off where no other was.
pub const FEED_OUTBOX: usize = 8;
/// How long one message may wait for room in a subscriber's outbox, and how long a delta may wait for
/// its acknowledgement: then the subscriber is cut off.
pub const FEED_PATIENCE: Duration = Duration::from_secs(10);
/// How long the acknowledgement of a snapshot may take: all of it may still be on a slow link.
pub const FEED_SNAPSHOT_PATIENCE: Duration = Duration::from_secs(60);
/// Snapshot images of one kind that links still read, about 40 MB each at a million tenants; beside
/// them there are the newest, which may be one of them, and one that is being built.
pub const MAX_FEED_IMAGES: usize = 3;
/// A link that is slower gets no whole snapshot, whatever its size: a fleet of 1000 proxies that shares
/// 1 Gbit/s gets it.
pub const FEED_FLOOR_BYTES_PER_SECOND: u32 = 100 << 10;
/// A snapshot that is read more slowly is cut off when its place in memory is needed.
pub const FEED_CROWDED_BYTES_PER_SECOND: u32 = 2 << 20;
/// How long an image or a stretch of the history that nobody asks for is kept.
pub const FEED_IMAGE_IDLE: Duration = Duration::from_secs(60);
/// Revisions that a subscriber may be behind and still gets what changed in place of a snapshot, also
/// how old an image may be that a new subscriber is given.
pub const FEED_CATCH_UP_REVISIONS: u64 = 20_000;
/// Changed tenants after which a subscriber that catches up gets a snapshot: it is not much larger.
pub const FEED_CATCH_UP_TENANTS: usize = 100_000;
/// Stretches of the history kept ready for subscribers that catch up, of up to about 500 KB each: as
/// many as the history of a bulk load has.
pub const FEED_KEPT_STRETCHES: usize = 64;
/// Changed tenants in one delta of a subscriber that catches up, give or take one revision.
pub const FEED_PIECE_TENANTS: usize = 4096;
/// Reads of the history for subscribers at once: they share the disk with everything else.
pub const MAX_FEED_READS: usize = 4;
/// Drained acknowledgements remembered for each subscriber; the oldest goes first.
pub const MAX_FEED_DRAINED: usize = 256;
/// Registered proxies of a cluster; more by those that register at the same moment.
pub const MAX_PROXIES: usize = 5000;
/// Registrations that one coordinator has under way at once.
pub const MAX_REGISTRATIONS_IN_FLIGHT: usize = 64;
/// Lookups in flight at one coordinator; further ones are refused.
pub const MAX_LOOKUPS_IN_FLIGHT: usize = 1024;
/// How long a lookup may take, the placing of a new tenant included.
pub const LOOKUP_DEADLINE: Duration = Duration::from_secs(5);
/// Lookups that one proxy has under way; requests beyond them get 503.
pub const MAX_PROXY_LOOKUPS: u32 = 256;
/// New tenants that one proxy has asked a coordinator to place; apart from lookups, so that made-up
/// names keep no tenant that exists from being looked up.
pub const MAX_PROXY_PLACINGS: u32 = 32;
/// Names without a placement that a proxy remembers which does not hold all tenants: attackers make
/// names up, and must not drive tenants out.
pub const MAX_UNPLACED_TENANTS: u64 = 16_384;
/// How long it remembers them. Longer than a lookup takes.
pub const UNPLACED_LIFETIME: Duration = Duration::from_secs(10);
/// How long a lookup waits for its request, and to be caught up with: it holds a turn meanwhile.
pub const LOOKUP_PATIENCE: Duration = Duration::from_secs(1);
/// How long another coordinator may take to say which proxies are on its feed.
pub const PROXIES_DEADLINE: Duration = Duration::from_millis(500);
/// Requests in flight at a coordinator's API; further ones get 503 with Retry-After.
pub const MAX_API_IN_FLIGHT: usize = 4096;
/// How long an API request may take in all, writes included, before it is `outcome_unknown`.
pub const API_DEADLINE: Duration = Duration::from_secs(10);
/// How long a read with a consistency token waits for this node's copy before the leader is asked:
/// much longer than a copy that keeps up needs, and short enough to leave the leader time.
pub const TOKEN_PATIENCE: Duration = Duration::from_secs(2);
/// Reads at once that wait for this node's copy of a group to come; more are told at once that it has not.
pub const MAX_COPY_WAITS: usize = 256;
/// How many times a request may be passed between coordinators: leader, then its successor.
pub const MAX_INTERNAL_HOPS: u32 = 3;
/// Hops of a forwarded request between proxies, then 508.
pub const MAX_FORWARD_HOPS: u32 = 3;
/// Idempotency keys kept per tenant; the oldest of the tenant goes first.
pub const MAX_IDEMPOTENCY_KEYS_PER_TENANT: u64 = 100_000;
/// Term starts that a group's state remembers: an election a minute for a week. Positions of older
/// terms are no longer honoured.
pub const MAX_TERM_STARTS: u64 = 10_000;
/// How long a key makes a retry recognizable, by the records' own clocks.
pub const IDEMPOTENCY_KEY_LIFETIME: Duration = Duration::from_secs(24 * 3600);
/// How long it is remembered that a resource was deleted: an older write of it that turns up later
/// waits for the operator.
pub const TOMBSTONE_LIFETIME: Duration = Duration::from_secs(24 * 3600);
/// Deletions remembered per tenant; the oldest goes first.
pub const MAX_TOMBSTONES_PER_TENANT: u64 = 100_000;
/// Fields of one resource whose stamps are kept apart, removed ones included: each costs some 40
/// bytes beside its name. A larger object is compared as a whole.
pub const MAX_MERGED_FIELDS: usize = 1024;
/// Bytes that a resource's field stamps take at most, removed fields' among them, about: they are
/// stored, replicated and read with each write of it, and a removed field's name would otherwise stay
/// for ever, so that a resource of a few bytes could grow by one field name a write. Beyond it, it is
/// one whole.
pub const MAX_FIELD_STAMPS_BYTES: usize = 256 << 10;
/// How long a record that was cut off, and of which no client was told that it is safe, waits for the
/// operator: its client was told that it failed, or that its outcome is not known, and has tried again.
pub const UNACKNOWLEDGED_LIFETIME: Duration = Duration::from_secs(7 * 24 * 3600);
/// The format of a node's data folder and of snapshots that this software reads and writes. Up with every
/// change that older or newer software would misread. Builds before the first release kept more than one
/// meaning under 1; those of 2 did not say it in snapshots.
pub const DATA_FORMAT: u32 = 3;
/// Records in one node's quarantine. What leaves a log is always kept; when there are more, those that
/// nobody was told are safe go, the oldest first, and the others raise an alert: each is looked at every
/// minute.
pub const MAX_QUARANTINE_ENTRIES: u64 = 100_000;
/// Bytes of one node's quarantine, in the same way: they take the log's place on its disk.
pub const MAX_QUARANTINE_BYTES: u64 = 1 << 30;
/// Reads and writes of one node's quarantine at once: each takes a thread and the disk.
pub const MAX_QUARANTINE_IO: usize = 4;
/// Groups that a node names of which it has something in quarantine; of more it only says so, and none
/// is collected then. Twice the groups there can be: of groups that are gone entries may be left.
pub const MAX_HELD_GROUPS: usize = 2 * MAX_GROUPS;
/// One try of a metastore transaction, before it is tried again, perhaps elsewhere.
pub const METASTORE_ATTEMPT: Duration = Duration::from_secs(2);
/// Streams of entries that one coordinator serves; each holds at most two chunks in memory.
pub const MAX_STREAMS: usize = 128;
/// After this many bytes of entries a chunk of a stream, or a page of entries, ends; one entry may be
/// larger.
pub const STREAM_CHUNK_BYTES: usize = 256 << 10;
/// How long a chunk may wait for a stream's reader; then the stream is ended, and the reader resumes.
pub const STREAM_PATIENCE: Duration = Duration::from_secs(10);
/// At the latest so long after the last event a stream says where it is.
pub const STREAM_HEARTBEAT: Duration = Duration::from_secs(5);
/// Records of a log that are looked at for one page: those of other tenants are passed over. The page
/// says where to go on.
pub const MAX_ENTRIES_SCAN: usize = 10_000;
/// Bytes of a log, with what its entries did, that are read for one page: as many as records, or a few
/// large ones of other tenants.
pub const MAX_ENTRIES_SCAN_BYTES: usize = 4 << 20;
/// Pages of entries that one coordinator reads from its disk at once; further ones wait.
pub const MAX_ENTRY_READS: usize = 8;
/// Pages of entries that other coordinators ask of one at once, waiting for entries among them; for one more
/// they go to another member. Each holds a chunk in memory at most.
pub const MAX_PEER_ENTRY_READS: usize = 256;
/// Nesting of JSON that is shown as JSON within other JSON: parsers bound it, and a reader must not
/// stumble over one resource. Deeper content is shown as bytes.
pub const MAX_SHOWN_DEPTH: usize = 100;
/// How long the API's answer may stay unread or unacknowledged before its connection is closed: a
/// stream whose reader is gone frees its place then.
pub const API_UNREAD_PATIENCE: Duration = Duration::from_secs(30);
/// A follower that lacks more records than this catches up; one that lacks fewer is in step: so many
/// proposals of one group may be under way.
pub const CATCH_UP_RECORDS: u64 = 4096;
/// What a follower that catches up is sent for each record that clients write, while they wait for the
/// node that sends: so it always gets nearer, and has made up an absence in as long as it was. Records
/// in large messages cost some two fifths of those that come as they are written: two cost less than one follower in
/// step, three as much.
pub const CATCH_UP_PER_WRITE: u64 = 2;
/// What all followers together that catch up from one node are sent in a second beside that, however
/// little is written: some 2,000 small records, a few hundredths of a processor.
pub const CATCH_UP_BYTES_PER_SECOND: u64 = 8 << 20;
/// What a record costs beside its bytes, in bytes: some 20 µs where it is stored and applied, in which so many are
/// encrypted, checked and written.
pub const CATCH_UP_RECORD_BYTES: u64 = 4096;
/// When no client has waited for a write at a node for so long, it sends at full speed: longer than
/// clients that write without a pause take from an answer to the next request.
pub const CATCH_UP_QUIET: Duration = Duration::from_millis(20);
/// When a leader's log has lacked a commit for so long, it sends at full speed: it may be this follower
/// that is missing. Longer than a healthy commit takes.
pub const CATCH_UP_STUCK: Duration = Duration::from_millis(100);
/// Messages that are held back at a node have so many bytes at most; above that they go: each is 4 MiB at the
/// outside, and there may be one for each follower of a thousand groups.
pub const CATCH_UP_HELD_BYTES: u64 = 256 << 20;
/// How often it is looked whether a message for one that catches up may go: several times in the 70 ms that
/// a message is worth under full load.
pub const CATCH_UP_LOOK: Duration = Duration::from_millis(5);
/// The least that a log may be told to keep: it is dropped in parts of 1 MiB.
pub const MIN_RETENTION_BYTES: u64 = 1_000_000;
/// The least age at which records may be told to be dropped: followers restart within it.
pub const MIN_RETENTION_AGE: Duration = Duration::from_secs(60);
/// Operations of one append: they are checked and applied as one.
pub const MAX_APPEND_OPERATIONS: usize = 1000;
/// Proxies that one certificate may name: those of one machine.
pub const MAX_CERTIFICATE_PROXIES: usize = 64;
/// A file with certificates or a key: two CAs and a chain have some KB.
pub const MAX_TLS_FILE_BYTES: u64 = 256 << 10;
/// How often the files with certificates are looked at: three small files.
pub const TLS_FILES_POLL: Duration = Duration::from_secs(2);
/// How long ahead it is told that a certificate expires: time to make another in working hours.
pub const CERTIFICATE_WARNING: Duration = Duration::from_secs(14 * 24 * 3600);
/// How much earlier than its certificates a connection ends at most, so that those of a thousand proxies
/// do not end in one second when a coordinator's certificate expires.
pub const CERTIFICATE_SPREAD: Duration = Duration::from_secs(600);
/// TLS handshakes under way at once at one listener: who only connects and says nothing holds a place
/// for seconds. Further connections wait for their turn.
pub const MAX_TLS_HANDSHAKES: usize = 1024;
/// How long either side waits for the other's part of a TLS handshake: some round trips, and a busy
/// machine.
pub const TLS_HANDSHAKE: Duration = Duration::from_secs(5);
