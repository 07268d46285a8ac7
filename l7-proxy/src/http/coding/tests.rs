//! What a body is read as and written as, however its bytes come and go.

use std::{
    io::{self, IoSlice},
    pin::Pin,
    task::{Context, Poll, Waker},
};

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, HeaderValue, header};
use http_body::Frame;
use proptest::prelude::*;
use tokio::io::AsyncWrite;

use super::{super::heads::Bad, Decoder, Encoder, Framing, Misfit, Outbox, Places, Step, write_fields};

/// What was read of a body: its bytes, its trailers, and what stands behind it.
#[derive(Debug, Default, PartialEq, Eq)]
struct Read {
    bytes: Vec<u8>,
    trailers: Option<HeaderMap>,
    is_over: bool,
}

/// Takes what `from` holds.
fn take(decoder: &mut Decoder, from: &mut BytesMut, read: &mut Read) -> Result<(), Bad> {
    loop {
        match decoder.decode(from)? {
            Step::Data(bytes) => {
                assert!(!bytes.is_empty());
                read.bytes.extend_from_slice(&bytes);
            }
            Step::Trailers(trailers) => read.trailers = Some(trailers),
            Step::End => {
                read.is_over = true;
                return Ok(());
            }
            Step::More => return Ok(()),
        }
    }
}

/// The body, and how much stands behind it.
fn whole(framing: Framing, bytes: &[u8]) -> Result<(Read, usize), Bad> {
    let (mut decoder, mut from, mut read) = (Decoder::new(framing), BytesMut::from(bytes), Read::default());
    take(&mut decoder, &mut from, &mut read)?;
    assert_eq!(decoder.is_end(), read.is_over);
    Ok((read, from.len()))
}

/// The same, shown byte by byte: what is read must not depend on how the bytes come.
fn trickled(framing: Framing, bytes: &[u8]) -> Result<(Read, usize), Bad> {
    let (mut decoder, mut from, mut read) = (Decoder::new(framing), BytesMut::new(), Read::default());
    for byte in bytes {
        from.extend_from_slice(&[*byte]);
        take(&mut decoder, &mut from, &mut read)?;
    }
    take(&mut decoder, &mut from, &mut read)?;
    Ok((read, from.len()))
}

fn body(bytes: &str, is_over: bool) -> Read {
    Read { bytes: bytes.into(), trailers: None, is_over }
}

#[test]
fn a_body_ends_where_its_framing_says_and_what_follows_is_left() {
    let cases = [
        (Framing::None, "abc", body("", true), 3),
        (Framing::Length(0), "abc", body("", true), 3),
        (Framing::Length(2), "abc", body("ab", true), 1),
        (Framing::Length(4), "abc", body("abc", false), 0),
        (Framing::UntilClose, "abc", body("abc", false), 0),
        (Framing::Chunked, "0\r\n\r\nGET", body("", true), 3),
        (Framing::Chunked, "3\r\nabc\r\nA;x=\"y\"\r\n0123456789\r\n00\r\n\r\n", body("abc0123456789", true), 0),
        (Framing::Chunked, "3\r\nabc", body("abc", false), 0),
        (Framing::Chunked, "3\r\nabc\r\n0\r\n", body("abc", false), 0),
    ];
    for (framing, bytes, expected, left) in cases {
        assert_eq!(whole(framing, bytes.as_bytes()), Ok((expected, left)), "{framing:?} {bytes:?}");
        let (read, _) = trickled(framing, bytes.as_bytes()).unwrap();
        assert_eq!(read, whole(framing, bytes.as_bytes()).unwrap().0, "{framing:?} {bytes:?}");
    }
}

