//! Polls what hardly ever happens only when it has something to say.
//!
//! A connection's task waits for bytes, and beside them for its pod to go, the mesh to change, the process to end. Each of those is a
//! lock and a list to look at; together they cost more than the bytes of a small request. Here they have a waker of their own, and
//! are polled when that was called.

use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, Wake, Waker},
};

use futures_util::task::AtomicWaker;

/// A future that is polled when it was woken, however often its task is.
#[derive(Debug)]
pub(crate) struct Rarely<F> {
    inner: F,
    word: Arc<Word>,
    /// Whom the word is passed on to.
    told: Option<Waker>,
}

/// Whether something has to say something, and who is told.
#[derive(Debug)]
pub(crate) struct Word {
    is_out: AtomicBool,
    task: AtomicWaker,
}

impl Word {
    /// One that is out: whatever it is for was not polled yet.
    pub(crate) fn out() -> Arc<Self> {
        Arc::new(Self { is_out: AtomicBool::new(true), task: AtomicWaker::new() })
    }

    /// Who is told of the next one. To be called before [`Self::take`] or [`Self::is_out`]: a word between the two would be lost.
    pub(crate) fn tell(&self, whom: &Waker) {
        self.task.register(whom);
    }

    /// Nobody is told of the next one.
    pub(crate) fn tell_nobody(&self) {
        drop(self.task.take());
    }

    /// Whether it is out.
    pub(crate) fn is_out(&self) -> bool {
        self.is_out.load(Ordering::Acquire)
    }

    /// Whether it was out; it is no more.
    pub(crate) fn take(&self) -> bool {
        self.is_out() && self.is_out.swap(false, Ordering::AcqRel)
    }
}

impl Wake for Word {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.is_out.store(true, Ordering::Release);
        self.task.wake();
    }
}

impl<F> Rarely<F> {
    /// Polls `inner` the first time, and then when it is woken.
    pub(crate) fn new(inner: F) -> Self {
        Self { inner, word: Word::out(), told: None }
    }
}

impl<F: Future + Unpin> Future for Rarely<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let Self { inner, word, told } = &mut *self;
        let is_known = told.as_ref().is_some_and(|told| told.will_wake(cx.waker()));
        if !is_known {
            word.task.register(cx.waker());
            *told = Some(cx.waker().clone());
        }
        // Looked at after the waker is there: a word between the two would be lost.
        if !word.is_out.load(Ordering::Acquire) {
            return Poll::Pending;
        }
        // Passing it on took the waker.
        word.task.register(cx.waker());
        word.is_out.store(false, Ordering::Release);
        let waker = Waker::from(word.clone());
        Pin::new(inner).poll(&mut Context::from_waker(&waker))
    }
}

#[cfg(test)]
mod tests {
    use std::{
        cell::Cell,
        future::poll_fn,
        pin::pin,
        sync::atomic::{AtomicUsize, Ordering},
        task::{Context, Poll, Waker},
    };

    use tokio::sync::Notify;

    use super::Rarely;

    #[test]
    fn it_is_polled_first_and_then_only_when_it_was_woken() {
        let (polls, kept) = (AtomicUsize::new(0), Cell::new(None::<Waker>));
        let inner = poll_fn(|cx| {
            kept.set(Some(cx.waker().clone()));
            if polls.fetch_add(1, Ordering::Relaxed) == 2 { Poll::Ready(()) } else { Poll::Pending }
        });
        let mut rarely = pin!(Rarely::new(inner));
        let mut poll = || rarely.as_mut().poll(&mut Context::from_waker(Waker::noop()));
        assert!((0..5).all(|_| poll().is_pending()));
        assert_eq!(polls.load(Ordering::Relaxed), 1);
        kept.take().unwrap().wake();
        assert!((0..5).all(|_| poll().is_pending()));
        assert_eq!(polls.load(Ordering::Relaxed), 2);
        kept.take().unwrap().wake();
        assert_eq!(poll(), Poll::Ready(()));
    }

    #[tokio::test]
    async fn its_word_reaches_whichever_task_awaits_it_and_from_whichever_thread_it_comes() {
        for _ in 0..200 {
            let notify = std::sync::Arc::new(Notify::new());
            let mut rarely = Box::pin(Rarely::new(Box::pin({
                let notify = notify.clone();
                async move { notify.notified().await }
            })));
            // Polled once by this task, and awaited by another.
            let is_pending = poll_fn(|cx| Poll::Ready(rarely.as_mut().poll(cx).is_pending())).await;
            assert!(is_pending);
            let other = tokio::spawn(rarely);
            let word = std::thread::spawn(move || notify.notify_one());
            tokio::time::timeout(std::time::Duration::from_secs(20), other).await.expect("it was told").unwrap();
            word.join().unwrap();
        }
    }
}
