//! What an expression may be.

use crate::pattern::{Unusable, compile};

#[test]
fn an_expression_must_fit_as_a_whole() {
    let regex = compile("/v[0-9]+|/w").unwrap();
    for (text, fits) in
        [("/v12", true), ("/w", true), ("/v12/a", false), ("a/w", false), ("/v", false), ("/w\n", false)]
    {
        assert_eq!(regex.is_match(text.as_bytes()), fits, "{text:?}");
    }
}

#[test]
fn what_can_not_be_run_in_bounds_is_refused() {
    for bad in ["(", ")", "a)(b", "(?=a)", r"(a)\1", "[", "*", "(?x)a # b"] {
        assert_eq!(compile(bad).err(), Some(Unusable::Syntax), "{bad:?}");
    }
    assert_eq!(compile("(a{100}){1000}").err(), Some(Unusable::Size));
    assert_eq!(compile(&format!("{}a{}", "(".repeat(100), ")".repeat(100))).err(), Some(Unusable::Syntax));
}

/// What takes an engine with back-tracking until the sun burns out.
#[test]
fn an_expression_takes_time_by_the_length_of_the_value() {
    let regex = compile("(a*)*(a|aa)+b").unwrap();
    assert!(!regex.is_match("a".repeat(100_000).as_bytes()));
}
