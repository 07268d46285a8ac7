//! Reads selectors: labels that must be there, and expressions that must hold of them.

use std::collections::{BTreeMap, BTreeSet};

use millrace_crd as crd;

use super::meta;
use crate::{diagnostic::Problems, world::LabelRule};

/// All that must hold by the selector at `field`. None among the expressions is one that was told of already: it counts for its place alone.
pub(super) fn rules(
    labels: Option<&BTreeMap<String, String>>,
    expressions: &[Option<crd::LabelExpression>],
    field: &str,
    problems: &mut Problems,
) -> Vec<LabelRule> {
    let labels = meta::labels(labels, &format!("{field}.matchLabels"), problems);
    let equal = labels.into_iter().map(|(key, value)| LabelRule::In(key, [value].into()));
    let of = |(index, one): (usize, &Option<_>)| {
        Some(rule(one.as_ref()?, &format!("{field}.matchExpressions[{index}]"), problems))
    };
    equal.chain(expressions.iter().enumerate().filter_map(of)).collect()
}

fn rule(expression: &crd::LabelExpression, field: &str, problems: &mut Problems) -> LabelRule {
    let crd::LabelExpression { key, operator, values } = expression;
    let named = BTreeMap::from([(key.clone(), String::new())]);
    meta::labels(Some(&named), &format!("{field}.key"), problems);
    for value in values {
        let named = BTreeMap::from([("value".to_owned(), value.clone())]);
        meta::labels(Some(&named), &format!("{field}.values"), problems);
    }
    let wants_values = matches!(operator, crd::LabelOperator::In | crd::LabelOperator::NotIn);
    if wants_values == values.is_empty() {
        let (problem, mend) = if wants_values {
            ("In and NotIn compare with values, and there are none", "name at least one value")
        } else {
            ("Exists and DoesNotExist compare with no values", "leave values out, or write In or NotIn")
        };
        problems.fatal(format!("{field}.values"), problem, mend);
    }
    let values: BTreeSet<String> = values.iter().cloned().collect();
    match operator {
        crd::LabelOperator::In => LabelRule::In(key.clone(), values),
        crd::LabelOperator::NotIn => LabelRule::NotIn(key.clone(), values),
        crd::LabelOperator::Exists => LabelRule::Exists(key.clone()),
        crd::LabelOperator::DoesNotExist => LabelRule::Absent(key.clone()),
    }
}
