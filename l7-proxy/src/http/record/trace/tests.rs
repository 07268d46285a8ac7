//! States what is a trace, and what becomes of its headers.

use http::{HeaderMap, HeaderName, HeaderValue};
use millrace_model::telemetry::TraceFormat;
use proptest::prelude::*;

use super::{Arrived, Ids};

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const SPAN: &str = "00f067aa0ba902b7";

fn headers(all: &[(&'static str, &str)]) -> HeaderMap {
    let pair =
        |(name, value): &(&'static str, &str)| (HeaderName::from_static(name), HeaderValue::from_str(value).unwrap());
    all.iter().map(pair).collect()
}

/// The decision, and the ids as text.
fn said(all: &[(&'static str, &str)]) -> (Option<bool>, String) {
    let Arrived { ids, decision, .. } = Arrived::of(&headers(all));
    (decision, ids.map_or(String::new(), |Ids { trace, span, .. }| format!("{trace:x} {span:x}")))
}

/// What is passed on for a span 7 of what came; as sorted lines.
fn passed(all: &[(&'static str, &str)], is_recorded: bool, begins: TraceFormat) -> Vec<String> {
    let mut headers = headers(all);
    let arrived = Arrived::of(&headers);
    let ids = arrived.ids.map_or(Ids::begin(0xabc, 7), |ids| ids.next(7));
    arrived.pass_on(ids, is_recorded, begins, &mut headers);
    let mut lines: Vec<String> =
        headers.iter().map(|(name, value)| format!("{name}: {}", value.to_str().unwrap())).collect();
    lines.sort();
    lines
}

#[test]
fn every_form_says_trace_span_and_decision() {
    let ids = "4bf92f3577b34da6a3ce929d0e0e4736 f067aa0ba902b7".to_owned();
    for (decision, flag) in [(true, "01"), (false, "00"), (true, "03")] {
        let text = format!("00-{TRACE}-{SPAN}-{flag}");
        assert_eq!(said(&[("traceparent", &text)]), (Some(decision), ids.clone()));
    }
    let later = format!("42-{TRACE}-{SPAN}-01-more-of-it");
    assert_eq!(said(&[("traceparent", &later)]), (Some(true), ids.clone()));
    for (decision, rest) in [(None, ""), (Some(true), "-1"), (Some(true), "-d"), (Some(false), "-0-0000000000000001")] {
        assert_eq!(said(&[("b3", &format!("{TRACE}-{SPAN}{rest}"))]), (decision, ids.clone()), "{rest}");
    }
    assert_eq!(said(&[("b3", "0")]), (Some(false), String::new()));
    let both = [("x-b3-traceid", TRACE), ("x-b3-spanid", SPAN)];
    assert_eq!(said(&both), (None, ids.clone()));
    assert_eq!(said(&[both[0], both[1], ("x-b3-sampled", "false")]), (Some(false), ids.clone()));
    assert_eq!(said(&[both[0], both[1], ("x-b3-sampled", "0"), ("x-b3-flags", "1")]), (Some(true), ids));
    assert_eq!(said(&[("x-b3-sampled", "1")]), (Some(true), String::new()));
    assert_eq!(
        said(&[("x-b3-traceid", "a3ce929d0e0e4736"), ("x-b3-spanid", SPAN)]).1,
        "a3ce929d0e0e4736 f067aa0ba902b7"
    );
}

#[test]
fn what_is_not_as_specified_is_no_trace() {
    let nothing = (None, String::new());
    for bad in [
        format!("00-{}-{SPAN}-01", "0".repeat(32)),
        format!("00-{TRACE}-{}-01", "0".repeat(16)),
        format!("ff-{TRACE}-{SPAN}-01"),
        format!("00-{TRACE}-{SPAN}-01-more"),
        format!("00-{}-{SPAN}-01", TRACE.to_uppercase()),
        format!("00-{}-{SPAN}-01", TRACE.trim_start_matches('4')),
        format!("00-{TRACE}-{SPAN}-1"),
        format!("00-{TRACE}-{SPAN}-+1"),
        format!("+1-{TRACE}-{SPAN}-01"),
        format!("00-+{}-{SPAN}-01", TRACE.trim_start_matches('4')),
        String::new(),
    ] {
        assert_eq!(said(&[("traceparent", &bad)]), nothing, "{bad}");
    }
    for bad in [format!("{TRACE}-{SPAN}-2"), format!("{TRACE}-{SPAN}-1-x"), TRACE.to_owned(), "1-1".to_owned()] {
        assert_eq!(said(&[("b3", &bad)]), nothing, "{bad}");
    }
    let good = format!("00-{TRACE}-{SPAN}-01");
    assert_eq!(said(&[("traceparent", &good), ("traceparent", &good)]), nothing, "two are none");
}

#[test]
fn a_trace_goes_on_in_the_forms_in_which_it_came() {
    let (w3c, b3) = (format!("00-{TRACE}-{SPAN}-03"), format!("{TRACE}-{SPAN}-d"));
    let on = passed(
        &[("traceparent", &w3c), ("tracestate", "a=1"), ("baggage", "k=v"), ("b3", &b3)],
        true,
        TraceFormat::B3Multi,
    );
    let wanted = [
        format!("b3: {TRACE}-0000000000000007-1"),
        "baggage: k=v".to_owned(),
        format!("traceparent: 00-{TRACE}-0000000000000007-03"),
        "tracestate: a=1".to_owned(),
    ];
    assert_eq!(on, wanted);
    let multi = [
        ("x-b3-traceid", "a3ce929d0e0e4736"),
        ("x-b3-spanid", SPAN),
        ("x-b3-parentspanid", SPAN),
        ("x-b3-sampled", "0"),
    ];
    let wanted = ["x-b3-sampled: 0", "x-b3-spanid: 0000000000000007", "x-b3-traceid: a3ce929d0e0e4736"];
    assert_eq!(passed(&multi, false, TraceFormat::W3c), wanted, "a short id stays short");
}

#[test]
fn a_trace_that_begins_here_takes_the_form_that_was_asked_for_and_no_others_state() {
    let begun = |form| passed(&[("traceparent", "garbage"), ("tracestate", "a=1")], true, form);
    let (trace, span) = ("00000000000000000000000000000abc", "0000000000000007");
    assert_eq!(begun(TraceFormat::W3c), [format!("traceparent: 00-{trace}-{span}-01")]);
    assert_eq!(begun(TraceFormat::B3), [format!("b3: {trace}-{span}-1")]);
    let multi = ["x-b3-sampled: 1".to_owned(), format!("x-b3-spanid: {span}"), format!("x-b3-traceid: {trace}")];
    assert_eq!(begun(TraceFormat::B3Multi), multi);
}

proptest! {
    #[test]
    fn no_header_makes_it_panic_and_what_is_passed_on_is_read_back(text in "\\PC{0,70}", which in 0..6usize) {
        let names = ["traceparent", "b3", "x-b3-traceid", "x-b3-spanid", "x-b3-sampled", "x-b3-flags"];
        let mut headers = HeaderMap::new();
        if let Ok(value) = HeaderValue::from_str(&text) {
            headers.insert(names[which], value);
        }
        let arrived = Arrived::of(&headers);
        let ids = arrived.ids.map_or(Ids::begin(9, 7), |ids| ids.next(7));
        arrived.pass_on(ids, true, TraceFormat::W3c, &mut headers);
        let next = Arrived::of(&headers);
        prop_assert_eq!((next.ids.map(|ids| (ids.trace, ids.span)), next.decision), (Some((ids.trace, 7)), Some(true)));
    }
}
