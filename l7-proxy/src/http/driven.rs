//! A connection to an endpoint, polled in the task of the client whose request it carries.
//!
//! It has a task of its own, for when nobody asks anything by it. While a request does, its client's task polls both: what the one
//! has for the other is seen in the same turn, where two tasks would have to wake one another for the head of a request, its
//! answer and its body. Each is still a future of its own, polled only when it was woken, and neither waits for the other.

use std::{
    pin::Pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, Waker},
};

use crate::rarely::Word;

/// What moves a connection's bytes; it ends with the connection.
pub(crate) type Driver = Pin<Box<dyn Future<Output = ()> + Send>>;

/// How often client and endpoint are polled in one turn: as often as a request, its answer and a small body need. What comes after, comes
/// in the next: a connection must not keep its worker.
const EXCHANGES: usize = 4;

/// A connection's driver, wherever it is polled.
#[derive(Clone, Debug)]
pub(crate) struct Driven(Arc<Shared>);

struct Shared {
    /// None once it has ended.
    driver: Mutex<Option<Driver>>,
    word: Arc<Word>,
    waker: Waker,
    /// The connection's own task.
    home: Mutex<Option<Waker>>,
    is_lent: AtomicBool,
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared").field("is_lent", &self.is_lent).finish_non_exhaustive()
    }
}

/// The driver's own task. Dropped, it ends the connection.
#[derive(Debug)]
pub(crate) struct Home(Driven);

/// Where a client's task finds the connection that carries its request.
#[derive(Clone, Debug, Default)]
pub(crate) struct Desk(Arc<Place>);

#[derive(Debug, Default)]
struct Place {
    here: Mutex<Option<Driven>>,
    /// Whether anybody polls what is here.
    is_open: AtomicBool,
}

/// A connection at a desk. Dropped, it is at home again.
#[derive(Debug)]
pub(crate) struct Lent {
    driven: Driven,
    desk: Desk,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Driven {
    /// The driver, and the task that polls it.
    pub(crate) fn new(driver: Driver) -> (Self, Home) {
        let word = Word::out();
        let (waker, driver) = (Waker::from(word.clone()), Mutex::new(Some(driver)));
        let driven =
            Self(Arc::new(Shared { driver, word, waker, home: Mutex::default(), is_lent: AtomicBool::new(false) }));
        (driven.clone(), Home(driven))
    }

    /// Has it polled at this desk, in the same turn; None where nobody is there, or another connection is.
    pub(crate) fn lend(&self, desk: &Desk) -> Option<Lent> {
        let mut here = lock(&desk.0.here);
        if here.is_some() || !desk.0.is_open.load(Ordering::Relaxed) {
            return None;
        }
        *here = Some(self.clone());
        self.0.is_lent.store(true, Ordering::Relaxed);
        // Its own task need not know what the desk will see.
        self.0.word.tell_nobody();
        Some(Lent { driven: self.clone(), desk: desk.clone() })
    }

    /// Polls it where it was woken; whether it was.
    fn go_on(&self, cx: &Context<'_>) -> bool {
        let Shared { driver, word, waker, .. } = &*self.0;
        word.tell(cx.waker());
        if !word.take() {
            return false;
        }
        let mut place = lock(driver);
        let ended = match place.as_mut().map(|driver| driver.as_mut().poll(&mut Context::from_waker(waker))) {
            Some(Poll::Ready(())) => place.take(),
            Some(Poll::Pending) | None => None,
        };
        drop(place);
        drop(ended);
        true
    }

    fn has_ended(&self) -> bool {
        lock(&self.0.driver).is_none()
    }
}

impl Future for Home {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let shared = &*self.0.0;
        let mut home = lock(&shared.home);
        if home.as_ref().is_none_or(|home| !home.will_wake(cx.waker())) {
            *home = Some(cx.waker().clone());
        }
        drop(home);
        if !shared.is_lent.load(Ordering::Relaxed) {
            self.0.go_on(cx);
        }
        if self.0.has_ended() { Poll::Ready(()) } else { Poll::Pending }
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        let driver = lock(&self.0.0.driver).take();
        drop(driver);
    }
}

impl Desk {
    /// Polls the connection that is here, where it was woken; whether one was.
    fn poll(&self, cx: &Context<'_>) -> bool {
        let here = lock(&self.0.here).clone();
        here.is_some_and(|driven| driven.go_on(cx))
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        let here = lock(&self.desk.0.here).take();
        drop(here);
        let Shared { word, home, is_lent, .. } = &*self.driven.0;
        is_lent.store(false, Ordering::Relaxed);
        // Its task has not run yet, or looks for itself when it does.
        let Some(home) = lock(home).clone() else { return };
        word.tell(&home);
        if word.is_out() || self.driven.has_ended() {
            home.wake();
        }
    }
}

/// A client's side, and the connection at its desk beside it.
pub(crate) struct Both {
    word: Arc<Word>,
    waker: Waker,
    desk: Desk,
}

impl Both {
    /// Opens `desk`.
    pub(crate) fn at(desk: &Desk) -> Self {
        desk.0.is_open.store(true, Ordering::Relaxed);
        let word = Word::out();
        Self { waker: Waker::from(word.clone()), word, desk: desk.clone() }
    }

    /// Has the client's side polled, though nothing has woken it.
    pub(crate) fn look(&self) {
        self.waker.wake_by_ref();
    }

    /// Polls both, in turns while either has something for the other: the client's side by `client`.
    pub(crate) fn poll<T>(&self, cx: &Context<'_>, mut client: impl FnMut(&mut Context<'_>) -> Poll<T>) -> Poll<T> {
        for _ in 0..EXCHANGES {
            self.word.tell(cx.waker());
            if self.word.take()
                && let Poll::Ready(ended) = client(&mut Context::from_waker(&self.waker))
            {
                return Poll::Ready(ended);
            }
            // A side that has woken itself waits for the task's next turn: it wants others to have theirs.
            if !self.desk.poll(cx) {
                break;
            }
        }
        // Whatever was woken meanwhile has woken the task.
        Poll::Pending
    }
}

#[cfg(test)]
mod tests;
