//! Images without a Python, and with one that has nothing beside what the project asks for.

use assemble::recipe::{Archive, Base, Command, ImageRecipe, Named, Python, Result};

use super::{Scene, debian};
use crate::support::skipped;

pub fn plain(_: Base) -> Result<ImageRecipe> {
    let debian = debian(&Archive::debian("bookworm"));
    let user = Command::shell("useradd --system web").over(&debian).named("user");
    let tini = debian.install(["tini"]);
    Ok(ImageRecipe::new("plain").layer(&debian).layer(tini).layer(user).user("web").command(["/usr/bin/id"]))
}

pub fn service(_: Base) -> Result<ImageRecipe> {
    let system = debian(&Archive::debian("bookworm")).install(["python3"]);
    let python = Python::of(&system);
    let image = ImageRecipe::new("service").layer(&system).layer(python.poetry_install().without(["dev"]));
    Ok(image.layer(python.manifest("/app")).layer(python.application("/app")).command(["service"]))
}

pub fn nowhere(_: Base) -> Result<ImageRecipe> {
    let python = Python::of(&debian(&Archive::debian("bookworm")));
    Ok(ImageRecipe::new("nowhere").layer(python.poetry_install()))
}

pub fn an_image_needs_no_python() {
    let scene = Scene::new("plain");
    scene.write("README", "");
    let lock = scene.lock();
    assert_eq!(lock.python, assemble_layers::lock::Python::default());
    let built = scene.image(&scene.store, "plain.tar", &[]);
    let root = scene.root("plain.tar", &built);
    assert!(!root.has("usr/bin/python3") && root.has("usr/bin/tini"));
    root.has_packages(&[]);
    assert!(root.run(&["id", "web"]).contains("(web)"));
}

pub fn a_python_that_is_nowhere_is_an_error() {
    let scene = Scene::new("nowhere");
    scene.write("pyproject.toml", MANIFEST);
    let words = ["no `python3`", "these sets have none: base", "`.install([\"python3\"])`"];
    scene.is_not_locked(3, &words);
    // Who names a Python names a project.
    let scene = Scene::new("service");
    scene.is_not_locked(3, &["pyproject.toml"]);
}

const MANIFEST: &str = r#"
[project]
name = "service"
version = "1.0"
requires-python = ">=3.11"
dependencies = ["jmespath>=1.0"]

[project.scripts]
service = "service:main"

[tool.poetry.group.dev.dependencies]
iniconfig = "^2.0"

[build-system]
requires = ["poetry-core>=2.0"]
build-backend = "poetry.core.masonry.api"
"#;

pub fn a_service_needs_no_tools() {
    if std::env::var_os("ASSEMBLE_REAL").is_none_or(|value| value != "1") {
        skipped("a Python without tools: Poetry is asked where `ASSEMBLE_REAL=1` is set");
        return;
    }
    let scene = Scene::new("service");
    scene.write("pyproject.toml", MANIFEST);
    scene.write(
        "service/__init__.py",
        "import jmespath\n\ndef main():\n    print(jmespath.search('a', {'a': 1}))\n",
    );
    let lock = scene.lock();
    assert!(lock.python.packages.iter().any(|one| one.name == "iniconfig"));
    let built = scene.image(&scene.store, "service.tar", &[]);
    let root = scene.root("service.tar", &built);
    root.has_packages(&[]);
    let installed = "import importlib.metadata as m; print(*sorted(d.name for d in m.distributions()))";
    assert_eq!(root.run(&["python3", "-c", installed]), "jmespath service");
    assert!(!root.has("usr/bin/pip") && !root.has("usr/local/bin/pip") && !root.has("usr/local/bin/poetry"));
    let mut files: Vec<_> =
        std::fs::read_dir(root.0.join("app")).unwrap().map(|it| it.unwrap().file_name()).collect();
    files.sort();
    assert_eq!(files, ["pyproject.toml", "service"]);
    assert_eq!(root.run(&["service"]), "1");
}
