//! Finding fat binaries in ELF files and in static archives of them.
//!
//! The structures are the crate `object`'s. Its own readers keep whatever they have read in memory,
//! or want the file there, and these files have gigabytes: so what is read here is headers alone, one
//! at a time, and nothing that a header says is believed before it is compared with the file's size.

use std::ops::Range;

use object::LittleEndian as LE;
use object::archive;
use object::elf::{self, FileHeader64, SectionHeader64};
use object::pod::{Pod, from_bytes};

use super::bytes::{Bytes, Unsound, array};
use super::{Code, fatbin};

/// What a program or library registers with the driver.
const LINKED: &[u8] = b".nv_fatbin\0";
/// What waits for a device link (`nvcc -rdc=true`). A linked file may still have it, beside what became
/// of it, but nothing runs it: like `cuobjdump`, it is read where there is nothing else.
const RELOCATABLE: &[u8] = b"__nv_relfatbin\0";

/// More sections than any file has; each is a header to be read.
const MOST_SECTIONS: u64 = 1 << 20;

const FILE_HEADER: usize = size_of::<FileHeader64<LE>>();
const SECTION_HEADER: usize = size_of::<SectionHeader64<LE>>();
const MEMBER_HEADER: usize = size_of::<archive::Header>();

/// Whether a file that begins like this may have device code.
pub fn is_binary(beginning: &[u8]) -> bool {
    beginning.starts_with(&elf::ELFMAG) || beginning.starts_with(&archive::MAGIC)
}

/// Reads every fat binary of a file. Other files have none.
///
/// # Errors
/// A file that is damaged, or lies.
pub fn read(bytes: &dyn Bytes, code: &mut Code) -> Result<(), Unsound> {
    match beginning(bytes, &(0..bytes.size()))? {
        Some(magic) if magic == archive::MAGIC => read_archive(bytes, code),
        Some(magic) if magic.starts_with(&elf::ELFMAG) => read_elf(bytes, 0..bytes.size(), code),
        _ => Ok(()),
    }
}

fn beginning(bytes: &dyn Bytes, range: &Range<u64>) -> Result<Option<[u8; 8]>, Unsound> {
    match range.end - range.start {
        0..8 => Ok(None),
        _ => array(bytes, range.start, range.end).map(Some),
    }
}

/// The members of a static archive, one after another (ar(5); GNU's variant).
fn read_archive(bytes: &dyn Bytes, code: &mut Code) -> Result<(), Unsound> {
    let mut at = archive::MAGIC.len() as u64;
    while at < bytes.size() {
        let raw: [u8; MEMBER_HEADER] = array(bytes, at, bytes.size())?;
        let header: &archive::Header = pod(&raw)?;
        if header.terminator != archive::TERMINATOR {
            return Err(Unsound(format!("the archive's member at {at:#x} has no header")));
        }
        let start = at + MEMBER_HEADER as u64;
        let size = std::str::from_utf8(&header.size).ok().and_then(|digits| digits.trim_end().parse().ok());
        let end = size.and_then(|size: u64| start.checked_add(size)).filter(|end| *end <= bytes.size());
        let end = end.ok_or_else(|| Unsound(format!("the archive's member at {at:#x} ends after it")))?;
        if beginning(bytes, &(start..end))?.is_some_and(|magic| magic.starts_with(&elf::ELFMAG)) {
            read_elf(bytes, start..end, code)?;
        }
        at = end + end % 2;
    }
    Ok(())
}

/// The sections of an ELF file (gABI, chapter 4). CUDA is for 64 bits, little-endian.
fn read_elf(bytes: &dyn Bytes, file: Range<u64>, code: &mut Code) -> Result<(), Unsound> {
    let raw: [u8; FILE_HEADER] = array(bytes, file.start, file.end)?;
    let header: &FileHeader64<LE> = pod(&raw)?;
    let ident = &header.e_ident;
    let offset = header.e_shoff.get(LE);
    if ident.class != elf::ELFCLASS64 || ident.data != elf::ELFDATA2LSB || offset == 0 {
        return Ok(());
    }
    let section = |index: u64| -> Result<[u8; SECTION_HEADER], Unsound> {
        let at = index.checked_mul(SECTION_HEADER as u64).and_then(|at| at.checked_add(offset));
        let at = at.and_then(|at| at.checked_add(file.start));
        array(bytes, at.unwrap_or(u64::MAX), file.end)
    };
    // What does not fit into the file's header stands in the first section's.
    let first = section(0)?;
    let first: &SectionHeader64<LE> = pod(&first)?;
    let count = match u64::from(header.e_shnum.get(LE)) {
        0 => first.sh_size.get(LE),
        count => count,
    };
    let names = match header.e_shstrndx.get(LE) {
        elf::SHN_XINDEX => first.sh_link.get(LE),
        index => index.0.into(),
    };
    if count > MOST_SECTIONS || usize::from(header.e_shentsize.get(LE)) != SECTION_HEADER {
        return Err(Unsound(format!("it has {count} sections of {} bytes", header.e_shentsize.get(LE))));
    }
    let names = range(pod(&section(u64::from(names))?)?, &file)?;
    let (mut linked, mut relocatable) = (Vec::new(), Vec::new());
    // Sections that overlap would be read again and again.
    let mut left = file.end - file.start;
    for index in 1..count {
        let raw = section(index)?;
        let header: &SectionHeader64<LE> = pod(&raw)?;
        if header.sh_type.get(LE) == elf::SHT_NOBITS {
            continue;
        }
        let sections = if is_named(LINKED, bytes, &names, header)? {
            &mut linked
        } else if is_named(RELOCATABLE, bytes, &names, header)? {
            &mut relocatable
        } else {
            continue;
        };
        let section = range(header, &file)?;
        left = left
            .checked_sub(section.end - section.start)
            .ok_or_else(|| Unsound("its sections overlap".to_owned()))?;
        sections.push(section);
    }
    let sections = if linked.is_empty() { relocatable } else { linked };
    sections.into_iter().try_for_each(|section| fatbin::read(bytes, section, code))
}

fn is_named(
    wanted: &[u8],
    bytes: &dyn Bytes,
    names: &Range<u64>,
    header: &SectionHeader64<LE>,
) -> Result<bool, Unsound> {
    let start = names.start + u64::from(header.sh_name.get(LE));
    if start + wanted.len() as u64 > names.end {
        return Ok(false);
    }
    let mut name = [0; 16];
    let name = &mut name[..wanted.len()];
    bytes.read_at(name, start)?;
    Ok(name == wanted)
}

/// Where a section's bytes are.
fn range(header: &SectionHeader64<LE>, file: &Range<u64>) -> Result<Range<u64>, Unsound> {
    let start = file.start.checked_add(header.sh_offset.get(LE));
    let end = start.and_then(|start| start.checked_add(header.sh_size.get(LE)));
    match (start, end) {
        (Some(start), Some(end)) if end <= file.end => Ok(start..end),
        _ => Err(Unsound("a section ends after the file".to_owned())),
    }
}

fn pod<T: Pod>(raw: &[u8]) -> Result<&T, Unsound> {
    from_bytes(raw).map(|(value, _)| value).map_err(|()| Unsound("a header is short".to_owned()))
}
