//! An image as a whole: what its layers are to each other. Steps run in the sandbox, over roots of files
//! and of the machine's static `busybox`.

mod support;

#[path = "support/podman.rs"]
mod podman;

use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::process::{Command, ExitCode};

use assemble::realise::{Had, RealisedLayer, State, Whole};
use assemble::{Error, Kind, Result};
use assemble_layers::derivation::{
    Effort, FileEntry, FileSource, Files, Layout, Output, Run, UnpackWheels, WheelInput,
};
use assemble_layers::image::Layer;
use assemble_layers::tree::RawBytes;
use assemble_layers::{Builder, Entry, Graph, Image, Kind as EntryKind, NodeId, Tree};
use support::{Bench, Member, fetch, files, member, output, path, scheme, skipped, zip};

fn main() -> ExitCode {
    assemble::sandbox::run_if_helper();
    macro_rules! tests {
        ($($name:ident),* $(,)?) => { support::run(support::without_busybox("an image's build steps"), &[$((stringify!($name), $name as fn())),*]) };
    }
    tests![
        a_folder_is_what_its_package_made_of_it_whoever_lies_above,
        what_was_mended_is_known_afterwards,
        a_layer_below_is_not_touched_by_what_lies_above,
        a_folder_that_one_step_changes_is_not_undone_by_another_that_found_it_otherwise,
        a_file_has_one_owner,
        the_same_file_twice_is_one_file,
        contents_that_decided_are_looked_at_again,
        a_file_that_was_fetched_is_laid_as_it_is,
        two_wheels_of_one_layer_with_one_file_are_both_named,
        what_is_made_over_something_lies_above_it,
        what_a_step_removes_is_not_another_s,
        a_file_stands_over_no_folder,
        a_folder_is_not_put_in_the_place_of_a_link,
        a_container_can_start,
        the_highest_passwd_counts,
        no_name_is_a_whiteout_whoever_makes_it,
        a_path_is_no_longer_than_engines_take,
        an_image_has_no_more_layers_than_engines_take,
        a_private_key_is_in_no_layer,
        a_key_of_the_project_is_none_of_a_wheel_s,
        a_database_s_folder_is_said_to_be_by_chance,
        engines_show_what_the_image_says,
    ]
}

/// An image in the making.
struct Scene {
    bench: Bench,
    graph: Graph,
    layers: Vec<Layer>,
}

impl Scene {
    fn new() -> Self {
        let bench = Bench::new();
        Self { bench, graph: Graph::default(), layers: Vec::new() }
    }

    fn layer(&mut self, name: &str, builder: Builder<NodeId>) -> NodeId {
        let tree = self.graph.add(name, builder);
        self.layers.push(Layer { tree, step: "step".to_owned(), created_by: name.to_owned() });
        tree
    }

    fn wheels(&mut self, name: &str, wheels: &[(&str, Vec<u8>)]) -> NodeId {
        let inputs = wheels.iter().map(|(filename, bytes)| {
            self.bench.store.put_bytes(bytes).unwrap();
            let file = self.graph.add(*filename, Builder::Fetch(fetch(filename, bytes)));
            WheelInput { filename: (*filename).to_owned(), file, requested: false }
        });
        let wheels = inputs.collect();
        self.layer(name, Builder::UnpackWheels(UnpackWheels { wheels, layout: Layout::Site(scheme()) }))
    }

    /// A root with a shell, and with folders that others may not enter.
    fn debian(&mut self) -> NodeId {
        let busybox = std::fs::read("/bin/busybox").expect("the package busybox-static");
        let folder = |name: &str, mode| entry(name, mode, FileSource::Directory);
        let entries = vec![
            entry("bin/sh", 0o755, FileSource::Literal(RawBytes(busybox))),
            folder("root", 0o700),
            folder("etc/ssl/private", 0o710),
            folder("tmp", 0o1777),
            entry("etc/conf", 0o644, FileSource::Literal(RawBytes(b"as shipped".to_vec()))),
        ];
        self.layer("debian", Builder::Files(Files { entries }))
    }

    fn run(&mut self, name: &str, root: &[NodeId], script: &str) -> NodeId {
        self.layer(name, run(root, script))
    }

