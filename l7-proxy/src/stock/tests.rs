//! States how many sockets are held ready, and when more are asked for.

use std::{os::fd::OwnedFd, sync::Arc, time::Duration};

use millrace_model::ObjectName;
use millrace_node::clock;
use tokio::sync::mpsc;

use super::{CEILING, FLOOR, Family, SHARE, Stock, Use, WANTS, Want};
use crate::{descriptors::Descriptors, fault::Why, home::Pod, metrics::Metrics};

fn pod() -> Pod {
    Pod { name: ObjectName::new("shop", "web"), uid: "1".into() }
}

fn sockets(count: usize) -> Vec<OwnedFd> {
    (0..count).map(|_| std::net::UdpSocket::bind("127.0.0.1:0").unwrap().into()).collect()
}

fn stock() -> (Stock, mpsc::Receiver<Want>) {
    let (wants, asked) = mpsc::channel(WANTS);
    (Stock::new(wants, Descriptors::new(100_000), Arc::new(Metrics::default())), asked)
}

#[tokio::test(start_paused = true)]
async fn a_taker_waits_for_the_agent_and_then_gives_up_by_name() {
    let (stock, mut asked) = stock();
    let pod = pod();
    stock.open(&pod, Family::V4);
    let (taken, ()) = tokio::join!(stock.take(&pod, Family::V4), async {
        let want = asked.recv().await.unwrap();
        assert_eq!((want.count, want.family), (FLOOR, Family::V4));
        stock.put(&pod, Family::V4, sockets(want.count));
    });
    assert!(taken.is_ok());
    for _ in 1..FLOOR {
        assert!(stock.take(&pod, Family::V4).await.is_ok());
    }
    assert_eq!(stock.take(&pod, Family::V4).await.unwrap_err(), Why::NoSocket);
    assert_eq!(stock.take(&pod, Family::V6).await.unwrap_err(), Why::Gone, "no listener of that family came");
}

#[tokio::test(start_paused = true)]
async fn who_waits_for_a_pod_that_goes_stops_waiting_and_what_comes_late_is_closed() {
    let (stock, _asked) = stock();
    let pod = pod();
    stock.open(&pod, Family::V4);
    let (taken, ()) = tokio::join!(stock.take(&pod, Family::V4), async {
        tokio::task::yield_now().await;
        stock.close(&pod);
    });
    assert_eq!(taken.unwrap_err(), Why::Gone);
    stock.put(&pod, Family::V4, sockets(2));
    assert_eq!(stock.metrics.stock_sockets.get(), 0);
}

/// A burst's sockets are not kept for ever, and none that somebody is about to take is closed.
#[tokio::test]
async fn what_a_burst_left_is_closed_after_a_minute() {
    let (stock, _asked) = stock();
    stock.open(&pod(), Family::V4);
    let shelf = stock.all().pop().unwrap();
    let now = clock::now();
    stock.restock(&shelf, now, 100);
    stock.put(&pod(), Family::V4, sockets(200));
    stock.trim(now + Duration::from_secs(50));
    assert_eq!(stock.metrics.stock_sockets.get(), 200);
    stock.trim(now + Duration::from_secs(61));
    assert_eq!(stock.metrics.stock_sockets.get(), i64::try_from(FLOOR).unwrap());
    for _ in 0..FLOOR {
        assert!(stock.take(&pod(), Family::V4).await.is_ok());
    }
}

#[tokio::test]
async fn what_one_agent_was_asked_for_the_next_is_asked_again() {
    let (stock, mut asked) = stock();
    stock.open(&pod(), Family::V4);
    stock.open(&pod(), Family::V4);
    assert_eq!(asked.try_recv().unwrap().count, FLOOR);
    assert!(asked.try_recv().is_err(), "what is asked for already is not asked for twice");
    stock.ask_again();
    assert_eq!(asked.try_recv().unwrap().count, FLOOR);
}

#[test]
fn the_peak_is_the_busiest_second_of_the_last_minute() {
    let mut use_ = Use::default();
    let start = clock::now();
    use_.note(start, 3);
    use_.note(start + Duration::from_millis(1500), 5);
    use_.note(start + Duration::from_millis(1600), 4);
    assert_eq!(use_.peak(), 9);
    use_.note(start + Duration::from_secs(60), 1);
    assert_eq!(use_.peak(), 9);
    use_.note(start + Duration::from_secs(62), 1);
    assert_eq!(use_.peak(), 1);
    use_.note(start + Duration::from_secs(6200), 2);
    assert_eq!(use_.peak(), 2);
}

/// Ten thousand a second must not make the agent hold ten thousand sockets for one pod.
#[tokio::test]
async fn the_stock_of_one_pod_has_a_ceiling() {
    let (stock, mut asked) = stock();
    stock.open(&pod(), Family::V4);
    let shelf = stock.all().pop().unwrap();
    stock.restock(&shelf, clock::now(), 10_000);
    let mut total = 0;
    while let Ok(want) = asked.try_recv() {
        assert!(want.count <= 64);
        total += want.count;
    }
    assert_eq!(total, CEILING);
}

/// What is kept ready for connections to come must not be why there is no room for them.
#[tokio::test(start_paused = true)]
async fn a_stock_gives_way_as_descriptors_run_out() {
    let (wants, mut asked) = mpsc::channel(WANTS);
    let descriptors = Descriptors::new(256 + 1000); // Of which 256 are kept back.
    let stock = Stock::new(wants, descriptors.clone(), Arc::new(Metrics::default()));
    let pod = pod();
    stock.open(&pod, Family::V4);
    let shelf = stock.all().pop().unwrap();
    stock.restock(&shelf, clock::now(), 500);
    let mut total = 0;
    while let Ok(want) = asked.try_recv() {
        total += want.count;
    }
    assert_eq!(total, 1000 / SHARE);
    stock.put(&pod, Family::V4, sockets(total));
    let connections = descriptors.take(800).unwrap();
    for _ in 0..50 {
        drop(stock.take(&pod, Family::V4).await.unwrap());
    }
    let kept = usize::try_from(stock.metrics.stock_sockets.get()).unwrap();
    assert!(kept <= 200 / SHARE, "{kept} are kept of 200");
    let mut rest = Vec::new();
    while stock.metrics.stock_sockets.get() > 0 {
        rest.push(stock.take(&pod, Family::V4).await.unwrap());
    }
    let last = descriptors.take(u32::try_from(descriptors.left()).unwrap()).unwrap();
    assert_eq!(stock.take(&pod, Family::V4).await.unwrap_err(), Why::NoDescriptor, "and nobody waits for one in vain");
    drop((connections, rest, last));
}

#[tokio::test(start_paused = true)]
async fn an_agent_that_had_none_to_give_is_asked_again() {
    let (stock, mut asked) = stock();
    let pod = pod();
    stock.open(&pod, Family::V4);
    let (taken, ()) = tokio::join!(stock.take(&pod, Family::V4), async {
        assert_eq!(asked.recv().await.unwrap().count, FLOOR);
        stock.put(&pod, Family::V4, Vec::new());
        assert_eq!(asked.recv().await.unwrap().count, FLOOR);
        stock.put(&pod, Family::V4, sockets(1));
    });
    assert!(taken.is_ok());
}
