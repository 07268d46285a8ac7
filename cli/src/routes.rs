//! Shows what routes come to, by the data plane's own index: every match in its order, or the one that has a request.

pub(crate) mod words;

use std::{path::Path, sync::Arc};

use millrace_model::{Mesh, ObjectName, route::Clients};
use millrace_routes::{Found, Table as Index};
use serde::Serialize;

use crate::{
    Ending, Failure,
    asked::Asked,
    config::{By, Format, Process, Routes},
    names, out,
    table::Table,
};

/// One match of a rule.
#[derive(Serialize)]
struct Row {
    service: ObjectName,
    port: u16,
    clients: Clients,
    hosts: String,
    matches: String,
    rule: String,
    backends: String,
    filters: String,
}

/// Shows routes. No is the answer where no rule has the request.
pub(crate) async fn routes(run_dir: &Path, question: &Routes) -> Result<Ending, Failure> {
    let Routes { service, http, header, from, by, output } = question;
    let process = match by {
        By::Agent => Process::Agent,
        By::Control => Process::Control,
    };
    let mesh = names::mesh(run_dir, process).await?;
    let service = service.as_deref().map(|text| named(&mesh, text)).transpose()?;
    let rows = match (http, &service) {
        (Some(request), Some(service)) => {
            let from = from.as_deref().unwrap_or(&service.namespace);
            asked(&mesh, service, (request, header), from)?
        }
        _ => all(&mesh, service.as_ref(), from.as_deref()),
    };
    match output {
        Format::Json => out::print_json(&rows)?,
        Format::Table => out::print(&text(&rows))?,
    };
    Ok(if http.is_some() && rows.is_empty() { Ending::No } else { Ending::Yes })
}

/// The service that a person names.
fn named(mesh: &Mesh, text: &str) -> Result<ObjectName, Failure> {
    let name = names::object(text)
        .ok_or_else(|| Failure::Usage(format!("{text:?} is neither namespace/name, nor name.namespace")))?;
    if mesh.snapshot.services.contains_key(&name) {
        return Ok(name);
    }
    Err(Failure::Usage(format!("no service {name} in generation {}", mesh.snapshot.generation)))
}

/// Every match, service by service.
fn all(mesh: &Mesh, only: Option<&ObjectName>, from: Option<&str>) -> Vec<Row> {
    let mut rows = Vec::new();
    for (service, routes) in mesh.snapshot.routes.iter().filter(|(name, _)| only.is_none_or(|only| only == *name)) {
        let index = Index::new(routes.clone());
        for (port, clients) in index.places() {
            let of = match (from, clients) {
                (None, _) => true,
                (Some(from), Clients::Namespace(namespace)) => **namespace == *from,
                (Some(from), Clients::All) => index.is_for_all(port, from),
            };
            let Some(view) = index.view_of(port, clients).filter(|_| of) else { continue };
            rows.extend(index.in_order(view).map(|found| row(service, port, &found)));
        }
    }
    rows
}

/// The rule that has a request, if any.
fn asked(
    mesh: &Mesh,
    service: &ObjectName,
    (request, headers): (&str, &[String]),
    from: &str,
) -> Result<Vec<Row>, Failure> {
    let asked = Asked::parse(request)?.with(headers)?;
    let Some(routes) = mesh.snapshot.routes.get(service) else { return Ok(vec![]) };
    let index = Index::new(Arc::clone(routes));
    let port = asked.port();
    let found = index.view(port, from).and_then(|view| index.choose(view, &asked.request()));
    Ok(found.iter().map(|found| row(service, port, found)).collect())
}

fn row(service: &ObjectName, port: u16, found: &Found<'_>) -> Row {
    let Found { bound, index, rule, matched } = found;
    Row {
        service: service.clone(),
        port,
        clients: bound.clients.clone(),
        hosts: words::hosts(&bound.hosts),
        matches: words::matched(matched),
        rule: millrace_routes::naming::rule(&bound.route, *index, rule),
        backends: words::backends(&rule.backends),
        filters: words::filters(rule),
    }
}

fn text(rows: &[Row]) -> String {
    if rows.is_empty() {
        return "No rule.\n".to_owned();
    }
    let mut table = Table::new(["SERVICE", "PORT", "FROM", "HOST", "MATCH", "BACKENDS", "FILTERS", "RULE"]);
    for Row { service, port, clients, hosts, matches, rule, backends, filters } in rows {
        let from = match clients {
            Clients::All => "all".to_owned(),
            Clients::Namespace(namespace) => format!("{namespace}/"),
        };
        table.row([
            service.to_string(),
            port.to_string(),
            from,
            hosts.clone(),
            matches.clone(),
            backends.clone(),
            filters.clone(),
            rule.clone(),
        ]);
    }
    table.to_string()
}