    fn image(&self) -> Image {
        let (graph, layers) = (self.graph.clone(), self.layers.clone());
        Image { name: "demo".into(), variant: "test".into(), graph, layers, ..Image::default() }
    }

    fn realise(&self, image: &Image) -> Result<Whole> {
        self.bench.engine(|engine| engine.realise(image))
    }

    fn whole(&self) -> Result<Whole> {
        self.realise(&self.image())
    }

    fn tree(&self, layer: &RealisedLayer) -> Tree {
        self.bench.store.tree(layer.diff_id).unwrap().unwrap()
    }
}

fn entry(name: &str, mode: u32, source: FileSource<NodeId>) -> FileEntry<NodeId> {
    FileEntry { path: path(name), mode, source }
}

fn run(root: &[NodeId], script: &str) -> Builder<NodeId> {
    Builder::Run(Run {
        root: root.to_vec(),
        files: Vec::new(),
        command: ["/bin/sh", "-c", script].map(str::to_owned).to_vec(),
        environment: [("PATH".to_owned(), "/bin".to_owned())].into(),
        working_directory: "/".to_owned(),
        output: Output::Difference,
        effort: Effort::default(),
    })
}

fn literal(name: &str, text: &str) -> Builder<NodeId> {
    Builder::Files(files(&[(name, text)]))
}

fn wheel(name: &str, members: &[(&str, &str)]) -> Vec<u8> {
    let info = |file: &str| format!("{name}-1.0.dist-info/{file}");
    let mut all: Vec<Member> = members.iter().map(|(path, text)| member(path, *text)).collect();
    all.push(member(&info("WHEEL"), "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"));
    all.push(member(&info("METADATA"), format!("Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")));
    all.push(member(&info("RECORD"), ""));
    zip(&all)
}

/// What the highest layer says that holds the path, as an engine shows it.
fn seen(scene: &Scene, whole: &Whole, name: &str) -> Entry {
    let trees = whole.layers.iter().rev().map(|layer| scene.tree(layer));
    trees.filter_map(|tree| tree.find(&path(name)).cloned()).next().expect("somebody holds it")
}

#[track_caller]
fn refused(result: Result<Whole>, parts: &[&str]) -> Error {
    let error = result.map(|whole| whole.layers).unwrap_err();
    let text = error.to_string();
    assert_eq!(error.kind(), Kind::Input, "{text}");
    for part in parts {
        assert!(text.contains(part), "{part}: {text}");
    }
    error
}

fn a_folder_is_what_its_package_made_of_it_whoever_lies_above() {
    let mut scene = Scene::new();
    let debian = scene.debian();
    scene.run("keys", &[debian], "echo secret >/etc/ssl/private/site; echo alias >/root/.bash_aliases");
    // Both only need the folders to be there.
    scene.layer("files", literal("root/.config/app", "x"));
    let data = [("demo/__init__.py", ""), ("demo-1.0.data/data/share/x", "x")];
    scene.wheels("wheel", &[("demo-1.0-py3-none-any.whl", wheel("demo", &data))]);
    let whole = scene.whole().unwrap();
    for (name, mode) in [("root", 0o700), ("etc/ssl/private", 0o710), ("tmp", 0o1777), ("etc", 0o755)] {
        assert_eq!(seen(&scene, &whole, name).mode, mode, "{name}");
    }
    let keys = scene.tree(&whole.layers[1]);
    assert_eq!(keys.find(&path("etc/ssl/private")).unwrap().mode, 0o710);
    // What is not wrong is not touched: the wheel's layer is its own tree.
    assert_eq!(whole.image.layers[3].tree, scene.layers[3].tree);
    assert_ne!(whole.image.layers[2].tree, scene.layers[2].tree);
}

