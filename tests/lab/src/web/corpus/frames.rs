//! Writes HTTP/2's frames from words, and reads what became of them.
//!
//! A frame is a line: `HEADERS <stream> <flags> name=value ...`, `CONTINUATION` the same, `DATA <stream> <flags> text`, `RAW <hex>`,
//! `FRAME <kind> <flags> <stream> <hex>`, `SETTINGS <id>=<value> ...`, `ACK`, `WINDOW <stream> <n>`, `RESET <stream> <code>`, `PING`.
//! Flags are letters: `e` the stream ends, `h` the head does, `-` none. `BARE` as the first line leaves out the preface and SETTINGS that
//! stand before all others. Fields are literals without an index, so no table hides what is sent; `%HH` in them is a byte, and names that
//! begin with `~` stand for nothing but a place in a list: `~index=2` is entry 2 of the static table, `~size=4096` a new size.

use anyhow::{Context as _, Result, bail};

use super::super::raw::unescaped;

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// The bytes of these frames.
pub fn written(lines: &[String]) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let lines = match lines.split_first() {
        Some((first, rest)) if first == "BARE" => rest,
        _ => {
            bytes.extend_from_slice(PREFACE);
            frame(&mut bytes, (4, 0), 0, &[]);
            lines
        }
    };
    for line in lines {
        one(&mut bytes, line).with_context(|| line.clone())?;
    }
    Ok(bytes)
}

fn one(bytes: &mut Vec<u8>, line: &str) -> Result<()> {
    let (word, rest) = line.split_once(' ').unwrap_or((line, ""));
    let mut words = rest.split(' ');
    let mut next = || words.next().filter(|word| !word.is_empty()).context("a word is missing");
    match word {
        "HEADERS" | "CONTINUATION" => {
            let (stream, flags) = (next()?.parse()?, flags(next()?));
            let fields: Vec<&str> = rest.split(' ').skip(2).collect();
            frame(bytes, (if word == "HEADERS" { 1 } else { 9 }, flags), stream, &block(&fields)?);
        }
        "DATA" => {
            let (stream, flags) = (next()?.parse()?, flags(next()?));
            let text = rest.splitn(3, ' ').nth(2).unwrap_or_default();
            frame(bytes, (0, flags), stream, &unescaped(text));
        }
        "RAW" => bytes.extend(hex(rest)?),
        "FRAME" => {
            let (kind, flags, stream) = (next()?.parse()?, next()?.parse()?, next()?.parse()?);
            let payload = next().map(hex).unwrap_or_else(|_| Ok(Vec::new()))?;
            frame(bytes, (kind, flags), stream, &payload);
        }
        "SETTINGS" => {
            let mut payload = Vec::new();
            for setting in rest.split(' ').filter(|setting| !setting.is_empty()) {
                let (id, value) = setting.split_once('=').context("a setting is id=value")?;
                payload.extend(id.parse::<u16>()?.to_be_bytes());
                payload.extend(value.parse::<u32>()?.to_be_bytes());
            }
            frame(bytes, (4, 0), 0, &payload);
        }
        "ACK" => frame(bytes, (4, 1), 0, &[]),
        "WINDOW" => {
            let (stream, n) = (next()?.parse()?, next()?.parse::<u32>()?);
            frame(bytes, (8, 0), stream, &n.to_be_bytes());
        }
        "RESET" => {
            let (stream, code) = (next()?.parse()?, next()?.parse::<u32>()?);
            frame(bytes, (3, 0), stream, &code.to_be_bytes());
        }
        "PING" => frame(bytes, (6, 0), 0, &[7; 8]),
        _ => bail!("no such frame"),
    }
    Ok(())
}

fn flags(letters: &str) -> u8 {
    letters
        .chars()
        .map(|letter| match letter {
            'e' => 0x1,
            'h' => 0x4,
            'p' => 0x8,
            _ => 0,
        })
        .sum()
}

fn frame(bytes: &mut Vec<u8>, (kind, flags): (u8, u8), stream: u32, payload: &[u8]) {
    let length = u32::try_from(payload.len()).unwrap_or(u32::MAX).to_be_bytes();
    bytes.extend(length.iter().skip(1));
    bytes.extend([kind, flags]);
    bytes.extend(stream.to_be_bytes());
    bytes.extend(payload);
}

