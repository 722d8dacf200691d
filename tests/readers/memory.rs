//! Nothing that is read is held whole.

use super::*;

/// What no reader here comes near to, in kilobytes: what it reads has many times as much.
const LITTLE: u64 = 120_000;

/// Runs a test of this file as a child, with its files in `folder`; the most memory that it had, in kB.
fn peak(test: impl Fn(), folder: &Path) -> u64 {
    let command = child(test, folder);
    let printed = output(Command::new(&command[0]).args(&command[1..]));
    let printed = String::from_utf8_lossy(&printed).into_owned();
    let peak = printed.lines().find_map(|line| line.strip_prefix("peak "));
    peak.unwrap_or_else(|| panic!("no peak in\n{printed}")).parse().unwrap()
}

/// As the kernel has counted it (proc(5), `VmHWM`).
fn print_peak() {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")?.strip_suffix("kB")).unwrap();
    println!("\npeak {}", peak.trim());
}

/// 400 MB of zeros as a script: the one kind of member that is written anew.
#[test]
fn a_large_script_of_a_small_wheel() {
    if let Some(folder) = folder_of_child() {
        let bench = Bench::new();
        let image = wheel_image(&bench, &fs::read(folder.join(WHEEL)).unwrap());
        bench.realise(&image).unwrap();
        return print_peak();
    }
    let folder = tempfile::tempdir().unwrap();
    let mut writer = ::zip::ZipWriter::new(fs::File::create(folder.path().join(WHEEL)).unwrap());
    let mut add = |name: &str, content: &mut dyn Read| {
        let options = ::zip::write::SimpleFileOptions::default().compression_level(Some(1));
        writer.start_file(name, options).unwrap();
        std::io::copy(content, &mut writer).unwrap();
    };
    add("demo-1.0.data/scripts/demo", &mut (&b"#!python\n"[..]).chain(std::io::repeat(0).take(400 << 20)));
    add("demo-1.0.dist-info/RECORD", &mut &b""[..]);
    writer.finish().unwrap();
    assert!(fs::metadata(folder.path().join(WHEEL)).unwrap().len() < 4 << 20);
    let peak = peak(a_large_script_of_a_small_wheel, folder.path());
    assert!(peak < LITTLE, "{peak} kB");
}

#[test]
fn a_script_has_a_largest_size() {
    // The size that the archive records is looked at before a byte is inflated.
    let mut wheel =
        zip(&[member("demo-1.0.data/scripts/demo", "#!python\n"), member("demo-1.0.dist-info/RECORD", "")]);
    let size = 9_u32.to_le_bytes();
    let directory = wheel.windows(4).position(|four| four == b"PK\x01\x02").unwrap();
    assert_eq!(wheel[directory + 24..directory + 28], size);
    wheel[directory + 24..directory + 28].copy_from_slice(&(2_u32 << 30).to_le_bytes());
    let bench = Bench::new();
    let layout = assemble_layers::derivation::Layout::Site(scheme());
    refused(bench.wheels(&[(WHEEL, wheel)], layout), Kind::Input, &["is larger than 1073741824 bytes"]);
}

/// A file that is all hole.
#[test]
fn a_large_file_of_a_project() {
    if let Some(folder) = folder_of_child() {
        let bench = Bench::new();
        fs::create_dir(bench.path("project")).unwrap();
        fs::rename(folder.join("hole"), bench.path("project/hole")).unwrap();
        let project = project::read(&bench.path("project"), &[], &bench.store).unwrap();
        let ProjectFileKind::File { sha256, size, .. } = project.files[0].kind else { panic!() };
        let source = FileSource::Project { path: path("hole"), sha256, size };
        let entries = vec![FileEntry::<NodeId> { path: path("app/hole"), mode: 0o644, source }];
        bench.assembled(&[Builder::Files(Files { entries })]);
        return print_peak();
    }
    // On the file system that the store is on.
    let folder = tempfile::tempdir().unwrap();
    fs::File::create(folder.path().join("hole")).unwrap().set_len(400 << 20).unwrap();
    let peak = peak(a_large_file_of_a_project, folder.path());
    assert!(peak < LITTLE, "{peak} kB");
}

/// An archive of a megabyte whose layer has 300 MB of names.
#[test]
fn names_without_end() {
    if let Some(folder) = folder_of_child() {
        let inspected = Outside::open(&folder.join("image.tar"))
            .and_then(|image| Inspection::of_outside(&image, &folder));
        refused(inspected.map(drop), Kind::Input, &["the names of its files take more than 256 MiB"]);
        return print_peak();
    }
    let folder = tempfile::tempdir().unwrap();
    let mut layer = tar::Builder::new(GzEncoder::new(Vec::new(), Compression::fast()));
    let folders = "long/".repeat(700);
    for number in 0..90_000 {
        let mut header = tar::Header::new_gnu();
        header.set_size(0);
        header.set_mode(0o644);
        layer.append_data(&mut header, format!("{folders}{number}"), &b""[..]).unwrap();
    }
    let layer = layer.into_inner().unwrap().finish().unwrap();
    assert!(layer.len() < 8 << 20, "{}", layer.len());
    write_docker_archive(&folder.path().join("image.tar"), &[("layer.tar", &layer)]);
    let peak = peak(names_without_end, folder.path());
    assert!(peak < 500_000, "{peak} kB");
}