/// A layer that was mended is a result like any other.
fn what_was_mended_is_known_afterwards() {
    let mut scene = Scene::new();
    scene.debian();
    scene.layer("files", literal("root/.config/app", "x"));
    let image = scene.image();
    let (one, other) = (scene.whole().unwrap(), scene.whole().unwrap());
    let diff_ids = |whole: &Whole| whole.layers.iter().map(|layer| layer.diff_id).collect::<Vec<_>>();
    assert_eq!(diff_ids(&one), diff_ids(&other));
    assert!(one.layers.iter().all(|layer| layer.had == Had::Built));
    assert!(other.layers.iter().all(|layer| layer.had == Had::Reused));
    let (plan, made) =
        scene.bench.engine(|engine| (engine.plan(&image).unwrap(), engine.made(&image).unwrap()));
    assert!(plan.layers.iter().all(|layer| layer.state == State::Reuse), "{plan:?}");
    assert_eq!(made.1.into_iter().map(|(diff_id, _)| diff_id).collect::<Vec<_>>(), diff_ids(&one));
}

fn a_layer_below_is_not_touched_by_what_lies_above() {
    let mut scene = Scene::new();
    scene.layer("files", literal("root/.config/app", "x"));
    scene.debian();
    let whole = scene.whole().unwrap();
    assert_eq!(whole.image.layers[0].tree, scene.layers[0].tree);
    assert_eq!(seen(&scene, &whole, "root").mode, 0o700);
}

fn a_folder_that_one_step_changes_is_not_undone_by_another_that_found_it_otherwise() {
    let mut scene = Scene::new();
    let debian = scene.debian();
    let made = scene.run("srv", &[debian], "mkdir /srv; chmod 755 /srv; echo one >/srv/one");
    scene.run("closed", &[debian, made], "chmod 700 /srv");
    scene.run("sibling", &[debian, made], "echo two >/srv/two");
    let whole = scene.whole().unwrap();
    assert_eq!(seen(&scene, &whole, "srv").mode, 0o700);
    assert!(scene.tree(&whole.layers[3]).find(&path("srv/two")).is_some());

    scene.run("open", &[debian, made], "chmod 777 /srv");
    let error = refused(scene.whole(), &["two layers disagree about the folder `/srv`", "`closed`", "0777"]);
    assert!(error.hint_text().unwrap().contains("ImageRecipe::counts"));
    for (owner, mode) in [(2, 0o700), (4, 0o777)] {
        let mut image = scene.image();
        image.meant.owners.insert(path("srv"), scene.layers[owner].tree);
        assert_eq!(seen(&scene, &scene.realise(&image).unwrap(), "srv").mode, mode);
    }
}

fn a_file_has_one_owner() {
    let mut scene = Scene::new();
    let pip =
        ("pip-1.0-py3-none-any.whl", wheel("pip", &[("pip.py", "1"), ("pip-1.0.data/scripts/pip", "a")]));
    let thief = ("thief-1.0-py3-none-any.whl", wheel("thief", &[("thief-1.0.data/scripts/pip", "b")]));
    let pip = scene.wheels("pip and poetry", &[pip]);
    let thief = scene.wheels("thief 1.0", &[thief]);
    refused(
        scene.whole(),
        &[
            "`/usr/local/bin/pip` stands in two layers, and neither is made over the other",
            "`pip and poetry` (step), from `pip-1.0-py3-none-any.whl`",
            "`thief 1.0` (step), from `thief-1.0-py3-none-any.whl`",
            "ImageRecipe::counts",
        ],
    );
    for (owner, text) in [(pip, "a"), (thief, "b")] {
        let mut image = scene.image();
        image.meant.owners.insert(path("usr/local/bin"), owner);
        let whole = scene.realise(&image).unwrap();
        let EntryKind::File(content) = seen(&scene, &whole, "usr/local/bin/pip").kind else { panic!() };
        let bytes = scene.bench.contents(|contents| contents.to_vec(&path("pip"), &content)).unwrap();
        assert_eq!(bytes, text.as_bytes());
        let [shadowed] = &whole.shadowed[..] else { panic!("{:?}", whole.shadowed) };
        assert_eq!((shadowed.path.to_string().as_str(), shadowed.count), ("usr/local/bin/pip", 1));
        assert_eq!(shadowed.by == "thief 1.0", text == "b");
        assert_eq!(whole.unused, []);
        // Once more, from what is remembered.
        assert_eq!(scene.realise(&image).unwrap().shadowed, whole.shadowed);
        // What decides nothing is said, as often as the image is made.
        image.meant.owners.insert(path("usr/local/bin/pipp"), owner);
        image.meant.private_keys.push(path("etc/no.key"));
        for _ in 0..2 {
            let unused = scene.realise(&image).unwrap().unused;
            assert_eq!(unused, [path("etc/no.key"), path("usr/local/bin/pipp")]);
        }
    }
}

