//! Writes HTTP/2 by hand: what no library would send.

/// What a client sends first.
pub(super) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

pub(super) const DATA: u8 = 0;
pub(super) const HEADERS: u8 = 1;
pub(super) const PRIORITY: u8 = 2;
pub(super) const RESET: u8 = 3;
pub(super) const SETTINGS: u8 = 4;
pub(super) const PING: u8 = 6;
pub(super) const WINDOW: u8 = 8;
pub(super) const CONTINUATION: u8 = 9;
/// A kind that no version of HTTP/2 has.
pub(super) const UNKNOWN: u8 = 0xfa;

pub(super) const END_HEADERS: u8 = 4;

/// One frame.
pub(super) fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut frame = u32::try_from(payload.len()).unwrap().to_be_bytes()[1..].to_vec();
    frame.extend([kind, flags]);
    frame.extend(stream.to_be_bytes());
    frame.extend(payload);
    frame
}

/// The head of a CONNECT, each field a literal that enters no table.
pub(super) fn connect(authority: &str) -> Vec<u8> {
    let mut head = literal(2, b"CONNECT");
    head.extend(literal(1, authority.as_bytes()));
    head
}

/// A field whose name has this index in the static table.
fn literal(name: u8, value: &[u8]) -> Vec<u8> {
    let mut field = vec![name];
    field.extend(number(value.len()));
    field.extend(value);
    field
}

/// A length in seven bits and as many more as it needs (RFC 7541, section 5.1).
fn number(length: usize) -> Vec<u8> {
    if length < 127 {
        return vec![u8::try_from(length).unwrap()];
    }
    let (mut bytes, mut rest) = (vec![127], length - 127);
    while rest >= 128 {
        bytes.push(u8::try_from(rest % 128).unwrap() | 128);
        rest /= 128;
    }
    bytes.push(u8::try_from(rest).unwrap());
    bytes
}

/// A head of a few KiB that stands for 16 MiB: one field of 4,000 bytes in the table, named four thousand times.
pub(super) fn bomb(authority: &str) -> Vec<u8> {
    let mut head = connect(authority);
    head.push(0x40);
    head.extend(number(1));
    head.push(b'x');
    head.extend(number(4000));
    head.extend([b'y'; 4000]);
    head.extend([0xbe; 4000]);
    head
}

/// SETTINGS that let the other end send as much as it will.
pub(super) fn greedy() -> Vec<u8> {
    let mut settings = frame(SETTINGS, 0, 0, &[0, 4, 0x7f, 0xff, 0xff, 0xff]);
    settings.extend(frame(WINDOW, 0, 0, &0x7fff_0000_u32.to_be_bytes()));
    settings
}
