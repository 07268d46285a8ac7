//! What is gathered goes out whole, in order, in few writes, and at the latest when its connection shuts.

use std::{
    io::{self, IoSlice},
    pin::Pin,
    task::{Context, Poll, Waker},
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::{Gather, Gathered, LARGE, MOST, gathered};

/// A socket that takes so much in all, and notes each write.
#[derive(Debug, Default)]
struct Socket {
    room: usize,
    written: Vec<Vec<u8>>,
    is_broken: bool,
    is_shut: bool,
}

impl AsyncRead for Socket {
    fn poll_read(self: Pin<&mut Self>, _: &mut Context<'_>, _: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Poll::Pending
    }
}

impl AsyncWrite for Socket {
    fn poll_write(mut self: Pin<&mut Self>, _: &mut Context<'_>, from: &[u8]) -> Poll<io::Result<usize>> {
        if self.is_broken {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        let n = from.len().min(self.room);
        if n == 0 {
            return Poll::Pending;
        }
        self.room -= n;
        self.written.push(from[..n].to_vec());
        Poll::Ready(Ok(n))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.is_shut = true;
        Poll::Ready(Ok(()))
    }
}

fn cx() -> Context<'static> {
    Context::from_waker(Waker::noop())
}

fn begun(room: usize) -> (Gathered<Socket>, Gather<Socket>) {
    let (io, gather) = gathered(Socket { room, ..Socket::default() });
    gather.begin();
    (io, gather)
}

fn write(io: &mut Gathered<Socket>, bytes: &[u8]) -> Poll<usize> {
    Pin::new(io).poll_write(&mut cx(), bytes).map(Result::unwrap)
}

fn written(gather: &Gather<Socket>) -> Vec<Vec<u8>> {
    super::lock(&gather.0).io.written.clone()
}

#[test]
fn small_writes_are_one_when_their_turn_is_over_however_often_they_were_flushed() {
    let (mut io, gather) = begun(usize::MAX);
    for _ in 0..3 {
        let parts = [IoSlice::new(b"ab"), IoSlice::new(b"c")];
        assert!(matches!(Pin::new(&mut io).poll_write_vectored(&mut cx(), &parts), Poll::Ready(Ok(3))));
        assert!(Pin::new(&mut io).poll_flush(&mut cx()).is_ready());
    }
    assert!(written(&gather).is_empty());
    gather.flush(&mut cx());
    gather.flush(&mut cx());
    assert_eq!(written(&gather), [b"abcabcabc".to_vec()]);
    assert_eq!(super::lock(&gather.0).out.capacity(), 0, "one that is silent holds nothing");
}

#[test]
fn before_it_is_begun_each_write_goes_out_by_itself() {
    let (mut io, gather) = gathered(Socket { room: usize::MAX, ..Socket::default() });
    assert!(write(&mut io, b"one").is_ready());
    assert!(write(&mut io, b"two").is_ready());
    assert_eq!(written(&gather), [b"one".to_vec(), b"two".to_vec()]);
}

#[test]
fn a_large_write_comes_behind_what_was_gathered_and_is_not_copied() {
    let (mut io, gather) = begun(usize::MAX);
    assert!(write(&mut io, b"small").is_ready());
    assert_eq!(write(&mut io, &[b'x'; LARGE]), Poll::Ready(LARGE));
    assert_eq!(written(&gather), [b"small".to_vec(), vec![b'x'; LARGE]]);
}

#[test]
fn a_reader_that_stops_is_waited_for_and_gets_all_in_order() {
    let (mut io, gather) = begun(100);
    let mut sent = Vec::new();
    let mut number = 0_u32;
    let stopped = loop {
        let piece = format!("{number:0>1000}");
        match write(&mut io, piece.as_bytes()) {
            Poll::Ready(n) => sent.extend_from_slice(&piece.as_bytes()[..n]),
            Poll::Pending => break sent.len(),
        }
        gather.flush(&mut cx());
        number += 1;
    };
    assert!(stopped <= MOST + 100, "{stopped} bytes were taken for a reader that took 100");
    super::lock(&gather.0).io.room = usize::MAX;
    gather.flush(&mut cx());
    assert_eq!(written(&gather).concat(), sent);
}

#[test]
fn what_was_gathered_goes_out_before_the_connection_shuts() {
    let (mut io, gather) = begun(usize::MAX);
    assert!(write(&mut io, b"last words").is_ready());
    assert!(Pin::new(&mut io).poll_shutdown(&mut cx()).is_ready());
    assert_eq!(written(&gather), [b"last words".to_vec()]);
    assert!(super::lock(&gather.0).io.is_shut);
}

#[test]
fn a_connection_that_breaks_as_it_is_flushed_says_so_to_who_uses_it_next() {
    let (mut io, gather) = begun(usize::MAX);
    assert!(write(&mut io, b"lost").is_ready());
    super::lock(&gather.0).io.is_broken = true;
    gather.flush(&mut cx());
    let mut buffer = [0; 8];
    let read = Pin::new(&mut io).poll_read(&mut cx(), &mut ReadBuf::new(&mut buffer));
    assert!(matches!(read, Poll::Ready(Err(error)) if error.kind() == io::ErrorKind::BrokenPipe));
    assert!(matches!(Pin::new(&mut io).poll_write(&mut cx(), b"x"), Poll::Ready(Err(_))));
}