fn a_file_that_was_fetched_is_laid_as_it_is() {
    let mut scene = Scene::new();
    scene.bench.store.put_bytes(b"a jar").unwrap();
    let file = scene.graph.add("tool", Builder::Fetch(fetch("tool.jar", b"a jar")));
    let entry = FileEntry { path: path("opt/tool.jar"), mode: 0o755, source: FileSource::Fetched { file } };
    scene.layer("tool", Builder::Files(Files { entries: vec![entry] }));
    let whole = scene.whole().unwrap();
    let Entry { kind: EntryKind::File(content), mode: 0o755, .. } = seen(&scene, &whole, "opt/tool.jar")
    else {
        panic!("no such file");
    };
    let bytes = scene.bench.contents(|contents| contents.to_vec(&path("x"), &content)).unwrap();
    assert_eq!(bytes, b"a jar");
}

/// An image whose files hold something else is not checked anew, but where what they held decided.
fn contents_that_decided_are_looked_at_again() {
    let mut scene = Scene::new();
    let layers = [("one", "etc/x", "a"), ("two", "etc/x", "a"), ("three", "srv/y", "1")];
    for (name, path, text) in layers {
        scene.layer(name, literal(path, text));
    }
    let image = scene.image();
    scene.realise(&image).unwrap();
    let with = |place: usize, path: &str, text: &str| {
        let mut image = image.clone();
        image.layers[place].tree = image.graph.add(layers[place].0, literal(path, text));
        scene.realise(&image)
    };
    with(2, "srv/y", "2").unwrap();
    refused(with(1, "etc/x", "b"), &["`/etc/x` stands in two layers"]);
    // Another path is another image.
    refused(with(2, "etc/x", "b"), &["`/etc/x` stands in two layers"]);
}

fn the_same_file_twice_is_one_file() {
    let mut scene = Scene::new();
    let init = |name: &str| {
        let members = [("shared/__init__.py", "pass\n"), ("shared/empty.py", "")];
        (format!("{name}-1.0-py3-none-any.whl"), wheel(name, &members))
    };
    for name in ["one", "two"] {
        let (filename, bytes) = init(name);
        scene.wheels(name, &[(&filename, bytes)]);
    }
    scene.layer("manifest", literal("app/pyproject.toml", "[project]"));
    scene.layer("application", Builder::Files(files(&[("app/pyproject.toml", "[project]"), ("app/x", "")])));
    assert_eq!(scene.whole().unwrap().shadowed, []);
    scene.layer("other", literal("app/pyproject.toml", "[Project]"));
    refused(scene.whole(), &["`/app/pyproject.toml` stands in two layers", "`manifest`", "`other`"]);
}

fn two_wheels_of_one_layer_with_one_file_are_both_named() {
    let mut scene = Scene::new();
    let cv = |name: &str, text: &str| {
        (format!("{name}-1.0-py3-none-any.whl"), wheel(name, &[("cv2/__init__.py", text)]))
    };
    let (one, other) = (cv("opencv", "1"), cv("headless", "2"));
    let wheels = [(one.0.as_str(), one.1), (other.0.as_str(), other.1)];
    scene.wheels("small ones", &wheels);
    let text = refused(scene.whole(), &[]).to_string();
    for part in ["cv2/__init__.py` stands in two wheels", wheels[0].0, wheels[1].0, "PoetryInstall::alone"] {
        assert!(text.contains(part), "{part}: {text}");
    }
}

fn what_is_made_over_something_lies_above_it() {
    let mut scene = Scene::new();
    let debian = scene.debian();
    scene.run("change", &[debian], "echo more >>/etc/conf");
    scene.whole().unwrap();
    scene.layers.swap(0, 1);
    refused(scene.whole(), &["`/etc/conf` of `change` (step) cannot be seen", "lies below it"]);
}

