//! Says which requests a fault that somebody asked for falls on, and what they are told in gRPC's words. Pure: the draw is an argument.

use std::time::Duration;

use http::StatusCode;
use millrace_model::route::{InjectedFault, Share};

/// What is done to one request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Injected {
    /// It waits so long first.
    pub(crate) delay: Option<Duration>,
    /// It is answered with this status then.
    pub(crate) abort: Option<u16>,
}

/// Draws for each by itself, so that neither share depends on the other.
pub(crate) fn injected(fault: &InjectedFault, draws: [u64; 2]) -> Injected {
    let InjectedFault { delay, abort } = fault;
    let [first, second] = draws;
    Injected {
        delay: delay.filter(|(_, share)| falls(*share, first)).map(|(time, _)| time),
        abort: abort.filter(|(_, share)| falls(*share, second)).map(|(status, _)| status),
    }
}

/// Whether a draw falls within a share. The numbers are 32 bits and the draw 64: what the remainder favours is below 1 in 2^32.
pub(crate) fn falls(share: Share, draw: u64) -> bool {
    let Share { numerator, denominator } = share;
    draw.checked_rem(denominator.into()).is_some_and(|place| place < numerator.into())
}

/// The gRPC status that stands for one of HTTP, as gRPC's own table has it.
pub(crate) fn grpc_status(status: StatusCode) -> &'static str {
    match status.as_u16() {
        400 => "13",                   // INTERNAL
        401 => "16",                   // UNAUTHENTICATED
        403 => "7",                    // PERMISSION_DENIED
        404 => "12",                   // UNIMPLEMENTED
        429 | 502 | 503 | 504 => "14", // UNAVAILABLE
        _ => "2",                      // UNKNOWN
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use millrace_model::route::{InjectedFault, Share};

    use super::{Injected, falls, injected};

    const fn share(numerator: u32, denominator: u32) -> Share {
        Share { numerator, denominator }
    }

    #[test]
    fn a_share_is_so_many_of_so_many_draws() {
        let hits = |share: Share| (0..10_000).filter(|draw| falls(share, *draw)).count();
        assert_eq!(hits(share(0, 100)), 0);
        assert_eq!(hits(share(10, 100)), 1_000);
        assert_eq!(hits(share(1, 1_000)), 10);
        assert_eq!(hits(share(100, 100)), 10_000);
        assert_eq!(hits(share(1, 0)), 0, "what is no share falls on nobody");
    }

    #[test]
    fn delay_and_abort_are_drawn_apart() {
        let second = Duration::from_secs(1);
        let fault = InjectedFault { delay: Some((second, share(1, 2))), abort: Some((503, share(1, 2))) };
        let found = |delay, abort| Injected { delay, abort };
        assert_eq!(injected(&fault, [0, 0]), found(Some(second), Some(503)));
        assert_eq!(injected(&fault, [0, 1]), found(Some(second), None));
        assert_eq!(injected(&fault, [1, 0]), found(None, Some(503)));
        assert_eq!(injected(&fault, [1, 1]), found(None, None));
        assert_eq!(injected(&InjectedFault::default(), [0, 0]), found(None, None));
    }
}
