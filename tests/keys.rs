//! Keys and identities: what they are today, so that a change of them is never an accident.

use std::collections::BTreeMap;

use crate::support::{self, Bench, Member, fetch, member, path, scheme, zip};
use assemble_layers::amend::{Amend, Folder};
use assemble_layers::derivation::{
    Cache, DebInput, Effort, Fetch, FileEntry, FileSource, Files, Git, ImageLayer, InputFile, Jobs, Layout,
    Origin, Output, Relocation, Run, UnpackArchive, UnpackDebs, UnpackWheels, WheelInput,
};
use assemble_layers::pack::Compression;
use assemble_layers::tree::RawBytes;
use assemble_layers::{BlobDigest, Builder, Commit, DiffId, Entry, Graph, Platform, Sha256, TreePath};
use proptest::prelude::*;

const PLATFORM: Platform = Platform::LinuxAmd64;

fn digest(number: u8) -> Sha256 {
    Sha256::from_bytes([number; 32])
}

fn commit(number: u8) -> Commit {
    format!("{number:040x}").parse().unwrap()
}

fn text(text: &str) -> RawBytes {
    RawBytes(text.as_bytes().to_vec())
}

/// One of each kind of what a file may come from.
fn all_files<Input>(tree: Input) -> Files<Input> {
    let entry = |name: &str, mode, source| FileEntry { path: path(name), mode, source };
    let project = FileSource::Project { path: path("src/x"), sha256: Sha256::of(b"x"), size: 1 };
    Files {
        entries: vec![
            entry("app", 0o755, FileSource::Directory),
            entry("app/link", 0o777, FileSource::Symlink(text("x"))),
            entry("app/literal", 0o644, FileSource::Literal(text("literal"))),
            entry("app/x", 0o755, project),
            entry("app/y", 0o644, FileSource::Tree { tree, path: path("src/y") }),
        ],
    }
}

fn wheels(layout: Layout) -> Builder<Sha256> {
    let wheel = |filename: &str, number, requested| WheelInput {
        filename: filename.into(),
        file: digest(number),
        requested,
    };
    Builder::UnpackWheels(UnpackWheels {
        wheels: vec![wheel("a.whl", 1, false), wheel("b.whl", 2, true)],
        layout,
    })
}

fn run(output: Output) -> Builder<Sha256> {
    Builder::Run(Run {
        root: vec![digest(1), digest(2)],
        files: Vec::new(),
        command: vec!["make".into(), "all".into()],
        environment: [("A".to_owned(), "1".to_owned()), ("B".to_owned(), String::new())].into(),
        working_directory: "/src".into(),
        output,
        effort: Effort::default(),
    })
}

/// A program, a text and what no image has.
fn tar() -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    for (name, mode, content) in
        [("top/run", 0o700, "#!"), ("top/text", 0o400, "x"), ("top/left-out/y", 0o644, "y")]
    {
        let mut header = tar::Header::new_ustar();
        header.set_mode(mode);
        header.set_size(content.len() as u64);
        tar.append_data(&mut header, name, content.as_bytes()).unwrap();
    }
    tar.into_inner().unwrap()
}

fn with_file(builder: Builder<Sha256>) -> Builder<Sha256> {
    let Builder::Run(mut run) = builder else { panic!("no command") };
    run.files.push(InputFile { path: "/in".into(), file: digest(3) });
    Builder::Run(run)
}

