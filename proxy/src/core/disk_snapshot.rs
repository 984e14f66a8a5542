//! The format of the snapshot on disk: what this proxy starts from when no coordinator answers.
//! Bytes in, bytes out; the file itself is the shell's (`shell/disk_snapshot`).
//!
//! ```text
//! header   "maia-pls" · format u32 · generation u64 · revision u64 · saved, Unix ms u64
//!          · whole u8 · tenants u64 · shards u32 · fingerprint key 16 B · cluster mark 32 B · crc32c u32
//! section  length u32 · payload · crc32c u32 of both     the topology: an encoded feed `Changes`
//! section  …                                             one per shard: records of 33 bytes
//!          record: high u64 · low u64 · group u64 · version u64 · flags u8
//! trailer  "maia-end" · crc32c u32 of all before the trailer
//! ```
//! Numbers are little-endian. Flags: bit 0 holding, bits 1 and 2 write routing (0 none, 1 redirect,
//! 2 forward). The format is versioned by its number, and as it is in the golden file: a reader
//! refuses what it does not know, since the feed brings everything anew. (Format 1 had no `whole`.) Every byte is under a checksum: a file that is damaged, cut or
//! of another cluster is refused whole.

use maia_common::placement::WriteRouting;
use maia_common::topology::Topology;
use maia_common::wire::feed as wire;
use maia_common::{Generation, GroupId, Revision, Version};
use prost::Message;

use super::feed::{Unreadable, of_topology, put_topology};
use super::fingerprint::Fingerprint;
use super::table::{Builder, Entry, Shard};

/// The format that is written, and the only one that is read.
pub const FORMAT: u32 = 2;
/// Bytes of the header.
pub const HEADER_BYTES: usize = 8 + 4 + 8 + 8 + 8 + 1 + 8 + 4 + 16 + 32 + CRC_BYTES;
/// Bytes of the trailer.
pub const TRAILER_BYTES: usize = 8 + CRC_BYTES;
/// Bytes of a section's length, and of a checksum.
pub const LENGTH_BYTES: usize = 4;
/// Bytes of a checksum.
pub const CRC_BYTES: usize = 4;
/// The largest section: a shard has some hundred tenants, a topology 64 groups.
pub const MAX_SECTION_BYTES: usize = 64 << 20;

const MAGIC: &[u8; 8] = b"maia-pls";
const END: &[u8; 8] = b"maia-end";
const RECORD_BYTES: usize = 33;

