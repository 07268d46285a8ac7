//! What is read back is what was kept last, wherever the agent was killed.

use std::{fs, sync::Arc};

use millrace_model::{ObjectName, Policy, Snapshot, Tier, policy::Action};
use proptest::{collection::vec, prelude::*};

use super::{FILE, JOURNAL, Kept, MOST, StateDir, Step, load};

/// A Snapshot of this generation with these policies.
fn snapshot(generation: u64, policies: &[u8]) -> Snapshot {
    let policy = |n: &u8| {
        let name = ObjectName::new("shop", &format!("p{n}"));
        (name.clone(), Arc::new(Policy { name, action: Action::Allow, rules: Vec::new(), tier: Tier::Access }))
    };
    Snapshot { generation, policies: policies.iter().map(policy).collect(), ..Snapshot::default() }
}

fn dir(temporary: &tempfile::TempDir) -> StateDir {
    StateDir::open(&temporary.path().join("state")).unwrap()
}

fn run(work: impl Future<Output = ()>) {
    tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(work);
}

async fn step(kept: &mut Kept, before: &Snapshot, now: &Snapshot) {
    kept.keep(Step::between(before, now).as_ref(), now).await;
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 32, ..ProptestConfig::default() })]

    #[test]
    fn each_snapshot_is_read_back_and_a_journal_cut_short_gives_one_of_before(
        steps in vec(vec(0..6_u8, 0..4), 1..8), restart in 0..8_usize, cut in 0..200_usize,
    ) {
        let temporary = tempfile::tempdir().unwrap();
        let dir = dir(&temporary);
        let mut all = vec![Snapshot::default()];
        run(async {
            let mut kept = Kept::new(dir.clone());
            for (generation, policies) in (1..).zip(&steps) {
                if all.len() == restart {
                    kept = Kept::new(dir.clone());
                }
                let now = snapshot(generation * 10, policies);
                step(&mut kept, all.last().unwrap(), &now).await;
                assert_eq!(load(&dir), now);
                all.push(now);
            }
        });
        let journal = temporary.path().join("state").join(JOURNAL);
        let bytes = fs::read(&journal).unwrap();
        fs::write(&journal, bytes.get(..bytes.len().saturating_sub(cut)).unwrap()).unwrap();
        prop_assert!(all.contains(&load(&dir)));
        // What is there in place of bytes that never came to the disk.
        fs::write(&journal, [bytes.as_slice(), &[0; 64]].concat()).unwrap();
        prop_assert_eq!(&load(&dir), all.last().unwrap());
    }
}

#[test]
fn a_journal_of_another_snapshot_is_passed_over() {
    let temporary = tempfile::tempdir().unwrap();
    let dir = dir(&temporary);
    run(async {
        let mut kept = Kept::new(dir.clone());
        step(&mut kept, &Snapshot::default(), &snapshot(1, &[1])).await;
        step(&mut kept, &snapshot(1, &[1]), &snapshot(2, &[2])).await;
        let journal = dir.read(JOURNAL).unwrap().unwrap();
        assert!(!journal.is_empty(), "the second is a difference");
        // Killed between the two writes of a whole one.
        let whole = millrace_node::wire::encode_snapshot(&snapshot(2, &[2, 3]));
        dir.replace(FILE, &whole).unwrap();
        assert_eq!(load(&dir), snapshot(2, &[2, 3]));
    });
}

#[test]
fn a_journal_does_not_grow_for_ever() {
    let temporary = tempfile::tempdir().unwrap();
    let dir = dir(&temporary);
    run(async {
        let mut kept = Kept { n_entries: MOST - 1, ..Kept::new(dir.clone()) };
        step(&mut kept, &Snapshot::default(), &snapshot(1, &[1])).await;
        kept.n_entries = MOST;
        step(&mut kept, &snapshot(1, &[1]), &snapshot(2, &[])).await;
        assert!(dir.read(JOURNAL).unwrap().unwrap().is_empty(), "the whole was written");
        assert_eq!(load(&dir), snapshot(2, &[]));
    });
}
