//! Reads flow records out of the ring buffer.

use aya::maps::{MapData, RingBuf};
use millrace_abi::{FlowEvent, capacity};

/// The most records that fit the buffer, each with its header of 8 bytes: one drain takes no more, however fast they come.
const MOST: usize = capacity::FLOW_BYTES as usize / (size_of::<FlowEvent>() + 8);

/// Hands every record that waits to `each`.
pub(super) fn drain(ring: &mut RingBuf<MapData>, each: &mut dyn FnMut(FlowEvent)) {
    for _ in 0..MOST {
        let Some(record) = ring.next() else { return };
        if let Some(event) = parse(&record) {
            each(event);
        }
    }
}

/// None for a record of another size: of programs of another schema.
#[expect(unsafe_code, reason = "reads a record that the kernel wrote")]
fn parse(record: &[u8]) -> Option<FlowEvent> {
    if record.len() != size_of::<FlowEvent>() {
        return None;
    }
    // SAFETY: the record has the event's size, and an event is valid whatever its bytes.
    Some(unsafe { record.as_ptr().cast::<FlowEvent>().read_unaligned() })
}
