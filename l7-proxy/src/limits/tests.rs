//! States what one workload, one caller and one peer may have.

use std::sync::Arc;

use millrace_model::ObjectName;
use millrace_node::wire::mesh;

use super::{Account, Accounts, Budget, Limit, Limits, WorkloadLimits};
use crate::{handshakes::Caller, home::Pod};

const MIB: usize = 1 << 20;

fn pod(name: &str) -> Pod {
    Pod { name: ObjectName::new("shop", name), uid: "1".into() }
}

fn caller(last: u8) -> Caller {
    Caller::Pod([10, 0, 0, last].into())
}

fn accounts(budget: usize, each: WorkloadLimits) -> Accounts {
    let accounts = Accounts::new(Budget::new(budget as u64));
    accounts.set(Limits { each, ..Limits::default() });
    accounts
}

fn n_limited(account: &Account, limit: Limit) -> u64 {
    account.n_limited().find(|(each, _)| *each == limit).unwrap().1
}

#[test]
fn a_connection_over_the_limit_is_refused_and_counted_and_one_that_ends_makes_room() {
    let accounts = accounts(MIB, WorkloadLimits { max_connections: 2, ..WorkloadLimits::default() });
    let account = accounts.of(&pod("web"));
    let one = account.connect(None).unwrap();
    let _two = account.connect(Some(caller(1))).unwrap();
    assert_eq!(account.connect(None).unwrap_err(), Limit::Connections);
    assert_eq!(accounts.of(&pod("api")).connect(None).map(drop), Ok(()), "another workload's are its own");
    drop(one);
    assert!(account.connect(None).is_ok());
    assert_eq!((n_limited(&account, Limit::Connections), account.n_connections()), (1, 1));
}

#[test]
fn one_caller_leaves_the_last_quarter_to_the_others() {
    let accounts = accounts(MIB, WorkloadLimits { max_connections: 100, ..WorkloadLimits::default() });
    let account = accounts.of(&pod("web"));
    let mut held: Vec<_> = (0..75).map(|_| account.connect(Some(caller(1))).unwrap()).collect();
    assert_eq!(account.connect(Some(caller(1))).unwrap_err(), Limit::CallerConnections);
    held.extend((0..25).map(|_| account.connect(Some(caller(2))).unwrap()));
    assert_eq!(account.connect(Some(caller(2))).unwrap_err(), Limit::Connections);
    drop(held);
    assert_eq!(account.n_peers(), 0, "who has nothing is forgotten");
}

#[test]
fn what_a_workload_buffers_is_bounded_and_comes_back() {
    let accounts = accounts(64 * MIB, WorkloadLimits { max_buffered: 32, ..WorkloadLimits::default() });
    let account = accounts.of(&pod("web"));
    let waits = Arc::new(account.waits(caller(1)));
    let mut charge = waits.charge(30).unwrap();
    assert_eq!(charge.raise(3), Err(Limit::Buffered));
    assert_eq!(account.n_buffered(), 30, "what was held stays held");
    charge.lower(30);
    charge.raise(2).unwrap();
    let other = waits.charge(30).unwrap();
    assert_eq!(accounts.budget().held(), 32);
    drop((charge, other));
    assert_eq!((account.n_buffered(), accounts.budget().held()), (0, 0));
    drop(waits);
    assert_eq!(account.n_peers(), 0);
}

#[test]
fn one_peer_can_not_spend_all_buffers_of_a_workload() {
    let accounts = accounts(4000, WorkloadLimits { max_buffered: 1000, ..WorkloadLimits::default() });
    let account = accounts.of(&pod("web"));
    let (hostile, other) = (Arc::new(account.waits(caller(1))), Arc::new(account.waits(caller(2))));
    let _held = hostile.charge(750).unwrap();
    assert_eq!(hostile.charge(1).unwrap_err(), Limit::PeerBuffered);
    assert!(other.charge(250).is_ok());
}

#[test]
fn the_second_half_of_the_budget_is_divided_by_weight() {
    let heavy = WorkloadLimits { weight: 300, ..WorkloadLimits::default() };
    let accounts = Accounts::new(Budget::new(800));
    accounts.set(Limits { of: [(pod("heavy").name, heavy)].into(), ..Limits::default() });
    let waits = |name| Arc::new(accounts.of(&pod(name)).waits(caller(1)));
    let (greedy, heavy, light) = (waits("greedy"), waits("heavy"), waits("light"));
    // 400 to anybody; then 80, 240 and 80 of the other 400, by weights 100, 300, 100.
    let _all = greedy.charge(400).unwrap();
    assert_eq!(greedy.charge(1).unwrap_err(), Limit::Budget);
    let _its = light.charge(80).unwrap();
    assert_eq!(light.charge(1).unwrap_err(), Limit::Budget);
    let its = heavy.charge(240).unwrap();
    assert_eq!(heavy.charge(1).unwrap_err(), Limit::Budget);
    assert_eq!(accounts.budget().held(), 720);
    drop((its, heavy));
    accounts.close(&pod("heavy"));
    assert!(light.charge(100).is_ok(), "with one workload gone, the parts of the others are larger");
}

