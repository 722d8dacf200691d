use super::*;

/// An entry of a fat binary: kind, architecture, flags, size of its header, payload.
#[derive(Clone)]
struct Entry {
    kind: u16,
    architecture: u32,
    flags: u64,
    header: u32,
    payload: Vec<u8>,
}

const LZ4: u64 = 0x2000;
const ZSTD: u64 = 0x8000;

fn entry(kind: u16, architecture: u32, flags: u64) -> Entry {
    // 64 bits, Linux; and a payload that looks like the beginning of a container.
    let payload = 0xba55_ed50_u32.to_le_bytes().repeat(6);
    Entry { kind, architecture, flags: flags | 0x11, header: 64, payload }
}

fn cubin(architecture: u32) -> Entry {
    entry(2, architecture, 0)
}

fn ptx(architecture: u32) -> Entry {
    Entry { header: 72, ..entry(1, architecture, LZ4) }
}

fn container(entries: &[Entry]) -> Vec<u8> {
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

/// An ELF file with one section of this name, and its section headers at the end.
fn elf(name: &str, section: &[u8]) -> Vec<u8> {
    let names = format!("\0.shstrtab\0{name}\0");
    let mut file = vec![0; 64];
    file[..7].copy_from_slice(&[0x7f, b'E', b'L', b'F', 2, 1, 1]);
    let section_at = file.len();
    file.extend(section);
    let names_at = file.len();
    file.extend(names.bytes());
    file.resize(file.len().next_multiple_of(8), 0);
    let headers = file.len() as u64;
    file[40..48].copy_from_slice(&headers.to_le_bytes());
    file[58..60].copy_from_slice(&64_u16.to_le_bytes());
    file[60..62].copy_from_slice(&3_u16.to_le_bytes());
    file[62..64].copy_from_slice(&1_u16.to_le_bytes());
    let mut header = |name: u32, kind: u32, offset: usize, size: usize| {
        let mut bytes = [0; 64];
        bytes[0..4].copy_from_slice(&name.to_le_bytes());
        bytes[4..8].copy_from_slice(&kind.to_le_bytes());
        bytes[24..32].copy_from_slice(&(offset as u64).to_le_bytes());
        bytes[32..40].copy_from_slice(&(size as u64).to_le_bytes());
        file.extend(bytes);
    };
    header(0, 0, 0, 0);
    header(1, 3, names_at, names.len());
    header(11, 1, section_at, section.len());
    file
}

fn archive(members: &[Vec<u8>]) -> Vec<u8> {
    let mut bytes = b"!<arch>\n".to_vec();
    for (number, member) in members.iter().enumerate() {
        bytes.extend(format!("{:<16}{:<32}{:<10}`\n", format!("{number}.o/"), 0, member.len()).bytes());
        bytes.extend(member);
        bytes.resize(bytes.len().next_multiple_of(2), b'\n');
    }
    bytes
}

fn read(bytes: &[u8]) -> Result<Code, Unsound> {
    Code::read(&bytes)
}

fn carried(bytes: &[u8]) -> String {
    carries(&read(bytes).unwrap())
}

#[test]
fn entries_say_what_they_are_for_compressed_or_not() {
    let entries =
        [cubin(50), entry(2, 75, LZ4), entry(2, 90, ZSTD | 0x10_0000), entry(2, 120, 0x120_0000), ptx(120)];
    let file = elf(".nv_fatbin", &container(&entries));
    assert_eq!(carried(&file), "sm_50 sm_75 sm_90a sm_120f compute_120");
    assert_eq!(
        carried(&elf("__nv_relfatbin", &container(&entries))),
        "sm_50 sm_75 sm_90a sm_120f compute_120"
    );
    // Other sections may hold the same bytes.
    assert_eq!(carried(&elf(".rodata", &container(&entries))), "no device code");
}

#[test]
fn what_no_driver_runs_is_passed_over() {
    let (lto, capsule) = (entry(8, 70, 0), entry(0x10, 100, 0));
    let code = read(&elf(".nv_fatbin", &container(&[lto.clone(), capsule]))).unwrap();
    assert_eq!(carries(&code), "sm_100");
    assert!(read(&elf(".nv_fatbin", &container(&[lto]))).unwrap().is_empty());
}

#[test]
fn containers_follow_one_another_with_gaps() {
    let mut section = container(&[cubin(50), cubin(60)]);
    section.extend([0; 8]);
    section.extend(container(&[cubin(50), cubin(60)]));
    section.extend([0; 8 * 4096]);
    section.extend(container(&[cubin(60)]));
    section.extend([0; 5]);
    let code = read(&elf(".nv_fatbin", &section)).unwrap();
    let counts: Vec<_> = code.fatbins().map(|(fatbin, count)| (fatbin.cubins.len(), count)).collect();
    assert_eq!((counts, code.count()), (vec![(2, 2), (1, 1)], 3));
    assert_eq!(code.serving(Capability::new(5, 2)), 2);
}

#[test]
fn archives_are_read_member_by_member() {
    let members = [
        b"symbols".to_vec(),
        elf(".nv_fatbin", &container(&[cubin(70)])),
        elf("__nv_relfatbin", &container(&[ptx(80)])),
    ];
    assert_eq!(carried(&archive(&members)), "sm_70 compute_80");
}

#[test]
fn other_files_have_no_device_code() {
    for bytes in [&b""[..], b"\x7fELF", b"#!/bin/sh\nexit", b"!<arch>\n", b"!<thin>\nlibx.o", &[0; 64]] {
        assert_eq!(carried(bytes), "no device code", "{bytes:?}");
    }
}

#[test]
fn what_lies_is_found_out() {
    let file = |section: &[u8]| read(&elf(".nv_fatbin", section)).unwrap_err().0;
    let sound = container(&[cubin(50)]);
    let with = |at: usize, value: u64| {
        let mut section = sound.clone();
        section[at..at + 8].copy_from_slice(&value.to_le_bytes());
        section
    };
    assert!(file(&with(0, 0x0010_0001_1234_5678)).contains("no fat binary, but 0x12345678"));
    for size in [u64::MAX, 1 << 40, sound.len() as u64 - 8] {
        assert!(file(&with(8, size)).contains("ends after its section"), "{size}");
    }
    for size in [u64::MAX, u64::MAX - 80, 25] {
        assert!(file(&with(24, size)).contains("ends after its fat binary"), "{size}");
    }
    // An entry without a header would never end.
    assert!(file(&with(16, 0x0000_0000_0101_0002)).contains("ends after its fat binary"));
    assert!(file(&with(40, 0x0000_0007_0000_0000 | 7)).contains("the architecture 7"));
}

#[test]
fn cut_files_are_errors_and_nothing_worse() {
    let file = elf(".nv_fatbin", &container(&[cubin(50), ptx(60)]));
    for length in 8..file.len() {
        assert!(read(&file[..length]).is_err(), "{length} of {} bytes", file.len());
    }
    let archive = archive(&[file]);
    for length in 9..archive.len() - 1 {
        assert!(read(&archive[..length]).is_err(), "{length} of {} bytes", archive.len());
    }
}

#[test]
fn sections_that_overlap_are_read_once_at_most() {
    let mut file = elf(".nv_fatbin", &container(&vec![cubin(50); 8]));
    let header = file[file.len() - 64..].to_vec();
    file.extend(header.repeat(3));
    file[60..62].copy_from_slice(&6_u16.to_le_bytes());
    assert_eq!(read(&file).unwrap_err().0, "its sections overlap");
}

#[test]
fn endless_combinations_are_refused() {
    let section: Vec<u8> = (0..=COMBINATIONS as u32)
        .flat_map(|number| {
            let bits = (0..13).filter(|bit| number >> bit & 1 == 1);
            container(&bits.map(|bit| cubin(50 + bit)).chain([cubin(90)]).collect::<Vec<_>>())
        })
        .collect();
    assert!(read(&elf(".nv_fatbin", &section)).unwrap_err().0.contains("different fat binaries"));
}

proptest::proptest! {
    #[test]
    fn no_byte_is_believed(at in 0_usize..800, value: u64, length in 0_usize..800) {
        let mut file = elf(".nv_fatbin", &container(&[cubin(50), ptx(60), cubin(90)]));
        let at = at.min(file.len() - 8);
        file[at..at + 8].copy_from_slice(&value.to_le_bytes());
        file.truncate(length.max(16));
        // Whatever comes of it, it ends, without a panic.
        let _ = read(&file);
        let _ = read(&archive(&[file]));
    }
}

#[test]
fn code_serves_by_nvidias_rules() {
    let gpu = |text: &str| text.parse::<Capability>().unwrap();
    let serves = |entries: &[Entry], capability: &str| {
        read(&elf(".nv_fatbin", &container(entries))).unwrap().serves(gpu(capability))
    };
    assert!(serves(&[cubin(50)], "5.2") && !serves(&[cubin(52)], "5.0") && !serves(&[cubin(50)], "6.0"));
    assert!(serves(&[ptx(52)], "12.0") && !serves(&[ptx(52)], "5.0"));
    let accelerated = entry(2, 90, 0x10_0000);
    assert!(serves(&[accelerated.clone()], "9.0") && !serves(&[entry(2, 100, 0x10_0000)], "10.3"));
    assert!(serves(&[entry(2, 100, 0x20_0000)], "10.3") && !serves(&[entry(1, 100, 0x20_0000)], "12.0"));
    let code = read(&elf(".nv_fatbin", &container(&[cubin(80), accelerated, ptx(90)]))).unwrap();
    let targets: Vec<_> = code.targets().iter().map(ToString::to_string).collect();
    assert_eq!(targets, ["8.0", "9.0+PTX"]);
    let meets = |target: &str| code.meets(target.parse().unwrap());
    assert!(meets("8.6") && meets("9.0+PTX") && meets("12.0+PTX") && meets("12.0"));
    assert!(!meets("8.0+PTX") && !meets("7.5"));
}

#[test]
fn code_survives_json() {
    let code = read(&elf(".nv_fatbin", &container(&[cubin(80), entry(2, 90, 0x10_0000), ptx(90)]))).unwrap();
    let json = serde_json::to_string(&code).unwrap();
    assert_eq!(json, r#"[[{"cubins":["80","90a"],"ptx":["90"]},1]]"#);
    assert_eq!(serde_json::from_str::<Code>(&json).unwrap(), code);
}
