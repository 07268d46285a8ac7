//! Reads, makes and passes on what says which trace a request is part of: W3C's `traceparent`, and B3 in one header or several.
//! Pure: headers in, headers out.
//!
//! What came is told on in the forms in which it came; `tracestate` and `baggage` pass as they are. A header that is not as its
//! specification says is no trace: it begins anew, and `tracestate` goes with what it belonged to.

use http::{HeaderMap, HeaderName, HeaderValue};
use millrace_model::telemetry::TraceFormat;

const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
const TRACESTATE: HeaderName = HeaderName::from_static("tracestate");
const B3: HeaderName = HeaderName::from_static("b3");
const TRACE_ID: HeaderName = HeaderName::from_static("x-b3-traceid");
const SPAN_ID: HeaderName = HeaderName::from_static("x-b3-spanid");
const PARENT_ID: HeaderName = HeaderName::from_static("x-b3-parentspanid");
const SAMPLED: HeaderName = HeaderName::from_static("x-b3-sampled");
const FLAGS: HeaderName = HeaderName::from_static("x-b3-flags");

/// The bit of `traceparent`'s flags that says that the trace is recorded.
const RECORDED: u8 = 1;

/// The bit that says that the trace's id was drawn at random: true for as long as the id is the same.
const RANDOM: u8 = 2;

/// What a request says of its trace.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Arrived {
    /// The trace, and the span that asks; None where only a decision came, or nothing.
    pub(crate) ids: Option<Ids>,
    /// Whether it is recorded, where somebody has decided.
    pub(crate) decision: Option<bool>,
    forms: Forms,
    is_debug: bool,
    is_random: bool,
}

/// A span of a trace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ids {
    pub(crate) trace: u128,
    pub(crate) span: u64,
    /// Of 64 bits, as older B3 has it.
    is_short: bool,
}

/// The forms in which it came.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Forms {
    w3c: bool,
    b3: bool,
    multi: bool,
}

impl Arrived {
    /// What `headers` say. W3C's counts before B3's, and of those the single header.
    pub(crate) fn of(headers: &HeaderMap) -> Self {
        let w3c = one(headers, &TRACEPARENT).and_then(traceparent);
        let b3 = one(headers, &B3).and_then(single);
        let multi = multi(headers);
        let forms = Forms { w3c: w3c.is_some(), b3: b3.is_some(), multi: multi.is_some() };
        let said = w3c.or(b3).or(multi).unwrap_or_default();
        Self { forms, ..said }
    }

    /// Says on that `span` asks, of a trace that is recorded or not. `begins` is the form of one that came in none.
    pub(crate) fn pass_on(&self, ids: Ids, is_recorded: bool, begins: TraceFormat, headers: &mut HeaderMap) {
        let none = Forms::default();
        let forms = match begins {
            _ if self.forms != none => self.forms,
            TraceFormat::W3c => Forms { w3c: true, ..none },
            TraceFormat::B3 => Forms { b3: true, ..none },
            TraceFormat::B3Multi => Forms { multi: true, ..none },
        };
        let is_new = self.ids.is_none_or(|own| own.trace != ids.trace);
        let trace = if ids.is_short { format!("{:016x}", ids.trace) } else { format!("{:032x}", ids.trace) };
        let span = format!("{:016x}", ids.span);
        let sampled = match (is_recorded, self.is_debug) {
            (true, true) => "d",
            (true, false) => "1",
            (false, _) => "0",
        };
        if forms.w3c {
            let random = if self.is_random && !is_new { RANDOM } else { 0 };
            let flags = random | if is_recorded { RECORDED } else { 0 };
            set(headers, TRACEPARENT, &format!("00-{:032x}-{span}-{flags:02x}", ids.trace));
        } else {
            headers.remove(TRACEPARENT);
        }
        if is_new {
            headers.remove(TRACESTATE);
        }
        if forms.b3 {
            set(headers, B3, &format!("{trace}-{span}-{sampled}"));
        }
        if forms.multi {
            set(headers, TRACE_ID, &trace);
            set(headers, SPAN_ID, &span);
            headers.remove(PARENT_ID);
            // The debug flag says it already.
            if sampled != "d" {
                set(headers, SAMPLED, sampled);
            }
        }
    }
}

