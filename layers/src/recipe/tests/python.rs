//! Python in recipes: which one, its tools, and what a project needs.

use super::*;
use crate::derivation::{FileSource, Layout};

/// As `poetry install` has them.
#[test]
fn groups_are_chosen() {
    let names = |choose: fn(ProjectInstall) -> ProjectInstall| {
        let install = move || choose(Python::of(&system(&debian())).poetry_install().split(0));
        let image = realised(move || ImageRecipe::new("x").layer(install()))?;
        let layers = image.layers.iter().filter(|layer| layer.step == "poetry install");
        let names = layers.map(|layer| image.graph.node(layer.tree).name.clone()).collect::<Vec<_>>();
        Ok::<_, RecipeError>((names, image.layers.last().map(|layer| layer.created_by.clone())))
    };
    let all = names(|install| install).unwrap().0;
    assert!(!all.is_empty());
    assert_eq!(names(|install| install.only(["main"])).unwrap().0, all);
    assert!(names(|install| install.without(["main"])).unwrap().0.is_empty());
    let error = names(|install| install.without(["dve"])).unwrap_err().to_string();
    assert!(error.contains("no group `dve`; it has `"), "{error}");
}

/// The recipes' own Python, or the packages' in its place.
#[test]
fn a_python_of_an_archive_can_be_replaced() {
    let image = || {
        let python =
            Python::standalone(&system(&debian()), &Download::new("python", "https://example/python.tar"));
        ImageRecipe::new("x").layer(python.tools(["pip"])).layer(python.poetry_install())
    };
    let own = asked(image);
    let standalone = own.python.standalone.as_ref().unwrap();
    assert_eq!(
        (standalone.file.as_str(), &standalone.above[..]),
        ("python", &["base".to_owned(), "system".to_owned()][..])
    );
    assert!(own.url.contains_key("python") && own.debian.sets.iter().all(|set| set.name != "locking"));
    let lock = locked(own);
    let made = program(image).image("one", Base::Archive, &lock, &project()).unwrap();
    assert!(names(&made).contains(&"python"), "{:?}", names(&made));
    let of_wheels = made.graph.nodes().find_map(|(_, node)| match &node.builder {
        Builder::UnpackWheels(wheels) => Some(wheels.layout.clone()),
        _ => None,
    });
    let Some(crate::derivation::Layout::Site(scheme)) = of_wheels else { panic!("no wheels") };
    assert_eq!(scheme.library.to_string(), "usr/local/lib/python3.11/site-packages");
    assert_eq!(scheme.interpreter, "/usr/local/bin/python3.11");

    let system = program(image).requirements(Base::Archive, PythonFrom::System).unwrap();
    assert!(system.python.system && system.python.standalone.is_none() && system.url.is_empty());
    assert!(system.debian.sets.iter().any(|set| set.name == "locking"));
    let none = program(|| ImageRecipe::new("x").layer(debian()));
    let error = none.requirements(Base::Archive, PythonFrom::System).unwrap_err().to_string();
    assert!(error.contains("no Python of their own"), "{error}");
    let two = Program::new([
        variant("one", "", move |_| Ok(image())),
        variant("two", "", |_| {
            Ok(ImageRecipe::new("y").layer(Python::of(&super::system(&debian())).tools(["pip"])))
        }),
    ]);
    let error = two.requirements(Base::Archive, PythonFrom::Recipe).unwrap_err().to_string();
    assert!(error.contains("two Pythons"), "{error}");
}

/// A front end says what is taken of groups and extras together, and the lock has it by a name.
#[test]
fn what_is_taken_together_is_asked_for_together() {
    let taken = |choose: fn(ProjectInstall) -> ProjectInstall| {
        let install = move || choose(Python::of(&system(&debian())).uv_sync().split(0));
        let program = program(move || ImageRecipe::new("x").layer(install()));
        let requirements = program.requirements(Base::Archive, PythonFrom::Recipe).unwrap();
        let [selection] = &requirements.python.selections[..] else { panic!("one selection") };
        let name = selection.to_string();
        let mut lock = locked(requirements);
        let of = |name: &str, wanted_by: &str| Distribution {
            wanted_by: vec![wanted_by.to_owned()],
            ..distribution(name, 1)
        };
        lock.python.packages = vec![of("taken", &name), of("of-another", "main")];
        let image = program.image("one", Base::Archive, &lock, &project()).unwrap();
        let layers = image.layers.iter().filter(|layer| layer.step == "uv sync");
        let said = layers.clone().map(|layer| layer.created_by.clone()).next().unwrap();
        let names: Vec<_> = layers.map(|layer| image.graph.node(layer.tree).name.clone()).collect();
        assert_eq!(names, ["taken 1"]);
        lock.requirements.python.selections.clear();
        let error = program.image("one", Base::Archive, &lock, &project()).unwrap_err().to_string();
        assert!(error.contains(&format!("does not say what `{name}` takes")), "{error}");
        (name, said)
    };
    assert_eq!(taken(|install| install).0, "default");
    let (name, said) = taken(|install| install.extras(["s3", "a", "s3"]).with(["docs"]).without(["dev"]));
    assert_eq!(name, "with docs without dev extras a s3");
    assert!(said.starts_with("uv sync --frozen --group docs --no-group dev --extra a --extra s3"), "{said}");
    assert_eq!(taken(|install| install.only(["docs"])).0, "only docs");
}

