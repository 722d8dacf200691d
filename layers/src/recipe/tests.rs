//! What recipes come to.

mod python;

use super::*;
use crate::Builder;
use crate::digest::{BlobDigest, DiffId, Sha256};
use crate::lock::{
    BaseImage, BaseLayer, Deb, Debian, Distribution, File, FileKind, Lock, Python as LockedPython,
    PythonGroup, RootPackage, UrlFile, VERSION,
};
use crate::pack::Compression;
use crate::project::{Project, ProjectFile, ProjectFileKind};
use crate::tree::TreePath;

fn debian() -> Packages {
    Archive::debian("bookworm").essential(["apt"])
}

fn system(debian: &Packages) -> Packages {
    debian.install(["python3"]).named("system")
}

fn program(image: impl Fn() -> ImageRecipe + Sync + 'static) -> Program {
    Program::new([variant("one", "one of them", move |_| Ok(image()))])
}

fn asked(image: impl Fn() -> ImageRecipe + Sync + 'static) -> Requirements {
    program(image).requirements(Base::Archive, PythonFrom::Recipe).unwrap()
}

fn distribution(name: &str, size: u64) -> Distribution {
    let file = File {
        name: format!("{name}-1-py3-none-any.whl"),
        kind: FileKind::Wheel,
        sha256: Sha256::of(name.as_bytes()),
        size,
    };
    serde_json::from_value(serde_json::json!({
        "name": name, "version": "1", "file": file, "wanted_by": ["main"],
    }))
    .unwrap()
}

/// What would be locked: a package of each set, three distributions, pip.
fn locked(requirements: Requirements) -> Lock {
    let package = |set: &crate::lock::DebianSet| Deb {
        name: set.packages[0].clone(),
        version: "1".to_owned(),
        architecture: "amd64".to_owned(),
        set: set.name.clone(),
        suite: "bookworm".to_owned(),
        url: None,
        path: format!("pool/{}.deb", set.packages[0]),
        sha256: Sha256::of(set.name.as_bytes()),
        size: 1,
        automatic: false,
    };
    let collections = requirements.python.collections.keys();
    Lock {
        version: VERSION,
        created: 0,
        manifest: Sha256::of(b""),
        debian: Debian {
            package: requirements.debian.sets.iter().map(package).collect(),
            ..Debian::default()
        },
        python: LockedPython {
            python: "3.11.2".to_owned(),
            groups: [("main".to_owned(), PythonGroup { optional: false })].into(),
            root: Some(RootPackage {
                name: "x".to_owned(),
                version: "7".to_owned(),
                dist_info: "x-7.dist-info".to_owned(),
                ..RootPackage::default()
            }),
            packages: vec![
                distribution("big", 30_000_000),
                distribution("huge", 60_000_000),
                distribution("low", 1),
            ],
            tools: vec![distribution("pip", 1)],
            collections: collections.map(|name| (name.clone(), vec![distribution(name, 1)])).collect(),
            ..LockedPython::default()
        },
        gpu: Vec::new(),
        base: [].into(),
        url: requirements
            .url
            .keys()
            .map(|name| (name.clone(), UrlFile { sha256: Sha256::of(b""), size: 1 }))
            .collect(),
        requirements,
    }
}

fn project() -> Project {
    let file = |path| ProjectFile {
        path: TreePath::new(path).unwrap(),
        kind: ProjectFileKind::File { sha256: Sha256::of(b""), size: 0, executable: false },
    };
    Project { files: ["poetry.toml", "pyproject.toml"].map(file).to_vec() }
}

fn realised(image: impl Fn() -> ImageRecipe + Sync + 'static) -> Result<Image> {
    let program = program(image);
    let lock = locked(program.requirements(Base::Archive, PythonFrom::Recipe)?);
    program.image("one", Base::Archive, &lock, &project())
}

fn names(image: &Image) -> Vec<&str> {
    image.layers.iter().map(|layer| image.graph.node(layer.tree).name.as_str()).collect()
}