/// Why a snapshot is refused.
#[derive(Debug, thiserror::Error)]
pub enum Refused {
    /// Not such a file, or of another version of the program.
    #[error("{0}")]
    NotOurs(&'static str),
    /// Bytes that are not what was written.
    #[error("{0} does not match its checksum")]
    Checksum(&'static str),
    /// Ends too early, or goes on after its end.
    #[error("{0}")]
    Length(&'static str),
    /// A topology that can't be read.
    #[error("the topology can't be read: {0}")]
    Encoding(#[from] prost::DecodeError),
}

/// What stands at the head of the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Header {
    /// In force when it was saved.
    pub generation: Generation,
    /// In force when it was saved.
    pub revision: Revision,
    /// When it was saved.
    pub saved_unix_ms: u64,
    /// Whether all tenants follow; else none (`proxy.table = "on-demand"`).
    pub whole: bool,
    /// How many follow.
    pub tenants: u64,
    /// How many sections of tenants follow.
    pub shards: u32,
    /// Without it the fingerprints mean nothing.
    pub key: [u8; 16],
    /// Names the cluster, so that another one's placements are never served.
    pub cluster: [u8; 32],
}

impl Header {
    /// The header's bytes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(HEADER_BYTES);
        bytes.extend_from_slice(MAGIC);
        bytes.extend_from_slice(&FORMAT.to_le_bytes());
        bytes.extend_from_slice(&self.generation.get().to_le_bytes());
        bytes.extend_from_slice(&self.revision.get().to_le_bytes());
        bytes.extend_from_slice(&self.saved_unix_ms.to_le_bytes());
        bytes.push(u8::from(self.whole));
        bytes.extend_from_slice(&self.tenants.to_le_bytes());
        bytes.extend_from_slice(&self.shards.to_le_bytes());
        bytes.extend_from_slice(&self.key);
        bytes.extend_from_slice(&self.cluster);
        bytes.extend_from_slice(&crc32c::crc32c(&bytes).to_le_bytes());
        bytes
    }

    /// Reads a header.
    ///
    /// # Errors
    /// [`Refused`]
    pub fn decode(bytes: &[u8; HEADER_BYTES]) -> Result<Self, Refused> {
        let mut rest = Reader(bytes);
        if rest.take() != *MAGIC {
            return Err(Refused::NotOurs("this is no snapshot of placements"));
        }
        if u32::from_le_bytes(rest.take()) != FORMAT {
            return Err(Refused::NotOurs("of a format that is not known here"));
        }
        let header = Self {
            generation: Generation::new(rest.u64()),
            revision: Revision::new(rest.u64()),
            saved_unix_ms: rest.u64(),
            whole: rest.take() == [1],
            tenants: rest.u64(),
            shards: u32::from_le_bytes(rest.take()),
            key: rest.take(),
            cluster: rest.take(),
        };
        let (checked, crc) = bytes.split_at(HEADER_BYTES - CRC_BYTES);
        if crc32c::crc32c(checked).to_le_bytes() != crc {
            return Err(Refused::Checksum("the header"));
        }
        Ok(header)
    }
}

/// A section with its length before it and its checksum after it. Clears what is in `out`.
pub fn encode_section(out: &mut Vec<u8>, payload: impl FnOnce(&mut Vec<u8>)) {
    out.clear();
    out.extend_from_slice(&[0; LENGTH_BYTES]);
    payload(out);
    let length = (out.len() - LENGTH_BYTES) as u32;
    out[..LENGTH_BYTES].copy_from_slice(&length.to_le_bytes());
    out.extend_from_slice(&crc32c::crc32c(out).to_le_bytes());
}

/// The payload of a section: `length` as it stood before it, `rest` the payload and its checksum.
///
/// # Errors
/// [`Refused::Checksum`]
pub fn decode_section(length: [u8; LENGTH_BYTES], rest: &[u8]) -> Result<&[u8], Refused> {
    let (payload, crc) = rest
        .split_last_chunk::<CRC_BYTES>()
        .ok_or(Refused::Length("a section has no room for its checksum"))?;
    let computed = crc32c::crc32c_append(crc32c::crc32c(&length), payload);
    if computed.to_le_bytes() != *crc {
        return Err(Refused::Checksum("a section"));
    }
    Ok(payload)
}

/// Appends the topology.
pub fn encode_topology(out: &mut Vec<u8>, topology: &Topology) {
    out.extend_from_slice(&of_topology(topology).encode_to_vec());
}

/// The topology of the header's generation and revision.
///
/// # Errors
/// [`Refused`]
pub fn decode_topology(payload: &[u8], header: &Header) -> Result<Topology, Refused> {
    let mut topology = Topology {
        generation: header.generation,
        revision: header.revision,
        ..Topology::default()
    };
    let mut unreadable = Unreadable::default();
    put_topology(
        &mut topology,
        &wire::Changes::decode(payload)?,
        &mut unreadable,
    );
    if unreadable.0 > 0 {
        return Err(Refused::NotOurs("of a version with other words"));
    }
    Ok(topology)
}

/// Appends the tenants of a shard.
pub fn encode_shard(out: &mut Vec<u8>, shard: &Shard) {
    out.reserve(shard.len() * RECORD_BYTES + CRC_BYTES);
    for (print, entry) in shard.iter() {
        let routing = match entry.write_routing {
            None => 0,
            Some(WriteRouting::Redirect) => 1,
            Some(WriteRouting::Forward) => 2,
        };
        for number in [
            print.high,
            print.low,
            entry.group.get(),
            entry.version.get(),
        ] {
            out.extend_from_slice(&number.to_le_bytes());
        }
        out.push(u8::from(entry.holding) | routing << 1);
    }
}

/// Takes the tenants of a shard. How many they were.
///
/// # Errors
/// [`Refused`]
pub fn decode_shard(payload: &[u8], into: &mut Builder) -> Result<u64, Refused> {
    let (records, rest) = payload.as_chunks::<RECORD_BYTES>();
    if !rest.is_empty() {
        return Err(Refused::Length("a section ends within a tenant"));
    }
    for record in records {
        let mut rest = Reader(record);
        let print = Fingerprint {
            high: rest.u64(),
            low: rest.u64(),
        };
        let (group, version) = (GroupId::new(rest.u64()), Version::new(rest.u64()));
        let [flags] = rest.take();
        let write_routing = match flags >> 1 {
            0 => None,
            1 => Some(WriteRouting::Redirect),
            2 => Some(WriteRouting::Forward),
            _ => return Err(Refused::NotOurs("a tenant has flags that are not known")),
        };
        let entry = Entry {
            group,
            version,
            holding: flags & 1 != 0,
            write_routing,
        };
        into.insert(print, &entry);
    }
    Ok(records.len() as u64)
}

/// The trailer after bytes of this checksum.
#[must_use]
pub fn encode_trailer(crc: u32) -> Vec<u8> {
    [&END[..], &crc.to_le_bytes()].concat()
}

/// Checks the trailer.
///
/// # Errors
/// [`Refused`]
pub fn check_trailer(trailer: &[u8], crc: u32) -> Result<(), Refused> {
    if trailer.len() != TRAILER_BYTES || trailer[..END.len()] != *END {
        return Err(Refused::Length("the file does not end where it should"));
    }
    if trailer[END.len()..] != crc.to_le_bytes() {
        return Err(Refused::Checksum("the whole file"));
    }
    Ok(())
}

/// Takes what is known to be there from the front.
struct Reader<'b>(&'b [u8]);

impl Reader<'_> {
    fn take<const N: usize>(&mut self) -> [u8; N] {
        let (head, rest) = self
            .0
            .split_first_chunk::<N>()
            .expect("sized by the caller");
        self.0 = rest;
        *head
    }

    fn u64(&mut self) -> u64 {
        u64::from_le_bytes(self.take())
    }
}

#[cfg(test)]
#[path = "disk_snapshot_tests.rs"]
mod tests;
