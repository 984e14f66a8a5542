//! The snapshot file. Every frame has its checksum, and the last one says how many there
//! must be: a file that is cut short, or has rotted anywhere, is never installed.
//!
//! ```text
//! "MAIASNP3": the last is the data format
//! frame: [kind u8][length u32 LE][crc32c of kind and payload u32 LE][payload]
//!   kind 1, first:  maia.raft.v1.SnapshotMeta
//!   kind 2, any:    rows: [family u8][key length u32 LE][key after the group's id]
//!                         [value length u32 LE][value]
//!   kind 3, last:   [rows u64 LE][data frames u64 LE]
//! ```

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::FileExt;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use maia_common::GroupId;
use maia_common::limits::DATA_FORMAT;
use maia_common::wire::raft as wire;
use prost::Message;

use super::super::codec;
use super::super::db::StateCf;
use super::super::types::RaftSnapshotMeta;

/// Ends in the data format.
const MAGIC: &[u8; 8] = &{
    assert!(DATA_FORMAT < 10, "one digit");
    let mut magic = *b"MAIASNP0";
    magic[7] = b'0' + DATA_FORMAT as u8;
    magic
};
const HEAD_BYTES: usize = 9;
const KIND_META: u8 = 1;
const KIND_DATA: u8 = 2;
const KIND_END: u8 = 3;
/// A data frame is closed when it has this many bytes.
const FRAME_TARGET_BYTES: usize = 1 << 20;
/// No frame is longer: a longer one is damage, not to be allocated for.
const FRAME_MAX_BYTES: usize = 64 << 20;

/// One row of a snapshot: the key without the group's id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Row {
    pub(crate) cf: StateCf,
    pub(crate) suffix: Bytes,
    pub(crate) value: Bytes,
}

/// Writes a snapshot file.
pub(crate) struct Writer<'a> {
    out: BufWriter<&'a File>,
    frame: BytesMut,
    rows: u64,
    frames: u64,
}

impl<'a> Writer<'a> {
    pub(crate) fn new(file: &'a File, group: GroupId, meta: &RaftSnapshotMeta) -> io::Result<Self> {
        let mut writer = Self {
            out: BufWriter::new(file),
            frame: BytesMut::new(),
            rows: 0,
            frames: 0,
        };
        writer.out.write_all(MAGIC)?;
        let meta = codec::snapshot_meta_to_wire(group.get(), meta).encode_to_vec();
        writer.write_frame(KIND_META, &meta)?;
        Ok(writer)
    }

    pub(crate) fn row(&mut self, cf: StateCf, suffix: &[u8], value: &[u8]) -> io::Result<()> {
        let number = StateCf::ALL
            .iter()
            .position(|c| *c == cf)
            .unwrap_or_default();
        self.frame
            .put_u8(u8::try_from(number).map_err(io::Error::other)?);
        for part in [suffix, value] {
            self.frame
                .put_u32_le(u32::try_from(part.len()).map_err(io::Error::other)?);
            self.frame.put_slice(part);
        }
        self.rows += 1;
        if self.frame.len() >= FRAME_TARGET_BYTES {
            self.close_frame()?;
        }
        Ok(())
    }

    /// Writes the trailer and syncs the file.
    pub(crate) fn finish(mut self, file: &File) -> io::Result<()> {
        if !self.frame.is_empty() {
            self.close_frame()?;
        }
        let mut end = Vec::with_capacity(16);
        end.put_u64_le(self.rows);
        end.put_u64_le(self.frames);
        self.write_frame(KIND_END, &end)?;
        self.out.flush()?;
        file.sync_all()
    }

    fn close_frame(&mut self) -> io::Result<()> {
        let frame = std::mem::take(&mut self.frame);
        self.frames += 1;
        self.write_frame(KIND_DATA, &frame)
    }

    fn write_frame(&mut self, kind: u8, payload: &[u8]) -> io::Result<()> {
        let length = u32::try_from(payload.len()).map_err(io::Error::other)?;
        self.out.write_all(&[kind])?;
        self.out.write_all(&length.to_le_bytes())?;
        self.out.write_all(&checksum(kind, payload).to_le_bytes())?;
        self.out.write_all(payload)
    }
}

fn checksum(kind: u8, payload: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&[kind]), payload)
}

fn damaged(what: impl std::fmt::Display) -> io::Error {
    io::Error::new(
        io::ErrorKind::InvalidData,
        format!("damaged snapshot: {what}"),
    )
}

/// Reads a snapshot file frame by frame; errors at the first sign of damage.
pub(crate) struct Reader<'a> {
    file: &'a File,
    offset: u64,
    rows: u64,
    frames: u64,
}

impl<'a> Reader<'a> {
    /// Opens the file and reads the first frame.
    pub(crate) fn open(file: &'a File, group: GroupId) -> io::Result<(Self, RaftSnapshotMeta)> {
        let mut magic = [0; MAGIC.len()];
        file.read_exact_at(&mut magic, 0).map_err(damaged)?;
        if &magic != MAGIC {
            return Err(damaged(
                "not a snapshot of a version that this software reads",
            ));
        }
        let mut reader = Self {
            file,
            offset: MAGIC.len() as u64,
            rows: 0,
            frames: 0,
        };
        let (kind, payload) = reader.frame()?;
        if kind != KIND_META {
            return Err(damaged("no metadata"));
        }
        let message = wire::SnapshotMeta::decode(payload).map_err(damaged)?;
        if message.group != group.get() {
            return Err(damaged(format_args!(
                "of group {}, not {group}",
                message.group
            )));
        }
        Ok((
            reader,
            codec::snapshot_meta_from_wire(message).map_err(damaged)?,
        ))
    }

