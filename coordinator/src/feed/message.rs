//! Messages as they stand on the wire: encoded once, with gRPC's own frame around them, so that an
//! answer's body hands the same bytes to every subscriber without touching them.
//!
//! ```text
//! [compressed: u8 = 0][length of the message: u32 BE][protobuf message]
//! ```

use bytes::{BufMut, Bytes, BytesMut};
use maia_common::wire::feed as wire;
use maia_common::wire::feed::down::Kind;
use prost::Message;

/// Bytes of the frame before the message.
const HEAD_BYTES: usize = 5;

/// The message in its frame.
pub(super) fn framed(message: &impl Message) -> Bytes {
    let length = message.encoded_len();
    let mut out = BytesMut::with_capacity(HEAD_BYTES + length);
    out.put_u8(0);
    out.put_u32(u32::try_from(length).expect("messages are far below 4 GiB"));
    message.encode_raw(&mut out);
    out.freeze()
}

/// What a coordinator says on a feed, ready to be sent.
pub(super) fn ready(kind: Kind) -> Bytes {
    framed(&wire::Down { kind: Some(kind) })
}

#[cfg(test)]
pub(super) fn parse(mut framed: &[u8]) -> Kind {
    use bytes::Buf;
    assert_eq!(framed.get_u8(), 0);
    assert_eq!(framed.get_u32() as usize, framed.len());
    wire::Down::decode(framed).unwrap().kind.unwrap()
}
