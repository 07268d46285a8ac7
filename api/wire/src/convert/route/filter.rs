//! Converts what is done to a request or its response.

use std::{sync::Arc, time::Duration};

use millrace_model::route::{
    Cors, Credentials, Filter, Header, HeaderEdit, InjectedFault, Mirror, PathEdit, Redirect, Rewrite, Scheme, Share,
};

use super::{Texts, Undecodable, bad, ms, port_from, target, target_from};
use crate::mesh as pb;

pub(super) fn filter(filter: &Filter) -> pb::RouteFilter {
    let kind = match filter {
        Filter::RequestHeaders(edit) => pb::route_filter::Kind::RequestHeaders(header_edit(edit)),
        Filter::ResponseHeaders(edit) => pb::route_filter::Kind::ResponseHeaders(header_edit(edit)),
        Filter::Redirect(redirect) => pb::route_filter::Kind::Redirect(redirect_to(redirect)),
        Filter::Rewrite(Rewrite { host, path }) => pb::route_filter::Kind::Rewrite(pb::Rewrite {
            host: host.as_ref().map(ToString::to_string),
            path: path.as_ref().map(path_edit),
        }),
        Filter::Mirror(Mirror { to, share: of }) => {
            pb::route_filter::Kind::Mirror(pb::Mirror { to: Some(target(to)), share: Some(share(*of)) })
        }
        Filter::Cors(cors) => pb::route_filter::Kind::Cors(cors_to(cors)),
        Filter::Fault(fault) => pb::route_filter::Kind::Fault(fault_to(fault)),
        Filter::Refuse(why) => pb::route_filter::Kind::Refuse(why.to_string()),
    };
    pb::RouteFilter { kind: Some(kind) }
}

pub(super) fn filter_from(filter: pb::RouteFilter, said: &mut Texts) -> Result<Filter, Undecodable> {
    Ok(match filter.kind.ok_or_else(|| bad("routes.filter", "missing"))? {
        pb::route_filter::Kind::RequestHeaders(edit) => Filter::RequestHeaders(header_edit_from(edit, said)),
        pb::route_filter::Kind::ResponseHeaders(edit) => Filter::ResponseHeaders(header_edit_from(edit, said)),
        pb::route_filter::Kind::Redirect(redirect) => Filter::Redirect(redirect_from(redirect, said)?),
        pb::route_filter::Kind::Rewrite(pb::Rewrite { host, path }) => {
            let path = path.map(|path| path_edit_from(path, said)).transpose()?;
            Filter::Rewrite(Rewrite { host: host.map(|host| said.one(&host)), path })
        }
        pb::route_filter::Kind::Mirror(pb::Mirror { to, share }) => {
            Filter::Mirror(Mirror { to: target_from(to, said)?, share: share_from(share, "routes.mirror.share")? })
        }
        pb::route_filter::Kind::Cors(cors) => Filter::Cors(cors_from(cors, said)),
        pb::route_filter::Kind::Fault(fault) => Filter::Fault(fault_from(fault)?),
        pb::route_filter::Kind::Refuse(why) => Filter::Refuse(said.one(&why)),
    })
}

fn texts(list: &[Arc<str>]) -> Vec<String> {
    list.iter().map(ToString::to_string).collect()
}

fn header_edit(edit: &HeaderEdit) -> pb::HeaderEdit {
    let HeaderEdit { set, add, remove } = edit;
    let headers = |list: &[Header]| {
        list.iter().map(|(name, value)| pb::Header { name: name.to_string(), value: value.to_string() }).collect()
    };
    pb::HeaderEdit { set: headers(set), add: headers(add), remove: texts(remove) }
}

fn header_edit_from(edit: pb::HeaderEdit, said: &mut Texts) -> HeaderEdit {
    let pb::HeaderEdit { set, add, remove } = edit;
    let mut headers = |list: Vec<pb::Header>| {
        // By reference: a list that is made of another's items takes its room too, which is four items' where it held one.
        list.iter().map(|pb::Header { name, value }| (said.one(name), said.one(value))).collect()
    };
    HeaderEdit { set: headers(set), add: headers(add), remove: said.all(&remove) }
}

fn redirect_to(redirect: &Redirect) -> pb::Redirect {
    let Redirect { scheme, host, path, port, status } = redirect;
    pb::Redirect {
        scheme: match scheme {
            None => pb::Scheme::Unspecified,
            Some(Scheme::Http) => pb::Scheme::Http,
            Some(Scheme::Https) => pb::Scheme::Https,
        }
        .into(),
        host: host.as_ref().map(ToString::to_string),
        path: path.as_ref().map(path_edit),
        port: port.map(u32::from),
        status: u32::from(*status),
    }
}