#[test]
fn chunks_that_are_not_as_the_specification_has_them_are_refused_however_they_come() {
    let long = format!("1;{}\r\na\r\n", "x".repeat(256));
    let cases = [
        ("\r\n", Bad::ChunkSize),
        ("g\r\n", Bad::ChunkSize),
        ("-1\r\n", Bad::ChunkSize),
        ("+1\r\n", Bad::ChunkSize),
        ("0x1\r\n", Bad::ChunkSize),
        (" 1\r\n", Bad::ChunkSize),
        ("1 \r\n", Bad::ChunkSize),
        ("10000000000000000\r\n", Bad::ChunkSize),
        ("1;\u{1}\r\n", Bad::ChunkSize),
        (&*long, Bad::ChunkSize),
        ("1\na\r\n", Bad::BareLineEnd),
        ("1\r\r\na\r\n", Bad::BareLineEnd),
        ("1\r\nab\r\n", Bad::ChunkEnd),
        ("1\r\na\n", Bad::ChunkEnd),
        ("1\r\na\rb", Bad::ChunkEnd),
        ("0\r\nx: 1\n\r\n\r\n", Bad::BareLineEnd),
        ("0\r\n x: 1\r\n\r\n", Bad::Folded),
        ("0\r\nx : 1\r\n\r\n", Bad::FieldName),
        ("0\r\nx\r\n\r\n", Bad::FieldName),
        ("0\r\nx: \u{0}\r\n\r\n", Bad::FieldValue),
        ("0\r\nContent-Length: 1\r\n\r\n", Bad::Trailer),
        ("0\r\ntransfer-encoding: chunked\r\n\r\n", Bad::Trailer),
        ("0\r\nhost: h\r\n\r\n", Bad::Trailer),
    ];
    for (bytes, bad) in cases {
        assert_eq!(whole(Framing::Chunked, bytes.as_bytes()).err(), Some(bad), "{bytes:?}");
        assert_eq!(trickled(Framing::Chunked, bytes.as_bytes()).err(), Some(bad), "{bytes:?}");
    }
    let many = format!("0\r\n{}\r\n", "x: 1\r\n".repeat(101));
    assert_eq!(whole(Framing::Chunked, many.as_bytes()).err(), Some(Bad::TooLarge));
    let large = format!("0\r\nx: {}\r\n\r\n", "x".repeat(16 * 1024));
    assert_eq!(whole(Framing::Chunked, large.as_bytes()).err(), Some(Bad::TooLarge));
}

#[test]
fn trailers_are_read_before_the_end() {
    let bytes = b"1\r\na\r\n0\r\nX-Sum: 42 \r\nx-sum: 43\r\n\r\nGET";
    let (read, left) = whole(Framing::Chunked, bytes).unwrap();
    assert_eq!((&*read.bytes, read.is_over, left), (&b"a"[..], true, 3));
    let trailers = read.trailers.unwrap();
    let sums: Vec<_> = trailers.get_all("x-sum").iter().map(HeaderValue::as_bytes).collect();
    assert_eq!(sums, [b"42", b"43"]);
}

#[test]
fn an_end_of_the_stream_is_a_good_end_where_it_was_announced_alone() {
    for (framing, is_good) in [
        (Framing::UntilClose, true),
        (Framing::None, true),
        (Framing::Length(0), true),
        (Framing::Length(1), false),
        (Framing::Chunked, false),
    ] {
        let mut decoder = Decoder::new(framing);
        assert_eq!((decoder.eof(), decoder.is_end()), (is_good, is_good), "{framing:?}");
    }
}

#[test]
fn what_is_left_of_a_body_is_known_where_it_was_said() {
    let mut decoder = Decoder::new(Framing::Length(5));
    assert_eq!(decoder.size_hint().exact(), Some(5));
    decoder.decode(&mut BytesMut::from("ab")).unwrap();
    assert_eq!((decoder.size_hint().exact(), decoder.is_end()), (Some(3), false));
    decoder.decode(&mut BytesMut::from("cde")).unwrap();
    assert_eq!((decoder.size_hint().exact(), decoder.is_end()), (Some(0), true));
    assert_eq!(Decoder::new(Framing::Chunked).size_hint().exact(), None);
    assert_eq!(Decoder::new(Framing::UntilClose).size_hint().exact(), None);
}

/// What an outbox's connection takes: so much in one call, all it was given in order, and how many calls that took.
#[derive(Default)]
struct Taken {
    bytes: Vec<u8>,
    most: usize,
    n_calls: usize,
    is_whole: bool,
}

impl Taken {
    fn take(&mut self, parts: &[IoSlice<'_>]) -> usize {
        self.n_calls += 1;
        let all: Vec<u8> = parts.iter().flat_map(|part| part.to_vec()).collect();
        let n = all.len().min(self.most);
        self.bytes.extend_from_slice(&all[..n]);
        n
    }
}

impl AsyncWrite for Taken {
    fn poll_write(mut self: Pin<&mut Self>, _cx: &mut Context<'_>, from: &[u8]) -> Poll<io::Result<usize>> {
        Poll::Ready(Ok(self.take(&[IoSlice::new(from)])))
    }

    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        _cx: &mut Context<'_>,
        from: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Poll::Ready(Ok(self.take(from)))
    }

