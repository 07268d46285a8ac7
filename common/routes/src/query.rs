//! Reads a query's parameters: names and values between `&` and `=`, with `%41` and `+` read as what they stand for.

/// The value of the first parameter of this name. A later one of the same name counts as little as in Gateway API.
pub(crate) fn value_of(query: &str, name: &str) -> Option<Vec<u8>> {
    query.split('&').find_map(|pair| {
        let (found, value) = pair.split_once('=').unwrap_or((pair, ""));
        (decoded(found) == name.as_bytes()).then(|| decoded(value))
    })
}

/// The bytes that a text stands for; an escape that is none stands for itself.
fn decoded(text: &str) -> Vec<u8> {
    let mut bytes = text.bytes();
    let mut out = Vec::with_capacity(text.len());
    while let Some(byte) = bytes.next() {
        match byte {
            b'+' => out.push(b' '),
            b'%' => {
                let mut ahead = bytes.clone();
                match (ahead.next().and_then(digit), ahead.next().and_then(digit)) {
                    (Some(high), Some(low)) => {
                        out.push(high << 4 | low);
                        bytes = ahead;
                    }
                    _ => out.push(b'%'),
                }
            }
            other => out.push(other),
        }
    }
    out
}

fn digit(byte: u8) -> Option<u8> {
    char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok())
}

#[cfg(test)]
mod tests {
    use super::value_of;

    #[test]
    fn the_first_parameter_of_a_name_counts_and_is_decoded() {
        let query = "a=1&b=x%20y&a=2&c&d=a+b&%65=e&f=%zz&g=%4";
        let of = |name| value_of(query, name).map(|value| String::from_utf8(value).unwrap());
        assert_eq!(of("a").as_deref(), Some("1"));
        assert_eq!(of("b").as_deref(), Some("x y"));
        assert_eq!(of("c").as_deref(), Some(""));
        assert_eq!(of("d").as_deref(), Some("a b"));
        assert_eq!(of("e").as_deref(), Some("e"));
        assert_eq!((of("f").as_deref(), of("g").as_deref()), (Some("%zz"), Some("%4")));
        assert_eq!(of("h"), None);
    }
}
