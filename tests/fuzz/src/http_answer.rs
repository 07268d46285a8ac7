//! Feeds any bytes to the reader of an endpoint's HTTP/1, in pieces of any size.

#![no_main]

use libfuzzer_sys::fuzz_target;
use millrace_l7_proxy::foreign::{Answer, answered};

/// The longest body that can come of so many bytes.
fn is_possible(answers: &[Answer], n_bytes: usize) -> bool {
    answers.iter().map(|answer| answer.body.len()).sum::<usize>() <= n_bytes
}

fuzz_target!(|bytes: &[u8]| {
    let Some((first, rest)) = bytes.split_first() else { return };
    let (piece, is_to_head) = (usize::from(*first >> 1).max(1), first & 1 == 1);
    let (answers, refused) = answered(rest, rest.len(), is_to_head);
    let (in_pieces, refused_so) = answered(rest, piece, is_to_head);
    assert!(is_possible(&answers, rest.len()), "no byte is two answers'");
    for answer in &answers {
        assert!(answer.n_lengths <= 1, "an answer is framed in one way: {answer:?}");
        assert!((200..600).contains(&answer.status) || answer.status == 101 || answer.status >= 600, "{answer:?}");
        assert!(!is_to_head || answer.body.is_empty(), "what answers HEAD has no body: {answer:?}");
        assert!(!matches!(answer.status, 101 | 204 | 304) || answer.body.is_empty(), "{answer:?}");
    }
    // What is refused can show later where it comes in pieces, and never anything else before it.
    let agreed =
        answers.iter().zip(&in_pieces).all(|(one, other)| one.status == other.status && one.n_fields == other.n_fields);
    assert!(agreed && answers.len() == in_pieces.len(), "it depends on how bytes come");
    if refused.is_none() || refused_so.is_none() {
        let bodies = |answers: &[Answer]| {
            answers.iter().map(|answer| (answer.body.len(), answer.n_trailers, answer.is_whole)).collect::<Vec<_>>()
        };
        assert_eq!(bodies(&answers), bodies(&in_pieces), "a body depends on how bytes come");
    }
});
