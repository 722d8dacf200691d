//! Archives of others beside Debian's in one image: one with suites and a flat one, each with a key of its
//! own.

use std::fs;

use assemble::recipe::{Archive, Base, ImageRecipe, Result, ThirdPartyArchive};

use super::{Scene, debian};
use crate::support::skipped;
use crate::support::small::fails;
use crate::support::vendors::Vendors;

/// The archives that the recipe names, as JSON.
const ARCHIVES: &str = "ASSEMBLE_TEST_ARCHIVES";

pub fn recipe(_: Base) -> Result<ImageRecipe> {
    let archives = std::env::var(ARCHIVES).unwrap();
    let archives: Vec<ThirdPartyArchive> = serde_json::from_str(&archives).unwrap();
    let debian = debian(&archives.iter().fold(Archive::debian("bookworm"), Archive::and));
    Ok(ImageRecipe::new("archives").layer(&debian).layer(debian.install(["tool"])).command(["/usr/bin/tini"]))
}

/// Two archives, and what is made of them. `tool` is of one, `driver` of the other, `tini` Debian's.
struct Vended {
    vendors: Vendors,
    scene: Scene,
    keys: [String; 2],
}

/// Name and suite of each.
const NAMES: [(&str, Option<&str>); 2] = [("flat", None), ("vendor", Some("stable"))];

impl Vended {
    fn new() -> Option<Self> {
        if let Some(missing) = Vendors::missing() {
            skipped(&missing);
            return None;
        }
        let vendors = Vendors::new();
        let keys = [
            vendors.publish("flat", None, &[("driver", "7", "tini"), ("driver", "6", "")]),
            vendors.publish("vendor", Some("stable"), &[("tool", "3", "driver (>= 6), tini")]),
        ];
        let mut this = Self { vendors, scene: Scene::new("archives"), keys };
        let [flat, vendor] = this.keys.clone();
        this.believe(&flat, &vendor);
        Some(this)
    }

    /// The recipe's word for who may sign which.
    fn believe(&mut self, flat: &str, vendor: &str) {
        let archives = [
            ThirdPartyArchive::new("flat", &self.vendors.url("flat"), flat),
            ThirdPartyArchive::new("vendor", &self.vendors.url("vendor"), vendor)
                .suites(["stable"], ["tools"]),
        ];
        self.scene.environment = vec![(ARCHIVES, serde_json::to_string(&archives).unwrap())];
    }
}

pub fn packages_of_three_archives_are_one_image() {
    let Some(Vended { vendors, scene, .. }) = Vended::new() else { return };
    let lock = scene.lock();
    let of = |name: &str| lock.debian.package.iter().find(|deb| deb.name == name).unwrap();
    assert_eq!((of("tool").suite.as_str(), of("driver").suite.as_str()), ("stable", "flat"));
    assert!(of("tini").url.is_none() && of("tool").url.is_some());

    let one = scene.image(&scene.store, "one.tar", &[]);
    let root = scene.root("one.tar", &one);
    let tini = format!("tini {}", of("tini").version);
    root.has_packages(&["tool 3", "driver 7", &tini]);
    for (path, text) in [("usr/share/tool/of", "vendor 3\n"), ("usr/share/driver/of", "flat 7\n")] {
        assert_eq!(fs::read_to_string(root.0.join(path)).unwrap(), text);
    }
    assert!(root.run(&["tini", "--version"]).starts_with("tini version"));

    // From a store that has files alone, and nobody to ask.
    let downloads = scene.downloads(&lock);
    let offline = ["--offline", "--cache", downloads.to_str().unwrap()];
    let two = scene.image(&scene.path("store"), "two.tar", &offline);
    assert_eq!(two.digest, one.digest);
    assert_eq!(two.had("built").len(), two.layers.len(), "it was not built anew");
    assert_eq!(fs::read(scene.path("one.tar")).unwrap(), fs::read(scene.path("two.tar")).unwrap());

    // Changed after it was locked, by the same number of bytes or by another.
    let deb = vendors.path().join("flat/pool/driver_7_all.deb");
    let mut bytes = fs::read(&deb).unwrap();
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    for more in [&b""[..], b"more"] {
        fs::write(&deb, [&bytes, more].concat()).unwrap();
        let store = tempfile::tempdir().unwrap();
        let mut image = scene.verb("image", store.path());
        let (code, said) = fails(image.arg("--locked"));
        let address = format!("{}pool/driver_7_all.deb", vendors.url("flat"));
        assert!(code == 5 && said.contains(&address), "{code}: {said}");
    }
}

pub fn an_archive_that_is_not_signed_is_refused() {
    let Some(mut vended) = Vended::new() else { return };
    let [flat, vendor] = vended.keys.clone();
    let other = vended.vendors.key("other", "");
    let wrong = "bears no valid signature";
    let refused = |vended: &Vended, name: &str, why: &str| {
        vended.scene.is_not_locked(5, &[&format!("the archive `{name}` cannot be read"), why]);
    };

    // Each key is good for its own archive alone.
    for key in [&flat, &other] {
        vended.believe(&flat, key);
        refused(&vended, "vendor", wrong);
    }
    for key in [&vendor, &other] {
        vended.believe(key, &vendor);
        refused(&vended, "flat", wrong);
    }

    let past = "--faked-system-time 20200101T000000";
    let key = vended.vendors.sh(&format!(
        "gpg --batch --quiet --passphrase '' {past} --quick-generate-key 'past <v@past.example>' default default 1y
         gpg --armor --export v@past.example"
    ));
    for (name, suite) in NAMES {
        vended.believe(&flat, &vendor);
        let at = vended.vendors.in_release(name, suite);
        let good = fs::read(&at).unwrap();
        // A signature that had an end of its own; no signature; no file.
        let ends = "--default-sig-expire 1d --faked-system-time";
        let now = vended.vendors.sh("date -u +%Y%m%dT%H%M%S --date='-2 days'");
        vended.vendors.sign(name, suite, name, &format!("{ends} {}! --ignore-time-conflict", now.trim()));
        refused(&vended, name, wrong);
        fs::copy(at.with_file_name("Release"), &at).unwrap();
        refused(&vended, name, "is not signed");
        fs::remove_file(&at).unwrap();
        refused(&vended, name, "InRelease");
        // A key that had an end.
        vended.vendors.sign(name, suite, "past", past);
        match suite {
            None => vended.believe(&key, &vendor),
            Some(_) => vended.believe(&flat, &key),
        }
        refused(&vended, name, wrong);
        fs::write(&at, good).unwrap();
    }

    // What was wrong was that alone.
    vended.believe(&flat, &vendor);
    vended.scene.lock();
}