#[test]
fn keys_are_these() {
    let relocation = |from: &str, to: Option<&str>| Relocation { from: from.to_owned(), to: to.map(path) };
    let debs = Builder::UnpackDebs(UnpackDebs {
        over: vec![digest(1)],
        packages: vec![DebInput { package: "libc6".into(), file: digest(2), automatic: true }],
        without: Vec::new(),
    });
    let mut without = debs.clone();
    if let Builder::UnpackDebs(debs) = &mut without {
        debs.without.push(path("var/lib/mysql"));
    }
    let folder = Folder::of(&Entry { mode: 0o700, uid: 7, ..Entry::directory(path("root")) });
    let amend = Amend { tree: digest(1), folders: vec![folder], without: vec![path("usr/bin/pip")] };
    for (builder, key) in [
        (without, "3d0d17ab9c4fc18d743fad72af19919a99b141cd1d0305b21a5e45690c8bf227"),
        (Builder::Amend(amend), "713c20d7d6c6d18a8982cde81fc2d9f5e707433cdff26e7a9d4377b834d805da"),
        (
            Builder::Fetch(fetch("a.whl", b"a")),
            "8f95cdbc299f99421bafafd6e359a1b870799a8f8e94a8c40621adfee007acdc",
        ),
        (debs, "fb2e252b2b25a3fbc2e21973116fdb2286bbc07ac3c36cee41855911aff5d15b"),
        (wheels(Layout::Site(scheme())), "2c39539faabae0edf1c46ecd4421635f49144d6e48841e21f153772288cb96ef"),
        (
            wheels(Layout::Relocate(vec![relocation("a/*", Some("opt")), relocation("b", None)])),
            "d874304bfd90e0d011fc398e0beee682c610b1267b7d218681b7a11f9c5d5b75",
        ),
        (
            Builder::UnpackArchive(UnpackArchive {
                file: digest(1),
                rules: vec![relocation("a/*", Some("opt")), relocation("b", None)],
            }),
            "1eae670bc39af56307ab1959da03bab8099b1982d5ecf002b2db67dfb0b40fd8",
        ),
        (
            Builder::Git(Git { url: "https://example.org/a".into(), commit: commit(1), folder: path("src") }),
            "197d078996ec964931983c77f22b9b61e931405d7687821d7a8ca22ebfd74ec1",
        ),
        (
            Builder::Files(all_files(digest(1))),
            "5ed5c0d6cb3229255d062a7116151789cd356aeb9b6a664ab9c17ba3b5f63ddb",
        ),
        (run(Output::Difference), "74d658e2d3ec3d0c0e023d19a938f4ab18fa0a28d55fbbe829c16ddacc7e40f8"),
        (
            run(Output::Folder(path("out"))),
            "8d29b4a3a280ba62323b61e117093ee71e61bbb46af7849244e81a5261c926ad",
        ),
        (
            with_file(run(Output::Difference)),
            "89092fa6e7da40766270c2bec0c5486ad4f29154528015e9176bbca57efc0fba",
        ),
    ] {
        assert_eq!(
            builder.key(PLATFORM).hex(),
            key,
            "the key of this changed, and every store and cache is empty now: {builder:#?}"
        );
    }
}

/// The builders that need no sandbox; those that do are held in `tests/sandbox.rs`.
#[test]
fn trees_are_these() {
    let bench = Bench::new();
    bench.write("project/src/x", "x");
    let mut graph = Graph::default();
    let other = graph.add("other", Builder::Files(support::files(&[("src/y", "y")])));
    let files = graph.add("files", Builder::Files(all_files(other)));
    let (files, _) = bench.tree(&graph, files).unwrap();

    let script = Member { mode: 0o755, ..member("demo-1.data/scripts/run", "#!python\n") };
    let info = |name: &str, text: &str| member(&format!("demo-1.dist-info/{name}"), text);
    let members = [
        member("demo/__init__.py", "pass\n".repeat(9)),
        script,
        info("entry_points.txt", "[console_scripts]\ndemo = demo:main\n"),
        info("RECORD", ""),
    ];
    let wheels = [("demo-1-py3-none-any.whl", zip(&members))];
    let (site, _) = bench.wheels(&wheels, Layout::Site(scheme())).unwrap();
    let rules = ["demo", "demo-1.data", "demo-1.dist-info"]
        .map(|from| Relocation { from: from.into(), to: Some(path("opt")) });
    let (relocated, _) = bench.wheels(&wheels, Layout::Relocate(rules.to_vec())).unwrap();
    let archive = bench.archive(&tar(), &[("top/left-out", None), ("top", Some("opt"))]).unwrap();
    for (builder, found, wanted) in [
        ("unpack-archive", archive.0, "557efff1b1e11239b1071b26392716affa255ac7dc705206500815d3d2e08930"),
        ("files", files, "15de41371db3af643a46c4b8d66196bb36e4b0adbce6b85f7f70bb57fde09cb1"),
        ("unpack-wheels", site, "36dfdc002ad7eae26dabb6f4edbd7587930d93aa64519fdf559b1e8135598dbe"),
        ("unpack-wheels", relocated, "668395de02e7776448f97707bd99667aebda01d490752f0f71558db1ba1500d2"),
    ] {
        assert_eq!(
            found.hex(),
            wanted,
            "`{builder}` makes another tree of the same input: raise the builder's version in \
             layers/src/derivation.rs, then write the new diffID and key here"
        );
    }
}

