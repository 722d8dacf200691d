//! Outputs that are no files, exit codes, and what reaches the terminal.

use super::*;

#[test]
fn an_output_that_is_no_file_is_written_into() {
    let bench = Bench::new();
    let image = assembled(&bench);
    let mut right = Vec::new();
    to_writer(&bench.store, &image, &names(), &mut right).unwrap();
    let write = |name: &str| to_file(&bench.store, &image, &names(), &bench.path(name));

    pipe(&bench.path("pipe"));
    let from = bench.path("pipe");
    let reader = std::thread::spawn(move || fs::read(from).unwrap());
    write("pipe").unwrap();
    assert!(reader.join().unwrap() == right, "another archive came through the pipe");
    assert!(fs::symlink_metadata(bench.path("pipe")).unwrap().file_type().is_fifo());

    bench.write("below/old.tar", "old");
    symlink("below/old.tar", bench.path("link")).unwrap();
    write("link").unwrap();
    assert!(bench.path("link").is_symlink());
    assert!(fs::read(bench.path("below/old.tar")).unwrap() == right);

    symlink("/dev/null", bench.path("null")).unwrap();
    write("null").unwrap();
    assert!(bench.path("null").is_symlink());
    to_file(&bench.store, &image, &names(), Path::new("/dev/null")).unwrap();
    assert!(fs::metadata("/dev/null").unwrap().file_type().is_char_device());
    refused(to_file(&bench.store, &image, &names(), Path::new("/dev/full")), Kind::Store, &[]);
    refused(write("below"), Kind::Usage, &["is a folder"]);
}

/// Ends it where it would wait for ever.
fn program(arguments: &[&Path]) -> Output {
    let mut command = Command::new("timeout");
    command.arg("60").arg(env!("CARGO_BIN_EXE_assemble")).args(arguments);
    command.stdin(Stdio::null()).output().unwrap()
}

#[test]
fn a_wrong_input_is_a_wrong_input() {
    let bench = Bench::new();
    let (folder, _) = layout(&bench, "layout");
    let whole = bench.path("whole.tar");
    to_file(&bench.store, &assembled(&bench), &names(), &whole).unwrap();
    let bytes = fs::read(&whole).unwrap();
    pipe(&bench.path("pipe"));
    let broken_layer = bench.path("layer.tar");
    write_docker_archive(
        &broken_layer,
        &[("layer.tar", &[&[0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255][..], &[7; 99]].concat())],
    );
    let zstd = bench.path("zstd.tar");
    write_docker_archive(&zstd, &[("layer.tar", &[&[0x28, 0xb5, 0x2f, 0xfd][..], &[0xff; 99]].concat())]);
    let cases = [
        bench.write("empty.tar", ""),
        bench.write("text.tar", "no archive at all"),
        bench.write("noise.tar", [7; 4096]),
        bench.write("cut.tar", &bytes[..bytes.len() / 2]),
        bench.write("header.tar", &bytes[..700]),
        bench.path("pipe"),
        "/dev/zero".into(),
        broken_layer,
        zstd,
    ];
    for file in &cases {
        for (arguments, verb) in [(vec!["push"], "push"), (vec!["inspect", "--gpu"], "inspect")] {
            let mut arguments: Vec<&Path> = arguments.into_iter().map(Path::new).collect();
            arguments.push(file);
            if verb == "push" {
                arguments.push(Path::new("127.0.0.1:1/demo:1"));
            }
            let done = program(&arguments);
            let said = String::from_utf8_lossy(&done.stderr).into_owned();
            assert_eq!(done.status.code(), Some(3), "{verb} {}: {said}", file.display());
        }
    }
    let done = program(&[Path::new("push"), &bench.path("nothing.tar"), Path::new("127.0.0.1:1/demo:1")]);
    assert_eq!(done.status.code(), Some(3), "{done:?}");
    // What is right gets as far as the registry that is not there.
    let done = program(&[Path::new("push"), &folder, Path::new("127.0.0.1:1/demo:1")]);
    assert_eq!(done.status.code(), Some(5), "{done:?}");
}

#[test]
fn a_project_of_pipes_does_not_hang() {
    let bench = Bench::new();
    fs::create_dir(bench.path("project")).unwrap();
    for name in ["pyproject.toml", "assemble.lock"] {
        let file = bench.path(&format!("project/{name}"));
        pipe(&file);
        let (project, store) = (bench.path("project"), bench.path("other"));
        let arguments = ["plan", "--offline", "--project"].map(Path::new);
        let done = program(&[&arguments[..], &[&project, Path::new("--store"), &store]].concat());
        let said = String::from_utf8_lossy(&done.stderr).into_owned();
        assert_eq!(done.status.code(), Some(3), "{name}: {said}");
        assert!(said.contains("is no regular file"), "{said}");
        fs::remove_file(&file).unwrap();
        bench.write(&format!("project/{name}"), "[project]\nname = \"demo\"\n");
    }
}

#[test]
fn nothing_from_outside_steers_the_terminal() {
    let bench = Bench::new();
    let hostile = "\u{1b}[2J\u{9b}31m\u{202e}evil\u{7}";
    // A media type, which is named where it is not the manifest's.
    let (folder, _) = layout(&bench, "layout");
    let index = fs::read_to_string(folder.join("index.json")).unwrap();
    let mut index: serde_json::Value = serde_json::from_str(&index).unwrap();
    index["manifests"][0]["mediaType"] = hostile.into();
    fs::write(folder.join("index.json"), index.to_string()).unwrap();
    let done = program(&[Path::new("push"), &folder, Path::new("127.0.0.1:1/demo:1")]);
    let said = String::from_utf8(done.stderr).unwrap();
    assert!(said.contains(r"\u{1b}[2J\u{9b}31m\u{202e}evil\u{7}"), "{said:?}");
    assert!(!said.contains(|character: char| character.is_control() && character != '\n'), "{said:?}");

    // A name in a layer, which is listed because it begins as a library does.
    let mut layer = tar::Builder::new(Vec::new());
    let library = [b"\x7fELF\x02\x01\x01".as_slice(), &[1; 57]].concat();
    let mut header = tar::Header::new_gnu();
    header.set_size(library.len() as u64);
    layer.append_data(&mut header, format!("usr/{hostile}.so"), &library[..]).unwrap();
    let archive = bench.path("names.tar");
    write_docker_archive(&archive, &[("layer.tar", &layer.into_inner().unwrap())]);
    for json in [false, true] {
        let mut arguments = vec![Path::new("inspect"), Path::new("--gpu"), &archive];
        arguments.extend(json.then_some(Path::new("--json")));
        let done = program(&arguments);
        assert!(done.status.success(), "{done:?}");
        let said = String::from_utf8(done.stdout).unwrap();
        assert!(
            said.contains("evil") && !said.contains(['\u{1b}', '\u{9b}', '\u{202e}', '\u{7}']),
            "{said:?}"
        );
        if json {
            let value: serde_json::Value = serde_json::from_str(&said).unwrap();
            // A path is text of one line, without loss.
            let path = "/usr/%1B[2J\u{9b}31m\u{202e}evil%07.so";
            assert_eq!(value["libraries"][0]["path"], path);
        }
    }
}