/// What the sets of packages are over is read off the parts, and what only locking needs is in the lock.
#[test]
fn requirements_follow_from_the_parts() {
    let requirements = asked(|| {
        let system = system(&debian());
        let python = Python::of(&system);
        let toolchain = system.install(["gcc"]);
        ImageRecipe::new("x").layer(python.tools(["pip"])).layer(
            Command::new(["make"])
                .over(&toolchain)
                .over(python.collection("needed", ["wheel"]))
                .over(GitFiles::new("code", "https://example/code", &"a".repeat(40), "/src"))
                .output("/out"),
        )
    });
    let sets =
        requirements.debian.sets.iter().map(|set| format!("{} over {}", set.name, set.above.join(" ")));
    let sets: Vec<_> = sets.collect();
    assert_eq!(sets, ["base over ", "system over base", "locking over base system", "gcc over base system"]);
    assert!(requirements.debian.sets[0].essential && !requirements.debian.sets[1].essential);
    assert_eq!(requirements.debian.suites, ["bookworm", "bookworm-updates", "bookworm-security"]);
    assert_eq!(requirements.python.tools, ["pip"]);
    assert_eq!(requirements.python.collections["needed"], ["wheel"]);
    assert!(requirements.git.contains_key("code"));
}

/// An image names what it is for; what that stands on is there, and what seldom changes lies low.
#[test]
fn an_image_is_whole_and_in_order() {
    let image = realised(|| {
        let python = Python::of(&system(&debian()));
        let link = Files::new("link").symlink("/usr/local/x", "y");
        ImageRecipe::new("x").layer(python.application("/app")).layer(python.poetry_install()).layer(link)
    });
    let image = image.unwrap();
    let order = [
        "huge 1",
        "big 1",
        "link",
        "debian bookworm",
        "system",
        "application",
        "poetry install, 1 small ones",
    ];
    assert_eq!(names(&image), order);
    assert_eq!(image.config.labels["org.opencontainers.image.version"], "7");
    assert_eq!(image.config.labels["dev.assemble.variant"], "one");

    let image = realised(|| {
        let debian = debian();
        let link = Files::new("link").symlink("/usr/local/x", "y");
        ImageRecipe::new("x").in_this_order().layer(system(&debian)).layer(link)
    });
    assert_eq!(names(&image.unwrap()), ["debian bookworm", "system", "link"]);
}

/// What a folder was made with is in no image; what a difference was made over is.
#[test]
fn what_a_step_is_made_with_stays_out() {
    let step = |difference: bool| {
        realised(move || {
            let system = system(&debian());
            let step = Command::shell("make").over(system.install(["gcc"])).named("made");
            ImageRecipe::new("x").layer(if difference { step } else { step.output("/out") })
        })
    };
    assert_eq!(names(&step(false).unwrap()), ["made"]);
    assert_eq!(names(&step(true).unwrap()), ["debian bookworm", "system", "gcc", "made"]);
}

#[test]
fn archives_of_others_are_the_lock_s() {
    const KEY: &str = "-----BEGIN PGP PUBLIC KEY BLOCK-----\n…\n-----END PGP PUBLIC KEY BLOCK-----\n";
    let image = |archive: ThirdPartyArchive| {
        let debian = Archive::debian("bookworm").and(&archive).essential(["apt"]);
        ImageRecipe::new("x").layer(debian.install(["tool"]))
    };
    let own = || ThirdPartyArchive::new("vendor", "https://vendor.example/debian", KEY);
    let asked = asked(move || image(own().suites(["stable"], ["main"]).priority(600)));
    let [archive] = &asked.debian.third_party[..] else { panic!("{asked:?}") };
    assert_eq!((archive.url.as_str(), archive.priority), ("https://vendor.example/debian/", Some(600)));
    assert!(archive.keys.starts_with("-----BEGIN") && archive.keys.ends_with("-----"));
    for (wrong_one, said) in [
        (ThirdPartyArchive::new("vendor", "ftp://vendor.example/", KEY), "neither http nor https"),
        (ThirdPartyArchive::new("vendor", "https://me:pw@vendor.example/", KEY), "login"),
        (ThirdPartyArchive::new("vendor", "https://vendor.example/", "key"), "armoured"),
        (own().suites(["stable"], [""; 0]), "suites without components"),
    ] {
        let error = wrong(move || image(wrong_one.clone()));
        assert!(error.contains(said) && !error.contains("pw"), "{error}");
    }
}

/// One name is one thing in all recipes that share a lock.
#[test]
fn a_name_is_one_thing() {
    let two = |other: &'static str| {
        Program::new([
            variant("one", "", |_| Ok(ImageRecipe::new("x").layer(system(&debian())))),
            variant("two", "", move |_| {
                Ok(ImageRecipe::new("x").layer(debian().install([other]).named("system")))
            }),
        ])
    };
    assert_eq!(two("python3").requirements(Base::Archive, PythonFrom::Recipe).unwrap().debian.sets.len(), 2);
    let error = two("python4").requirements(Base::Archive, PythonFrom::Recipe).unwrap_err().to_string();
    assert!(error.contains("recipe of `two`") && error.contains("`system`"), "{error}");
    let archives = || {
        let other = Archive::debian("trixie").essential(["apt"]).named("other");
        ImageRecipe::new("x").layer(debian()).layer(other)
    };
    let error = program(archives).requirements(Base::Archive, PythonFrom::Recipe).unwrap_err().to_string();
    assert!(error.contains("two archives"), "{error}");
}

