//! Writes the fields of heads, and finds those that were parsed.

use bytes::{Bytes, BytesMut};
use http::{
    HeaderMap, HeaderName, HeaderValue,
    header::{CONTENT_LENGTH, TRANSFER_ENCODING},
};

use super::super::heads::{Bad, MAX_FIELDS};

/// The digits of the longest number.
const DIGITS: usize = 20;

/// What is commonly added to a head on its way.
const ADDED: usize = 2;

/// Writes all fields but those that frame a body: these are [`Framing`](super::Framing)'s to write.
pub(crate) fn write_fields(headers: &HeaderMap, head: &mut BytesMut) {
    for (name, value) in headers {
        if name != CONTENT_LENGTH && name != TRANSFER_ENCODING {
            write_field(name, value, head);
        }
    }
}

/// Writes one line.
pub(super) fn write_field(name: &HeaderName, value: &HeaderValue, head: &mut BytesMut) {
    let (name, value) = (name.as_str().as_bytes(), value.as_bytes());
    head.reserve(name.len() + value.len() + 4);
    head.extend_from_slice(name);
    head.extend_from_slice(b": ");
    head.extend_from_slice(value);
    head.extend_from_slice(b"\r\n");
}

/// Writes a number in decimal.
pub(super) fn write_number(number: u64, to: &mut BytesMut) {
    write_digits(number, 10, to);
}

/// Writes the line that says a chunk's size.
pub(super) fn write_size(size: usize, to: &mut BytesMut) {
    write_digits(size as u64, 16, to);
    to.extend_from_slice(b"\r\n");
}

fn write_digits(mut number: u64, base: u64, to: &mut BytesMut) {
    let mut digits = [b'0'; DIGITS];
    let mut n = 0;
    for digit in digits.iter_mut().rev() {
        let value = u8::try_from(number % base).unwrap_or_default();
        *digit = if value < 10 { b'0' + value } else { b'a' + value - 10 };
        number /= base;
        n += 1;
        if number == 0 {
            break;
        }
    }
    to.extend_from_slice(digits.get(DIGITS - n..).unwrap_or_default());
}

/// Where the fields of a head stand in it: what a parser has found in a buffer, before the head is taken out of that.
#[derive(Debug)]
pub(crate) struct Places {
    places: [Place; MAX_FIELDS],
    count: usize,
}

/// Where a name and its value begin, and how long they are.
#[derive(Clone, Copy, Debug, Default)]
struct Place {
    name: (u32, u32),
    value: (u32, u32),
}

impl Places {
    /// Those of fields that were parsed from `head`.
    pub(crate) fn of(head: &[u8], fields: &[httparse::Header<'_>]) -> Result<Self, Bad> {
        let mut found = Self { places: [Place::default(); MAX_FIELDS], count: fields.len() };
        let place = |part: &[u8]| {
            let from = part.as_ptr().addr().checked_sub(head.as_ptr().addr());
            let from = from.and_then(|from| u32::try_from(from).ok()).ok_or(Bad::TooLarge)?;
            Ok((from, u32::try_from(part.len()).map_err(|_too_long| Bad::TooLarge)?))
        };
        if fields.len() > MAX_FIELDS {
            return Err(Bad::TooLarge);
        }
        for (at, field) in found.places.iter_mut().zip(fields) {
            *at = Place { name: place(field.name.as_bytes())?, value: place(field.value)? };
        }
        Ok(found)
    }

    /// Those fields, of the same head. Their values are parts of it.
    pub(crate) fn headers(&self, head: &Bytes) -> Result<HeaderMap, Bad> {
        let mut headers = HeaderMap::with_capacity(self.count + ADDED);
        let range = |(from, length): (u32, u32)| from as usize..from as usize + length as usize;
        for Place { name, value } in self.places.iter().take(self.count) {
            let name = head.get(range(*name)).ok_or(Bad::FieldName)?;
            let name = HeaderName::from_bytes(name).map_err(|_no_name| Bad::FieldName)?;
            let value = head.get(range(*value)).ok_or(Bad::FieldValue)?;
            let value = HeaderValue::from_maybe_shared(head.slice_ref(value)).map_err(|_no_value| Bad::FieldValue)?;
            headers.try_append(name, value).map_err(|_too_many| Bad::TooLarge)?;
        }
        Ok(headers)
    }
}
