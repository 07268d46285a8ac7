//! Finds where a field stands in one of the running kernel's structures, as its BTF says (Documentation/bpf/btf.rst). A program
//! that reads the field is loaded with that number, and the verifier checks it against the same BTF.

use std::{fs, io};

use crate::native::{u16_at, u32_at};

/// Where the kernel shows its own types.
const OWN: &str = "/sys/kernel/btf/vmlinux";

/// `struct btf_header`'s magic number.
const MAGIC: u16 = 0xeb9f;
/// `struct btf_type`, and one member of a structure after it.
const TYPE: usize = 12;
const MEMBER: usize = 12;

/// BTF_KIND_* whose types are followed by something, and by how much.
const INT: u32 = 1;
const ARRAY: u32 = 3;
const STRUCT: u32 = 4;
const UNION: u32 = 5;
const ENUM: u32 = 6;
const FUNC: u32 = 12;
const FUNC_PROTO: u32 = 13;
const VAR: u32 = 14;
const DATASEC: u32 = 15;
const DECL_TAG: u32 = 17;
const ENUM64: u32 = 19;

/// How deep nameless structures are looked into.
const DEPTH: usize = 4;

/// What programs read of a connection that ends, as they call it, and where it stands: a socket is what a TCP socket begins with.
const OF_ENDS: [(&str, &str, &str); 4] = [
    ("AT_BYTES_SENT", "tcp_sock", "bytes_sent"),
    ("AT_BYTES_RETRANS", "tcp_sock", "bytes_retrans"),
    ("AT_SK_ERR", "sock", "sk_err"),
    ("AT_SK_FLAGS", "sock_common", "skc_flags"),
];

/// The byte at which `field` stands in the running kernel's `structure`.
pub(super) fn offset(structure: &str, field: &str) -> io::Result<u32> {
    offset_in(&fs::read(OWN)?, structure, field)
        .ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, format!("{OWN} has no {structure}.{field}")))
}

/// Whether the running kernel's types name this function.
pub(super) fn has_function(name: &str) -> io::Result<bool> {
    Ok(has_function_in(&fs::read(OWN)?, name).unwrap_or(false))
}

fn has_function_in(btf: &[u8], name: &str) -> Option<bool> {
    let (mut all, names) = types(btf)?;
    Some(all.any(|one| one.kind == FUNC && is_named(names, one.name, name)))
}

/// What programs read of a connection that ends, by their names for it. 0 where it is not known: bytes are off by the ends of
/// streams then, and outcomes have no errno.
pub(super) fn of_ends() -> [(&'static str, u32); 4] {
    let own = fs::read(OWN).unwrap_or_default();
    OF_ENDS.map(|(name, structure, field)| {
        let at = offset_in(&own, structure, field);
        if at.is_none() {
            tracing::warn!("{OWN} has no {structure}.{field}: connections' bytes and outcomes are told less exactly");
        }
        (name, at.unwrap_or(0))
    })
}

/// All types, and all names.
fn types(btf: &[u8]) -> Option<(Types<'_>, &[u8])> {
    let header = btf.get(..24)?;
    if u16_at(header, 0)? != MAGIC {
        return None;
    }
    let word = |at| u32_at(header, at).and_then(|word| usize::try_from(word).ok());
    let (own, types_at, types, names_at) = (word(4)?, word(8)?, word(12)?, word(16)?);
    let names = btf.get(own.checked_add(names_at)?..)?;
    let types_at = own.checked_add(types_at)?;
    Some((Types { rest: btf.get(types_at..types_at.checked_add(types)?)? }, names))
}

fn offset_in(btf: &[u8], structure: &str, field: &str) -> Option<u32> {
    let (all, names) = types(btf)?;
    let found = all.clone().find(|one| one.kind == STRUCT && is_named(names, one.name, structure))?;
    field_of(&all, names, (&found, field), DEPTH).map(|bits| bits / 8)
}

/// The bit at which a field stands in a structure, or in a nameless one within it.
fn field_of(all: &Types<'_>, names: &[u8], (structure, field): (&Type<'_>, &str), depth: usize) -> Option<u32> {
    // With bit fields the size of one is in the top byte.
    let bits = if structure.has_bit_fields { 0xff_ffff } else { u32::MAX };
    let members = || structure.of.chunks_exact(MEMBER);
    let at = |member| Some(u32_at(member, 8)? & bits);
    if let Some(member) = members().find(|m| u32_at(m, 0).is_some_and(|name| is_named(names, name, field))) {
        return at(member);
    }
    if depth == 0 {
        return None;
    }
    members().filter(|member| u32_at(member, 0) == Some(0)).find_map(|member| {
        // Types are numbered from 1, in their order.
        let number = usize::try_from(u32_at(member, 4)?).ok()?.checked_sub(1)?;
        let inner = all.clone().nth(number).filter(|inner| matches!(inner.kind, STRUCT | UNION))?;
        Some(at(member)? + field_of(all, names, (&inner, field), depth - 1)?)
    })
}

