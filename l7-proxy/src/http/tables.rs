//! Keeps the tables of the services that are called, made when they are asked for first.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use millrace_model::{Mesh, ObjectName, Routes};
use millrace_routes::Table;

/// A worker's tables. Those of services that nobody calls from here are never made.
#[derive(Debug, Default)]
pub(crate) struct Tables(Mutex<HashMap<ObjectName, Kept>>);

#[derive(Debug)]
struct Kept {
    /// What the table is known to hold: each Snapshot brings its own, and most say the same.
    routes: Arc<Routes>,
    table: Arc<Table>,
}

impl Tables {
    /// The table of this service, as the mesh has it now; None where nothing is bound to it.
    pub(crate) fn of(&self, mesh: &Mesh, service: &ObjectName) -> Option<Arc<Table>> {
        let mut tables = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(routes) = mesh.snapshot.routes.get(service) else {
            tables.remove(service);
            return None;
        };
        if let Some(kept) = tables.get_mut(service) {
            if Arc::ptr_eq(&kept.routes, routes) {
                return Some(kept.table.clone());
            }
            if kept.routes == *routes {
                kept.routes = routes.clone();
                return Some(kept.table.clone());
            }
        }
        let table = Arc::new(Table::new(routes.clone()));
        tables.insert(service.clone(), Kept { routes: routes.clone(), table: table.clone() });
        Some(table)
    }
}
