//! Holds each text that a message says once, however often it says it: a service's name stands on the service, its endpoints, its
//! routes and where others lead to it, and a namespace on everything.

use std::{collections::HashSet, sync::Arc};

use millrace_model::{Identity, ObjectName};

use super::{Undecodable, bad};
use crate::mesh as pb;

/// The texts of one message so far.
#[derive(Debug, Default)]
pub(super) struct Texts(HashSet<Arc<str>>);

impl Texts {
    /// This text, of which there is one.
    pub(super) fn one(&mut self, text: &str) -> Arc<str> {
        if let Some(held) = self.0.get(text) {
            return held.clone();
        }
        let held: Arc<str> = text.into();
        self.0.insert(held.clone());
        held
    }

    /// Each of these.
    pub(super) fn all(&mut self, texts: &[String]) -> Vec<Arc<str>> {
        texts.iter().map(|text| self.one(text)).collect()
    }

    /// An object's name; `field` is named where it is missing or empty.
    pub(super) fn name(
        &mut self,
        name: Option<pb::ObjectName>,
        field: &'static str,
    ) -> Result<ObjectName, Undecodable> {
        let pb::ObjectName { namespace, name } = name.ok_or_else(|| bad(field, "missing"))?;
        if namespace.is_empty() || name.is_empty() {
            return Err(bad(field, "empty"));
        }
        Ok(ObjectName { namespace: self.one(&namespace), name: self.one(&name) })
    }

    /// An identity; `field` is named where it is none.
    pub(super) fn identity(&mut self, text: &str, field: &'static str) -> Result<Identity, Undecodable> {
        let Identity { trust_domain, namespace, service_account } = text.parse().map_err(|why| bad(field, why))?;
        Ok(Identity {
            trust_domain: self.one(&trust_domain),
            namespace: self.one(&namespace),
            service_account: self.one(&service_account),
        })
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeSet, net::IpAddr, sync::Arc};

    use millrace_model as model;

    use crate::{decode_update, encode_update};

    fn service(name: &str) -> (model::ObjectName, Arc<model::Service>, Arc<model::Endpoints>) {
        let name = model::ObjectName::new("shop", name);
        let service = model::Service {
            name: name.clone(),
            addresses: vec![IpAddr::from([10, 120, 0, 1])],
            ports: vec![],
            traffic: model::Traffic::default(),
        };
        let endpoints = model::Endpoints { service: name.clone(), endpoints: vec![] };
        (name, Arc::new(service), Arc::new(endpoints))
    }

    /// Where its letters lie.
    fn place(text: &Arc<str>) -> *const u8 {
        text.as_ptr()
    }

    #[test]
    fn a_text_that_a_message_says_often_is_held_once() {
        let mut snapshot = model::Snapshot { generation: 1, ..model::Snapshot::default() };
        for name in ["a", "b"] {
            let (name, service, endpoints) = service(name);
            snapshot.services.insert(name.clone(), service);
            snapshot.endpoints.insert(name, endpoints);
        }
        let whole = encode_update(&model::Delta::between(&model::Snapshot::default(), &snapshot));
        let model::Delta { services, endpoints, .. } = decode_update(whole.into()).unwrap();
        let of_services = services.set.iter().flat_map(|(key, service)| [key, &service.name]);
        let of_endpoints = endpoints.set.iter().flat_map(|(key, endpoints)| [key, &endpoints.service]);
        let names: Vec<&model::ObjectName> = of_services.chain(of_endpoints).collect();
        assert_eq!(names.len(), 8);
        assert_eq!(names.iter().map(|name| place(&name.namespace)).collect::<BTreeSet<_>>().len(), 1);
        assert_eq!(names.iter().map(|name| place(&name.name)).collect::<BTreeSet<_>>().len(), 2);
    }

    #[test]
    fn a_list_off_the_wire_has_no_room_for_more_than_it_holds() {
        let mut snapshot = model::Snapshot { generation: 1, ..model::Snapshot::default() };
        let (name, service, _) = service("a");
        snapshot.services.insert(name, service);
        let whole = encode_update(&model::Delta::between(&model::Snapshot::default(), &snapshot));
        let services = decode_update(whole.into()).unwrap().services;
        assert_eq!((services.set.len(), services.set.capacity()), (1, 1));
        assert_eq!(services.set[0].1.addresses.capacity(), 1);
    }
}