#[test]
fn what_is_locked_together_has_one_front_end() {
    let python = || Python::of(&system(&debian()));
    let two = Program::new([
        variant("one", "", move |_| Ok(ImageRecipe::new("x").layer(python().poetry_install()))),
        variant("two", "", move |_| Ok(ImageRecipe::new("y").layer(python().uv_sync()))),
    ]);
    let error = two.requirements(Base::Archive, PythonFrom::Recipe).unwrap_err().to_string();
    assert!(error.contains("by `poetry install` and by `uv sync`"), "{error}");
    let poetry = asked(move || ImageRecipe::new("x").layer(python().poetry_install().with(["docs"])));
    assert!(poetry.python.selections.is_empty(), "groups alone are in the lock, whoever takes them");
}

/// The environment is a folder that Python takes for one (PEP 405), and the project has its own.
#[test]
fn tools_can_be_apart_from_the_project() {
    let apart = |folder: Option<&'static str>| {
        move || {
            let python = Python::of(&system(&debian()));
            let tools = python.tools(["pip"]);
            let tools = folder.map_or(tools.clone(), |folder| tools.apart(folder));
            ImageRecipe::new("x").layer(tools).layer(python.poetry_install())
        }
    };
    assert!(asked(apart(Some("/opt/tools"))).python.tools_apart && !asked(apart(None)).python.tools_apart);
    let image = realised(apart(Some("/opt/tools"))).unwrap();
    let schemes = image.graph.nodes().filter_map(|(_, node)| match &node.builder {
        Builder::UnpackWheels(wheels) => match &wheels.layout {
            Layout::Site(scheme) => Some((scheme.scripts.to_string(), scheme.interpreter.clone())),
            Layout::Relocate(_) => None,
        },
        _ => None,
    });
    let schemes: Vec<_> = schemes.collect();
    assert!(
        schemes.contains(&("opt/tools/bin".to_owned(), "/opt/tools/bin/python3".to_owned())),
        "{schemes:?}"
    );
    assert!(schemes.contains(&("usr/local/bin".to_owned(), "/usr/bin/python3.11".to_owned())), "{schemes:?}");
    let files = image.graph.nodes().find_map(|(_, node)| match &node.builder {
        Builder::Files(files) if node.name.ends_with("their environment") => Some(files.clone()),
        _ => None,
    });
    let said: Vec<_> =
        files.unwrap().entries.iter().map(|entry| (entry.path.to_string(), entry.source.clone())).collect();
    let text = |text: &str| crate::tree::RawBytes(text.as_bytes().to_vec());
    let config = "home = /usr/bin\ninclude-system-site-packages = false\nversion = 3.11.2\n";
    assert_eq!(said[0], ("opt/tools/pyvenv.cfg".to_owned(), FileSource::Literal(text(config))));
    assert_eq!(
        said[1],
        ("opt/tools/bin/python3".to_owned(), FileSource::Symlink(text("/usr/bin/python3.11")))
    );

    let both = Program::new([
        variant("one", "", move |_| Ok(apart(Some("/opt/tools"))())),
        variant("two", "", move |_| Ok(apart(None)())),
    ]);
    let error = both.requirements(Base::Archive, PythonFrom::Recipe).unwrap_err().to_string();
    assert!(error.contains("apart from the project and beside it"), "{error}");
}

/// What the tools have is not installed again where they are, and nowhere else: variants share a lock.
#[test]
fn an_image_without_the_tools_has_what_they_would_have_brought() {
    let python = || Python::of(&system(&debian()));
    let install = move || python().poetry_install().split(0);
    let two = Program::new([
        variant("with", "", move |_| {
            let python = python();
            let install = python.poetry_install().split(0);
            Ok(ImageRecipe::new("x").layer(python.tools(["pip"])).layer(install))
        }),
        variant("without", "", move |_| Ok(ImageRecipe::new("x").layer(install()))),
    ]);
    let mut lock = locked(two.requirements(Base::Archive, PythonFrom::Recipe).unwrap());
    lock.python.packages = vec![distribution("own", 1), distribution("shared", 1)];
    lock.python.tools = vec![distribution("pip", 1), distribution("shared", 1)];
    let installed = |lock: &Lock, variant: &str| {
        let image = two.image(variant, Base::Archive, lock, &project())?;
        let layers = image.layers.iter().filter(|layer| layer.step == "poetry install");
        let names = layers.map(|layer| image.graph.node(layer.tree).name.clone());
        Ok::<_, RecipeError>(names.collect::<Vec<_>>().join(", "))
    };
    assert_eq!(installed(&lock, "with").unwrap(), "own 1");
    assert_eq!(installed(&lock, "without").unwrap(), "own 1, shared 1");
    lock.python.tools[1].version = "2".to_owned();
    let error = installed(&lock, "with").unwrap_err().to_string();
    assert!(error.contains("wants `shared` 1, and the tools of its environment have 2"), "{error}");
    assert_eq!(installed(&lock, "without").unwrap(), "own 1, shared 1");
}

/// A script's first line and a search path have the folder as it is written.
#[test]
fn a_folder_is_absolute() {
    let images: [fn(Python) -> ImageRecipe; 3] = [
        |python| ImageRecipe::new("x").layer(python.tools(["pip"]).apart("opt/tools")),
        |python| ImageRecipe::new("x").layer(python.application("opt/tools")),
        |python| ImageRecipe::new("x").layer(python.manifest("opt/tools")),
    ];
    for image in images {
        let error = realised(move || image(Python::of(&system(&debian())))).unwrap_err().to_string();
        assert!(error.contains("`opt/tools` is no folder of the image: `/opt/tools` is one"), "{error}");
    }
}
