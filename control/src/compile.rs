//! Compiles the World to a Snapshot. Pure, total and order-blind: equal Worlds give equal Snapshots, whatever their past.
//!
//! It knows no file, no node's connection and no generation: whoever publishes sets that. Whatever can't be honoured as it is
//! written is a diagnostic on its object, and the rest is compiled.

use millrace_model::{ObjectName, Snapshot};

use crate::{
    diagnostic::{Diagnostic, Effect, Kind, Object},
    world::{World, external},
};

mod again;
pub mod backend;
mod bound;
mod endpoint;
mod index;
mod network;
mod place;
mod policy;
mod profile;
pub mod route;
mod telemetry;
mod traffic;
mod workload;

pub use again::Last;
pub use bound::bound_nodes;

/// The Snapshot of this World, at generation 0, and what is wrong with the World. Diagnostics come sorted.
pub fn compile(world: &World) -> (Snapshot, Vec<Diagnostic>) {
    let whole = Last::whole(world.clone(), &Snapshot::default());
    (whole.snapshot().clone(), whole.diagnostics().to_vec())
}

/// Gathers diagnostics on objects that are otherwise in force.
#[derive(Default)]
struct Notes(Vec<Diagnostic>);

impl Notes {
    fn add(&mut self, kind: Kind, name: &ObjectName, (field, problem, mend): (&str, String, &str)) {
        self.0.push(Diagnostic {
            place: None,
            object: Object::Known(external::written(kind, name)),
            field: field.to_owned(),
            problem,
            mend: mend.to_owned(),
            effect: Effect::Applied,
        });
    }
}

#[cfg(test)]
mod tests;
