//! A project that has resolved itself, by Poetry, by uv or in a `pylock.toml`, is locked as its own lock has it
//! and installed; and the tools beside the project, or apart from it. The locks are made by the real uv and
//! Poetry, and what was installed is read by the image's own Python, in a step of the recipe.
//!
//! The program is this very test, over recipes of its own.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Output, Stdio};

use assemble::recipe::{self, Archive, Base, ImageRecipe, ProjectInstall, Python, Tools, variant};
use assemble_layers::Lock;

use crate::PROGRAM;
use crate::support::small::is_root;
use crate::support::{output, skipped};

const MANIFEST: &str = r#"
[project]
name = "demo"
version = "0.1.0"
requires-python = ">=3.11"
dependencies = ["click>=8"]
[project.optional-dependencies]
data = ["six"]
[dependency-groups]
dev = ["iniconfig"]
docs = ["markupsafe"]
[tool.poetry]
package-mode = false
"#;

/// The version that the project's own lock has, and nobody would choose today.
const CLICK: &str = "8.1.6";

/// What is in an image of [`MANIFEST`] without `dev`, with `docs` and the extra `data`.
const INSTALLED: [&str; 3] = ["click", "markupsafe", "six"];

/// Says what the Python that runs it has.
const DISTRIBUTIONS: &str = "import importlib.metadata as it; print(*sorted(f'{d.name.lower()}=={d.version}' for d in it.distributions()))";

/// The recipe of this program's images, if it is one of these.
pub fn program(recipe: &str) -> Option<ExitCode> {
    let is_one = matches!(recipe, "poetry" | "uv" | "pylock" | "tools" | "tools apart");
    is_one.then(|| assemble::main([variant("demo", "a project with a lock of its own", demo)]))
}

pub fn missing() -> Option<String> {
    (!is_root()).then(|| "front ends: their roots are unpacked as root".to_owned())
}

pub const TESTS: &[(&str, fn())] = &[
    ("a_lock_of_the_project_is_taken_as_it_stands", a_lock_of_the_project_is_taken_as_it_stands),
    ("a_project_that_is_packaged_is_installed", a_project_that_is_packaged_is_installed),
    ("the_projects_versions_count_beside_the_tools", the_projects_versions_count_beside_the_tools),
];

/// Debian's Python, the tools, what the project needs, and what that Python says of it.
fn demo(_: Base) -> recipe::Result<ImageRecipe> {
    let words = std::env::var(PROGRAM).unwrap_or_default();
    let has = |word: &str| words.split(' ').any(|it| it == word);
    let debian = Archive::debian("bookworm").essential(["usr-is-merged"]);
    let system = debian.install(["python3"]);
    let python = Python::of(&system);
    let image = ImageRecipe::new("demo").layer(&debian).layer(&system);
    if has("tools") {
        let tools = python.tools(["pip", "poetry"]);
        let tools = if has("apart") { tools.apart("/opt/tools") } else { tools };
        return Ok(with_tools(image, &tools, python.poetry_install(), has("apart")));
    }
    let install = match () {
        () if has("uv") => python.uv_sync(),
        () if has("pylock") => python.pylock_install(),
        () => python.poetry_install(),
    };
    let install = install.with(["docs"]).without(["dev"]).extras(["data"]);
    let said = recipe::Command::shell(&format!("mkdir /out && python3 -c \"{DISTRIBUTIONS}\" >/out/said"));
    Ok(image.layer(&install).layer(said.over(&install).output("/out")))
}

/// What the tools say in the image.
fn with_tools(image: ImageRecipe, tools: &Tools, install: ProjectInstall, apart: bool) -> ImageRecipe {
    let said = match apart {
        true => "/opt/tools/bin/poetry --version && /opt/tools/bin/python3 -m pip check",
        false => "python3 -m pip --version",
    };
    let script = format!("mkdir /out && ({said} && python3 -c \"{DISTRIBUTIONS}\") >/out/said");
    let said = recipe::Command::shell(&script).over(tools).over(&install).output("/out");
    image.layer(tools).layer(install).layer(said)
}

/// A project and a store.
struct Machine {
    folder: tempfile::TempDir,
    /// Where uv is installed, for Python's search path.
    tools: PathBuf,
}

impl Machine {
    /// `None` where there is no network; why is said then.
    fn new() -> Option<Self> {
        let folder = tempfile::tempdir().unwrap();
        let tools = folder.path().join("tools");
        let pip = Command::new("python3")
            .args(["-m", "pip", "install", "--quiet", "--target"])
            .arg(&tools)
            .arg("uv")
            .output()
            .unwrap();
        if !pip.status.success() {
            skipped(&format!(
                "front ends: pip cannot install them: {}",
                String::from_utf8_lossy(&pip.stderr)
            ));
            return None;
        }
        fs::create_dir(folder.path().join("project")).unwrap();
        Some(Self { folder, tools })
    }

