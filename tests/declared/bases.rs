//! Base images whose apt sources say by whom each is signed.

use std::path::{Path, PathBuf};
use std::process::Command;

use assemble::recipe::{Archive, Base, ImageRecipe, RegistryImage, Result};
use assemble_layers::Lock;

use super::Scene;
use crate::support::bases::{bootstrap, debian_archive, publish};
use crate::support::debian::Registry;
use crate::support::vendors::Vendors;
use crate::support::{output, skipped};

pub fn recipe(_: Base) -> Result<ImageRecipe> {
    let base = Archive::debian("bookworm").over(&RegistryImage::new("base", "registry.example/debian:12"));
    Ok(ImageRecipe::new("over").layer(base.install(["tool"])).command(["/usr/bin/tini"]))
}

/// Where stanzas say that the archives of others are; a mirror has them.
const ELSEWHERE: &str = "http://vendor.example/";

const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// Debian by mmdebstrap, archives of ours, and a registry for images of both.
struct Based {
    scene: Scene,
    vendors: Vendors,
    registry: Registry,
    debian: String,
    root: PathBuf,
    images: usize,
}

impl Based {
    fn new() -> Option<Self> {
        let tools = ["mmdebstrap", "skopeo"];
        let lacks = tools.iter().find(|tool| Command::new(tool).arg("--version").output().is_err());
        let missing = lacks.map(|tool| format!("base images need `{tool}`")).or_else(Vendors::missing);
        let debian = debian_archive();
        let (None, Some(debian), Some(registry)) = (&missing, debian, Registry::start()) else {
            let other = || "base images need an apt source of Debian's and `docker-registry`".to_owned();
            skipped(&missing.unwrap_or_else(other));
            return None;
        };
        let (mut scene, vendors) = (Scene::new("over"), Vendors::new());
        // Each base is another: what is made of it is of no use later.
        scene.store = scene.path("store");
        let root = scene.path("debian.tar");
        let source = format!("deb [signed-by={KEYRING}] {debian} bookworm main");
        bootstrap(&["--variant=essential", "bookworm"], &root, &source);
        Some(Self { scene, vendors, registry, debian, root, images: 0 })
    }

    /// Publishes Debian with these files over it, and names it as the recipe's base.
    fn base(&mut self, files: &[(&str, &[u8])]) {
        self.images += 1;
        let (folder, tar) = (self.scene.path(&format!("{}", self.images)), self.scene.path("over.tar"));
        for (path, bytes) in files {
            let path = folder.join(path.trim_start_matches('/'));
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, bytes).unwrap();
        }
        output(
            Command::new("tar")
                .args(["--owner=0", "--group=0", "-cf"])
                .arg(&tar)
                .arg("-C")
                .arg(&folder)
                .arg("."),
        );
        let layers: [&Path; 2] = [&self.root, &tar];
        let name = publish(&self.registry, &self.images.to_string(), &layers);
        let mirror = format!("{ELSEWHERE}={}/", self.vendors.url("").trim_end_matches('/'));
        let arguments =
            ["--base", "registry", "--base-image", &format!("base={name}"), "--url-mirror", &mirror];
        self.scene.arguments = arguments.map(str::to_owned).into();
    }

    fn deb822(name: &str, suite: &str, signed_by: &str) -> String {
        let components = if suite.ends_with('/') { "" } else { "Components: tools\n" };
        let url = format!("{ELSEWHERE}{name}/");
        format!("Types: deb\nURIs: {url}\nSuites: {suite}\n{components}Signed-By:{signed_by}\n")
    }

    fn is_refused(&self, code: i32, words: &[&str]) {
        self.scene.is_not_locked(code, words);
    }
}

fn debs(lock: &Lock) -> Vec<(&str, &str, &str)> {
    lock.debian.package.iter().map(|deb| (&*deb.name, &*deb.version, &*deb.suite)).collect()
}

