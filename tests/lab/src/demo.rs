//! Shows the mesh at work on a small shop. Every figure printed is measured in the run that prints it.

pub mod policy;
pub mod requests;
pub mod scenes;
pub mod shop;
pub mod stage;
pub mod trace;
pub mod tree;
pub mod wire;

use anyhow::Result;

use crate::{capture::Capture, lab::Lab, shop::Hop};
use stage::Stage;

/// The demo as it goes on.
#[derive(Debug)]
pub struct Demo {
    /// Prints and counts.
    pub stage: Stage,
    /// Where it plays.
    pub lab: Lab,
    /// What passes node a's uplink, while a scene needs it.
    pub capture: Option<Capture>,
    /// The last path shown.
    pub path: Option<Hop>,
}

/// One scene: says what it shows, shows it, checks it.
pub type Scene = fn(&mut Demo) -> Result<()>;

/// The scenes, in order; each stands on those before it.
pub const SCENES: [(&str, Scene); 11] = [
    ("A shop on two nodes, without a mesh", scenes::without_the_mesh),
    ("The mesh starts beneath the running shop", scenes::mesh_starts),
    ("A request, hop by hop", scenes::hop_by_hop),
    ("The same request on the wire", scenes::on_the_wire),
    ("A same-node call passes no proxy", scenes::same_node),
    ("A canary: 95 % and 5 %, then all", policy::canary),
    ("A canary by requests, and a fault by percent", requests::canary_and_fault),
    ("A call denied, by a policy with a name", policy::denied),
    ("Control plane and agent away: traffic goes on", policy::control_away),
    ("What the operator sees", scenes::operator),
    ("One trace, at each hop", trace::one_trace),
];

/// Without the first two scenes there is nothing to show the others on.
const FOUNDATION: usize = 2;

impl Demo {
    /// A demo in a lab whose shop is open.
    pub fn new(lab: Lab) -> Self {
        Self { stage: Stage::default(), lab, capture: None, path: None }
    }

    /// Prints the summary; whether all was well.
    pub fn end(&self) -> bool {
        self.stage.end()
    }

    /// Says what to try while the lab is up.
    pub fn invite(&self) {
        let Self { stage, lab, .. } = self;
        let (programs, directory) = (lab.binaries().directory().display(), lab.directory());
        let run = lab.run_directory("a");
        stage.say("\nThe lab stays up. Ctrl-C ends it. In another terminal, as root, try:");
        stage.say(format!("  {programs}/millrace-demo exec shop/visitor curl -s http://web/order"));
        stage.say(format!("  {programs}/millrace-demo exec shop/visitor curl -s http://database/"));
        stage.say(format!("  {programs}/millrace --run-dir {} flows", run.display()));
        stage.say(format!("  {programs}/millrace --run-dir {} explain shop/visitor database.shop:80", run.display()));
        stage.say(format!("  $EDITOR {}/manifests/accesspolicy-shop-database-callers.yaml", directory.display()));
        stage.say(format!("  curl -s --unix-socket {}/proxy-admin.sock http://x/metrics", run.display()));
    }

    /// Leaves the lab running when this process ends.
    pub fn keep(self) -> Result<()> {
        let Self { stage, lab, .. } = self;
        stage.say(format!("lab {} is kept; `millrace-demo down` removes it", lab.number()));
        lab.keep()
    }

    /// Plays all scenes; the first error within one ends it and counts as a failed check. Stops early when `stopped` says so,
    /// or when the mesh does not even start.
    pub fn play(&mut self, stopped: &dyn Fn() -> bool) {
        for (number, (title, scene)) in SCENES.into_iter().enumerate() {
            if stopped() {
                return self.stage.failed(title, "interrupted");
            }
            self.stage.scene(title);
            if let Err(error) = scene(self) {
                self.stage.failed(title, &format!("{error:#}"));
                if number < FOUNDATION {
                    return;
                }
            }
        }
    }
}
