//! Converts how a client's requests are kept with one endpoint.

use std::time::Duration;

use millrace_model::{
    Session,
    session::{Carrier, CookiePath, Lifetime},
};

use super::{Texts, Undecodable, bad};
use crate::mesh as pb;

pub(super) fn session(session: &Session) -> pb::Session {
    let Session { name, carrier, absolute, idle, tag } = session;
    let ms = |time: &Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
    let (carrier, matched_path) = match carrier {
        Carrier::Header => (pb::SessionCarrier::Header, false),
        Carrier::Cookie { lifetime, path } => {
            let carrier = match lifetime {
                Lifetime::Session => pb::SessionCarrier::Cookie,
                Lifetime::Permanent => pb::SessionCarrier::PermanentCookie,
            };
            let is_matched = match path {
                CookiePath::Matched => true,
                CookiePath::Unsaid => false,
            };
            (carrier, is_matched)
        }
    };
    pb::Session {
        name: name.to_string(),
        carrier: carrier.into(),
        matched_path,
        absolute_ms: absolute.as_ref().map(ms),
        idle_ms: idle.as_ref().map(ms),
        tag: *tag,
    }
}

pub(super) fn session_from(session: pb::Session, said: &mut Texts) -> Result<Session, Undecodable> {
    let pb::Session { name, carrier, matched_path, absolute_ms, idle_ms, tag } = session;
    if name.is_empty() {
        return Err(bad("routes.backend.session.name", "missing"));
    }
    let path = if matched_path { CookiePath::Matched } else { CookiePath::Unsaid };
    let carrier = match pb::SessionCarrier::try_from(carrier) {
        Ok(pb::SessionCarrier::Header) => Carrier::Header,
        Ok(pb::SessionCarrier::Cookie) => Carrier::Cookie { lifetime: Lifetime::Session, path },
        Ok(pb::SessionCarrier::PermanentCookie) => Carrier::Cookie { lifetime: Lifetime::Permanent, path },
        Ok(pb::SessionCarrier::Unspecified) | Err(_) => return Err(bad("routes.backend.session.carrier", carrier)),
    };
    let [absolute, idle] = [absolute_ms, idle_ms].map(|time| time.map(Duration::from_millis));
    Ok(Session { name: said.one(&name), carrier, absolute, idle, tag })
}
