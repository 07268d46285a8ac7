//! Reads how a client's requests are kept with one endpoint (GEP-1619), of a rule or an XBackendTrafficPolicy.

use std::{sync::Arc, time::Duration};

use gateway_api::experimental::httproutes::{
    HttpRouteRulesSessionPersistence, HttpRouteRulesSessionPersistenceCookieConfig,
    HttpRouteRulesSessionPersistenceCookieConfigLifetimeType as LifetimeType,
    HttpRouteRulesSessionPersistenceType as Type,
};
use millrace_model::{
    Session,
    session::{Carrier, CookiePath, Lifetime},
};

use super::{duration::duration, route};
use crate::diagnostic::Problems;

/// Gateway API's own bound.
const MAX_NAME: usize = 128;

/// Tokens tell time in seconds.
const LEAST: Duration = Duration::from_secs(1);

/// The longest that one number of Gateway API's spans of time can say.
const MOST: Duration = Duration::from_secs(99_999 * 3_600);

/// Names that browsers take for cookies of HTTPS alone: between pods there is none that they would see.
const SECURE: &[&str] = &["__Secure-", "__Host-"];

pub(super) fn session(
    persistence: &HttpRouteRulesSessionPersistence,
    path: CookiePath,
    field: &str,
    problems: &mut Problems,
) -> Session {
    let HttpRouteRulesSessionPersistence { absolute_timeout, cookie_config, idle_timeout, session_name, r#type } =
        persistence;
    let mut time = |text: &Option<String>, name: &str| {
        duration(text.as_deref()?, &format!("{field}.{name}"), (LEAST, MOST), problems)
    };
    let (absolute, idle) = (time(absolute_timeout, "absoluteTimeout"), time(idle_timeout, "idleTimeout"));
    let lifetime = match cookie_config {
        Some(HttpRouteRulesSessionPersistenceCookieConfig { lifetime_type: Some(LifetimeType::Permanent) }) => {
            Lifetime::Permanent
        }
        Some(HttpRouteRulesSessionPersistenceCookieConfig { lifetime_type: Some(LifetimeType::Session) | None })
        | None => Lifetime::Session,
    };
    if lifetime == Lifetime::Permanent && absolute_timeout.is_none() {
        let mend = "write how long, or lifetimeType: Session";
        problems.fatal(format!("{field}.absoluteTimeout"), "a permanent cookie must end some day", mend);
    }
    let carrier = match r#type {
        Some(Type::Header) => {
            if cookie_config.is_some() {
                problems.fatal(format!("{field}.cookieConfig"), "a header is no cookie", "leave it out, or the type");
            }
            Carrier::Header
        }
        Some(Type::Cookie) | None => Carrier::Cookie { lifetime, path },
    };
    let place = format!("{field}.sessionName");
    let name = session_name.as_deref().map(|name| self::name(name, carrier, &place, problems));
    Session { name: name.unwrap_or_default(), carrier, absolute, idle, tag: 0 }
}

fn name(name: &str, carrier: Carrier, field: &str, problems: &mut Problems) -> Arc<str> {
    if name.len() > MAX_NAME {
        problems.fatal(field, "it is too long", format!("write at most {MAX_NAME} letters"));
    }
    if carrier == Carrier::Header {
        return route::own_name(name, field, problems);
    }
    let is_letter = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b);
    if name.is_empty() || !name.bytes().all(is_letter) {
        problems.fatal(field, format!("{name:?} is no cookie's name"), "write letters, digits and '-'");
    } else if SECURE.iter().any(|prefix| name.starts_with(prefix)) {
        let mend = "leave the prefix out";
        problems.fatal(field, format!("{name:?} is for HTTPS alone, which requests in the mesh are not"), mend);
    }
    name.into()
}
