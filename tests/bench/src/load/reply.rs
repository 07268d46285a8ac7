//! Finds the end of an HTTP/1.1 answer among bytes that come in pieces. Pure.

/// Bytes that have come, up to the end of an answer.
#[derive(Debug, Default)]
pub(super) struct Reply {
    bytes: Vec<u8>,
}

/// What the bytes so far are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// More must come.
    Unfinished,
    /// One answer with status 200.
    Whole,
    /// Anything else.
    Wrong,
}

impl Reply {
    /// Takes a piece; after a whole answer it is empty again.
    pub(super) fn take(&mut self, piece: &[u8]) -> State {
        self.bytes.extend_from_slice(piece);
        let Some(end) = self.bytes.windows(4).position(|window| window == b"\r\n\r\n") else {
            return State::Unfinished;
        };
        let (head, rest) = self.bytes.split_at(end + 4);
        let Some(length) = length(head) else { return State::Wrong };
        if !head.starts_with(b"HTTP/1.1 200") || rest.len() > length {
            return State::Wrong;
        }
        if rest.len() < length {
            return State::Unfinished;
        }
        self.bytes.clear();
        State::Whole
    }
}

fn length(head: &[u8]) -> Option<usize> {
    let mut lines = head.split(|byte| *byte == b'\n');
    let value = lines.find_map(|line| {
        let (name, value) = line.split_at_checked(b"content-length:".len())?;
        name.eq_ignore_ascii_case(b"content-length:").then_some(value)
    })?;
    std::str::from_utf8(value).ok()?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::{Reply, State};

    #[test]
    fn an_answer_in_pieces_is_whole_with_its_last_byte() {
        let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nserver: x\r\n\r\nabc";
        let mut reply = Reply::default();
        for byte in &answer[..answer.len() - 1] {
            assert_eq!(reply.take(&[*byte]), State::Unfinished);
        }
        assert_eq!(reply.take(b"c"), State::Whole);
        assert_eq!(reply.take(answer), State::Whole, "the next one begins anew");
    }

    #[test]
    fn an_error_or_an_answer_too_long_is_wrong() {
        assert_eq!(Reply::default().take(b"HTTP/1.1 503 No\r\ncontent-length: 0\r\n\r\n"), State::Wrong);
        assert_eq!(Reply::default().take(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\nx"), State::Wrong);
        assert_eq!(Reply::default().take(b"HTTP/1.1 200 OK\r\n\r\n"), State::Wrong, "nobody says how long it is");
    }
}
