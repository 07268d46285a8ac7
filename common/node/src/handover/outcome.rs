//! Says how a connection to an endpoint went, and reads it. Pure.

use std::net::{IpAddr, SocketAddr};

use millrace_model::outlier::Cause;

use super::Malformed;
use crate::wire::node::{Outcome, OutcomeKind};

/// The message for an endpoint: how its connection failed, or None for one that was made.
pub fn outcome(endpoint: SocketAddr, failed: Option<Cause>) -> Outcome {
    let address = match endpoint.ip() {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    };
    let kind = match failed {
        None => OutcomeKind::Made,
        Some(Cause::Refused) => OutcomeKind::Refused,
        Some(Cause::TimedOut) => OutcomeKind::TimedOut,
        Some(Cause::Unavailable) => OutcomeKind::Unavailable,
    };
    Outcome { address: address.into(), port: endpoint.port().into(), kind: kind.into() }
}

/// What a message says.
pub fn read_outcome(Outcome { address, port, kind }: &Outcome) -> Result<(SocketAddr, Option<Cause>), Malformed> {
    let ip = match (<[u8; 4]>::try_from(&**address), <[u8; 16]>::try_from(&**address)) {
        (Ok(v4), _) => IpAddr::from(v4),
        (Err(_), Ok(v6)) => IpAddr::from(v6),
        (Err(_), Err(_)) => return Err(Malformed::Field("Outcome.address")),
    };
    let port = u16::try_from(*port).ok().filter(|port| *port > 0).ok_or(Malformed::Field("Outcome.port"))?;
    let failed = match OutcomeKind::try_from(*kind) {
        Ok(OutcomeKind::Made) => None,
        Ok(OutcomeKind::Refused) => Some(Cause::Refused),
        Ok(OutcomeKind::TimedOut) => Some(Cause::TimedOut),
        Ok(OutcomeKind::Unavailable) => Some(Cause::Unavailable),
        Ok(OutcomeKind::Unspecified) | Err(_) => return Err(Malformed::Field("Outcome.kind")),
    };
    Ok((SocketAddr::new(ip, port), failed))
}

#[cfg(test)]
mod tests {
    use millrace_model::outlier::Cause;

    use super::{outcome, read_outcome};
    use crate::{handover::Malformed, wire::node::Outcome};

    #[test]
    fn an_outcome_reads_as_it_was_said() {
        for failed in [None, Some(Cause::Refused), Some(Cause::TimedOut), Some(Cause::Unavailable)] {
            for endpoint in ["10.0.0.1:8080", "[fd10::1]:1"].map(|at| at.parse().unwrap()) {
                assert_eq!(read_outcome(&outcome(endpoint, failed)), Ok((endpoint, failed)));
            }
        }
    }

    #[test]
    fn one_that_says_nothing_is_refused_by_the_name_of_its_field() {
        let good = outcome("10.0.0.1:80".parse().unwrap(), None);
        for (bad, field) in [
            (Outcome { address: vec![1; 5].into(), ..good.clone() }, "Outcome.address"),
            (Outcome { port: 0, ..good.clone() }, "Outcome.port"),
            (Outcome { port: 65_536, ..good.clone() }, "Outcome.port"),
            (Outcome { kind: 0, ..good.clone() }, "Outcome.kind"),
            (Outcome { kind: 9, ..good }, "Outcome.kind"),
        ] {
            assert_eq!(read_outcome(&bad), Err(Malformed::Field(field)));
        }
    }
}
