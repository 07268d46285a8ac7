//! What the stages of a change took, by the histograms that the processes keep of themselves: means over all that ran between two looks.

use anyhow::{Context as _, Result};
use millrace_lab::{Lab, Part};

use crate::figure::{Better, Figure, Goal};

/// The histograms: of which process, and how their names end.
const COMPILE: (Part<'static>, &str) = (Part::Control, "compile_seconds");
const PUBLISH: (Part<'static>, &str) = (Part::Control, "publish_seconds");
const PLAN: (Part<'static>, &str) = (Part::Agent("a"), "plan_seconds");

/// A histogram's sum in seconds, and its count.
#[derive(Clone, Copy, Debug, Default)]
struct Sum {
    seconds: f64,
    count: f64,
}

impl Sum {
    fn of(lab: &Lab, (part, ending): (Part<'static>, &str)) -> Result<Self> {
        let metrics = lab.admin(part).metrics()?;
        let names = metrics.names();
        let name = names.iter().find(|name| name.ends_with(&format!("{ending}_sum")));
        let name = name.with_context(|| format!("no metric's name ends with {ending}_sum"))?;
        let count = name.replace("_sum", "_count");
        Ok(Self { seconds: metrics.sum(name, &[]), count: metrics.sum(&count, &[]) })
    }

    /// The mean of what came since, in milliseconds; not a number where nothing came.
    fn mean_since(self, earlier: Self) -> f64 {
        (self.seconds - earlier.seconds) / (self.count - earlier.count) * 1e3
    }
}

/// All of them at one moment.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Sums {
    compile: Sum,
    publish: Sum,
    plan: Sum,
}

impl Sums {
    pub(super) fn now(lab: &Lab) -> Result<Self> {
        Ok(Self { compile: Sum::of(lab, COMPILE)?, publish: Sum::of(lab, PUBLISH)?, plan: Sum::of(lab, PLAN)? })
    }

    /// The figures of the stages since `earlier`.
    pub(super) fn figures_since(self, earlier: Self, case: &str) -> Vec<Figure> {
        let compile = self.compile.mean_since(earlier.compile);
        let publish = self.publish.mean_since(earlier.publish);
        let plan = self.plan.mean_since(earlier.plan);
        let figure = |name: &str, mean: f64, what: &str| {
            Figure::alone(name, "ms", Goal::none(Better::Lower), &[mean]).case(&format!("{case}: {what}, mean"))
        };
        vec![
            figure("scale.compile", compile, "from the World to a Snapshot"),
            figure("scale.diff", publish - compile, "the difference to the edition before"),
            figure("scale.maps", plan, "an agent's plan and its writes"),
        ]
    }
}
