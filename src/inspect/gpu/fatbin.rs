//! Fat binaries: containers of device code for several architectures, as nvcc, `fatbinary` and
//! libnvfatbin write them.
//!
//! NVIDIA publishes no specification. The layout is that of two independent readings, the crate
//! `fatbinary` (jiegec/fatbinary, after n-eiling/cuda-fatbin-decompression) and
//! GrigoryEvko/nvopen-tools, `fatbin/FORMAT_SPECIFICATION.md`; what the bits for `a` and `f` are was
//! read in files that libnvfatbin 12.9 made for `sm_90a`, `sm_100a` and `sm_100f`. Little-endian:
//!
//! ```text
//! container  0 u32 magic 0xBA55ED50 · 4 u16 version 1 · 6 u16 header's size · 8 u64 size of the entries
//! entry      0 u16 kind · 4 u32 header's size · 8 u64 size of the payload, padded · 28 u32 architecture
//!           40 u64 flags: 0x2000 LZ4, 0x8000 zstd, 0x10_0000 `a`, 0x20_0000 `f`
//! ```
//!
//! An entry's header says what the entry is for, so payloads are passed over, compressed or not.

use std::collections::BTreeSet;
use std::ops::Range;

use assemble_layers::gpu::Capability;

use super::bytes::{Bytes, Unsound, array};
use super::{Architecture, Code, Fatbin, Specific};

const MAGIC: u32 = 0xba55_ed50;
const CONTAINER_HEADER: u64 = 16;
/// The part of an entry's header that every version has.
const ENTRY_HEADER: u64 = 64;

/// An entry's kinds, as `cuobjdump` counts them. Others, such as LTO-IR, are no code that a driver
/// runs.
const PTX: u16 = 0x01;
const CUBIN: u16 = 0x02;
const CUBIN_CAPSULE: u16 = 0x10;

const ARCHITECTURE_SPECIFIC: u64 = 0x10_0000;
const FAMILY_SPECIFIC: u64 = 0x20_0000;

/// The most architectures that a fat binary may be for. CUDA knows some forty, and the largest library
/// known is for ten.
const MOST_ARCHITECTURES: usize = 256;

/// How much is looked through at once for the end of a gap, in bytes.
const GAP: usize = 4096;

/// Reads the containers that lie in `range`, one after another, zeros between them.
///
/// # Errors
/// Bytes that are no containers, or lie about their sizes.
pub fn read(bytes: &dyn Bytes, range: Range<u64>, code: &mut Code) -> Result<(), Unsound> {
    let mut at = range.start;
    while let Some(start) = after_zeros(bytes, at..range.end)? {
        let header: [u8; CONTAINER_HEADER as usize] = array(bytes, start, range.end)?;
        let (magic, version) = (u32_at(&header, 0), u16_at(&header, 4));
        if (magic, version) != (MAGIC, 1) {
            return Err(Unsound(format!("no fat binary, but {magic:#x} at {start:#x}")));
        }
        let entries = start + u64::from(u16_at(&header, 6)).max(CONTAINER_HEADER);
        let end = entries.checked_add(u64_at(&header, 8)).filter(|end| *end <= range.end);
        let end =
            end.ok_or_else(|| Unsound(format!("the fat binary at {start:#x} ends after its section")))?;
        code.add(container(bytes, entries..end)?)?;
        at = end;
    }
    Ok(())
}

/// Where the next container begins: the first byte of its magic is not zero.
fn after_zeros(bytes: &dyn Bytes, range: Range<u64>) -> Result<Option<u64>, Unsound> {
    let mut buffer = [0; GAP];
    let mut at = range.start;
    while at < range.end {
        let length = GAP.min(usize::try_from(range.end - at).unwrap_or(GAP));
        // Most containers have no gap before them.
        let length = if at == range.start { length.min(8) } else { length };
        bytes.read_at(&mut buffer[..length], at)?;
        if let Some(found) = buffer[..length].iter().position(|byte| *byte != 0) {
            return Ok(Some(at + found as u64));
        }
        at += length as u64;
    }
    Ok(None)
}

fn container(bytes: &dyn Bytes, range: Range<u64>) -> Result<Fatbin, Unsound> {
    let mut fatbin = Fatbin { cubins: BTreeSet::new(), ptx: BTreeSet::new() };
    let mut at = range.start;
    while at < range.end {
        let header: [u8; ENTRY_HEADER as usize] = array(bytes, at, range.end)?;
        match u16_at(&header, 0) {
            PTX => fatbin.ptx.insert(architecture(&header)?),
            CUBIN | CUBIN_CAPSULE => fatbin.cubins.insert(architecture(&header)?),
            _ => false,
        };
        if fatbin.ptx.len() + fatbin.cubins.len() > MOST_ARCHITECTURES {
            return Err(Unsound(format!("it is for more than {MOST_ARCHITECTURES} architectures")));
        }
        let (header_size, size) = (u64::from(u32_at(&header, 4)), u64_at(&header, 8));
        let next = at.checked_add(header_size).and_then(|payload| payload.checked_add(size));
        at = match next {
            Some(next) if header_size >= ENTRY_HEADER && next <= range.end => next,
            _ => return Err(Unsound(format!("the entry at {at:#x} ends after its fat binary"))),
        };
    }
    Ok(fatbin)
}

fn architecture(header: &[u8]) -> Result<Architecture, Unsound> {
    let (number, flags) = (u32_at(header, 28), u64_at(header, 40));
    // sm_10 was the first; what has four digits is no architecture but damage.
    if !(10..1000).contains(&number) {
        return Err(Unsound(format!("an entry is for the architecture {number}")));
    }
    let specific = match (flags & ARCHITECTURE_SPECIFIC != 0, flags & FAMILY_SPECIFIC != 0) {
        (false, false) => Specific::No,
        (true, _) => Specific::Architecture,
        (false, true) => Specific::Family,
    };
    Ok(Architecture { capability: Capability::new(number / 10, number % 10), specific })
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([bytes[at], bytes[at + 1]])
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from(u16_at(bytes, at)) | u32::from(u16_at(bytes, at + 2)) << 16
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from(u32_at(bytes, at)) | u64::from(u32_at(bytes, at + 4)) << 32
}