    /// The rows of the next data frame; none after the trailer, which must agree.
    pub(crate) fn next_rows(&mut self) -> io::Result<Option<Vec<Row>>> {
        let (kind, mut payload) = self.frame()?;
        match kind {
            KIND_DATA => {
                let rows = decode_rows(payload)?;
                self.rows += rows.len() as u64;
                self.frames += 1;
                Ok(Some(rows))
            }
            KIND_END if payload.len() == 16 => {
                let (rows, frames) = (payload.get_u64_le(), payload.get_u64_le());
                if (rows, frames) != (self.rows, self.frames) {
                    return Err(damaged("rows are missing"));
                }
                if self.offset != self.file.metadata()?.len() {
                    return Err(damaged("bytes after the end"));
                }
                Ok(None)
            }
            kind => Err(damaged(format_args!("frame of kind {kind}"))),
        }
    }

    fn frame(&mut self) -> io::Result<(u8, Bytes)> {
        let mut head = [0; HEAD_BYTES];
        self.file
            .read_exact_at(&mut head, self.offset)
            .map_err(damaged)?;
        let mut head = &head[..];
        let (kind, length, expected) = (head.get_u8(), head.get_u32_le(), head.get_u32_le());
        let length = length as usize;
        if length > FRAME_MAX_BYTES {
            return Err(damaged("a frame without end"));
        }
        let mut payload = vec![0; length];
        let at = self.offset + HEAD_BYTES as u64;
        self.file.read_exact_at(&mut payload, at).map_err(damaged)?;
        if checksum(kind, &payload) != expected {
            return Err(damaged(format_args!(
                "checksum of the frame at byte {}",
                self.offset
            )));
        }
        self.offset = at + length as u64;
        Ok((kind, payload.into()))
    }
}

fn decode_rows(mut payload: Bytes) -> io::Result<Vec<Row>> {
    let mut rows = Vec::new();
    while payload.has_remaining() {
        let number = usize::from(payload.get_u8());
        let cf = *StateCf::ALL
            .get(number)
            .ok_or_else(|| damaged("unknown family"))?;
        let suffix = take_part(&mut payload)?;
        let value = take_part(&mut payload)?;
        rows.push(Row { cf, suffix, value });
    }
    Ok(rows)
}

fn take_part(payload: &mut Bytes) -> io::Result<Bytes> {
    let length = payload.try_get_u32_le().map_err(damaged)? as usize;
    if length > payload.len() {
        return Err(damaged("a row without end"));
    }
    Ok(payload.split_to(length))
}

/// Makes a whole file of an empty one: a snapshot without rows, as a witness has it.
pub(crate) fn write_bare(file: &File, group: GroupId, meta: &RaftSnapshotMeta) -> io::Result<()> {
    if file.metadata()?.len() > 0 {
        return Err(damaged("there is something in it"));
    }
    Writer::new(file, group, meta)?.finish(file)
}

/// The metadata of a file.
pub(crate) fn read_meta(file: &File, group: GroupId) -> io::Result<RaftSnapshotMeta> {
    Ok(Reader::open(file, group)?.1)
}

/// Reads the whole file and checks everything.
pub(crate) fn verify(file: &File, group: GroupId) -> io::Result<RaftSnapshotMeta> {
    let (mut reader, meta) = Reader::open(file, group)?;
    while reader.next_rows()?.is_some() {}
    Ok(meta)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(rows: &[(StateCf, &[u8], &[u8])]) -> tempfile::NamedTempFile {
        let file = tempfile::NamedTempFile::new().unwrap();
        let meta = RaftSnapshotMeta::default();
        let mut writer = Writer::new(file.as_file(), GroupId::new(3), &meta).unwrap();
        for (cf, suffix, value) in rows {
            writer.row(*cf, suffix, value).unwrap();
        }
        writer.finish(file.as_file()).unwrap();
        file
    }

    fn rows_of(file: &File) -> io::Result<Vec<Row>> {
        let (mut reader, _) = Reader::open(file, GroupId::new(3))?;
        let mut rows = Vec::new();
        while let Some(more) = reader.next_rows()? {
            rows.extend(more);
        }
        Ok(rows)
    }

    #[test]
    fn rows_come_back() {
        let big = vec![7; FRAME_TARGET_BYTES];
        let file = written(&[
            (StateCf::Meta, b"a", b"1"),
            (StateCf::Data, b"", &big),
            (StateCf::Marks, b"z", b""),
        ]);
        let rows = rows_of(file.as_file()).unwrap();
        assert_eq!(rows.len(), 3);
        assert_eq!(rows[1].value, big);
        assert_eq!(rows[2].cf, StateCf::Marks);
        assert!(
            verify(file.as_file(), GroupId::new(4)).is_err(),
            "another group's"
        );
    }

    #[test]
    fn damage_anywhere_is_noticed() {
        let file = written(&[
            (StateCf::Meta, b"key", b"value"),
            (StateCf::Data, b"k", b"v"),
        ]);
        let whole = std::fs::read(file.path()).unwrap();
        for at in 0..whole.len() {
            let mut bytes = whole.clone();
            bytes[at] ^= 0x40;
            std::fs::write(file.path(), &bytes).unwrap();
            assert!(
                verify(&File::open(file.path()).unwrap(), GroupId::new(3)).is_err(),
                "{at}"
            );
            std::fs::write(file.path(), &whole[..at]).unwrap();
            assert!(
                verify(&File::open(file.path()).unwrap(), GroupId::new(3)).is_err(),
                "{at}"
            );
        }
    }
}
