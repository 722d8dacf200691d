use super::*;

#[path = "../../../tests/support/fatbin.rs"]
mod made;

use made::{Entry, LZ4, ZSTD, archive, container, cubin, elf, elf_of, entry, ptx};

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
    let section = container(&vec![cubin(50); 8]);
    let mut file = elf_of(&[(".nv_fatbin", &section), (".nv_fatbin", &[]), (".nv_fatbin", &[])]);
    let headers = file.len() - 5 * 64;
    let first = file[headers + 64..headers + 128].to_vec();
    file[headers + 128..headers + 256].copy_from_slice(&first.repeat(2));
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

#[test]
fn a_fat_binary_is_for_some_architectures() {
    let entries: Vec<_> = (10..300).map(cubin).collect();
    let said = read(&elf(".nv_fatbin", &container(&entries))).unwrap_err().0;
    assert!(said.contains("more than 256 architectures"), "{said}");
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
    assert!(
        serves(std::slice::from_ref(&accelerated), "9.0") && !serves(&[entry(2, 100, 0x10_0000)], "10.3")
    );
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

#[test]
fn what_waits_for_a_device_link_counts_where_nothing_was_linked() {
    let (linked, waiting) = (container(&[cubin(50)]), container(&[cubin(90)]));
    let both = elf_of(&[("__nv_relfatbin", &waiting), (".nv_fatbin", &linked)]);
    assert_eq!(carried(&both), "sm_50");
    // In an archive each member is linked, or not, for itself.
    assert_eq!(carried(&archive(&[both, elf("__nv_relfatbin", &waiting)])), "sm_50 sm_90");
}
