//! Reads frame heads as they pass, and draws on the bucket of each frame's kind. Payloads are skipped, not looked at.

use std::time::Instant;

use millrace_node::clock;

use super::{Carried, Flood, Role, bucket::Bucket};

/// What a client sends first (RFC 9113, section 3.4).
const PREFACE: usize = 24;

/// A frame's head (section 4.1): three bytes of length, a kind, flags, four bytes of stream.
const HEAD: usize = 9;

const END_STREAM: u8 = 0x1;
const END_HEADERS: u8 = 0x4;

/// CONTINUATION frames of one head: 16 KiB fit into two frames of the least size that a peer may be held to.
const MAX_CONTINUATIONS: u32 = 8;

/// Keep-alives come every few seconds; a peer that measures its round trip sends one for each, a thousand a second nearby.
const PING: Bucket = Bucket::new(1_000, 2_000);

/// A peer changes its settings as its memory fills and empties.
const SETTINGS: Bucket = Bucket::new(10, 100);

/// Two for each half window: at 5 Gbit/s and 64 KiB windows 40,000 a second; h2 with ours needs a thousand.
const WINDOW: Bucket = Bucket::new(40_000, 80_000);

/// Resets of streams that were never carried: clients that give up while the target is dialled. Those that come before this end
/// has seen the stream h2 counts, and ends the tunnel at 64 of them.
const RESET: Bucket = Bucket::new(200, 1_000);

/// Streams: more than a worker can open.
const HEADERS: Bucket = Bucket::new(20_000, 20_000);

/// A peer may end a frame early, or pad; none needs to often.
const EMPTY: Bucket = Bucket::new(100, 1_000);

/// What is deprecated or not known, and must be let pass.
const OTHER: Bucket = Bucket::new(100, 1_000);

/// One tunnel's.
#[derive(Debug)]
pub(super) struct Meter {
    now: fn() -> Instant,
    began: Instant,
    /// Bytes that are no frame's head: the preface, or what is left of a payload.
    skip: usize,
    head: [u8; HEAD],
    n_head: usize,
    /// CONTINUATION frames of the head that is being read; None between heads.
    continuations: Option<u32>,
    carried: Carried,
    /// Frames since the task last let others have their turn.
    pub(super) n_at_once: u32,
    ping: Bucket,
    settings: Bucket,
    window: Bucket,
    reset: Bucket,
    headers: Bucket,
    empty: Bucket,
    other: Bucket,
}

impl Meter {
    pub(super) fn new(role: Role, carried: Carried) -> Self {
        Self::by_clock(role, carried, clock::now)
    }

    /// Of requests: each is answered, so their number is its sender's matter. What it resets counts.
    pub(super) fn of_requests(carried: Carried) -> Self {
        Self { headers: Bucket::new(u32::MAX, u32::MAX), ..Self::new(Role::Server, carried) }
    }

    fn by_clock(role: Role, carried: Carried, now: fn() -> Instant) -> Self {
        Self {
            now,
            began: now(),
            skip: match role {
                Role::Server => PREFACE,
                Role::Client => 0,
            },
            head: [0; HEAD],
            n_head: 0,
            continuations: None,
            carried,
            n_at_once: 0,
            ping: PING,
            settings: SETTINGS,
            window: WINDOW,
            reset: RESET,
            headers: HEADERS,
            empty: EMPTY,
            other: OTHER,
        }
    }

    /// True from a head's first frame to its last.
    pub(super) fn is_in_head(&self) -> bool {
        self.continuations.is_some()
    }

    /// Counts the frames that begin in these bytes, which follow those counted before.
    pub(super) fn count(&mut self, mut bytes: &[u8]) -> Result<(), Flood> {
        while !bytes.is_empty() {
            if self.skip > 0 {
                let skipped = self.skip.min(bytes.len());
                self.skip -= skipped;
                bytes = bytes.get(skipped..).unwrap_or_default();
                continue;
            }
            let (now, rest) = bytes.split_at(bytes.len().min(HEAD - self.n_head));
            self.head.iter_mut().skip(self.n_head).zip(now).for_each(|(to, from)| *to = *from);
            self.n_head += now.len();
            bytes = rest;
            if self.n_head == HEAD {
                self.n_head = 0;
                self.n_at_once = self.n_at_once.saturating_add(1);
                self.frame()?;
            }
        }
        Ok(())
    }

