//! States what the agent makes of the kernel's counts.

use millrace_abi::Failures;

use super::{News, news};

fn entry(failed: u64, run: u32) -> Failures {
    Failures { at_ns: 1, failed, run, cause: 0 }
}

#[test]
fn what_a_count_says_since_it_was_read_last() {
    for (before, now, wanted) in [
        (None, entry(1, 1), News::Failed(1)),
        (None, entry(7, 7), News::Failed(7)),
        (None, entry(7, 2), News::Failed(2)),
        (Some(entry(3, 3)), entry(3, 3), News::None),
        (Some(entry(3, 3)), entry(5, 5), News::Failed(2)),
        (Some(entry(3, 3)), entry(3, 0), News::Mended),
        (Some(entry(3, 3)), entry(9, 0), News::Mended),
        (Some(entry(3, 3)), entry(5, 1), News::FailedAgain(1)),
        (Some(entry(3, 3)), entry(5, 2), News::FailedAgain(2)),
        // The kernel let the entry go and made it anew.
        (Some(entry(9, 9)), entry(2, 2), News::FailedAgain(2)),
    ] {
        assert_eq!(news(before.as_ref(), &now), wanted, "{before:?} {now:?}");
    }
}