/// Computed independently, by the encoding that `assemble_layers::encode` documents: the platform is in it.
/// `python3 -c 'import hashlib; n = lambda i: i.to_bytes(8, "little"); t = lambda s: n(len(s)) + s;
/// print(hashlib.sha256(t(b"assemble derivation") + t(b"image-layer") + n(1) + t(b"linux/amd64")
/// + bytes([1] * 32)).hexdigest())'`
#[test]
fn a_key_is_of_its_platform() {
    let layer = Builder::ImageLayer::<Sha256>(ImageLayer {
        repository: "r.example/a".into(),
        digest: BlobDigest(digest(2)),
        size: 3,
        compression: Compression::Gzip,
        diff_id: DiffId(digest(1)),
    });
    assert_eq!(layer.key(PLATFORM).hex(), "3df2a5063445938029f888af11bdef07a90240548476a2a846d95db48ca9ced3");
}

/// Few texts, so that equal ones and such as differ by a border are met.
fn word() -> impl Strategy<Value = String> {
    "[ab]{0,2}"
}

fn tree_path() -> impl Strategy<Value = TreePath> {
    "[ab]{1,2}(/[ab])?".prop_map(|text| path(&text))
}

fn input() -> impl Strategy<Value = Sha256> {
    (0..2u8).prop_map(digest)
}

fn list<T: Strategy>(of: T) -> impl Strategy<Value = Vec<T::Value>> {
    prop::collection::vec(of, 0..3)
}

fn any_builder() -> impl Strategy<Value = Builder<Sha256>> {
    let origin = prop_oneof![
        (word(), word()).prop_map(|(suite, path)| Origin::Debian { suite, path }),
        (word(), prop::option::of(word())).prop_map(|(project, source)| Origin::Python { project, source }),
        word().prop_map(|url| Origin::Url { url }),
    ];
    let fetch = (word(), input(), 0..2u64, origin)
        .prop_map(|(file, sha256, size, origin)| Builder::Fetch(Fetch { file, sha256, size, origin }));
    let deb = (word(), input(), any::<bool>()).prop_map(|(package, file, automatic)| DebInput {
        package,
        file,
        automatic,
    });
    let debs = (list(input()), list(deb), list(tree_path()))
        .prop_map(|(over, packages, without)| Builder::UnpackDebs(UnpackDebs { over, packages, without }));
    let rule = (word(), prop::option::of(tree_path())).prop_map(|(from, to)| Relocation { from, to });
    let layout = prop_oneof![
        (word(), word()).prop_map(|(interpreter, installer)| {
            Layout::Site(assemble_layers::python::Scheme { interpreter, installer, ..scheme() })
        }),
        list(rule).prop_map(Layout::Relocate),
    ];
    let wheel = (word(), input(), any::<bool>()).prop_map(|(filename, file, requested)| WheelInput {
        filename,
        file,
        requested,
    });
    let wheels = (list(wheel), layout)
        .prop_map(|(wheels, layout)| Builder::UnpackWheels(UnpackWheels { wheels, layout }));
    let source = prop_oneof![
        Just(FileSource::Directory),
        word().prop_map(|target| FileSource::Symlink(text(&target))),
        word().prop_map(|literal| FileSource::Literal(text(&literal))),
        (tree_path(), input(), 0..2u64).prop_map(|(path, sha256, size)| FileSource::Project {
            path,
            sha256,
            size
        }),
        (input(), tree_path()).prop_map(|(tree, path)| FileSource::Tree { tree, path }),
        input().prop_map(|file| FileSource::Fetched { file }),
    ];
    let entry =
        (tree_path(), 0..2u32, source).prop_map(|(path, mode, source)| FileEntry { path, mode, source });
    let files = list(entry).prop_map(|entries| Builder::Files(Files { entries }));
    let output = prop_oneof![Just(Output::Difference), tree_path().prop_map(Output::Folder)];
    let environment = prop::collection::btree_map(word(), word(), 0..3);
    let effort = prop_oneof![
        Just(Effort::default()),
        (tree_path(), word(), word(), 0..2u64).prop_map(|(name, path, variable, memory)| Effort {
            cache: Some(Cache { name, path }),
            jobs: Some(Jobs { variable, memory }),
        }),
    ];
    let file = (word(), input()).prop_map(|(path, file)| InputFile { path, file });
    let run = (list(input()), list(file), list(word()), environment, word(), output, effort).prop_map(
        |(root, files, command, environment, working_directory, output, effort)| {
            Builder::Run(Run { root, files, command, environment, working_directory, output, effort })
        },
    );
    let git = (word(), 0..2u8, tree_path())
        .prop_map(|(url, number, folder)| Builder::Git(Git { url, commit: commit(number), folder }));
    let folder = (tree_path(), 0..2u32, 0..2u32).prop_map(|(path, mode, uid)| Folder {
        xattrs: (uid == 1).then(|| ("user.a".to_owned(), text("b"))).into_iter().collect(),
        ..Folder::of(&Entry { mode, uid, gid: mode, ..Entry::directory(path) })
    });
    let rule = (word(), prop::option::of(tree_path())).prop_map(|(from, to)| Relocation { from, to });
    let archive =
        (input(), list(rule)).prop_map(|(file, rules)| Builder::UnpackArchive(UnpackArchive { file, rules }));
    let amend = (input(), list(folder), list(tree_path()))
        .prop_map(|(tree, folders, without)| Builder::Amend(Amend { tree, folders, without }));
    prop_oneof![fetch, git, debs, wheels, archive, files, run, amend]
}