    fn frame(&mut self) -> Result<(), Flood> {
        let [a, b, c, kind, flags, ..] = self.head;
        let length = u32::from_be_bytes([0, a, b, c]);
        self.skip = usize::try_from(length).unwrap_or(usize::MAX);
        let (began, now) = (self.began, self.now);
        let draw = |bucket: &mut Bucket, flood| if bucket.take(began, now) { Ok(()) } else { Err(flood) };
        match kind {
            0x0 if length == 0 && flags & END_STREAM == 0 => draw(&mut self.empty, Flood::Empty),
            0x0 => Ok(()),
            0x1 => {
                self.continuations = (flags & END_HEADERS == 0).then_some(0);
                draw(&mut self.headers, Flood::Headers)
            }
            0x3 if self.carried.spend() => Ok(()),
            0x3 => draw(&mut self.reset, Flood::Reset),
            0x4 => draw(&mut self.settings, Flood::Settings),
            0x6 => draw(&mut self.ping, Flood::Ping),
            0x8 => draw(&mut self.window, Flood::Window),
            0x9 => {
                let count = self.continuations.unwrap_or(0) + 1;
                self.continuations = (flags & END_HEADERS == 0).then_some(count);
                if count > MAX_CONTINUATIONS { Err(Flood::Continuation) } else { Ok(()) }
            }
            // PRIORITY, PUSH_PROMISE, GOAWAY, and what no version knows yet.
            _ => draw(&mut self.other, Flood::Other),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{sync::OnceLock, time::Instant};

    use super::{super::Carried, Flood, HEADERS, MAX_CONTINUATIONS, Meter, PREFACE, Role};

    fn frame(length: u32, kind: u8, flags: u8) -> Vec<u8> {
        let mut frame = length.to_be_bytes()[1..].to_vec();
        frame.extend([kind, flags, 0, 0, 0, 1]);
        frame.resize(frame.len() + length as usize, 0xff);
        frame
    }

    /// A clock that stands still: all of it comes at once.
    fn stopped() -> Instant {
        static AT: OnceLock<Instant> = OnceLock::new();
        *AT.get_or_init(millrace_node::clock::now)
    }

    fn meter_of(role: Role, carried: Carried) -> Meter {
        Meter::by_clock(role, carried, stopped)
    }

    fn meter() -> Meter {
        meter_of(Role::Client, Carried::default())
    }

    /// How many of these frames pass at once.
    fn n_passed(meter: &mut Meter, frame: &[u8]) -> (usize, Flood) {
        let mut n = 0;
        loop {
            match meter.count(frame) {
                Ok(()) => n += 1,
                Err(flood) => return (n, flood),
            }
        }
    }

    #[test]
    fn each_kind_of_cheap_frame_has_its_bound_and_its_name() {
        for (bytes, flood) in [
            (frame(8, 6, 0), Flood::Ping),
            (frame(0, 4, 0), Flood::Settings),
            (frame(4, 8, 0), Flood::Window),
            (frame(4, 3, 0), Flood::Reset),
            (frame(1, 1, 4), Flood::Headers),
            (frame(0, 0, 0), Flood::Empty),
            (frame(5, 2, 0), Flood::Other),
            (frame(3, 77, 0), Flood::Other),
        ] {
            let (n, named) = n_passed(&mut meter(), &bytes);
            assert_eq!(named, flood);
            assert!((100..400_000).contains(&n), "{flood}: {n}");
        }
        let (n, flood) = n_passed(&mut meter(), &frame(9, 9, 0));
        assert_eq!((n, flood), (MAX_CONTINUATIONS as usize, Flood::Continuation));
    }

    #[test]
    fn data_and_what_ends_a_stream_are_free() {
        let mut meter = meter();
        for _ in 0..10_000 {
            meter.count(&frame(64, 0, 0)).unwrap();
            meter.count(&frame(0, 0, 1)).unwrap();
        }
    }

    #[test]
    fn a_reset_of_a_stream_that_was_carried_is_in_order() {
        let carried = Carried::default();
        let mut meter = meter_of(Role::Client, carried.clone());
        let (n, _) = n_passed(&mut meter, &frame(4, 3, 0));
        for _ in 0..5_000 {
            carried.one_more();
        }
        let (more, flood) = n_passed(&mut meter, &frame(4, 3, 0));
        assert_eq!(flood, Flood::Reset);
        assert!(n < 2_000 && (5_000..6_000).contains(&more), "{n} and {more}");
    }

    /// However the bytes are cut, and after the preface.
    #[test]
    fn frames_are_found_in_pieces_of_any_size() {
        let mut stream = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
        assert_eq!(stream.len(), PREFACE);
        for _ in 0..50 {
            stream.extend(frame(300, 0, 0));
            stream.extend(frame(20, 1, 0));
            stream.extend(frame(20, 9, 4));
        }
        for size in 1..40 {
            let mut meter = meter_of(Role::Server, Carried::default());
            for piece in stream.chunks(size) {
                meter.count(piece).unwrap();
            }
            assert!(!meter.is_in_head());
            assert_eq!(meter.headers.left(), HEADERS.left() - 50, "in pieces of {size}");
        }
    }
}