fn what_a_step_removes_is_not_another_s() {
    let mut scene = Scene::new();
    let debian = scene.debian();
    let made = scene.run("made", &[debian], "mkdir -p /opt/a; echo 1 >/opt/a/1");
    scene.layer("other", literal("opt/a/2", "2"));
    scene.run("removed", &[debian, made], "rm -r /opt/a");
    refused(scene.whole(), &["`/opt/a/2` stands in two layers", "`other`", "`removed`"]);
    // Above, it is there.
    scene.layers.swap(2, 3);
    scene.whole().unwrap();
}

fn a_file_stands_over_no_folder() {
    let mut scene = Scene::new();
    scene.layer("folder", literal("opt/a/file", "x"));
    scene.layer("file", literal("opt/a", "x"));
    refused(scene.whole(), &["`/opt/a` stands in two layers"]);
}

/// A folder in the place of `/bin` would hide whatever is in `/usr/bin`: not even a recipe means that.
fn a_folder_is_not_put_in_the_place_of_a_link() {
    let scene = |whose: Option<usize>, link_first: bool| {
        let mut scene = Scene::new();
        let mut layers = [
            (
                "debian",
                Builder::Files(Files {
                    entries: vec![
                        entry("usr/bin/sh", 0o755, FileSource::Literal(RawBytes(b"x".to_vec()))),
                        entry("bin", 0o777, FileSource::Symlink(RawBytes(b"usr/bin".to_vec()))),
                    ],
                }),
            ),
            ("hello", literal("bin/hello", "x")),
        ];
        if !link_first {
            layers.reverse();
        }
        let nodes = layers.map(|(name, builder)| scene.layer(name, builder));
        let mut image = scene.image();
        image.meant.owners.extend(whose.map(|place| (path("bin"), nodes[place])));
        scene.realise(&image)
    };
    for link_first in [true, false] {
        let (link, folder) = if link_first { (0, 1) } else { (1, 0) };
        for whose in [None, Some(folder)] {
            let parts =
                ["`/bin` is a link in one layer", "`usr/bin`", "`/bin/hello`", "in place of `/bin/NAME`"];
            refused(scene(whose, link_first), &parts);
        }
        // Without the folder nothing is hidden but what the recipe gives up, which is said.
        assert!(scene(Some(link), link_first).unwrap().shadowed[0].count > 0);
    }
}

/// An engine would find out, when a container starts.
fn a_container_can_start() {
    let mut scene = Scene::new();
    scene.layer(
        "passwd",
        Builder::Files(files(&[
            ("etc/passwd", "root:x:0:0::/root:/bin/sh\nweb:x:990:990::/:\n"),
            ("etc/group", "root:x:0:\nweb:x:990:\n"),
            ("srv/app/main.py", "x"),
        ])),
    );
    let with = |user: Option<&str>, folder: &str, volume: Option<&str>| {
        let mut image = scene.image();
        image.config.user = user.map(str::to_owned);
        image.config.working_directory = folder.to_owned();
        image.config.volumes = volume.map(str::to_owned).into_iter().collect();
        scene.realise(&image)
    };
    for user in [None, Some("web"), Some("web:root"), Some("1000"), Some("1000:web"), Some("web:5")] {
        with(user, "/srv/app", Some("/srv/new")).unwrap();
    }
    for (user, said) in
        [("we", "no user `we`"), ("web:wheel", "no group `wheel`"), ("web:we", "no group `we`")]
    {
        refused(with(Some(user), "", None), &[said]);
    }
    refused(with(None, "/srv/app/main.py", None), &["`folder` is `/srv/app/main.py`, which is no folder"]);
    refused(with(None, "/srv", Some("/etc/passwd")), &["`volume` is `/etc/passwd`"]);
    // What is known of an image is known of this user.
    let error = refused(with(Some("nobody"), "/srv/app", Some("/srv/new")), &["no user `nobody`"]);
    assert!(error.hint_text().unwrap().contains("useradd"));
}

