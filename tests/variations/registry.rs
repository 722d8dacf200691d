//! A team's cache in Debian's `docker-registry`, on the command line.

use super::*;
use crate::support::debian::Registry;

#[test]
fn everything_can_be_taken_from_a_registry() {
    let small = scene_or_return!();
    let Some(registry) = Registry::start() else {
        return skipped("a cache in a registry needs `docker-registry`");
    };
    let cache = format!("{}/team/cache", registry.host);
    let image = |store: &Path, arguments: &[&str]| {
        let mut command = small.verb("image", &small.project, store);
        command.args(["--locked", "--json"]).args(arguments);
        command
    };
    build(&mut image(&small.store_copy("that of CI"), &["--cache-to", &cache]));

    let store = small.path("that of a developer");
    let taken = build(&mut image(&store, &["--cache", &cache]));
    small.assert_same(&taken, "from a registry");
    assert_eq!(taken.had("substituted").len(), taken.layers.len(), "{:?}", taken.layers);
    // Not one locked file was needed.
    let opened = assemble::store::Store::open_cache(&store).unwrap();
    let here: Vec<_> =
        small::files(&small.lock).into_iter().filter(|file| opened.has_blob_file(*file)).collect();
    assert!(here.is_empty(), "{here:?}");

    // The application alone is built, over what is taken.
    let project = small.project_copy("a developer's project");
    fs::write(project.join("small/__init__.py"), "\"\"\"Edited.\"\"\"\n").unwrap();
    let mut command = small.verb("image", &project, &small.path("another developer's"));
    let built = build(command.args(["--locked", "--json", "--cache", &cache]));
    assert_eq!(built.built(), ["application"]);

    let (code, said) = fails(&mut image(&store, &["--offline", "--cache", &cache]));
    assert!(code == 2 && said.contains("--offline") && said.contains(&cache), "{code}: {said}");
}
