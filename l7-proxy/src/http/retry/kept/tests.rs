//! States what each reader of a body gets, and what is kept of it.

use std::collections::VecDeque;

use http::HeaderValue;
use http_body_util::BodyExt as _;

use super::*;
use crate::{
    handshakes::Caller,
    home::Pod,
    limits::{Account, Accounts, Budget, Limits, WorkloadLimits},
};

/// These pieces, one after another.
struct Pieces(VecDeque<Result<Frame<Bytes>, Broken>>);

impl Body for Pieces {
    type Data = Bytes;
    type Error = Broken;

    fn poll_frame(mut self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<Next> {
        Poll::Ready(self.0.pop_front())
    }

    fn is_end_stream(&self) -> bool {
        self.0.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        let all = self.0.iter().filter_map(|one| Some(one.as_ref().ok()?.data_ref()?.len() as u64)).sum();
        SizeHint::with_exact(all)
    }
}

fn data(bytes: &[u8]) -> Result<Frame<Bytes>, Broken> {
    Ok(Frame::data(Bytes::copy_from_slice(bytes)))
}

fn account(max_buffered: u64) -> Arc<Account> {
    let accounts = Accounts::new(Budget::new(64 << 20));
    let each = WorkloadLimits { max_buffered, ..WorkloadLimits::default() };
    accounts.set(Limits { each, ..Limits::default() });
    accounts.of(&Pod { name: millrace_model::ObjectName::new("shop", "web"), uid: "1".into() })
}

/// Somebody for whom it waits.
fn peer(n: u8) -> Caller {
    Caller::Pod([10, 0, 0, n].into())
}

fn kept(account: &Arc<Account>, pieces: Vec<Result<Frame<Bytes>, Broken>>) -> Kept<Pieces> {
    Kept::new(Pieces(pieces.into()), || Arc::new(account.waits(peer(1))))
}

async fn next(reader: &mut Repeated<Pieces>) -> Option<Vec<u8>> {
    reader.frame().await?.ok()?.into_data().ok().map(|bytes| bytes.to_vec())
}

#[tokio::test]
async fn each_reader_has_the_whole_and_only_the_last_goes_on() {
    let account = account(1 << 20);
    let mut trailers = HeaderMap::new();
    trailers.insert("x-sum", HeaderValue::from_static("42"));
    let kept = kept(&account, vec![data(b"one"), data(b"two"), Ok(Frame::trailers(trailers.clone()))]);
    let mut first = kept.reader().unwrap();
    assert_eq!(first.size_hint().exact(), Some(6));
    assert_eq!(next(&mut first).await.unwrap(), b"one");
    assert!(!kept.is_sent() && kept.can_repeat());

    let mut second = kept.reader().unwrap();
    assert_eq!((second.size_hint().exact(), second.is_end_stream()), (Some(6), false));
    assert!(first.frame().await.unwrap().is_err(), "who was given up gets no more");
    assert_eq!(next(&mut second).await.unwrap(), b"one");
    assert_eq!(next(&mut second).await.unwrap(), b"two", "it goes on where the first stopped");
    assert_eq!(second.frame().await.unwrap().unwrap().into_trailers().unwrap(), trailers);
    assert!(second.is_end_stream() && kept.is_sent());

    let third = kept.reader().unwrap().collect().await.unwrap();
    assert_eq!((third.trailers().cloned(), third.to_bytes().as_ref()), (Some(trailers), &b"onetwo"[..]));
    assert!(account.n_buffered() >= 6, "what is kept is charged");
    drop((kept, second));
    assert_eq!(account.n_buffered(), 0);
}

#[tokio::test]
async fn what_is_too_much_is_sent_once_and_held_no_more() {
    let (room, none) = (account(1 << 20), account(65_536));
    let long = vec![0; MAX_KEPT / 2];
    let taken = [2, 3].map(|n| Arc::new(none.waits(peer(n))).charge(32_000).unwrap());
    for (account, before) in [(room, 0), (none, 64_000)] {
        let kept = kept(&account, vec![data(&long), data(&long), data(b"end")]);
        assert!(kept.can_repeat());
        let reader = kept.reader().unwrap();
        assert_eq!(reader.collect().await.unwrap().to_bytes().len(), MAX_KEPT + 3, "its reader has it all");
        assert!(!kept.can_repeat());
        assert_eq!(account.n_buffered(), before);
    }
    drop(taken);
}

#[tokio::test]
async fn what_breaks_off_where_it_comes_from_is_not_sent_again() {
    let account = account(1 << 20);
    let kept = kept(&account, vec![data(b"one"), Err("gone".into())]);
    assert!(kept.reader().unwrap().collect().await.is_err());
    assert!(!kept.can_repeat());
}

#[tokio::test]
async fn an_answer_that_comes_before_all_is_sent_leaves_the_rest_to_its_reader() {
    let account = account(1 << 20);
    let kept = kept(&account, vec![data(b"one"), data(b"two"), data(b"three")]);
    let mut first = kept.reader().unwrap();
    assert_eq!(next(&mut first).await.unwrap(), b"one");
    assert_eq!(next(&mut first).await.unwrap(), b"two");
    let mut second = kept.reader().unwrap();
    drop(kept);
    assert_eq!(next(&mut second).await.unwrap(), b"onetwo");
    assert_eq!(account.n_buffered(), 0, "and nothing is kept for it");
    assert_eq!(second.collect().await.unwrap().to_bytes().as_ref(), b"three");
    assert_eq!(account.n_buffered(), 0);
}

/// However a body is cut in pieces, it is the bytes that count.
#[tokio::test]
async fn a_body_of_just_the_bound_is_kept_in_any_pieces() {
    let account = account(1 << 20);
    for piece in [1, 100, MAX_KEPT] {
        let all = vec![7; MAX_KEPT];
        let kept = kept(&account, all.chunks(piece).map(data).collect());
        kept.reader().unwrap().collect().await.unwrap();
        assert!(kept.can_repeat(), "in pieces of {piece}");
        assert_eq!(kept.reader().unwrap().collect().await.unwrap().to_bytes().len(), MAX_KEPT);
    }
}