fn wrong(image: impl Fn() -> ImageRecipe + Sync + 'static) -> String {
    program(image).requirements(Base::Archive, PythonFrom::Recipe).unwrap_err().to_string()
}

/// It is said before anything is resolved.
#[test]
fn what_no_container_can_start_with_is_refused() {
    let image = || ImageRecipe::new("x").layer(debian());
    assert!(wrong(move || image().user("")).contains("recipe's `user`"));
    assert!(wrong(move || image().volume("/a/").volume("/a")).contains("recipe's `volume`"));
    assert!(wrong(move || image().port("http")).contains("recipe's `port`"));
    assert!(wrong(move || image().healthcheck(Healthcheck::default())).contains("recipe's `healthcheck`"));
    assert!(wrong(move || image().label("a", "1").label("a", "2")).contains("label `a` two values"));
    assert!(wrong(move || image().env([("A", "1"), ("A", "1")])).contains("recipe's `env`"));
    assert!(wrong(|| ImageRecipe::new("x")).contains("has no layer"));
    let ports = realised(move || image().port("80").port("80/tcp").port("53/udp")).unwrap();
    assert_eq!(ports.config.exposed_ports, ["80/tcp", "53/udp"]);
}

#[test]
fn an_order_of_one_s_own_is_one_that_can_be() {
    let image = |system_first: bool| {
        let debian = debian();
        let system = system(&debian);
        let parts = if system_first { [&system, &debian] } else { [&debian, &system] };
        ImageRecipe::new("x").in_this_order().layers(parts)
    };
    assert!(wrong(move || image(true)).contains("as number 1 what is made over number 2"));
    assert_eq!(asked(move || image(false)).debian.sets.len(), 2);
}

#[test]
fn a_variant_has_a_name_of_its_own() {
    let named = |names: [&'static str; 2]| {
        let image = |_| Ok(ImageRecipe::new("x").layer(debian()));
        let program = Program::new(names.map(|name| variant(name, "", image)));
        program.requirements(Base::Archive, PythonFrom::Recipe)
    };
    named(["one", "two.2_x"]).unwrap();
    for names in [["one", "one"], ["one", ""], ["one", "a b"], ["one", "a/b"], ["one", "-a"]] {
        let error = named(names).unwrap_err().to_string();
        assert!(error.contains(names[1]), "{error}");
    }
}

#[test]
fn a_command_has_a_program_and_a_root() {
    let said = |command: fn() -> Command| {
        realised(move || ImageRecipe::new("x").layer(debian()).layer(command())).unwrap_err().to_string()
    };
    assert!(said(|| Command::new([""; 0]).over(debian())).contains("names no program"));
    assert!(said(|| Command::shell("true")).contains("runs in an empty root"));
    let twice = || Command::shell("true").over(debian()).env([("A", "1"), ("A", "2")]);
    assert!(said(twice).contains("sets `A` twice"));
}

#[test]
fn whose_word_counts_is_one_layer() {
    let image = |distribution: &'static str| {
        realised(move || {
            let install = Python::of(&system(&debian())).poetry_install().alone(["low"]);
            ImageRecipe::new("x").layer(&install).counts_of("/usr/local/bin/x", &install, distribution)
        })
    };
    let meant = image("low").unwrap();
    let tree = meant.meant.owners.values().next().unwrap();
    assert_eq!(meant.graph.node(*tree).name, "low 1");
    let error = image("lwo").unwrap_err().to_string();
    assert!(error.contains("alone([\"lwo\"])"), "{error}");
}

#[test]
fn a_lock_without_a_set_is_no_image_without_it() {
    let image = || ImageRecipe::new("x").layer(system(&debian()));
    let program = program(image);
    let mut lock = locked(program.requirements(Base::Archive, PythonFrom::Recipe).unwrap());
    lock.requirements.debian.sets.pop();
    let error = program.image("one", Base::Archive, &lock, &project()).unwrap_err().to_string();
    assert_eq!(error, "the lock has no set of packages `system`");
}