/// A block of fields (RFC 7541, 6.2.2), names as they stand.
fn block(fields: &[&str]) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    for field in fields {
        // A pseudo-header's name begins with the colon.
        let (name, value) = field.split_once('=').context("a field is name=value")?;
        match name {
            "~index" => bytes.push(0x80 | value.parse::<u8>()?),
            "~size" => integer(&mut bytes, 0x20, 5, value.parse()?),
            "~raw" => bytes.extend(hex(value)?),
            _ => {
                bytes.push(0);
                for text in [name, value] {
                    let text = unescaped(&text.replace('%', "\\x"));
                    integer(&mut bytes, 0, 7, text.len());
                    bytes.extend(text);
                }
            }
        }
    }
    Ok(bytes)
}

/// An integer with a prefix of so many bits (RFC 7541, 5.1).
fn integer(bytes: &mut Vec<u8>, first: u8, bits: u32, value: usize) {
    let most = (1_usize << bits) - 1;
    let low = |value: usize| u8::try_from(value & 0x7f).unwrap_or(0);
    if value < most {
        bytes.push(first | low(value));
        return;
    }
    bytes.push(first | u8::try_from(most).unwrap_or(0));
    let mut left = value - most;
    while left >= 128 {
        bytes.push(0x80 | low(left));
        left >>= 7;
    }
    bytes.push(low(left));
}

fn hex(text: &str) -> Result<Vec<u8>> {
    let digits: Vec<u8> = text.bytes().filter(|byte| !byte.is_ascii_whitespace()).collect();
    digits.chunks(2).map(|pair| Ok(u8::from_str_radix(std::str::from_utf8(pair)?, 16)?)).collect()
}

/// What became of stream 1: its status, and the reason of a refusal; else its reset or the connection's end.
pub fn outcome(mut came: &[u8], is_closed: bool) -> Result<String> {
    let mut decoder = fluke_hpack::Decoder::new();
    let (mut status, mut end, mut has_ended) = (None, None, false);
    while let Some((head, rest)) = came.split_at_checked(9) {
        let [a, b, c, kind, flags, stream @ ..] = head else { break };
        let length = usize::try_from(u32::from_be_bytes([0, *a, *b, *c]))?;
        let Some((payload, rest)) = rest.split_at_checked(length) else { break };
        came = rest;
        let is_first = stream == [0, 0, 0, 1];
        let code = |at: usize| payload.get(at..at + 4).map_or("none", code);
        match kind {
            1 => {
                let fields = decoder.decode(payload).map_err(|error| anyhow::anyhow!("{error:?}"))?;
                let field = |name: &[u8]| {
                    fields
                        .iter()
                        .find(|(one, _)| one == name)
                        .map(|(_, value)| String::from_utf8_lossy(value).into_owned())
                };
                if let (true, Some(said)) = (is_first, field(b":status")) {
                    let reason = field(crate::web::REASON.as_bytes()).or_else(|| field(b"grpc-message"));
                    status = Some(reason.map_or_else(|| said.clone(), |reason| format!("{said} {reason}")));
                }
                has_ended |= is_first && flags & 1 != 0;
            }
            0 => has_ended |= is_first && flags & 1 != 0,
            3 if is_first && end.is_none() => end = Some(format!("reset {}", code(0))),
            7 if code(4) != "NO_ERROR" => end = Some(format!("goaway {}", code(4))),
            _ => {}
        }
    }
    Ok(match (status, end) {
        (Some(status), Some(end)) if !has_ended || end.starts_with("goaway") => format!("{status}, {end}"),
        (Some(status), _) => status,
        (None, Some(end)) => end,
        (None, None) if is_closed => "closed".to_owned(),
        (None, None) => "nothing".to_owned(),
    })
}

/// An error's name (RFC 9113, 7).
fn code(bytes: &[u8]) -> &'static str {
    match bytes {
        [0, 0, 0, 0] => "NO_ERROR",
        [0, 0, 0, 1] => "PROTOCOL_ERROR",
        [0, 0, 0, 2] => "INTERNAL_ERROR",
        [0, 0, 0, 3] => "FLOW_CONTROL_ERROR",
        [0, 0, 0, 4] => "SETTINGS_TIMEOUT",
        [0, 0, 0, 5] => "STREAM_CLOSED",
        [0, 0, 0, 6] => "FRAME_SIZE_ERROR",
        [0, 0, 0, 7] => "REFUSED_STREAM",
        [0, 0, 0, 8] => "CANCEL",
        [0, 0, 0, 9] => "COMPRESSION_ERROR",
        [0, 0, 0, 0xb] => "ENHANCE_YOUR_CALM",
        _ => "OTHER",
    }
}