/// What a lower layer says of users is not what is seen.
fn the_highest_passwd_counts() {
    let mut scene = Scene::new();
    let debian = scene.debian();
    scene.run("user", &[debian], "echo web:x:990:990::/: >/etc/passwd");
    let mut image = scene.image();
    image.config.user = Some("web".to_owned());
    scene.realise(&image).unwrap();
    image.config.user = Some("root".to_owned());
    refused(scene.realise(&image), &["no user `root`"]);
}

fn no_name_is_a_whiteout_whoever_makes_it() {
    for name in ["app/.wh.notes", "app/.wh..wh..opq", ".wh.a/b"] {
        let mut scene = Scene::new();
        scene.layer("application", literal(name, "x"));
        refused(
            scene.whole(),
            &["`application` could not be built", name, "a file of a lower layer is gone"],
        );
    }
    let evil = std::fs::read("../shared/cases/layers/evil-1.0-py3-none-any.whl");
    let evil = evil.unwrap_or_else(|_| wheel("evil", &[("evil.py", "x"), (".wh.notes.py", "x")]));
    let entry_point = zip(&[
        member("evil-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\n"),
        member("evil-1.0.dist-info/entry_points.txt", "[console_scripts]\n.wh.pip = evil:main\n"),
        member("evil-1.0.dist-info/RECORD", ""),
    ]);
    for (bytes, name) in [(evil, ".wh.notes.py"), (entry_point, "usr/local/bin/.wh.pip")] {
        let mut scene = Scene::new();
        scene.wheels("evil", &[("evil-1.0-py3-none-any.whl", bytes)]);
        refused(scene.whole(), &["`evil-1.0-py3-none-any.whl` cannot be unpacked", name]);
    }
}

fn a_path_is_no_longer_than_engines_take() {
    let name = format!("{}x.py", "folder/".repeat(860));
    let mut scene = Scene::new();
    scene.wheels("deep", &[("deep-1.0-py3-none-any.whl", wheel("deep", &[(&name, "x")]))]);
    refused(scene.whole(), &["`deep-1.0-py3-none-any.whl`", "4094 bytes"]);
}

fn an_image_has_no_more_layers_than_engines_take() {
    let mut scene = Scene::new();
    for number in 0..126 {
        scene.layer(&number.to_string(), literal(&format!("file{number}"), "x"));
    }
    refused(
        scene.whole(),
        &["the image has 126 layers, and engines take no more than 125", "PoetryInstall::split"],
    );
    scene.layers.pop();
    scene.whole().unwrap();
}

const KEY: &str =
    "-----BEGIN PRIVATE KEY-----\nMIIEvQIBADANBgkqhkiG9w0BAQEFAASC\n-----END PRIVATE KEY-----\n";

fn a_private_key_is_in_no_layer() {
    let mut scene = Scene::new();
    let debian = scene.debian();
    let script = format!("printf '{}' >/etc/ssl/private/site.pem", KEY.replace('\n', "\\n"));
    scene.run("site", &[debian], &script);
    let of_step = "the layer `site` holds a private key: `/etc/ssl/private/site.pem`";
    refused(scene.whole(), &[of_step, "the step made it", "ImageRecipe::private_key"]);
    // Twice: what is in the store is no way around it, nor into a cache.
    refused(scene.whole(), &[of_step]);
    let shared = |image: &Image| scene.bench.engine(|engine| engine.shareable(image, &[])).unwrap();
    let names = |image: &Image| shared(image).into_iter().map(|it| it.record.name).collect::<Vec<_>>();
    assert!(!names(&scene.image()).contains(&"site".to_owned()));

    let mut image = scene.image();
    image.meant.private_keys.push(path("etc/ssl"));
    let whole = scene.realise(&image).unwrap();
    // Meant or not, another machine has other bytes: the record says so.
    assert_eq!(whole.by_chance, [("site".to_owned(), path("etc/ssl/private/site.pem"))]);
    let record = shared(&image).into_iter().find(|it| it.record.name == "site").unwrap().record;
    assert_eq!(record.findings.by_chance, [path("etc/ssl/private/site.pem")]);
}

fn a_key_of_the_project_is_none_of_a_wheel_s() {
    let mut scene = Scene::new();
    scene.wheels(
        "tornado",
        &[("tornado-1.0-py3-none-any.whl", wheel("tornado", &[("tornado/test.key", KEY)]))],
    );
    assert!(scene.whole().unwrap().by_chance.is_empty());
    scene.layer("application", literal("app/id_rsa", KEY));
    refused(scene.whole(), &["`application` holds a private key: `/app/id_rsa`", "`.dockerignore`"]);
}

