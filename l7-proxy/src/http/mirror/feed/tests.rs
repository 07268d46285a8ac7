//! What copies get of a body, and that the body itself never waits for one.

use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll},
};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue};
use http_body::{Body, Frame};
use http_body_util::{BodyExt as _, Full};

use super::{Copied, Copying, Feed, MAX_HELD, pair};
use crate::http::body::Broken;

/// These pieces, and then as it says.
struct Pieces(Vec<Result<Frame<Bytes>, Broken>>);

impl Body for Pieces {
    type Data = Bytes;
    type Error = Broken;

    fn poll_frame(mut self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
        Poll::Ready((!self.0.is_empty()).then(|| self.0.remove(0)))
    }
}

fn data(text: &'static str) -> Result<Frame<Bytes>, Broken> {
    Ok(Frame::data(Bytes::from_static(text.as_bytes())))
}

/// Two copies of one body, from either end, and what waits for both.
type Two = (Vec<Feed>, [Copying; 2], Arc<AtomicUsize>);

fn two() -> Two {
    let by_all = Arc::new(AtomicUsize::new(0));
    let (first, one) = pair(by_all.clone());
    let (second, other) = pair(by_all.clone());
    (vec![first, second], [one, other], by_all)
}

#[tokio::test]
async fn every_copy_gets_all_bytes_and_trailers_and_the_end() {
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", HeaderValue::from_static("0"));
    let (feeds, copies, by_all) = two();
    let pieces = Pieces(vec![data("ab"), data("c"), Ok(Frame::trailers(trailers.clone()))]);
    let own = Copied::new(pieces, feeds).collect().await.unwrap();
    assert_eq!(own.trailers(), Some(&trailers));
    assert_eq!(by_all.load(Ordering::Relaxed), 6, "three bytes wait for each");
    for copy in copies {
        let whole = copy.collect().await.unwrap();
        assert_eq!(whole.trailers(), Some(&trailers));
        assert_eq!(whole.to_bytes(), "abc");
    }
    assert_eq!(by_all.load(Ordering::Relaxed), 0);
}

#[tokio::test]
async fn a_body_of_known_length_ends_for_its_copies_when_its_last_byte_was_taken() {
    let (feeds, [copy, _], _) = two();
    let mut own = Copied::new(Full::new(Bytes::from_static(b"abc")), feeds);
    assert!(own.frame().await.is_some(), "no more is asked of it, as nothing is left");
    assert!(own.is_end_stream());
    drop(own);
    assert_eq!(copy.collect().await.unwrap().to_bytes(), "abc");
}

#[tokio::test]
async fn who_lags_is_cut_and_nobody_waits_for_it() {
    let (feeds, [mut quick, slow], by_all) = two();
    let held = slow.held();
    const PIECE: usize = 64 * 1024;
    let n_pieces = 2 * MAX_HELD / PIECE;
    let pieces = (0..n_pieces).map(|_| Ok(Frame::data(Bytes::from(vec![0; PIECE])))).collect();
    let mut own = Copied::new(Pieces(pieces), feeds);
    let mut n_quick = 0;
    while let Some(frame) = own.frame().await {
        frame.unwrap();
        n_quick += quick.frame().await.unwrap().unwrap().data_ref().unwrap().len();
    }
    assert_eq!(n_quick, 2 * MAX_HELD);
    assert!(quick.frame().await.is_none() && held.was_full());
    assert_eq!(by_all.load(Ordering::Relaxed), MAX_HELD, "no more than that ever waits for one");
    assert!(slow.collect().await.is_err(), "a copy that was cut is not taken for a whole one");
    drop(held);
    assert_eq!(by_all.load(Ordering::Relaxed), 0);
}

#[tokio::test]
async fn many_small_pieces_are_bounded_too() {
    let (feeds, [_, slow], _) = two();
    let pieces = (0..2 * super::MAX_PIECES).map(|_| data("a")).collect();
    Copied::new(Pieces(pieces), feeds).collect().await.unwrap();
    assert!(slow.held().was_full());
}

#[tokio::test]
async fn a_body_that_breaks_off_is_no_whole_copy() {
    let (feeds, [one, other], _) = two();
    let broken = Copied::new(Pieces(vec![data("ab"), Err("it broke".into())]), feeds).collect().await;
    assert!(broken.is_err());
    assert!(one.collect().await.is_err());
    // Nor is one whose reader went away.
    drop(other);
    let (feeds, [left, _], _) = two();
    let mut own = Copied::new(Pieces(vec![data("ab"), data("c")]), feeds);
    assert!(own.frame().await.is_some());
    drop(own);
    assert!(left.collect().await.is_err());
}

#[tokio::test]
async fn all_copies_of_a_worker_share_a_bound() {
    let by_all = Arc::new(AtomicUsize::new(super::MAX_HELD_BY_ALL));
    let (feed, copy) = pair(by_all.clone());
    Copied::new(Full::new(Bytes::from_static(b"abc")), vec![feed]).collect().await.unwrap();
    assert!(copy.held().was_full());
    drop(copy);
    assert_eq!(by_all.load(Ordering::Relaxed), super::MAX_HELD_BY_ALL);
}