#[test]
fn a_profile_sets_the_limits_of_what_is_open_too_and_gives_back_what_it_leaves_out() {
    let accounts = Accounts::of_process(Budget::new(MIB as u64), 20_000);
    let account = accounts.of(&pod("web"));
    let _held: Vec<_> = (0..3).map(|_| account.connect(None).unwrap()).collect();
    let asked =
        |max_connections, share_weight| mesh::WorkloadLimits { max_connections, share_weight, ..Default::default() };
    accounts.tune(Some(asked(Some(3), Some(700))));
    assert_eq!(account.connect(None).unwrap_err(), Limit::Connections);
    let said = || accounts.in_force().into_iter().map(|row| row.value).collect::<Vec<_>>();
    assert_eq!((said().join(" "), account.weight()), ("3 1024 134217728 700 no limit".to_owned(), 700));
    accounts.tune(Some(asked(Some(0), Some(77_777))));
    assert_eq!(said().join(" "), "1 1024 134217728 10000 no limit", "what was never checked is bounded");
    accounts.tune(None);
    assert_eq!(said().join(" "), "5000 1024 134217728 100 no limit");
    accounts.tune(Some(mesh::WorkloadLimits { cpu_millis: Some(250), ..Default::default() }));
    assert_eq!(said().join(" "), "5000 1024 134217728 100 250m");
    accounts.tune(Some(mesh::WorkloadLimits { cpu_millis: Some(1), ..Default::default() }));
    assert_eq!(said().join(" "), "5000 1024 134217728 100 10m", "what was never checked is bounded");
    assert!(account.connect(None).is_ok());
}

/// A pod of the mesh comes through whatever strangers open at the same time, however many addresses they have.
#[test]
fn strangers_leave_half_of_what_may_be_opened_to_the_mesh_and_one_caller_the_last_quarter() {
    let accounts = accounts(MIB, WorkloadLimits { max_pending: 100, ..WorkloadLimits::default() });
    let account = accounts.of(&pod("web"));
    let begin = |caller| {
        let connection = account.connect(Some(caller)).unwrap();
        account.begin(&connection).map(|pending| (connection, pending))
    };
    let strangers: Vec<_> = (0..50).map(|n| begin(Caller::Other([192, 0, 2, n].into())).unwrap()).collect();
    assert_eq!(begin(Caller::Other([192, 0, 2, 99].into())).unwrap_err(), Limit::CallerPending);
    let of_mesh: Vec<_> = (0..50).map(|_| begin(caller(1)).unwrap()).collect();
    assert_eq!(begin(caller(2)).unwrap_err(), Limit::Pending);
    drop((strangers, of_mesh));
    let one: Vec<_> = (0..75).map(|_| begin(caller(1)).unwrap()).collect();
    assert_eq!(begin(caller(1)).unwrap_err(), Limit::CallerPending);
    assert!(begin(caller(2)).is_ok());
    drop(one);
    assert_eq!((account.n_pending(), account.n_peers()), (0, 0));
}

/// Windows that were small for the sake of all grow again though the workload itself sends nothing.
#[test]
fn a_workload_that_sends_nothing_has_its_windows_back_when_the_others_have_given_back() {
    let accounts = accounts(800, WorkloadLimits::default());
    let waits = |name| Arc::new(accounts.of(&pod(name)).waits(caller(1)));
    let (loud, quiet) = (waits("loud"), waits("quiet"));
    let fill = loud.charge(400).unwrap();
    let little = quiet.charge(1).unwrap();
    let other = waits("other").charge(1).unwrap();
    let told = accounts.of(&pod("quiet")).tight();
    drop(little);
    assert!(*told.borrow(), "half of the budget is held");
    accounts.relax();
    assert!(*told.borrow(), "and still is");
    drop((fill, other));
    accounts.relax();
    assert!(!*told.borrow());
}

#[tokio::test]
async fn what_waits_its_turn_to_be_opened_has_it_when_another_is_open() {
    let accounts = accounts(MIB, WorkloadLimits { max_pending: 1, ..WorkloadLimits::default() });
    let account = accounts.of(&pod("web"));
    let connection = account.connect(None).unwrap();
    let first = account.begin(&connection).unwrap();
    assert_eq!(account.begin(&connection).unwrap_err(), Limit::Pending);
    let second = account.begin_in_turn();
    tokio::pin!(second);
    assert!(futures_poll(second.as_mut()).await.is_none());
    drop(first);
    let held = second.await;
    assert_eq!((account.n_pending(), n_limited(&account, Limit::Pending)), (1, 2));
    let third = account.begin_in_turn();
    tokio::pin!(third);
    assert!(futures_poll(third.as_mut()).await.is_none());
    accounts.set(Limits { each: WorkloadLimits { max_pending: 2, ..WorkloadLimits::default() }, ..Limits::default() });
    drop(third.await);
    drop(held);
    assert_eq!(account.n_pending(), 0);
}

async fn futures_poll<F: Future + Unpin>(mut future: F) -> Option<F::Output> {
    std::future::poll_fn(|cx| match std::pin::Pin::new(&mut future).poll(cx) {
        std::task::Poll::Ready(ready) => std::task::Poll::Ready(Some(ready)),
        std::task::Poll::Pending => std::task::Poll::Ready(None),
    })
    .await
}
