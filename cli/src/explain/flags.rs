//! Says how requests that can't go on are recorded, in the words that logs and metrics of requests have: the flag, whose fault it is,
//! and the policy.

use millrace_model::{
    Explanation, Mesh, ObjectName, Protocol,
    authorize::Ground,
    explain::{Answer, Outcome, Route, Way},
};

/// A flag, whose fault it stands for, and the policy.
type Flag<'e> = (&'static str, &'static str, Option<&'e ObjectName>);

/// A line for each way in which a request to a port with routes would be refused; none for a port that is not parsed.
pub(super) fn lines(mesh: &Mesh, explanation: &Explanation) -> Vec<String> {
    let Explanation { protocol, caller, asked, service, routes, outcome, .. } = explanation;
    let bound = service.as_ref().and_then(|service| mesh.snapshot.routes.get(service));
    let is_parsed = bound.is_some_and(|bound| bound.route(asked.port(), &caller.name.namespace));
    if *protocol != Protocol::Tcp || !is_parsed {
        return Vec::new();
    }
    let mut flags: Vec<Flag<'_>> = routes.iter().filter_map(flag).collect();
    if *outcome == Outcome::NoBackend {
        flags.push(("no_endpoint", "upstream", None));
    }
    flags.sort_unstable();
    flags.dedup();
    flags.into_iter().map(line).collect()
}

fn line((flag, side, policy): Flag<'_>) -> String {
    let policy = policy.map_or(String::new(), |policy| format!(", policy {policy}"));
    format!("A request that comes to this is recorded with flag {flag}, the fault of the {side}{policy}.")
}

fn flag(route: &Route) -> Option<Flag<'_>> {
    let denied = match route.way {
        Way::Tunnel(_) => "peer_denied",
        Way::Own | Way::Direct | Way::Plain | Way::Clear => "denied",
    };
    match &route.answer {
        Answer::Unasked | Answer::Allowed(_) | Answer::NoDatagrams | Answer::NoIdentity(_) | Answer::MeshPort => None,
        Answer::Denied(ground) => Some((denied, "client", policy(ground))),
        Answer::PlainTextRefused => Some(("connect_refused", "upstream", None)),
        Answer::NotEnrolled => Some(("backend_pending", "upstream", None)),
    }
}

fn policy(ground: &Ground) -> Option<&ObjectName> {
    match ground {
        Ground::Policy(policy) | Ground::NoneAllows(policy) | Ground::Missing(policy) => Some(policy),
        Ground::Unselected => None,
    }
}

#[cfg(test)]
mod tests {
    use millrace_model::ObjectName;

    use super::line;

    #[test]
    fn a_flag_is_told_with_whose_fault_it_is_and_the_policy() {
        let guard = ObjectName::new("shop", "guard");
        let said = line(("denied", "client", Some(&guard)));
        assert_eq!(
            said,
            "A request that comes to this is recorded with flag denied, the fault of the client, policy shop/guard."
        );
        assert!(line(("no_endpoint", "upstream", None)).ends_with("the fault of the upstream."));
    }
}
