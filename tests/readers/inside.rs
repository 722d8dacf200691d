//! An archive or a folder from elsewhere is read inside itself alone, as regular files, in time.

use super::*;

#[test]
fn a_layout_is_read_inside_itself_alone() {
    let bench = Bench::new();
    let read = |folder: &Path| {
        let pushed = Layout::open(folder).and_then(|layout| layout.parts()).map(drop);
        let inspected = Outside::open(folder)
            .and_then(|image| image.layers.iter().try_for_each(|layer| image.layer(layer).map(drop)));
        (pushed, inspected)
    };
    type Change = fn(&Path, &Path);
    let cases: [(&str, Change, &str); 6] = [
        (
            "a link that leads out",
            |_, blob| move_out(blob, |out, blob| symlink(out, blob).unwrap()),
            "leads out of its folder",
        ),
        ("a pipe", |_, blob| move_out(blob, |_, blob| pipe(blob)), "is no regular file"),
        ("a folder", |_, blob| move_out(blob, |_, blob| fs::create_dir(blob).unwrap()), "is no regular file"),
        (
            "blobs that are elsewhere",
            |folder, _| {
                move_out(&folder.join("blobs"), |out, blobs| symlink(out, blobs).unwrap());
            },
            "leads out of its folder",
        ),
        (
            "an index that is a pipe",
            |folder, _| move_out(&folder.join("index.json"), |_, index| pipe(index)),
            "is no regular file",
        ),
        (
            "an index that is elsewhere",
            |folder, _| {
                move_out(&folder.join("index.json"), |out, index| symlink(out, index).unwrap());
            },
            "leads out of its folder",
        ),
    ];
    for (name, change, said) in cases {
        let (folder, blob) = layout(&bench, name);
        change(&folder, &blob);
        let (pushed, inspected) = read(&folder);
        refused(pushed, Kind::Input, &[said]);
        refused(inspected, Kind::Input, &[said]);
    }
    // A link that stays inside is a way to have a blob twice.
    let (folder, blob) = layout(&bench, "inside");
    fs::rename(&blob, folder.join("blob")).unwrap();
    symlink("../../blob", &blob).unwrap();
    let (pushed, inspected) = read(&folder);
    pushed.unwrap();
    inspected.unwrap();
}

/// Moves something out of its layout, and has something else made in its place.
fn move_out(path: &Path, make: impl FnOnce(&Path, &Path)) {
    let out = tempfile::tempdir().unwrap().keep().join("out");
    fs::rename(path, &out).unwrap();
    make(&out, path);
}

#[test]
fn an_archive_is_read_inside_itself_alone() {
    let bench = Bench::new();
    let secret = bench.write("secret", "secret");
    let up = format!("../{}", secret.file_name().unwrap().to_str().unwrap());
    let archive = bench.path("image.tar");
    for name in [&up[..], secret.to_str().unwrap(), "nothing", "/etc/passwd", "a/../../secret"] {
        let manifest = serde_json::json!([{ "Config": "config.json", "Layers": [name] }]).to_string();
        write_archive(&archive, &[("manifest.json", manifest.as_bytes()), ("config.json", CONFIG)], &[]);
        let image = Outside::open(&archive).unwrap();
        refused(image.layer(name).map(drop), Kind::Input, &["it has no"]);
    }
    // Older versions of `docker save` write a layer that two images have as a link.
    let manifest =
        serde_json::json!([{ "Config": "config.json", "Layers": ["1/layer.tar", "2/layer.tar", "3"] }]);
    let manifest = manifest.to_string();
    let links = [("2/layer.tar", "../1/layer.tar"), ("3", "2/layer.tar"), ("4", "5"), ("5", "4")];
    let members =
        [("manifest.json", manifest.as_bytes()), ("config.json", CONFIG), ("1/layer.tar", b"layer")];
    write_archive(&archive, &members, &links);
    let image = Outside::open(&archive).unwrap();
    for name in &image.layers {
        let mut text = String::new();
        image.layer(name).unwrap().read_to_string(&mut text).unwrap();
        assert_eq!(text, "layer", "{name}");
    }
    refused(image.layer("4").map(drop), Kind::Input, &["it has no `4`"]);
}

#[test]
fn a_project_is_read_inside_itself_alone() {
    for name in ["pyproject.toml", ".dockerignore"] {
        let bench = Bench::new();
        bench.write("secret", "[project]\nname = \"secret\"\n");
        bench.write("project/src/a", "a");
        let path = bench.path(&format!("project/{name}"));
        let project = bench.path("project");
        let read = || match name {
            ".dockerignore" => project::read(&project, &[], &bench.store).map(drop),
            _ => assemble::lock::Manifest::read(&project).map(drop),
        };
        pipe(&path);
        refused(read(), Kind::Input, &[name, "is no regular file"]);
        fs::remove_file(&path).unwrap();
        symlink("../secret", &path).unwrap();
        refused(read(), Kind::Input, &[name, "leads out of its folder"]);
        fs::remove_file(&path).unwrap();
        symlink("/dev/zero", &path).unwrap();
        refused(read(), Kind::Input, &[name]);
        fs::remove_file(&path).unwrap();
        fs::File::create(&path).unwrap().set_len(1 << 40).unwrap();
        refused(read(), Kind::Input, &[name, "is larger than"]);
    }
}

/// 1,900 folders one within the other, and then more than a path can name.
#[test]
fn a_project_may_be_deep() {
    let bench = Bench::new();
    let project = bench.path("project");
    fs::create_dir(&project).unwrap();
    let patterns: String = (0..300).map(|number| format!("**/nothing-{number}/*.pyc\n")).collect();
    bench.write("project/.dockerignore", patterns);
    let dig = |depth: usize| {
        let script = "import os, sys\nos.chdir(sys.argv[1])\nfor _ in range(int(sys.argv[2])):\n os.makedirs('d', exist_ok=True); os.chdir('d')\n";
        output(Command::new("python3").args(["-c", script]).arg(&project).arg(depth.to_string()));
    };
    dig(1900);
    let read = project::read(&project, &[], &bench.store).unwrap();
    assert_eq!(read.files.len(), 1900 + 1);
    dig(3000);
    refused(
        project::read(&project, &[], &bench.store),
        Kind::Input,
        &["has a path of more than 4095 bytes below `d`"],
    );
    bench.write("project/.dockerignore", "d\n");
    assert_eq!(project::read(&project, &[], &bench.store).unwrap().files.len(), 1);
    output(Command::new("rm").arg("-r").arg(&project));
}

#[test]
fn patterns_have_a_number() {
    let bench = Bench::new();
    bench.write("project/.dockerignore", "a*\n".repeat(2001));
    refused(
        project::read(&bench.path("project"), &[], &bench.store),
        Kind::Input,
        &["more than 2000 patterns"],
    );
}
