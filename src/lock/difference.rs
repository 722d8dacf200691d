//! What changed between two locks, a line a change.

use std::collections::BTreeMap;

use assemble_layers::Lock;

/// `~ numpy 2.1.0 → 2.1.1`, `+ tini 0.19.0`, `- curl 7.88`; sorted by name.
pub fn difference(old: Option<&Lock>, new: &Lock) -> Vec<String> {
    let old = old.map(contents).unwrap_or_default();
    let new = contents(new);
    let mut names: Vec<_> = old.keys().chain(new.keys()).collect();
    names.sort_unstable();
    names.dedup();
    let line = |name: &(&str, String)| {
        let text = &name.1;
        match (old.get(name), new.get(name)) {
            (Some(one), Some(other)) if one.0 != other.0 => Some(format!("~ {text} {} → {}", one.0, other.0)),
            (Some(one), Some(other)) if one.1 != other.1 => Some(format!("~ {text} {}: another file", one.0)),
            (None, Some((version, _))) => Some(format!("+ {text} {version}")),
            (Some((version, _)), None) => Some(format!("- {text} {version}")),
            _ => None,
        }
    };
    names.into_iter().filter_map(line).collect()
}

/// Where a name belongs and the name → its version and its file's digest.
fn contents(lock: &Lock) -> BTreeMap<(&str, String), (String, String)> {
    let debs = lock
        .debian
        .package
        .iter()
        .map(|deb| ((deb.set.as_str(), deb.name.clone()), (deb.version.clone(), deb.sha256.to_string())));
    let python = &lock.python;
    let lists = [("project", &python.packages), ("tools", &python.tools)].into_iter();
    let lists = lists.chain(python.collections.iter().map(|(name, list)| (name.as_str(), list)));
    let distributions = lists.flat_map(|(list, distributions)| {
        distributions
            .iter()
            .map(move |one| ((list, one.name.clone()), (one.version.clone(), one.file.sha256.to_string())))
    });
    let gpus = lock.gpu.iter().map(|code| {
        let targets: Vec<_> = code.targets.iter().map(ToString::to_string).collect();
        (("gpu", format!("{} for", code.library)), (targets.join(" "), String::new()))
    });
    let bases = lock.base.iter().map(|(name, image)| {
        (("base", name.clone()), (image.repository.clone(), image.manifest.to_string()))
    });
    let urls = lock.url.iter().map(|(name, file)| {
        (("url", name.clone()), (format!("{} bytes", file.size), file.sha256.to_string()))
    });
    debs.chain(distributions).chain(gpus).chain(bases).chain(urls).collect()
}