fn redirect_from(redirect: pb::Redirect, said: &mut Texts) -> Result<Redirect, Undecodable> {
    let pb::Redirect { scheme, host, path, port, status } = redirect;
    Ok(Redirect {
        scheme: match pb::Scheme::try_from(scheme) {
            Ok(pb::Scheme::Unspecified) => None,
            Ok(pb::Scheme::Http) => Some(Scheme::Http),
            Ok(pb::Scheme::Https) => Some(Scheme::Https),
            Err(_) => return Err(bad("routes.redirect.scheme", scheme)),
        },
        host: host.map(|host| said.one(&host)),
        path: path.map(|path| path_edit_from(path, said)).transpose()?,
        port: port.map(|port| port_from(port, "routes.redirect.port")).transpose()?,
        status: status_from(status, "routes.redirect.status")?,
    })
}

fn status_from(status: u32, field: &'static str) -> Result<u16, Undecodable> {
    match u16::try_from(status) {
        Ok(status @ 100..=599) => Ok(status),
        Ok(_) | Err(_) => Err(bad(field, format!("{status} is no status"))),
    }
}

fn path_edit(edit: &PathEdit) -> pb::PathEdit {
    let kind = match edit {
        PathEdit::Full(text) => pb::path_edit::Kind::Full(text.to_string()),
        PathEdit::Prefix(text) => pb::path_edit::Kind::Prefix(text.to_string()),
    };
    pb::PathEdit { kind: Some(kind) }
}

fn path_edit_from(edit: pb::PathEdit, said: &mut Texts) -> Result<PathEdit, Undecodable> {
    match edit.kind.ok_or_else(|| bad("routes.path_edit", "missing"))? {
        pb::path_edit::Kind::Full(text) => Ok(PathEdit::Full(said.one(&text))),
        pb::path_edit::Kind::Prefix(text) => Ok(PathEdit::Prefix(said.one(&text))),
    }
}

fn share(share: Share) -> pb::Share {
    let Share { numerator, denominator } = share;
    pb::Share { numerator, denominator }
}

fn share_from(share: Option<pb::Share>, field: &'static str) -> Result<Share, Undecodable> {
    match share.ok_or_else(|| bad(field, "missing"))? {
        pb::Share { numerator: _, denominator: 0 } => Err(bad(field, "a share of nothing")),
        pb::Share { numerator, denominator } => Ok(Share { numerator, denominator }),
    }
}

fn cors_to(cors: &Cors) -> pb::Cors {
    let Cors { origins, methods, headers, expose, credentials, max_age_s } = cors;
    pb::Cors {
        origins: texts(origins),
        methods: texts(methods),
        headers: texts(headers),
        expose: texts(expose),
        credentials: match credentials {
            Credentials::Allowed => true,
            Credentials::Omitted => false,
        },
        max_age_s: *max_age_s,
    }
}

fn cors_from(cors: pb::Cors, said: &mut Texts) -> Cors {
    let pb::Cors { origins, methods, headers, expose, credentials, max_age_s } = cors;
    Cors {
        origins: said.all(&origins),
        methods: said.all(&methods),
        headers: said.all(&headers),
        expose: said.all(&expose),
        credentials: if credentials { Credentials::Allowed } else { Credentials::Omitted },
        max_age_s,
    }
}

fn fault_to(fault: &InjectedFault) -> pb::InjectedFault {
    let InjectedFault { delay, abort } = fault;
    pb::InjectedFault {
        delay_ms: delay.map(|(time, _)| ms(time)),
        delay_share: delay.map(|(_, of)| share(of)),
        abort_status: abort.map(|(status, _)| u32::from(status)),
        abort_share: abort.map(|(_, of)| share(of)),
    }
}

fn fault_from(fault: pb::InjectedFault) -> Result<InjectedFault, Undecodable> {
    let pb::InjectedFault { delay_ms, delay_share, abort_status, abort_share } = fault;
    let delay = match delay_ms {
        None => None,
        Some(ms) => Some((Duration::from_millis(ms), share_from(delay_share, "routes.fault.delay_share")?)),
    };
    let abort = match abort_status {
        None => None,
        Some(status) => {
            let status = status_from(status, "routes.fault.abort_status")?;
            Some((status, share_from(abort_share, "routes.fault.abort_share")?))
        }
    };
    Ok(InjectedFault { delay, abort })
}
