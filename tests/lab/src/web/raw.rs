//! Sends bytes as they are written, and says what comes back.

use std::time::Duration;

use anyhow::Result;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::timeout,
};

/// Sends, and reads until the other end closes or is silent for so long; what came, and whether it closed.
pub async fn exchange(target: &str, send: &[u8], silence: Duration) -> Result<(Vec<u8>, bool)> {
    let mut stream = TcpStream::connect(target).await?;
    stream.set_nodelay(true)?;
    // One that refuses early closes while more is on its way.
    drop(stream.write_all(send).await);
    let mut came = Vec::new();
    loop {
        match timeout(silence, stream.read_buf(&mut came)).await {
            Ok(Ok(0) | Err(_)) => return Ok((came, true)),
            Ok(Ok(_)) => {}
            Err(_silent) => return Ok((came, false)),
        }
    }
}

/// Bytes of a text with `\r`, `\n`, `\t`, `\0`, `\\`, `\xHH`, and `\{n:c}` for n times c.
pub fn unescaped(text: &str) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('\\') {
        bytes.extend_from_slice(before.as_bytes());
        rest = after;
        let mut taken = 1;
        match after.as_bytes().first() {
            Some(b'r') => bytes.push(b'\r'),
            Some(b'n') => bytes.push(b'\n'),
            Some(b't') => bytes.push(b'\t'),
            Some(b'0') => bytes.push(0),
            Some(b'x') => {
                let digits = after.get(1..3).and_then(|digits| u8::from_str_radix(digits, 16).ok());
                bytes.push(digits.unwrap_or(b'?'));
                taken = 3;
            }
            Some(b'{') => {
                let inner = after.split_once('}').map(|(inner, _)| inner).unwrap_or_default();
                taken = inner.len() + 1;
                if let Some((count, what)) = inner.trim_start_matches('{').split_once(':') {
                    bytes.extend(what.repeat(count.parse().unwrap_or(0)).bytes());
                }
            }
            Some(other) => bytes.push(*other),
            None => taken = 0,
        }
        rest = rest.get(taken..).unwrap_or_default();
    }
    bytes.extend_from_slice(rest.as_bytes());
    bytes
}

#[cfg(test)]
mod tests {
    use super::unescaped;

    #[test]
    fn escapes_stand_for_bytes() {
        assert_eq!(unescaped("a\\r\\n\\x00\\\\\\{3:ab}z"), b"a\r\n\0\\abababz");
    }
}