    fn is_write_vectored(&self) -> bool {
        !self.is_whole
    }
}

/// What an outbox writes, and by how many calls.
fn written(out: &mut Outbox) -> (Vec<u8>, usize) {
    let mut taken = Taken { most: usize::MAX, ..Taken::default() };
    assert!(matches!(out.poll_write(&mut taken, &mut Context::from_waker(Waker::noop())), Poll::Ready(Ok(()))));
    assert_eq!((out.is_empty(), out.len()), (true, 0));
    (taken.bytes, taken.n_calls)
}

fn data(bytes: impl Into<Bytes>) -> Frame<Bytes> {
    Frame::data(bytes.into())
}

#[test]
fn a_head_and_a_body_small_or_large_are_one_call() {
    for n in [0, 1, 100, 5_000, 60_000] {
        for framing in [Framing::Length(n as u64), Framing::Chunked] {
            let (mut out, mut encoder) = (Outbox::default(), Encoder::new(framing));
            out.head().extend_from_slice(b"HTTP/1.1 200 OK\r\n\r\n");
            encoder.piece(data(vec![b'x'; n]), &mut out).unwrap();
            encoder.end(&mut out).unwrap();
            let (bytes, n_calls) = written(&mut out);
            assert_eq!(n_calls, 1, "{n} {framing:?}");
            let body = bytes.strip_prefix(b"HTTP/1.1 200 OK\r\n\r\n").unwrap();
            let (read, left) = whole(framing, body).unwrap();
            assert_eq!((read.bytes.len(), read.is_over, left), (n, true, 0));
        }
    }
}

#[test]
fn a_body_that_is_not_as_long_as_its_head_says_is_refused() {
    let mut out = Outbox::default();
    let mut encoder = Encoder::new(Framing::Length(2));
    assert_eq!(encoder.piece(data("abc"), &mut out), Err(Misfit::Longer));
    assert!(out.is_empty(), "nothing of what does not fit is written");
    assert_eq!(encoder.piece(data("a"), &mut out), Ok(()));
    assert_eq!(encoder.end(&mut out), Err(Misfit::Shorter));
    for framing in [Framing::None, Framing::Length(0)] {
        let mut encoder = Encoder::new(framing);
        assert_eq!(encoder.piece(data(""), &mut out), Ok(()));
        assert_eq!(encoder.piece(data("a"), &mut out), Err(Misfit::Longer));
        assert_eq!(encoder.end(&mut out), Ok(()));
    }
}

#[test]
fn a_piece_of_nothing_does_not_end_a_body_in_chunks_and_nothing_follows_its_end() {
    let (mut out, mut encoder) = (Outbox::default(), Encoder::new(Framing::Chunked));
    encoder.piece(data(""), &mut out).unwrap();
    encoder.piece(data("a"), &mut out).unwrap();
    encoder.end(&mut out).unwrap();
    encoder.end(&mut out).unwrap();
    assert_eq!(encoder.piece(data("b"), &mut out), Err(Misfit::Longer));
    assert_eq!(written(&mut out).0, b"1\r\na\r\n0\r\n\r\n");
}

#[test]
fn trailers_follow_where_they_were_announced_and_may() {
    let head = HeaderMap::from_iter([(header::TRAILER, HeaderValue::from_static("X-Sum, content-length"))]);
    let trailers = || {
        let mut trailers = HeaderMap::new();
        trailers.insert("x-sum", HeaderValue::from_static("42"));
        trailers.insert("x-other", HeaderValue::from_static("1"));
        trailers.insert(header::CONTENT_LENGTH, HeaderValue::from_static("9"));
        Frame::trailers(trailers)
    };
    for (framing, expected) in [
        (Framing::Chunked, &b"1\r\na\r\n0\r\nx-sum: 42\r\n\r\n"[..]),
        (Framing::Length(1), b"a"),
        (Framing::UntilClose, b"a"),
    ] {
        let (mut out, mut encoder) = (Outbox::default(), Encoder::new(framing).announcing(&head));
        encoder.piece(data("a"), &mut out).unwrap();
        encoder.piece(trailers(), &mut out).unwrap();
        encoder.end(&mut out).unwrap();
        assert_eq!(written(&mut out).0, expected, "{framing:?}");
    }
}