/// The archive with suites has one of the name of Debian's own, as Docker's and PostgreSQL's have.
pub fn the_sources_of_a_base_image_count() {
    if std::env::var_os("ASSEMBLE_REAL").is_none_or(|value| value != "1") {
        skipped("sources of base images: they take minutes, and `ASSEMBLE_REAL=1` asks for them");
        return;
    }
    let Some(mut based) = Based::new() else { return };
    let suite = Some("bookworm");
    let flat = based.vendors.publish("flat", None, &[("driver", "7", "tini"), ("driver", "6", "")]);
    let vendor = based.vendors.publish("vendor", suite, &[("tool", "3", "driver (>= 6), tini")]);
    let binary = based.vendors.sh("gpg --export v@vendor.example >vendor.gpg; echo vendor.gpg");
    let binary = std::fs::read(based.vendors.path().join(binary.trim())).unwrap();
    let [of_flat, of_vendor] = ["flat", "vendor"].map(|name| based.vendors.url(name));
    let debian = std::fs::read(KEYRING).unwrap();
    let own = format!("deb [signed-by={KEYRING}] {} bookworm main\n", based.debian);
    let own: [(&str, &[u8]); 2] = [("/etc/apt/sources.list", own.as_bytes()), (KEYRING, &debian)];

    // One-line sources; keys in usual and unusual places, armoured and not.
    let lines = format!(
        "deb [arch=amd64 signed-by=/opt/vendor/key.gpg] {of_vendor} bookworm tools\n\
         deb [signed-by=/etc/apt/keyrings/flat.asc] {of_flat} ./\n"
    );
    let mut files = own.to_vec();
    files.extend([
        ("/etc/apt/sources.list.d/vendor.list", lines.as_bytes()),
        ("/opt/vendor/key.gpg", &binary),
        ("/etc/apt/keyrings/flat.asc", flat.as_bytes()),
    ]);
    based.base(&files);
    let lock = based.scene.lock();
    let [("driver", "7", "./"), tini @ ("tini", ..), ("tool", "3", "bookworm")] = debs(&lock)[..] else {
        panic!("{:?}", debs(&lock));
    };
    let built = based.scene.image(&based.scene.store, "over.image", &[]);
    let root = based.scene.root("over.image", &built);
    root.has_packages(&["tool 3", "driver 7", &format!("tini {}", tini.1)]);

    // Stanzas, with a file and with a key as it stands. The same packages come of them.
    let inline = |key: &str| {
        key.lines().map(|line| format!("\n {}", if line.is_empty() { "." } else { line })).collect::<String>()
    };
    let stanzas = |vendor: &str, flat: &str| {
        let [vendor, flat] = [Based::deb822("vendor", "bookworm", vendor), Based::deb822("flat", "/", flat)];
        format!("{vendor}\n{flat}")
    };
    let cases = [
        (stanzas(" /usr/share/keyrings/vendor.asc", &inline(&flat)), 0, [""; 2]),
        (
            stanzas(&inline(&flat), &inline(&flat)),
            5,
            ["http://vendor.example/vendor/ bookworm", "no valid signature"],
        ),
        (
            stanzas(&inline(&vendor), &inline(&vendor)),
            5,
            ["http://vendor.example/flat/ /", "no valid signature"],
        ),
        (
            stanzas(" /usr/share/keyrings/gone.gpg", &inline(&flat)),
            3,
            ["signed by `/usr/share/keyrings/gone.gpg`, which is no file", "hint: "],
        ),
    ];
    for (text, code, words) in &cases {
        let mut files = own.to_vec();
        files.push(("/etc/apt/sources.list.d/vendor.sources", text.as_bytes()));
        files.push(("/usr/share/keyrings/vendor.asc", vendor.as_bytes()));
        based.base(&files);
        match code {
            0 => {
                let lock = based.scene.lock();
                assert_eq!(debs(&lock), [("driver", "7", "/"), tini, ("tool", "3", "bookworm")]);
            }
            _ => based.is_refused(*code, words),
        }
    }

    // Debian's own archive, signed by somebody else's word.
    let other = format!("deb [signed-by=/usr/share/keyrings/vendor.asc] {} bookworm main\n", based.debian);
    based.base(&[
        ("/etc/apt/sources.list", other.as_bytes()),
        ("/usr/share/keyrings/vendor.asc", vendor.as_bytes()),
    ]);
    based.is_refused(5, &["the base image's apt source", "no valid signature"]);
}