/// A builder without what is no part of what it makes: where a file comes from, how hard it is worked.
fn essence(builder: &Builder<Sha256>) -> Builder<Sha256> {
    let mut builder = builder.clone();
    match &mut builder {
        Builder::Fetch(fetch) => {
            fetch.file.clear();
            fetch.origin = Origin::Debian { suite: String::new(), path: String::new() };
        }
        Builder::Files(files) => {
            for entry in &mut files.entries {
                if let FileSource::Project { path: from, .. } = &mut entry.source {
                    *from = path("anywhere");
                }
            }
        }
        Builder::Git(git) => git.url.clear(),
        Builder::Run(run) => run.effort = Effort::default(),
        _ => {}
    }
    builder
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn keys_are_equal_where_the_builders_are(builders in prop::collection::vec(any_builder(), 2..60)) {
        let mut known = BTreeMap::new();
        for builder in &builders {
            let essence = essence(builder);
            let first = known.entry(builder.key(PLATFORM)).or_insert_with(|| essence.clone());
            prop_assert_eq!(first, &essence, "one key for two builders");
            prop_assert_eq!(essence.key(PLATFORM), builder.key(PLATFORM), "a key of where a file comes from");
        }
    }

    #[test]
    fn builders_are_mapped_input_by_input(builder in any_builder()) {
        let mut met = Vec::new();
        let mapped = builder.try_map(|input| {
            met.push(*input);
            Ok::<_, ()>((met.len(), *input))
        }).unwrap();
        prop_assert_eq!(met.iter().collect::<Vec<_>>(), builder.inputs());
        let numbers: Vec<usize> = mapped.inputs().into_iter().map(|(number, _)| *number).collect();
        prop_assert_eq!(numbers, (1..=met.len()).collect::<Vec<_>>());
        prop_assert_eq!(mapped.try_map(|(_, input)| Ok::<_, ()>(*input)).unwrap(), builder.clone());
        if !met.is_empty() {
            prop_assert_eq!(builder.try_map(|_| Err::<Sha256, _>("first")), Err("first"));
        }
    }

    #[test]
    fn builders_survive_json(builder in any_builder()) {
        let json = serde_json::to_string(&builder).unwrap();
        prop_assert_eq!(serde_json::from_str::<Builder<Sha256>>(&json).unwrap(), builder);
    }
}
