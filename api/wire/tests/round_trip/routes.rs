//! Makes routes of every shape.

use std::{sync::Arc, time::Duration};

use millrace_model::route::{
    Bound, Clients, Cors, Credentials, Filter, HeaderEdit, Host, InjectedFault, Mirror, PathEdit, PathMatch, Redirect,
    RequestMatch, Rewrite, RouteBackend, RouteKind, RouteName, RouteRule, Routes, Scheme, Share, Speaks, Target, Text,
    Timeouts, Unresolved, ValueMatch,
};
use millrace_model::{
    Retry, Session,
    session::{Carrier, CookiePath, Lifetime},
};
use proptest::{option, prelude::*};

use super::{few, name, port, text};

/// What stands in a file.
fn words() -> impl Strategy<Value = Arc<str>> {
    "\\PC{0,12}".prop_map(Into::into)
}

fn pattern() -> impl Strategy<Value = Text> {
    prop_oneof![words().prop_map(Text::Exact), words().prop_map(Text::Regex)]
}

fn value() -> impl Strategy<Value = ValueMatch> {
    (words(), pattern()).prop_map(|(name, value)| ValueMatch { name, value })
}

fn path() -> impl Strategy<Value = PathMatch> {
    prop_oneof![
        words().prop_map(PathMatch::Exact),
        words().prop_map(PathMatch::Prefix),
        words().prop_map(PathMatch::Regex),
        (option::of(pattern()), option::of(pattern()))
            .prop_map(|(service, method)| PathMatch::Grpc { service, method }),
    ]
}

fn time() -> impl Strategy<Value = Duration> {
    any::<u32>().prop_map(|ms| Duration::from_millis(ms.into()))
}

fn share() -> impl Strategy<Value = Share> {
    (any::<u32>(), 1..=u32::MAX).prop_map(|(numerator, denominator)| Share { numerator, denominator })
}

fn target() -> impl Strategy<Value = Target> {
    let speaks = prop_oneof![Just(Speaks::Http1), Just(Speaks::Http2)];
    let why = prop_oneof![
        Just(Unresolved::Kind),
        Just(Unresolved::Missing),
        Just(Unresolved::Ungranted),
        Just(Unresolved::Protocol)
    ];
    prop_oneof![
        (name(), port(), speaks).prop_map(|(name, port, speaks)| Target::Service { name, port, speaks }),
        why.prop_map(Target::Invalid),
    ]
}

fn edit() -> impl Strategy<Value = HeaderEdit> {
    let headers = || few((words(), words()));
    (headers(), headers(), few(words())).prop_map(|(set, add, remove)| HeaderEdit { set, add, remove })
}

fn path_edit() -> impl Strategy<Value = PathEdit> {
    prop_oneof![words().prop_map(PathEdit::Full), words().prop_map(PathEdit::Prefix)]
}

fn redirect() -> impl Strategy<Value = Redirect> {
    let scheme = option::of(prop_oneof![Just(Scheme::Http), Just(Scheme::Https)]);
    (scheme, option::of(words()), option::of(path_edit()), option::of(port()), 300..400u16)
        .prop_map(|(scheme, host, path, port, status)| Redirect { scheme, host, path, port, status })
}

fn cors() -> impl Strategy<Value = Cors> {
    let credentials = prop_oneof![Just(Credentials::Allowed), Just(Credentials::Omitted)];
    (few(words()), few(words()), few(words()), few(words()), credentials, any::<u32>()).prop_map(
        |(origins, methods, headers, expose, credentials, max_age_s)| Cors {
            origins,
            methods,
            headers,
            expose,
            credentials,
            max_age_s,
        },
    )
}

fn filter() -> impl Strategy<Value = Filter> {
    let fault = (option::of((time(), share())), option::of((100..600u16, share())));
    prop_oneof![
        edit().prop_map(Filter::RequestHeaders),
        edit().prop_map(Filter::ResponseHeaders),
        redirect().prop_map(Filter::Redirect),
        (option::of(words()), option::of(path_edit())).prop_map(|(host, path)| Filter::Rewrite(Rewrite { host, path })),
        (target(), share()).prop_map(|(to, share)| Filter::Mirror(Mirror { to, share })),
        cors().prop_map(Filter::Cors),
        fault.prop_map(|(delay, abort)| Filter::Fault(InjectedFault { delay, abort })),
        words().prop_map(Filter::Refuse),
    ]
}

fn session() -> impl Strategy<Value = Session> {
    let lifetime = prop_oneof![Just(Lifetime::Session), Just(Lifetime::Permanent)];
    let path = prop_oneof![Just(CookiePath::Matched), Just(CookiePath::Unsaid)];
    let cookie = (lifetime, path).prop_map(|(lifetime, path)| Carrier::Cookie { lifetime, path });
    let carrier = prop_oneof![Just(Carrier::Header), cookie];
    ("[a-zA-Z-]{1,9}", carrier, option::of(time()), option::of(time()), any::<u32>())
        .prop_map(|(name, carrier, absolute, idle, tag)| Session { name: name.into(), carrier, absolute, idle, tag })
}

fn rule() -> impl Strategy<Value = RouteRule> {
    let one = (path(), option::of(words()), few(value()), few(value()))
        .prop_map(|(path, method, headers, query)| RequestMatch { path, method, headers, query });
    let backend = (any::<u32>(), target(), few(filter()), option::of(session()))
        .prop_map(|(weight, to, filters, session)| RouteBackend { weight, to, filters, session });
    let timeouts = (option::of(time()), option::of(time()))
        .prop_map(|(request, backend_request)| Timeouts { request, backend_request });
    let matches = prop::collection::vec(one, 1..3);
    let retry = (prop::collection::btree_set(400..600u16, 0..4), 1..=u32::MAX, time())
        .prop_map(|(codes, attempts, backoff)| Retry { codes, attempts, backoff });
    (option::of(words()), matches, few(filter()), few(backend), (timeouts, option::of(retry))).prop_map(
        |(name, matches, filters, backends, (timeouts, retry))| RouteRule {
            name,
            matches,
            filters,
            backends,
            timeouts,
            retry,
        },
    )
}

pub(crate) fn routes() -> impl Strategy<Value = Routes> {
    let kind = prop_oneof![Just(RouteKind::Http), Just(RouteKind::Grpc)];
    let route = (kind, name()).prop_map(|(kind, name)| RouteName { kind, name });
    let clients = option::of(text()).prop_map(|clients| clients.map_or(Clients::All, Clients::Namespace));
    let host = prop_oneof![words().prop_map(Host::Exact), words().prop_map(Host::Below)];
    let ports = prop::collection::btree_set(port(), 0..4);
    let bound = (route, clients, ports, few(host), few(rule()))
        .prop_map(|(route, clients, ports, hosts, rules)| Bound { route, clients, ports, hosts, rules });
    (name(), few(bound)).prop_map(|(service, bound)| Routes { service, bound })
}
