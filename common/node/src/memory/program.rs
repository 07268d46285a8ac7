//! Unmaps the program's own code and constants: of what a start needed (the kernel's types, the command line, TLS being set up) most is
//! never needed again, but stays mapped, in pieces of 64 KiB around each page that was touched. What is needed is found in the page
//! cache, by one fault for as much; the rest is nobody's, and the kernel's to drop.

use std::ffi::{c_int, c_void};

/// The largest page of any machine that this runs on: whole pages alone can be unmapped.
const PAGE: usize = 64 * 1024;

/// From an address to before another.
type Range = (usize, usize);

/// Of all that the loader put there from files, the parts that nobody can have written to: code and constants.
#[expect(unsafe_code, reason = "only the loader knows where it put what")]
fn unwritten() -> Vec<Range> {
    let mut found: Vec<Range> = Vec::new();
    // SAFETY: `note` takes the list for what it is, and is called only while it is lent here.
    let _last = unsafe { libc::dl_iterate_phdr(Some(note), (&raw mut found).cast()) };
    found
}

/// Notes one loaded file's parts.
#[expect(unsafe_code, reason = "called by the loader")]
unsafe extern "C" fn note(file: *mut libc::dl_phdr_info, _size: libc::size_t, found: *mut c_void) -> c_int {
    // SAFETY: `unwritten` gave the list, and does not look at it meanwhile.
    let found = unsafe { &mut *found.cast::<Vec<Range>>() };
    // SAFETY: the loader gives a file's description, which stands while this is called.
    let file = unsafe { &*file };
    // The kernel's own part of the process is no file, and has a page or two.
    if file.dlpi_phdr.is_null() || usize::from(file.dlpi_phnum) == 0 {
        return 0;
    }
    // SAFETY: there are so many headers, which stay where they are while the file is loaded.
    let headers = unsafe { std::slice::from_raw_parts(file.dlpi_phdr, usize::from(file.dlpi_phnum)) };
    let loaded = headers.iter().filter(|header| header.p_type == libc::PT_LOAD && header.p_flags & libc::PF_W == 0);
    found.extend(loaded.filter_map(|header| {
        let start = usize::try_from(file.dlpi_addr.checked_add(header.p_vaddr)?).ok()?;
        let end = start.checked_add(usize::try_from(header.p_filesz).ok()?)?;
        let (start, end) = (start.checked_next_multiple_of(PAGE)?, end - end % PAGE);
        (start < end).then_some((start, end))
    }));
    0
}

/// Does it.
#[expect(unsafe_code, reason = "madvise(2) is unsafe for what it can do to memory that was written to")]
pub(super) fn unmap() {
    for (start, end) in unwritten() {
        let at = std::ptr::without_provenance_mut(start);
        // SAFETY: the range is of a file and was never writable, so that what is read of it next is what was there: the file's.
        let advised = unsafe { rustix::mm::madvise(at, end - start, rustix::mm::Advice::LinuxDontNeed) };
        if let Err(why) = advised {
            tracing::debug!(%why, "a part of the program stays mapped");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    /// What is resident of this process's code, in KiB.
    fn resident() -> u64 {
        let mut in_code = false;
        let mut kib = 0;
        for line in fs::read_to_string("/proc/self/smaps").unwrap().lines() {
            let first = line.split(' ').next().unwrap_or_default();
            if first.contains('-') && !first.ends_with(':') {
                in_code = line.contains(" r-xp ") && line.contains('/');
            } else if let Some(rest) = line.strip_prefix("Rss:").filter(|_| in_code) {
                kib += rest.trim().split(' ').next().unwrap().parse::<u64>().unwrap();
            }
        }
        kib
    }

    #[test]
    fn code_that_was_unmapped_runs_as_before_and_less_of_it_is_resident() {
        let parts = super::unwritten();
        let here = code_that_was_unmapped_runs_as_before_and_less_of_it_is_resident as *const () as usize;
        assert!(parts.iter().any(|(start, end)| (*start..*end).contains(&here)), "this code is among {parts:?}");
        // So that it is mapped: every page of it.
        for (start, end) in &parts {
            let populate = rustix::mm::Advice::LinuxPopulateRead;
            // SAFETY: it maps what is there.
            #[expect(unsafe_code, reason = "madvise(2)")]
            let _mapped =
                unsafe { rustix::mm::madvise(std::ptr::without_provenance_mut(*start), end - start, populate) };
        }
        let before = resident();
        super::unmap();
        let after = resident();
        assert!(after * 2 < before, "{after} KiB of {before}");
    }
}
