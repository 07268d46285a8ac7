//! Reads flow records out of the ring buffer.

use aya::maps::{MapData, RingBuf};
use millrace_abi::{EndEvent, FlowEvent, capacity};

/// The most records that fit the buffer, each with its header of 8 bytes: one drain takes no more, however fast they come.
const MOST: usize = capacity::FLOW_BYTES as usize / (size_of::<FlowEvent>() + 8);

/// What the kernel's programs tell of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Record {
    /// What was decided of it, as it connected or arrived.
    Decided(FlowEvent),
    /// How one end of it was when it closed.
    Ended(EndEvent),
}

/// Hands every record that waits to `each`.
pub(super) fn drain(ring: &mut RingBuf<MapData>, each: &mut dyn FnMut(Record)) {
    for _ in 0..MOST {
        let Some(record) = ring.next() else { return };
        if let Some(record) = parse(&record) {
            each(record);
        }
    }
}

/// Told apart by their sizes. None for a record of another one: of programs of another schema.
fn parse(record: &[u8]) -> Option<Record> {
    match record.len() {
        length if length == size_of::<FlowEvent>() => read(record).map(Record::Decided),
        length if length == size_of::<EndEvent>() => read(record).map(Record::Ended),
        _ => None,
    }
}

/// A kind of record: plain bytes, of which any are valid.
trait Plain: Copy {}
impl Plain for FlowEvent {}
impl Plain for EndEvent {}

#[expect(unsafe_code, reason = "reads a record that the kernel wrote")]
fn read<T: Plain>(record: &[u8]) -> Option<T> {
    if record.len() != size_of::<T>() {
        return None;
    }
    // SAFETY: the record has the size of a T, and a T is valid whatever its bytes.
    Some(unsafe { record.as_ptr().cast::<T>().read_unaligned() })
}

const _: () = assert!(size_of::<FlowEvent>() != size_of::<EndEvent>());
