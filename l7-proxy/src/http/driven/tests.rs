//! Who polls a connection, and whom it wakes.

use std::{
    future::poll_fn,
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    task::{Context, Poll, Wake, Waker},
};

use tokio::sync::mpsc;

use super::{Both, Desk, Driven};

/// A task that counts how often it is woken.
#[derive(Default)]
struct Woken(AtomicUsize);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Relaxed);
    }
}

fn task() -> (Arc<Woken>, Waker) {
    let woken = Arc::new(Woken::default());
    (woken.clone(), Waker::from(woken))
}

/// A driver that answers each number by the next.
fn driver(mut asked: mpsc::Receiver<u32>, answers: mpsc::Sender<u32>) -> super::Driver {
    Box::pin(async move {
        while let Some(number) = asked.recv().await {
            answers.send(number + 1).await.unwrap();
        }
    })
}

#[test]
fn a_question_is_answered_in_the_turn_in_which_it_is_asked_and_wakes_no_other_task() {
    let (ask, asked) = mpsc::channel(1);
    let (answer, mut answers) = mpsc::channel(1);
    let (driven, home) = Driven::new(driver(asked, answer));
    let (mut home, (at_home, home_waker)) = (pin!(home), task());
    assert!(home.as_mut().poll(&mut Context::from_waker(&home_waker)).is_pending());
    let (_, waker) = task();
    let desk = Desk::default();
    assert!(driven.lend(&desk).is_none(), "nobody polls what is there");
    let (both, mut lent) = (Both::at(&desk), None);
    let mut client = Box::pin(async {
        lent = driven.lend(&desk);
        assert!(driven.lend(&desk).is_none(), "a desk has one place");
        ask.send(1).await.unwrap();
        answers.recv().await
    });
    let answered = both.poll(&Context::from_waker(&waker), |cx| client.as_mut().poll(cx));
    assert_eq!(answered, Poll::Ready(Some(2)));
    assert_eq!(at_home.0.load(Relaxed), 0);
    drop(client);
    drop(lent);
    // At home again it goes on there.
    ask.try_send(5).unwrap();
    assert_eq!(at_home.0.load(Relaxed), 1);
    assert!(home.as_mut().poll(&mut Context::from_waker(&home_waker)).is_pending());
    assert_eq!(answers.try_recv(), Ok(6));
    drop(ask);
    assert!(home.as_mut().poll(&mut Context::from_waker(&home_waker)).is_ready());
}

#[test]
fn what_wakes_a_lent_connection_wakes_its_client_and_what_it_missed_its_own_task() {
    let (ask, asked) = mpsc::channel(1);
    let (answer, mut answers) = mpsc::channel(1);
    let (driven, home) = Driven::new(driver(asked, answer));
    let (mut home, (at_home, home_waker)) = (pin!(home), task());
    assert!(home.as_mut().poll(&mut Context::from_waker(&home_waker)).is_pending());
    let ((at_desk, waker), desk) = (task(), Desk::default());
    let both = Both::at(&desk);
    let lent = driven.lend(&desk);
    let silent = |_: &mut Context<'_>| Poll::<()>::Pending;
    assert!(both.poll(&Context::from_waker(&waker), silent).is_pending());
    ask.try_send(1).unwrap();
    assert_eq!((at_desk.0.load(Relaxed), at_home.0.load(Relaxed)), (1, 0));
    // Given back before it was polled there.
    drop(lent);
    assert_eq!(at_home.0.load(Relaxed), 1);
    assert!(home.as_mut().poll(&mut Context::from_waker(&home_waker)).is_pending());
    assert_eq!(answers.try_recv(), Ok(2));
}

#[test]
fn a_side_that_wakes_itself_without_end_leaves_its_task_all_the_same() {
    let busy = poll_fn(|cx: &mut Context<'_>| {
        cx.waker().wake_by_ref();
        Poll::<()>::Pending
    });
    let (driven, _home) = Driven::new(Box::pin(busy));
    let ((woken, waker), desk) = (task(), Desk::default());
    let both = Both::at(&desk);
    let _lent = driven.lend(&desk);
    let mut n_polled = 0;
    let polled = both.poll(&Context::from_waker(&waker), |cx| {
        n_polled += 1;
        cx.waker().wake_by_ref();
        Poll::<()>::Pending
    });
    assert!(polled.is_pending() && n_polled <= super::EXCHANGES);
    assert!(woken.0.load(Relaxed) > 0, "its task goes on with it");
}

#[test]
fn who_ends_its_own_task_ends_the_connection() {
    let held = Arc::new(());
    let weak = Arc::downgrade(&held);
    let (driven, home) = Driven::new(Box::pin(async move {
        let _held = held;
        std::future::pending::<()>().await;
    }));
    drop(home);
    assert!(weak.upgrade().is_none());
    assert!(driven.has_ended());
}