    fn project(&self) -> PathBuf {
        self.folder.path().join("project")
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.project().join(name), text).unwrap();
    }

    fn read(&self, name: &str) -> String {
        fs::read_to_string(self.project().join(name)).unwrap()
    }

    /// uv, in the project.
    fn uv(&self, arguments: &[&str]) -> String {
        let mut command = Command::new("python3");
        command.args(["-m", "uv"]).args(arguments).current_dir(self.project()).env("PYTHONPATH", &self.tools);
        text(&mut command)
    }

    fn assemble(&self, recipe: &str, arguments: &[&str]) -> Output {
        let store = std::env::var_os("ASSEMBLE_STORE")
            .map_or_else(|| self.folder.path().join("store"), PathBuf::from);
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(arguments).arg("--project").arg(self.project()).arg("--store").arg(store);
        command.env(PROGRAM, recipe).stdin(Stdio::null()).output().unwrap()
    }

    fn lock(&self, recipe: &str) -> Lock {
        let _ = fs::remove_file(self.project().join("assemble.lock"));
        said(self.assemble(recipe, &["lock"]));
        assemble::lock::read(&self.project().join("assemble.lock")).unwrap().unwrap()
    }

    /// What the last step of the image wrote.
    fn image(&self, recipe: &str) -> (String, String) {
        let archive = self.folder.path().join("image.tar");
        let arguments = ["image", "--locked", "--output", archive.to_str().unwrap()];
        let printed = said(self.assemble(recipe, &arguments));
        (last_file(&archive), printed)
    }
}

/// `out/said` of the last layer that has it.
fn last_file(archive: &Path) -> String {
    let script = "import sys, tarfile, json\n\
        outer = tarfile.open(sys.argv[1])\n\
        layers = json.load(outer.extractfile('manifest.json'))[0]['Layers']\n\
        inner = tarfile.open(fileobj=outer.extractfile(layers[-1]))\n\
        print(inner.extractfile('said').read().decode())";
    text(Command::new("python3").args(["-c", script]).arg(archive))
}

fn text(command: &mut Command) -> String {
    String::from_utf8(output(command)).unwrap()
}

/// What a command said, if it succeeded.
#[track_caller]
fn said(output: Output) -> String {
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{}: {said}", output.status);
    said
}

/// What a command said that failed.
#[track_caller]
fn failed(output: Output) -> String {
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success(), "it should have failed: {said}");
    assert_ne!(output.status.code(), Some(70), "{said}");
    said
}

fn a_lock_of_the_project_is_taken_as_it_stands() {
    let Some(machine) = Machine::new() else { return };
    machine.write("pyproject.toml", MANIFEST);
    machine.uv(&["lock", "--quiet", "--upgrade-package", &format!("click=={CLICK}")]);
    machine.write("pylock.toml", &pylock(&machine));
    machine.write("poetry.lock", &poetry_lock(&machine));
    for recipe in ["poetry", "uv", "pylock"] {
        let lock = machine.lock(recipe);
        let click = lock.python.packages.iter().find(|it| it.name == "click").unwrap();
        assert_eq!(click.version, CLICK, "{recipe}");
        let (installed, _) = machine.image(recipe);
        let names: Vec<_> = installed.split_whitespace().filter_map(|it| it.split("==").next()).collect();
        assert_eq!(names, INSTALLED, "{recipe}");
        assert!(installed.contains(&format!("click=={CLICK} ")), "{recipe}: {installed}");
    }
    what_does_not_fit_is_said(&machine);
}

/// uv's word for it is that it is packaged. poetry-core's projects are installed, by their own names.
fn a_project_that_is_packaged_is_installed() {
    let Some(machine) = Machine::new() else { return };
    let packaged =
        "[build-system]\nrequires = [\"poetry-core\"]\nbuild-backend = \"poetry.core.masonry.api\"\n";
    machine.write("pyproject.toml", &format!("{MANIFEST}{packaged}").replace("package-mode = false", ""));
    fs::create_dir_all(machine.project().join("src/demo")).unwrap();
    machine.write("src/demo/__init__.py", "");
    machine.uv(&["lock", "--quiet"]);
    let root = machine.lock("uv").python.root.expect("the project itself");
    assert_eq!((root.name.as_str(), root.paths), ("demo", Some(vec!["src".to_owned()])));

    let manifest = machine.read("pyproject.toml").replace("poetry.core.masonry.api", "hatchling.build");
    machine.write("pyproject.toml", &manifest.replace("poetry-core", "hatchling"));
    let refused = failed(machine.assemble("uv", &["lock"]));
    assert!(refused.contains("the project is built by `hatchling.build`"), "{refused}");
}