#[test]
fn a_length_is_written_by_the_framing_alone() {
    let headers = [("host", "h"), ("content-length", "7"), ("transfer-encoding", "chunked"), ("x-a", "1")];
    let headers =
        HeaderMap::from_iter(headers.map(|(name, value)| (name.parse().unwrap(), HeaderValue::from_static(value))));
    for (framing, expected) in [
        (Framing::None, "host: h\r\nx-a: 1\r\n"),
        (Framing::Length(0), "host: h\r\nx-a: 1\r\ncontent-length: 0\r\n"),
        (Framing::Length(u64::MAX), "host: h\r\nx-a: 1\r\ncontent-length: 18446744073709551615\r\n"),
        (Framing::Chunked, "host: h\r\nx-a: 1\r\ntransfer-encoding: chunked\r\n"),
        (Framing::UntilClose, "host: h\r\nx-a: 1\r\n"),
    ] {
        let mut head = BytesMut::new();
        write_fields(&headers, &mut head);
        framing.write(&mut head);
        assert_eq!(head, expected.as_bytes());
    }
}

#[test]
fn fields_that_were_parsed_are_found_again_in_the_head() {
    let bytes = b"HTTP/1.1 200 OK\r\nX-A: 1\r\nx-a:  2\t\r\nx-empty:\r\nServer: \xe4\r\n\r\n";
    let mut fields = [httparse::EMPTY_HEADER; 8];
    let mut parsed = httparse::Response::new(&mut fields);
    assert!(parsed.parse(bytes).unwrap().is_complete());
    let headers = Places::of(bytes, parsed.headers).unwrap().headers(&Bytes::from_static(bytes)).unwrap();
    let all: Vec<_> = headers.iter().map(|(name, value)| (name.as_str(), value.as_bytes())).collect();
    let expected: [(&str, &[u8]); 4] = [("x-a", b"1"), ("x-a", b"2"), ("x-empty", b""), ("server", b"\xe4")];
    assert_eq!(all, expected);
    let other = b"another";
    assert_eq!(Places::of(&other[..0], &[httparse::Header { name: "x", value: b"1" }; 101]).err(), Some(Bad::TooLarge));
}

#[test]
fn an_outbox_has_room_until_so_much_waits_and_keeps_no_large_buffer() {
    let mut out = Outbox::default();
    while out.has_room() {
        out.push(Bytes::from(vec![b'x'; 4_000]));
    }
    assert!(out.len() < 64 * 1024 + 4_000);
    written(&mut out);
    assert!(out.has_room() && out.head().capacity() <= 8 * 1024);
}

proptest! {
    /// Whatever pieces a body comes in, and whatever its connection takes at once, it is read as it was.
    #[test]
    fn what_is_written_is_read_again(
        pieces in prop::collection::vec((0_usize..9_000, any::<u8>()), 0..12),
        most in 1_usize..20_000,
        is_whole in any::<bool>(),
        is_chunked in any::<bool>(),
        cut in 1_usize..5_000,
    ) {
        let pieces: Vec<Vec<u8>> = pieces.into_iter().map(|(n, byte)| vec![byte; n]).collect();
        let sent = pieces.concat();
        let framing = if is_chunked { Framing::Chunked } else { Framing::Length(sent.len() as u64) };
        let (mut out, mut encoder) = (Outbox::default(), Encoder::new(framing));
        let mut taken = Taken { most, is_whole, ..Taken::default() };
        let mut cx = Context::from_waker(Waker::noop());
        for (index, piece) in pieces.into_iter().enumerate() {
            encoder.piece(data(piece), &mut out).unwrap();
            if index % 3 == 0 {
                prop_assert!(out.poll_write(&mut taken, &mut cx).is_ready());
            }
        }
        encoder.end(&mut out).unwrap();
        prop_assert!(out.poll_write(&mut taken, &mut cx).is_ready());
        let (mut decoder, mut from, mut read) = (Decoder::new(framing), BytesMut::new(), Read::default());
        for part in taken.bytes.chunks(cut) {
            from.extend_from_slice(part);
            take(&mut decoder, &mut from, &mut read).unwrap();
        }
        take(&mut decoder, &mut from, &mut read).unwrap();
        prop_assert!(read.is_over && from.is_empty());
        prop_assert_eq!(read.bytes, sent);
    }

    /// No bytes make it panic, and none are taken behind an end.
    #[test]
    fn any_bytes_are_a_body_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        for framing in [Framing::Chunked, Framing::Length(7), Framing::UntilClose, Framing::None] {
            let (together, alone) = (whole(framing, &bytes), trickled(framing, &bytes));
            prop_assert_eq!(together.map(|(read, _)| read).ok(), alone.map(|(read, _)| read).ok());
        }
    }
}
