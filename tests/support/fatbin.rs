//! Files with device code, made by hand: what NVIDIA's tools write, with payloads of nothing.

/// An entry of a fat binary: kind, architecture, flags, size of its header, payload.
#[derive(Clone)]
pub struct Entry {
    pub kind: u16,
    pub architecture: u32,
    pub flags: u64,
    pub header: u32,
    pub payload: Vec<u8>,
}

pub const LZ4: u64 = 0x2000;
#[allow(dead_code, reason = "the units of `inspect::gpu` need it")]
pub const ZSTD: u64 = 0x8000;

pub fn entry(kind: u16, architecture: u32, flags: u64) -> Entry {
    // 64 bits, Linux; and a payload that looks like the beginning of a container.
    let payload = 0xba55_ed50_u32.to_le_bytes().repeat(6);
    Entry { kind, architecture, flags: flags | 0x11, header: 64, payload }
}

pub fn cubin(architecture: u32) -> Entry {
    entry(2, architecture, 0)
}

pub fn ptx(architecture: u32) -> Entry {
    Entry { header: 72, ..entry(1, architecture, LZ4) }
}

pub fn container(entries: &[Entry]) -> Vec<u8> {
    let mut body = Vec::new();
    for Entry { kind, architecture, flags, header, payload } in entries {
        let mut bytes = vec![0; *header as usize];
        bytes[0..2].copy_from_slice(&kind.to_le_bytes());
        bytes[2..4].copy_from_slice(&0x101_u16.to_le_bytes());
        bytes[4..8].copy_from_slice(&header.to_le_bytes());
        bytes[8..16].copy_from_slice(&(payload.len() as u64).to_le_bytes());
        bytes[28..32].copy_from_slice(&architecture.to_le_bytes());
        bytes[40..48].copy_from_slice(&flags.to_le_bytes());
        body.extend(bytes);
        body.extend(payload);
    }
    let mut bytes = 0xba55_ed50_u32.to_le_bytes().to_vec();
    bytes.extend([1, 0, 16, 0]);
    bytes.extend((body.len() as u64).to_le_bytes());
    bytes.extend(body);
    bytes
}

/// An ELF file with one section of this name.
pub fn elf(name: &str, section: &[u8]) -> Vec<u8> {
    elf_of(&[(name, section)])
}

/// An ELF file with these sections, and its section headers at the end.
pub fn elf_of(sections: &[(&str, &[u8])]) -> Vec<u8> {
    let mut file = vec![0; 64];
    file[..7].copy_from_slice(&[0x7f, b'E', b'L', b'F', 2, 1, 1]);
    let mut names = b"\0.shstrtab\0".to_vec();
    // Name, type, offset, size.
    let mut headers = vec![[0; 4]];
    for (name, bytes) in sections {
        headers.push([names.len(), 1, file.len(), bytes.len()]);
        names.extend(name.bytes().chain([0]));
        file.extend(*bytes);
        file.resize(file.len().next_multiple_of(8), 0);
    }
    headers.push([1, 3, file.len(), names.len()]);
    file.extend(names);
    file.resize(file.len().next_multiple_of(8), 0);
    let (start, count) = (file.len() as u64, headers.len() as u16);
    file[40..48].copy_from_slice(&start.to_le_bytes());
    file[58..60].copy_from_slice(&64_u16.to_le_bytes());
    file[60..62].copy_from_slice(&count.to_le_bytes());
    file[62..64].copy_from_slice(&(count - 1).to_le_bytes());
    for [name, kind, offset, size] in headers {
        let mut bytes = [0; 64];
        bytes[0..4].copy_from_slice(&(name as u32).to_le_bytes());
        bytes[4..8].copy_from_slice(&(kind as u32).to_le_bytes());
        bytes[24..32].copy_from_slice(&(offset as u64).to_le_bytes());
        bytes[32..40].copy_from_slice(&(size as u64).to_le_bytes());
        file.extend(bytes);
    }
    file
}

#[allow(dead_code, reason = "the units of `inspect::gpu` need it")]
pub fn archive(members: &[Vec<u8>]) -> Vec<u8> {
    let mut bytes = b"!<arch>\n".to_vec();
    for (number, member) in members.iter().enumerate() {
        bytes.extend(format!("{:<16}{:<32}{:<10}`\n", format!("{number}.o/"), 0, member.len()).bytes());
        bytes.extend(member);
        bytes.resize(bytes.len().next_multiple_of(2), b'\n');
    }
    bytes
}
