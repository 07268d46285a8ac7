//! Keeps who stands behind the ports that are called from here, surveyed once for each mesh and not for each request.

use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError},
};

use millrace_model::{
    Ejected, Mesh, ObjectName, Protocol, Service,
    outlier::Pool,
    resolve::{Backend, Standing, survey},
};
use rand::Rng as _;

use crate::{
    http::session::{self, Id},
    proxy::Proxy,
};

/// A worker's pools, of one mesh.
#[derive(Debug, Default)]
pub(crate) struct Pools(Mutex<Known>);

#[derive(Debug, Default)]
struct Known {
    mesh: Option<Arc<Mesh>>,
    of: HashMap<ObjectName, Vec<Place>>,
}

/// One port of a service, by one family.
#[derive(Debug)]
struct Place {
    port: u16,
    is_ipv4: bool,
    sound: Arc<Sound>,
}

/// The endpoints of a service's port that clients of this node are given.
#[derive(Debug)]
pub(crate) struct Sound {
    /// The pool, as failures in it are known.
    pub(crate) pool: Pool,
    /// Those that have their share.
    pub(crate) chosen: Vec<Backend>,
    /// Others, for who has tried those.
    pub(crate) spare: Vec<Backend>,
    /// Where each one's share of `chosen` ends, all shares laid end to end.
    ends: Vec<u64>,
    /// All of them by what tokens call them, once somebody asked for one by it.
    ids: OnceLock<HashMap<Id, Backend>>,
}

impl Sound {
    /// The one that tokens of this service's port call so.
    pub(crate) fn called(&self, mesh: &Mesh, of: (&ObjectName, u16), id: &Id) -> Option<&Backend> {
        let all = || self.chosen.iter().chain(&self.spare);
        let ids = || all().map(|backend| (session::id(mesh, of, backend), backend.clone())).collect();
        self.ids.get_or_init(ids).get(id)
    }

    /// One of `chosen`, as often as its weight says.
    pub(crate) fn draw(&self) -> Option<&Backend> {
        let draw = match self.ends.as_slice() {
            [] => return None,
            [_] => 0,
            [.., total] => rand::rng().random::<u64>().checked_rem(*total)?,
        };
        self.chosen.get(self.ends.partition_point(|end| *end <= draw))
    }
}

impl Pools {
    /// Lets go of a mesh that is no more.
    pub(crate) fn forget(&self) {
        *self.lock() = Known::default();
    }

    /// Who stands behind this port of a service, for a client that asked for `asked`; None where nobody does.
    pub(crate) fn behind(
        &self,
        (proxy, mesh): (&Proxy, &Arc<Mesh>),
        node: &str,
        (service, port): (&Arc<Service>, u16),
        asked: SocketAddr,
    ) -> Option<Arc<Sound>> {
        let is_ipv4 = asked.ip().to_canonical().is_ipv4();
        // Whoever fails is left out by the moment, which nothing here knows.
        let is_calm = proxy.outliers.is_calm();
        if is_calm && let Some(sound) = self.lock().known(mesh, &service.name, (port, is_ipv4)) {
            return Some(sound);
        }
        let sound = Arc::new(surveyed((proxy, mesh), node, (service, port), asked)?);
        if is_calm {
            self.lock().keep(mesh, &service.name, Place { port, is_ipv4, sound: sound.clone() });
        }
        Some(sound)
    }

    fn lock(&self) -> MutexGuard<'_, Known> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Known {
    fn known(&self, mesh: &Arc<Mesh>, service: &ObjectName, (port, is_ipv4): (u16, bool)) -> Option<Arc<Sound>> {
        self.mesh.as_ref().filter(|kept| Arc::ptr_eq(kept, mesh))?;
        let place = self.of.get(service)?.iter().find(|place| place.port == port && place.is_ipv4 == is_ipv4)?;
        Some(place.sound.clone())
    }

    fn keep(&mut self, mesh: &Arc<Mesh>, service: &ObjectName, place: Place) {
        if !self.mesh.as_ref().is_some_and(|kept| Arc::ptr_eq(kept, mesh)) {
            *self = Self { mesh: Some(mesh.clone()), of: HashMap::new() };
        }
        self.of.entry(service.clone()).or_default().push(place);
    }
}

fn surveyed(
    (proxy, mesh): (&Proxy, &Arc<Mesh>),
    node: &str,
    (service, port): (&Arc<Service>, u16),
    asked: SocketAddr,
) -> Option<Sound> {
    for asked in addresses(service, asked, port) {
        let pool = Pool::at(&service.name, asked);
        let out: Ejected = proxy.outliers.out_of((mesh, node), &pool);
        let (mut chosen, mut spare) = (Vec::new(), Vec::new());
        for (_, standing) in survey(mesh, node, service, asked, &out) {
            match standing {
                Standing::Chosen(backend) => chosen.push(backend),
                Standing::Spare(backend) => spare.push(backend),
                Standing::LeftOut(_) => {}
            }
        }
        if !chosen.is_empty() {
            let ends = chosen.iter().scan(0, |end, backend| {
                *end += u64::from(backend.weight);
                Some(*end)
            });
            let ends = ends.collect();
            return Some(Sound { pool, chosen, spare, ends, ids: OnceLock::new() });
        }
    }
    None
}

/// What a service's endpoints are asked for at: its own addresses, of the family that the client spoke before the other; where it
/// has none, the client's own word.
fn addresses(service: &Service, asked: SocketAddr, port: u16) -> Vec<SocketAddr> {
    let has_port = service.ports.iter().any(|one| one.port == port && one.protocol == Protocol::Tcp);
    if !has_port {
        return vec![];
    }
    let asked = SocketAddr::new(asked.ip().to_canonical(), port);
    let mut all: Vec<SocketAddr> = service.addresses.iter().map(|address| SocketAddr::new(*address, port)).collect();
    all.sort_by_key(|address| address.is_ipv4() != asked.is_ipv4());
    if all.is_empty() { vec![asked] } else { all }
}