fn a_database_s_folder_is_said_to_be_by_chance() {
    let mut scene = Scene::new();
    let debian = scene.debian();
    scene.run("database", &[debian], "mkdir -p /var/lib/mysql; echo x >/var/lib/mysql/ibdata1");
    assert_eq!(scene.whole().unwrap().by_chance, [("database".to_owned(), path("var/lib/mysql"))]);
}

/// podman unpacks each layer by itself and lays them over each other; umoci unpacks one into the other.
fn engines_show_what_the_image_says() {
    if std::fs::metadata("/proc/self").unwrap().uid() != 0 {
        skipped("podman and umoci, which unpack an image: they need root");
        return;
    }
    let mut scene = Scene::new();
    let debian = scene.debian();
    scene.run("keys", &[debian], "umask 0; echo secret >/etc/ssl/private/site; echo x >/root/.bash_aliases");
    scene.layer("files", literal("root/.config/app", "x"));
    let one = wheel("one", &[("cv2.py", "one")]);
    let two = scene.wheels("two", &[("two-1.0-py3-none-any.whl", wheel("two", &[("cv2.py", "two")]))]);
    scene.wheels("one", &[("one-1.0-py3-none-any.whl", one)]);
    let mut image = scene.image();
    let library = scheme().library;
    image.meant.owners.insert(library.clone(), two);
    let whole = scene.realise(&image).unwrap();
    let assembled = assemble::oci::assemble(&whole.image, whole.layers).unwrap();
    let layout = scene.bench.path("layout");
    let names = ["demo:whole".parse().unwrap()];
    assemble::deliver::to_folder(&scene.bench.store, &assembled, &names, &layout).unwrap();

    let bundle = scene.bench.path("bundle");
    let reference = format!("{}:whole", layout.display());
    output(Command::new("umoci").args(["unpack", "--image", &reference]).arg(&bundle));
    holds(&bundle.join("rootfs"), &library);

    let store = scene.bench.path(&format!("podman-{}", std::process::id()));
    let podman = |arguments: &[&str]| {
        String::from_utf8(output(podman::podman(&store).args(arguments))).unwrap().trim().to_owned()
    };
    let archive = scene.bench.path("image.tar");
    assemble::deliver::to_file(&scene.bench.store, &assembled, &names, &archive).unwrap();
    podman(&["load", "--quiet", "--input", archive.to_str().unwrap()]);
    let root = podman(&["image", "mount", "docker.io/library/demo:whole"]);
    holds(Path::new(&root), &library);
    podman(&["image", "unmount", "docker.io/library/demo:whole"]);
    podman::reset(&store);
}

fn holds(root: &Path, library: &assemble_layers::TreePath) {
    for (folder, mode) in [("root", 0o700), ("etc/ssl/private", 0o710), ("tmp", 0o1777), ("etc", 0o755)] {
        let found = std::fs::metadata(root.join(folder)).unwrap().permissions().mode() & 0o7777;
        assert_eq!(found, mode, "{}: {found:o}", root.join(folder).display());
    }
    assert_eq!(std::fs::read(root.join(library.as_path()).join("cv2.py")).unwrap(), b"two");
    // Who is in the container as nobody reads neither; the folders above let him through.
    for (file, readable) in
        [("etc/ssl/private/site", false), ("root/.bash_aliases", false), ("etc/conf", true)]
    {
        let script =
            "import os, sys; os.chroot(sys.argv[1]); os.setgid(65534); os.setuid(65534); open(sys.argv[2])";
        let mut python = Command::new("python3");
        let found = python.args(["-c", script]).arg(root).arg(format!("/{file}")).output().unwrap();
        assert_eq!(found.status.success(), readable, "{file}: {}", String::from_utf8_lossy(&found.stderr));
        let denied = String::from_utf8_lossy(&found.stderr).contains("Permission denied");
        assert_eq!(denied, !readable, "{file}");
    }
}
