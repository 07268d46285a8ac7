//! Says in a sentence what a filter does to a request.

use millrace_model::route::{
    Cors, Credentials, Filter, Header, HeaderEdit, InjectedFault, Mirror, PathEdit, Redirect, Rewrite, Scheme,
    Share as Of,
};

use crate::routes::words;

/// How many requests that reach a filter go no further.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Share {
    None,
    Some,
    All,
}

/// Of one filter.
pub(super) fn answered(filter: &Filter) -> Share {
    let aborts = if let Filter::Fault(fault) = filter { fault.abort } else { None };
    match aborts {
        _ if filter.answers() => Share::All,
        None | Some((_, Of { numerator: 0, .. })) => Share::None,
        Some((_, Of { numerator, denominator })) if numerator >= denominator => Share::All,
        Some(_) => Share::Some,
    }
}

/// Of several.
pub(super) fn all_answered(filters: &[Filter]) -> Share {
    filters.iter().map(answered).max().unwrap_or(Share::None)
}

pub(super) fn sentence(filter: &Filter) -> String {
    match filter {
        Filter::RequestHeaders(edit) => format!("Of the request's headers it {}.", edited(edit)),
        Filter::ResponseHeaders(edit) => format!("Of the answer's headers it {}.", edited(edit)),
        Filter::Redirect(redirect) => redirected(redirect),
        Filter::Rewrite(Rewrite { host, path }) => {
            let host = host.iter().map(|host| format!("host {host}"));
            let all: Vec<String> = host.chain(path.iter().map(pathed)).collect();
            format!("The backend is asked for {}.", all.join(" and "))
        }
        Filter::Mirror(Mirror { to, share }) => format!("A copy of {} goes to {}.", shared(*share), words::target(to)),
        Filter::Cors(cors) => other_origins(cors),
        Filter::Fault(InjectedFault { delay, abort }) => {
            let delay = delay.map(|(time, share)| format!("{} wait {time:?}", shared(share)));
            let abort = abort.map(|(status, share)| format!("{} get a {status}", shared(share)));
            format!("A fault: {}.", [delay, abort].into_iter().flatten().collect::<Vec<_>>().join(", and "))
        }
        Filter::Refuse(why) => format!("It can't be carried out, as {why}: 500, filter_not_done."),
    }
}

fn edited(HeaderEdit { set, add, remove }: &HeaderEdit) -> String {
    let pairs = |verb: &str, list: &[Header]| {
        let all: Vec<String> = list.iter().map(|(name, value)| format!("{name}: {value}")).collect();
        (!all.is_empty()).then(|| format!("{verb} {}", all.join(", ")))
    };
    let removed = (!remove.is_empty()).then(|| format!("removes {}", remove.join(", ")));
    let all: Vec<String> = [pairs("sets", set), pairs("adds", add), removed].into_iter().flatten().collect();
    if all.is_empty() { "changes nothing".to_owned() } else { all.join("; ") }
}

fn redirected(Redirect { scheme, host, path, port, status }: &Redirect) -> String {
    let scheme = scheme.map(|scheme| match scheme {
        Scheme::Http => "scheme http".to_owned(),
        Scheme::Https => "scheme https".to_owned(),
    });
    let host = host.as_ref().map(|host| format!("host {host}"));
    let port = port.map(|port| format!("port {port}"));
    let parts: Vec<String> = [scheme, host, port, path.as_ref().map(pathed)].into_iter().flatten().collect();
    let what = if parts.is_empty() { "the same".to_owned() } else { parts.join(", ") };
    format!("It is answered with {status}, and the client sent to {what}.")
}

fn pathed(path: &PathEdit) -> String {
    match path {
        PathEdit::Full(path) => format!("path {path}"),
        PathEdit::Prefix(prefix) => format!("{prefix:?} in place of the path's prefix"),
    }
}

fn shared(Of { numerator, denominator }: Of) -> String {
    match (numerator, denominator) {
        (some, all) if some == all => "every request".to_owned(),
        (percent, 100) => format!("{percent} % of requests"),
        (some, all) => format!("{some} of {all} requests"),
    }
}

fn other_origins(Cors { origins, methods, headers, expose: _, credentials, max_age_s }: &Cors) -> String {
    let list = |list: &[std::sync::Arc<str>]| if list.is_empty() { "none".to_owned() } else { list.join(" ") };
    let credentials = match credentials {
        Credentials::Allowed => "with credentials",
        Credentials::Omitted => "without credentials",
    };
    format!(
        "Other origins: {} {credentials}; methods {}; headers {}; for {max_age_s} s.",
        list(origins),
        list(methods),
        list(headers)
    )
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use millrace_model::route::{Filter, HeaderEdit, InjectedFault, Mirror, Share, Target, Unresolved};

    use super::{Share as Answered, all_answered, sentence};

    #[test]
    fn a_fault_that_aborts_all_sends_none() {
        let aborts = |numerator, denominator| {
            let abort = Some((503, Share { numerator, denominator }));
            all_answered(&[Filter::Fault(InjectedFault { delay: None, abort })])
        };
        assert_eq!(aborts(100, 100), Answered::All);
        assert_eq!(aborts(1, 1_000), Answered::Some);
        assert_eq!(aborts(0, 100), Answered::None);
        assert_eq!(all_answered(&[]), Answered::None);
        assert_eq!(all_answered(&[Filter::Refuse("x".into())]), Answered::All);
    }

    #[test]
    fn a_filter_is_a_sentence_with_its_values() {
        let edit = HeaderEdit { set: vec![("x-a".into(), "1".into())], add: vec![], remove: vec!["x-b".into()] };
        assert_eq!(sentence(&Filter::RequestHeaders(edit)), "Of the request's headers it sets x-a: 1; removes x-b.");
        let fault = InjectedFault {
            delay: Some((Duration::from_millis(250), Share { numerator: 10, denominator: 100 })),
            abort: Some((503, Share { numerator: 5, denominator: 1_000 })),
        };
        assert_eq!(
            sentence(&Filter::Fault(fault)),
            "A fault: 10 % of requests wait 250ms, and 5 of 1000 requests get a 503."
        );
        let mirror = Mirror { to: Target::Invalid(Unresolved::Missing), share: Share { numerator: 1, denominator: 1 } };
        assert_eq!(sentence(&Filter::Mirror(mirror)), "A copy of every request goes to 500 (not there).");
    }
}
