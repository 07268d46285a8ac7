//! Reads what is said of other origins, by Gateway API's rules for the field.

use std::{net::Ipv4Addr, sync::Arc};

use gateway_api::experimental::httproutes::HttpRouteRulesFiltersCors;
use millrace_model::route::{Cors, Credentials};

use super::matches::header_name;
use crate::diagnostic::Problems;

/// Gateway API's own bounds.
const MAX_LIST: usize = 64;
const MAX_METHODS: usize = 9;
const MAX_ORIGIN: usize = 253;
/// What a browser keeps an answer for where none is written.
const MAX_AGE: i32 = 5;

/// Those that the specification lists.
const METHODS: &[&str] = &["GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH"];

pub(super) fn cors(cors: &HttpRouteRulesFiltersCors, field: &str, problems: &mut Problems) -> Cors {
    let HttpRouteRulesFiltersCors {
        allow_credentials,
        allow_headers,
        allow_methods,
        allow_origins,
        expose_headers,
        max_age,
    } = cors;
    let mut list = |texts: &Option<Vec<String>>, (name, most): (&str, usize), check: Check| {
        let place = format!("{field}.{name}");
        let texts = texts.as_deref().unwrap_or_default();
        if texts.len() > most {
            problems.fatal(&*place, format!("there are {}", texts.len()), format!("write at most {most}"));
        }
        for (index, text) in texts.iter().enumerate() {
            let place = format!("{place}[{index}]");
            if texts.iter().take(index).any(|before| before == text) {
                problems.fatal(&*place, format!("{text:?} stands twice"), "remove one");
            }
            if text != "*" {
                check(text, &place, problems);
            }
        }
        texts.iter().map(|text| Arc::from(text.as_str())).collect()
    };
    let cors = Cors {
        origins: list(allow_origins, ("allowOrigins", MAX_LIST), origin),
        methods: list(allow_methods, ("allowMethods", MAX_METHODS), method),
        headers: list(allow_headers, ("allowHeaders", MAX_LIST), header_name),
        expose: list(expose_headers, ("exposeHeaders", MAX_LIST), header_name),
        credentials: if *allow_credentials == Some(true) { Credentials::Allowed } else { Credentials::Omitted },
        max_age_s: 0,
    };
    let cors = Cors { max_age_s: age(*max_age, field, problems), ..cors };
    for (list, name) in
        [(&cors.origins, "allowOrigins"), (&cors.methods, "allowMethods"), (&cors.headers, "allowHeaders")]
    {
        if list.len() > 1 && list.iter().any(|text| **text == *"*") {
            problems.fatal(
                format!("{field}.{name}"),
                "\"*\" stands beside others",
                "write \"*\" alone, or leave it out",
            );
        }
    }
    cors
}

type Check = fn(&str, &str, &mut Problems);

fn age(written: Option<i32>, field: &str, problems: &mut Problems) -> u32 {
    let age = written.unwrap_or(MAX_AGE);
    if age < 1 {
        problems.fatal(format!("{field}.maxAge"), format!("{age} is no age"), "write a number of seconds from 1 on");
    }
    age.unsigned_abs()
}

fn method(text: &str, place: &str, problems: &mut Problems) {
    if !METHODS.contains(&text) {
        problems.fatal(
            place,
            format!("{text:?} is not one of its values"),
            format!("write * or {}", METHODS.join(", ")),
        );
    }
}

/// `scheme://host[:port]`, the host a name, an address, `*` or a name below `*.`.
fn origin(text: &str, place: &str, problems: &mut Problems) {
    let rest = text.strip_prefix("http://").or_else(|| text.strip_prefix("https://"));
    let is_good = text.len() <= MAX_ORIGIN
        && rest.is_some_and(|rest| {
            let (host, port) = rest.split_once(':').map_or((rest, None), |(host, port)| (host, Some(port)));
            (host == "*" || is_host(host.strip_prefix("*.").unwrap_or(host))) && port.is_none_or(is_port)
        });
    if !is_good {
        let mend = "write scheme, host and port alone, such as https://shop.example.com or https://*.example.com:8443";
        problems.fatal(place, format!("{text:?} is no origin"), mend);
    }
}

fn is_host(host: &str) -> bool {
    let is_label = |label: &str| !label.is_empty() && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
    host.parse::<Ipv4Addr>().is_ok() || host.split('.').all(is_label)
}

fn is_port(port: &str) -> bool {
    port.bytes().all(|b| b.is_ascii_digit()) && port.parse::<u16>().is_ok_and(|port| port > 0)
}