impl Ids {
    /// A span of a new trace.
    pub(crate) fn begin(trace: u128, span: u64) -> Self {
        // No id is 0.
        Self { trace: trace.max(1), span: span.max(1), is_short: false }
    }

    /// Another span of the same trace.
    pub(crate) fn next(self, span: u64) -> Self {
        Self { span: span.max(1), ..self }
    }
}

fn set(headers: &mut HeaderMap, name: HeaderName, value: &str) {
    if let Ok(value) = HeaderValue::from_str(value) {
        headers.insert(name, value);
    }
}

/// A header that stands there once.
fn one<'h>(headers: &'h HeaderMap, name: &HeaderName) -> Option<&'h str> {
    let mut all = headers.get_all(name).iter();
    let first = all.next()?.to_str().ok()?;
    all.next().is_none().then(|| first.trim())
}

/// A number of exactly so many hexadecimal letters, which is not 0.
fn hex(text: &str, n_letters: usize) -> Option<u128> {
    let is_hex = text.len() == n_letters && text.bytes().all(|b| b.is_ascii_hexdigit());
    u128::from_str_radix(text, 16).ok().filter(|number| is_hex && *number != 0)
}

fn span_id(text: &str) -> Option<u64> {
    u64::try_from(hex(text, 16)?).ok()
}

/// A number of two hexadecimal letters.
fn octet(text: &str) -> Option<u8> {
    let is_hex = text.len() == 2 && text.bytes().all(|b| b.is_ascii_hexdigit());
    u8::from_str_radix(text, 16).ok().filter(|_| is_hex)
}

/// Trace Context, 3.2: `00-TRACE-SPAN-FLAGS`, in lower case; later versions may say more behind it.
fn traceparent(text: &str) -> Option<Arrived> {
    if text.bytes().any(|b| b.is_ascii_uppercase()) {
        return None;
    }
    let mut parts = text.split('-');
    let (version, trace, span, flags) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
    let is_known = version == "00" && parts.next().is_none();
    let is_later = !matches!(octet(version)?, 0 | 0xff);
    if !is_known && !is_later {
        return None;
    }
    let flags = octet(flags)?;
    let ids = Ids { trace: hex(trace, 32)?, span: span_id(span)?, is_short: false };
    Some(Arrived {
        ids: Some(ids),
        decision: Some(flags & RECORDED != 0),
        is_random: flags & RANDOM != 0,
        ..Arrived::default()
    })
}

/// `TRACE-SPAN[-SAMPLED[-PARENT]]`, or the decision alone.
fn single(text: &str) -> Option<Arrived> {
    if let Some(decided) = decided(text) {
        return Some(decided);
    }
    let mut parts = text.split('-');
    let ids = b3_ids(parts.next()?, parts.next()?)?;
    let decided = match parts.next() {
        Some(text) => decided(text)?,
        None => Arrived::default(),
    };
    let is_good = parts.next().is_none_or(|parent| span_id(parent).is_some()) && parts.next().is_none();
    is_good.then_some(Arrived { ids: Some(ids), ..decided })
}

fn decided(text: &str) -> Option<Arrived> {
    let (decision, is_debug) = match text {
        "0" => (false, false),
        "1" => (true, false),
        "d" => (true, true),
        _ => return None,
    };
    Some(Arrived { decision: Some(decision), is_debug, ..Arrived::default() })
}

fn b3_ids(trace: &str, span: &str) -> Option<Ids> {
    let (trace, is_short) = match hex(trace, 32) {
        Some(trace) => (trace, false),
        None => (hex(trace, 16)?, true),
    };
    Some(Ids { trace, span: span_id(span)?, is_short })
}

/// B3 in several headers. `true` and `false` are older spellings that are still sent.
fn multi(headers: &HeaderMap) -> Option<Arrived> {
    let ids = one(headers, &TRACE_ID).zip(one(headers, &SPAN_ID)).and_then(|(trace, span)| b3_ids(trace, span));
    let is_debug = one(headers, &FLAGS) == Some("1");
    let sampled = match one(headers, &SAMPLED) {
        Some("1" | "true") => Some(true),
        Some("0" | "false") => Some(false),
        Some(_) | None => None,
    };
    let decision = if is_debug { Some(true) } else { sampled };
    (ids.is_some() || decision.is_some()).then(|| Arrived { ids, decision, is_debug, ..Arrived::default() })
}

#[cfg(test)]
mod tests;