/// A lock that is older than its manifest; files that are not what the lock has; versions that it decides.
fn what_does_not_fit_is_said(machine: &Machine) {
    let refused = failed(machine.assemble("pylock", &["lock", "--export", "poetry"]));
    assert!(refused.contains("Poetry decided nothing of this project"), "{refused}");
    let refused = failed(machine.assemble("pylock", &["lock", "--update", "click"]));
    assert!(refused.contains("`pylock.toml` says which `click` is taken"), "{refused}");
    let mut parts = Vec::new();
    for part in machine.read("pylock.toml").split("sha256 = \"") {
        parts.push(if parts.is_empty() { part.to_owned() } else { format!("00000000{}", &part[8..]) });
    }
    machine.write("pylock.toml", &parts.join("sha256 = \""));
    let refused = failed(machine.assemble("pylock", &["lock"]));
    assert!(refused.contains("is not what `pylock.toml` has"), "{refused}");
    fs::remove_file(machine.project().join("pylock.toml")).unwrap();
    let refused = failed(machine.assemble("pylock", &["lock"]));
    assert!(refused.contains("the project has no `pylock.toml`"), "{refused}");
    machine.write("pyproject.toml", &MANIFEST.replace("click>=8", "click>=8.0.1"));
    let said = [("poetry", "`poetry.lock` does not fit `pyproject.toml`"), ("uv", "does not take `uv.lock`")];
    for (recipe, said) in said {
        let refused = failed(machine.assemble(recipe, &["lock"]));
        assert!(refused.contains(said), "{refused}");
    }
}

/// uv's exports do not tell groups apart, so this puts two of them together, with markers (PEP 751).
fn pylock(machine: &Machine) -> String {
    let export = |options: &[&str]| {
        let arguments =
            [&["export", "--quiet", "--frozen", "--no-header", "--format", "pylock.toml"], options].concat();
        machine.uv(&arguments)
    };
    let main = export(&["--no-default-groups"]);
    let marked = |options: &[&str], name: &str, marker: &str| {
        let text = export(options);
        let package =
            text.split("[[packages]]").find(|it| it.contains(&format!("name = \"{name}\"\n"))).unwrap();
        format!("\n[[packages]]\nmarker = \"{marker}\"{package}")
    };
    let heading =
        "extras = [\"data\"]\ndependency-groups = [\"dev\", \"docs\"]\ndefault-groups = [\"dev\"]\n";
    let main = main.replacen("created-by", &format!("{heading}created-by"), 1);
    main + &marked(&["--only-group", "dev"], "iniconfig", "'dev' in dependency_groups")
        + &marked(&["--only-group", "docs"], "markupsafe", "'docs' in dependency_groups")
        + &marked(&["--no-default-groups", "--extra", "data"], "six", "'data' in extras")
}

/// What Poetry decides in `assemble lock`, exported (by itself it needs an index that mirrors lack), with uv's
/// version and file of click.
fn poetry_lock(machine: &Machine) -> String {
    machine.lock("poetry");
    let exported = machine.assemble("poetry", &["lock", "--export", "poetry"]);
    let text = String::from_utf8(exported.stdout.clone()).unwrap();
    said(exported);
    let name = format!("click-{CLICK}-py3-none-any.whl");
    let uv_lock = machine.read("uv.lock");
    let line = uv_lock.lines().find(|line| line.contains(&name)).unwrap();
    let hash = &line[line.find("sha256:").unwrap()..][..7 + 64];
    let (before, after) = text.split_once("name = \"click\"\n").unwrap();
    let (package, after) = after.split_once("[[package]]").unwrap();
    let (fields, _) = package.split_once("files = [").unwrap();
    let version = fields.split('"').nth(1).unwrap();
    let fields = fields.replacen(version, CLICK, 1);
    format!(
        "{before}name = \"click\"\n{fields}files = [{{file = \"{name}\", hash = \"{hash}\"}}]\n\n[[package]]{after}"
    )
}

/// Poetry wants `crashtest` from 0.4.1 on, as of Poetry 1.2.
fn the_projects_versions_count_beside_the_tools() {
    let Some(machine) = Machine::new() else { return };
    let manifest = "[tool.poetry]\npackage-mode = false\n[tool.poetry.dependencies]\npython = \"^3.11\"\ncrashtest = \"<0.4\"\n";
    machine.write("pyproject.toml", manifest);
    let lock = machine.lock("tools");
    let displaced: Vec<_> = lock.python.displaced.iter().map(ToString::to_string).collect();
    assert!(displaced[0].starts_with("`cleo` of the tools wants `crashtest`"), "{displaced:?}");
    assert_eq!(displaced.len(), 1, "{displaced:?}");
    let (installed, printed) = machine.image("tools");
    assert!(printed.contains(&format!("note      {}", displaced[0])), "{printed}");
    assert_eq!(installed.matches("crashtest==0.3").count(), 1, "{installed}");
    assert_eq!(installed.matches("crashtest").count(), 1, "{installed}");

    let lock = machine.lock("tools apart");
    assert!(lock.python.displaced.is_empty());
    let (installed, _) = machine.image("tools apart");
    assert!(
        installed.contains("Poetry (version") && installed.contains("No broken requirements"),
        "{installed}"
    );
    assert!(installed.trim().ends_with("\ncrashtest==0.3.1"), "{installed}");
}
