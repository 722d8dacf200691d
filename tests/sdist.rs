//! A distribution that is published without wheels: locked by real Poetry, built in the sandbox by its
//! own backend from locked requirements, and installed as any other.

use std::path::Path;
use std::process::Command;

use crate::support::output;
use crate::support::small::{build, scene};
use assemble_layers::lock::FileKind;

/// What has an sdist and nothing else, and wants no compiler.
const NAME: &str = "docopt";

#[test]
fn a_distribution_without_a_wheel_is_built_from_its_sdist() {
    let Some(small) = scene() else { return };
    let project = small.project_copy("sdist project");
    let manifest = project.join("pyproject.toml");
    let text = std::fs::read_to_string(&manifest).unwrap();
    let asked = text.replace("dependencies = [", &format!("dependencies = [\n    \"{NAME}==0.6.2\","));
    std::fs::write(&manifest, asked).unwrap();
    let store = small.store_copy("sdist store");
    output(small.verb("lock", &project, &store).arg("--cache").arg(&small.downloads));

    let lock = assemble::lock::read(&project.join("assemble.lock")).unwrap().unwrap();
    let locked = lock.python.packages.iter().find(|one| one.name == NAME).unwrap();
    assert_eq!(locked.file.kind, FileKind::Sdist);
    let names: Vec<_> = locked.build.iter().map(|one| one.name.as_str()).collect();
    assert!(names.contains(&"setuptools"), "{names:?}");
    assert!(locked.build.iter().all(|one| one.file.kind == FileKind::Wheel), "{:?}", locked.build);

    let image = |store: &Path| {
        let mut command = small.verb("image", &project, store);
        command.args(["--locked", "--json", "--cache"]).arg(&small.downloads);
        command
    };
    let layout = small.path("sdist layout");
    std::fs::create_dir(&layout).unwrap();
    let built = build(image(&store).arg("--output").arg(&layout));
    let layer = built.layers.iter().find(|layer| layer.name.starts_with("poetry install, ")).unwrap();
    let blob = layout.join("blobs/sha256").join(layer.digest.trim_start_matches("sha256:"));
    let read = |member: &str| {
        let member = format!("usr/local/lib/python3.11/dist-packages/{member}");
        output(Command::new("tar").arg("-xzOf").arg(&blob).arg(member))
    };
    assert!(String::from_utf8(read("docopt.py")).unwrap().contains("__version__ = '0.6.2'"));
    let installer = String::from_utf8(read("docopt-0.6.2.dist-info/INSTALLER")).unwrap();
    assert_eq!(installer, format!("Poetry {}", lock.python.poetry));

    // From nothing it comes to the same bytes: what was built is built again.
    assert_eq!(build(&mut image(&small.path("sdist other store"))).digest, built.digest);
}
