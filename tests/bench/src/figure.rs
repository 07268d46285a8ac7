//! A figure: what was measured, against what, what it had to be, and whether it is. A value; nothing here measures.

use serde::Serialize;

use crate::stats::{Interval, extremes, median, median_interval};

/// Which way is better.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Better {
    /// A rate.
    Higher,
    /// A time, a cost.
    Lower,
}

/// How a figure passes.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Rule {
    /// The median itself reaches what is required.
    Median,
    /// For what should be as good as no mesh, where noise goes both ways: the better end of the median's 95 % interval
    /// reaches what is required, and the median is within [`NEAR`] of it.
    Interval,
    /// Nothing is required: a further row, to read beside the others.
    None,
}

/// How far below what is required a median may lie whose interval reaches it.
pub const NEAR: f64 = 0.03;

/// What a figure must reach.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Goal {
    /// Which way is better.
    pub better: Better,
    /// How it passes.
    pub rule: Rule,
    /// What is required; of the ratio, or of our own value where nothing is compared.
    pub required: f64,
    /// What is aimed at.
    pub aim: f64,
}

impl Goal {
    /// A rate that must be at least so many times the other's.
    pub const fn at_least(required: f64, aim: f64) -> Self {
        Self { better: Better::Higher, rule: Rule::Median, required, aim }
    }

    /// A cost that must be at most this share of the other's.
    pub const fn at_most(required: f64, aim: f64) -> Self {
        Self { better: Better::Lower, rule: Rule::Median, required, aim }
    }

    /// A further row.
    pub const fn none(better: Better) -> Self {
        Self { better, rule: Rule::None, required: f64::NAN, aim: f64::NAN }
    }

    /// The same, passed by the interval.
    pub const fn by_interval(self) -> Self {
        Self { rule: Rule::Interval, ..self }
    }

    fn reaches(self, value: f64, bound: f64) -> bool {
        match self.better {
            Better::Higher => value >= bound,
            Better::Lower => value <= bound,
        }
    }

    /// Whether a median with this interval passes; None where nothing is required.
    pub fn passes(self, median: f64, interval: Interval) -> Option<bool> {
        let slack = match self.better {
            Better::Higher => self.required - NEAR,
            Better::Lower => self.required + NEAR,
        };
        let end = match self.better {
            Better::Higher => interval.high,
            Better::Lower => interval.low,
        };
        match self.rule {
            Rule::Median => Some(self.reaches(median, self.required)),
            Rule::Interval => Some(self.reaches(end, self.required) && self.reaches(median, slack)),
            Rule::None => None,
        }
    }
}

/// One figure, ready to be shown.
#[derive(Clone, Debug, Serialize)]
pub struct Figure {
    /// Its name, as `--only` takes it.
    pub name: String,
    /// Which case of it; empty where there is one.
    pub case: String,
    /// What ours and baseline are in.
    pub unit: String,
    /// The median of ours.
    pub ours: f64,
    /// The median of what it is compared with; none where our own value is the figure.
    pub baseline: Option<f64>,
    /// What that is.
    pub against: String,
    /// The median over rounds of ours divided by the baseline of the same round.
    pub ratio: Option<f64>,
    /// How many rounds.
    pub rounds: usize,
    /// The least of the rounds: of the ratio where there is one, else of ours.
    pub min: f64,
    /// The most.
    pub max: f64,
    /// Where the median lies with 95 % confidence.
    pub interval: [f64; 2],
    /// What it must reach.
    pub goal: Goal,
    /// Whether it does; none where nothing is required.
    pub pass: Option<bool>,
    /// Whether it reaches the aim.
    pub aimed: Option<bool>,
    /// What a reader has to know of it.
    pub note: String,
}

impl Figure {
    /// Ours beside a baseline, round by round: both as long as there were rounds.
    pub fn compared(name: &str, unit: &str, goal: Goal, ours: &[f64], baseline: &[f64]) -> Self {
        let ratios: Vec<f64> = ours.iter().zip(baseline).map(|(ours, baseline)| ours / baseline).collect();
        let figure = Self::of(name, unit, goal, &ratios);
        Self { ours: median(ours), baseline: Some(median(baseline)), ratio: Some(median(&ratios)), ..figure }
    }

    /// Ours alone.
    pub fn alone(name: &str, unit: &str, goal: Goal, ours: &[f64]) -> Self {
        Self::of(name, unit, goal, ours)
    }

    fn of(name: &str, unit: &str, goal: Goal, samples: &[f64]) -> Self {
        let (middle, interval, ends) = (median(samples), median_interval(samples), extremes(samples));
        let pass = goal.passes(middle, interval);
        Self {
            name: name.to_owned(),
            case: String::new(),
            unit: unit.to_owned(),
            ours: middle,
            baseline: None,
            against: String::new(),
            ratio: None,
            rounds: samples.len(),
            min: ends.low,
            max: ends.high,
            interval: [interval.low, interval.high],
            goal,
            pass,
            aimed: pass.map(|_| goal.reaches(middle, goal.aim)),
            note: String::new(),
        }
    }

    /// For one case of several.
    pub fn case(self, case: &str) -> Self {
        Self { case: case.to_owned(), ..self }
    }

    /// Compared with this.
    pub fn against(self, whom: &str) -> Self {
        Self { against: whom.to_owned(), ..self }
    }

    /// With a word to the reader, behind what there is already.
    pub fn note(mut self, note: &str) -> Self {
        if !self.note.is_empty() && !note.is_empty() {
            self.note.push_str("; ");
        }
        self.note.push_str(note);
        self
    }
}

#[cfg(test)]
mod tests {
    use super::{Figure, Goal};
    use crate::stats::Interval;

    #[test]
    fn a_ratio_is_taken_within_each_round() {
        // The machine was twice as fast in the second round; the ratio is 2 in each all the same.
        let figure = Figure::compared("x", "Gbit/s", Goal::at_least(1.2, 2.0), &[10.0, 20.0, 11.0], &[5.0, 10.0, 5.5]);
        assert_eq!((figure.ratio, figure.min, figure.max), (Some(2.0), 2.0, 2.0));
        assert_eq!((figure.pass, figure.aimed), (Some(true), Some(true)));
    }

    #[test]
    fn what_is_required_is_an_upper_bound_of_a_cost_and_a_lower_one_of_a_rate() {
        let exactly = |value| Interval { low: value, high: value };
        assert_eq!(Goal::at_most(0.8, 0.6).passes(0.81, exactly(0.81)), Some(false));
        assert_eq!(Goal::at_most(0.8, 0.6).passes(0.8, exactly(0.8)), Some(true));
        assert_eq!(Goal::at_least(3.5, 6.0).passes(3.4, exactly(3.4)), Some(false));
    }

    #[test]
    fn by_the_interval_noise_is_forgiven_and_a_median_that_is_off_is_not() {
        let goal = Goal::at_least(0.97, 1.0).by_interval();
        assert_eq!(goal.passes(0.95, Interval { low: 0.93, high: 0.98 }), Some(true));
        assert_eq!(goal.passes(0.95, Interval { low: 0.93, high: 0.96 }), Some(false), "the interval is below");
        assert_eq!(goal.passes(0.90, Interval { low: 0.80, high: 0.99 }), Some(false), "the median is too far off");
        let goal = Goal::at_most(1.05, 1.0).by_interval();
        assert_eq!(goal.passes(1.07, Interval { low: 1.04, high: 1.1 }), Some(true));
        assert_eq!(goal.passes(1.09, Interval { low: 1.04, high: 1.1 }), Some(false));
    }
}