/// One type, with what follows it.
struct Type<'b> {
    name: u32,
    kind: u32,
    has_bit_fields: bool,
    of: &'b [u8],
}

/// The types that are left.
#[derive(Clone)]
struct Types<'b> {
    rest: &'b [u8],
}

impl<'b> Iterator for Types<'b> {
    type Item = Type<'b>;

    fn next(&mut self) -> Option<Type<'b>> {
        let head = self.rest.get(..TYPE)?;
        let (name, says) = (u32_at(head, 0)?, u32_at(head, 4)?);
        let (kind, n) = (says >> 24 & 0x1f, usize::try_from(says & 0xffff).ok()?);
        let (of, after) = self.rest.get(TYPE..)?.split_at_checked(following(kind, n))?;
        self.rest = after;
        Some(Type { name, kind, has_bit_fields: says >> 31 == 1, of })
    }
}

/// How many bytes follow a type of this kind that has `n` of what it has.
fn following(kind: u32, n: usize) -> usize {
    match kind {
        INT | VAR | DECL_TAG => 4,
        ARRAY => 12,
        STRUCT | UNION => n * MEMBER,
        ENUM | FUNC_PROTO => n * 8,
        DATASEC | ENUM64 => n * 12,
        _ => 0,
    }
}

fn is_named(names: &[u8], at: u32, name: &str) -> bool {
    let found = usize::try_from(at).ok().and_then(|at| names.get(at..));
    found.and_then(|text| text.strip_prefix(name.as_bytes())).is_some_and(|rest| rest.first() == Some(&0))
}

#[cfg(test)]
mod tests {
    use super::{OWN, has_function, of_ends, offset, offset_in};

    #[test]
    fn a_field_of_the_running_kernel_is_found_and_one_that_is_not_there_is_not() {
        let Ok(btf) = std::fs::read(OWN) else { return };
        // `struct list_head` has been two pointers for ever.
        assert_eq!((offset_in(&btf, "list_head", "next"), offset_in(&btf, "list_head", "prev")), (Some(0), Some(8)));
        assert!(offset("tcp_sock", "write_seq").unwrap() > 0);
        // One of a nameless union's, of which it is the first.
        let cookie = offset_in(&btf, "sock_common", "skc_cookie").unwrap();
        assert_eq!(offset_in(&btf, "sock_common", "skc_flags"), Some(cookie + 8));
        assert!(of_ends().iter().all(|(_, at)| *at > 0), "{:?}", of_ends());
        assert!(offset("tcp_sock", "write_sequence").is_err());
        assert!(offset("no_such_sock", "write_seq").is_err());
        assert!(has_function("bpf_iter_udp").unwrap() && !has_function("bpf_iter_sockets").unwrap());
    }

    #[test]
    fn what_is_cut_or_is_no_btf_has_no_field() {
        let Ok(btf) = std::fs::read(OWN) else { return };
        for length in [0, 1, 23, 24, 1000, btf.len() / 100] {
            assert_eq!(offset_in(&btf[..length], "tcp_sock", "write_seq"), None);
        }
        assert_eq!(offset_in(&[0xff; 4096], "tcp_sock", "write_seq"), None);
    }
}
