//! The frame that every persisted message stands in: a version and a checksum, so that rot is an
//! error value and never a wrong answer. Used by every encoder of the coordinator.
//!
//! ```text
//! [version: u8][crc32c of the message: u32 LE][protobuf message]
//! ```

use bytes::{Buf, BufMut, Bytes, BytesMut};
use prost::Message;

/// Bytes of the frame before the message.
pub const FRAME_HEAD_BYTES: usize = 5;

/// Why bytes are not a frame.
#[derive(Debug, Clone, thiserror::Error)]
pub enum FrameError {
    /// Fewer bytes than a head has.
    #[error("{length} bytes are no frame")]
    TooShort {
        /// How many there are.
        length: usize,
    },
    /// Another version: written by newer software, or no frame at all.
    #[error("format version {found}, this software reads {expected}")]
    Version {
        /// The version in the bytes.
        found: u8,
        /// The version that was expected.
        expected: u8,
    },
    /// The checksum does not agree: the bytes have rotted.
    #[error("checksum {found:08x} where {expected:08x} was written")]
    Checksum {
        /// Of the bytes as they are.
        found: u32,
        /// As written.
        expected: u32,
    },
    /// The message inside is not what it should be.
    #[error("no message of its kind: {0}")]
    Message(#[from] prost::DecodeError),
}

/// Frames a message.
#[must_use]
pub fn encode(version: u8, message: &impl Message) -> Bytes {
    let mut out = BytesMut::with_capacity(FRAME_HEAD_BYTES + message.encoded_len());
    out.put_u8(version);
    out.put_u32_le(0);
    message.encode_raw(&mut out);
    let checksum = crc32c::crc32c(&out[FRAME_HEAD_BYTES..]);
    out[1..FRAME_HEAD_BYTES].copy_from_slice(&checksum.to_le_bytes());
    out.freeze()
}

/// Checks the frame and returns the message's bytes.
///
/// # Errors
/// [`FrameError`] when the bytes are not a frame of this version; never panics.
pub fn open(version: u8, mut bytes: Bytes) -> Result<Bytes, FrameError> {
    if bytes.len() < FRAME_HEAD_BYTES {
        return Err(FrameError::TooShort {
            length: bytes.len(),
        });
    }
    let found = bytes.get_u8();
    if found != version {
        return Err(FrameError::Version {
            found,
            expected: version,
        });
    }
    let expected = bytes.get_u32_le();
    let found = crc32c::crc32c(&bytes);
    if found != expected {
        return Err(FrameError::Checksum { found, expected });
    }
    Ok(bytes)
}

/// Checks the frame and decodes the message in it.
///
/// # Errors
/// [`FrameError`] when the bytes are not a frame of this version and kind; never panics.
pub fn decode<M: Message + Default>(version: u8, bytes: Bytes) -> Result<M, FrameError> {
    Ok(M::decode(open(version, bytes)?)?)
}