#[test]
fn a_file_of_an_address_is_locked_and_laid() {
    let image = || {
        let jar = Download::new("tool", "https://example/tool.jar");
        ImageRecipe::new("x").layer(jar.at("/opt/tool/tool.jar").history("the tool"))
    };
    assert_eq!(asked(image).url["tool"], "https://example/tool.jar");
    let realised = realised(image).unwrap();
    assert_eq!(names(&realised), ["tool"]);
    let login = || ImageRecipe::new("x").layer(Download::new("a", "https://me:pw@example/a").at("/a"));
    let error = program(login).requirements(Base::Archive, PythonFrom::Recipe).unwrap_err().to_string();
    assert!(error.contains("login") && !error.contains("pw"), "{error}");
}

/// Two images of a registry share their lowest layers often; an environment is one image's.
#[test]
fn an_image_has_the_environment_of_the_image_that_it_stands_on() {
    let upon = |name: &'static str| {
        variant(name, "", move |_| {
            let base = Archive::debian("bookworm").over(&RegistryImage::new(name, "registry.example/base"));
            Ok(ImageRecipe::new("x").layer(base.install(["tini"])).env([("OWN", "1")]))
        })
    };
    let program = Program::new([upon("one"), upon("two")]);
    let mut lock = locked(program.requirements(Base::Registry, PythonFrom::Recipe).unwrap());
    let layer = |number: &[u8]| BaseLayer {
        digest: BlobDigest(Sha256::of(number)),
        size: 1,
        compression: Compression::Gzip,
        diff_id: DiffId(Sha256::of(number)),
        created_by: String::new(),
    };
    let base = |name: &str| BaseImage {
        repository: "registry.example/base".to_owned(),
        digest: BlobDigest(Sha256::of(name.as_bytes())),
        manifest: BlobDigest(Sha256::of(name.as_bytes())),
        environment: vec![format!("CUDA={name}"), "OWN=0".to_owned()],
        suites: Vec::new(),
        components: Vec::new(),
        layer: vec![layer(b"shared"), layer(name.as_bytes())],
    };
    lock.base = ["one", "two"].map(|name| (name.to_owned(), base(name))).into();
    for name in ["one", "two"] {
        let image = program.image(name, Base::Registry, &lock, &project()).unwrap();
        let variable = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        assert_eq!(image.config.environment, [variable("CUDA", name), variable("OWN", "1")]);
    }
    let both = || {
        let [one, two] = ["one", "two"].map(|name| RegistryImage::new(name, "registry.example/base"));
        ImageRecipe::new("x").layer(one).layer(two)
    };
    let error = self::program(both).image("one", Base::Registry, &lock, &project()).unwrap_err().to_string();
    assert!(error.contains("`one` and `two`"), "{error}");
}

/// What a recipe calls a part is what people see, whatever kind of part it is.
#[test]
fn a_name_is_heeded_by_every_part() {
    let image = realised(|| {
        let python = Python::of(&system(&debian()));
        let command = Command::shell("true").over(&python).named("a command").output("/out");
        ImageRecipe::new("x")
            .in_this_order()
            .layer(debian().titled("a base"))
            .layer(python.tools(["pip"]).named("tools"))
            .layer(python.collection("c", ["wheel"]).named("a collection"))
            .layer(Files::new("f").named("files").symlink("/a", "b"))
            .layer(&command)
            .layer(Wheel::new("torch", "1", &command, "/opt/torch").named("a wheel"))
    });
    let image = image.unwrap();
    let names = names(&image);
    for name in
        ["a base", "tools, 1 small ones", "a collection, 1 small ones", "files", "a command", "a wheel"]
    {
        assert!(names.contains(&name), "{name}: {names:?}");
    }
}

#[test]
fn a_part_that_counts_is_a_layer() {
    let image = realised(|| {
        let other = Files::new("other").symlink("/a", "c");
        ImageRecipe::new("x").layer(Files::new("f").symlink("/a", "b")).counts("/a", other)
    });
    assert!(image.unwrap_err().to_string().contains("`other` is to count at `/a`"));
}

#[test]
fn a_variable_has_one_value() {
    let image = realised(|| ImageRecipe::new("x").env([("A", "1")]).env([("A", "2")]));
    assert!(image.unwrap_err().to_string().contains("`A`"));
}

#[test]
fn an_image_is_for_a_platform_that_is_built() {
    let image = |platform: &'static str| move || ImageRecipe::new("x").layer(debian()).platform(platform);
    assert_eq!(realised(image("linux/amd64")).unwrap().graph.platform.to_string(), "linux/amd64");
    let error = wrong(image("linux/arm64"));
    assert!(error.contains("`x`: images for `linux/arm64` are not built: `linux/amd64` is"), "{error}");
}
