//! A team's path, by the very commands of `docs/ci.md`: a CI host that has the locked files, a
//! developer's host with an empty store, and Debian's `docker-registry` between them, each in a network
//! namespace. Nothing there has a route to the world, so what the developer gets came from the cache.
//!
//! It needs root and minutes, so it runs where `ASSEMBLE_REAL=1` asks for it, as `.ci/run` does.

mod network;
mod page;
mod peers;
mod team;

use std::fs;
use std::process::Command;

use crate::support::engines::Daemon;
use crate::support::small::{fails, is_root, scene};
use crate::support::{output, skipped, small};
use network::{Host, REGISTRY};
use page::Page;
use team::Team;

/// A team in a network of its own, or nothing to test.
fn team(name: &str) -> Option<Team> {
    if let Some(reason) = missing() {
        skipped(&format!("two hosts and a registry ({name}): {reason}"));
        return None;
    }
    Some(Team::new(name, scene()?))
}

fn missing() -> Option<String> {
    if std::env::var_os("ASSEMBLE_REAL").is_none_or(|value| value != "1") {
        return Some("it takes minutes; `ASSEMBLE_REAL=1` asks for it".to_owned());
    }
    if !is_root() {
        return Some("it needs root for network namespaces".to_owned());
    }
    let tools = [
        ("ip", "-Version"),
        ("docker-registry", "--version"),
        ("docker", "--version"),
        ("dockerd", "--version"),
        ("podman", "--version"),
        ("skopeo", "--version"),
        ("umoci", "--version"),
        ("openssl", "version"),
    ];
    let lacks = tools.iter().find(|(tool, version)| Command::new(tool).arg(version).output().is_err());
    lacks.map(|(tool, _)| format!("it needs `{tool}`"))
}

/// Who adds a command to the page adds it here.
#[test]
fn no_command_of_the_page_is_left_out() {
    let outline = [
        ("Logins", 1),
        ("The CI job", 1),
        ("A tag that moves", 3),
        ("A developer's machine", 1),
        ("Whoever runs it", 1),
        ("Signatures", 1),
    ];
    assert_eq!(Page::read().outline(), outline);
}

#[test]
fn what_ci_has_made_a_developer_takes() {
    let Some(mut team) = team("path") else { return };
    team.give_ci_the_downloads();
    let page = Page::read();
    let digest = ci_publishes(&team, &page);
    let engine = Daemon::classic_by(team.developer.command("dockerd"));
    team.developer.set("DOCKER_HOST", engine.host());
    a_developer_takes_everything(&team, &page, &engine, &digest);
    a_changed_line_is_built_here(&team, &page, &engine);
    layers_are_not_fetched_to_be_pushed(&team, &digest);
    peers::read_it(&team, &page, &engine, &digest);
    the_tag_moves_only_from_where_it_was(&team, &page);
}

/// The job of a first commit, and of another that changes nothing; the digest that they print.
fn ci_publishes(team: &Team, page: &Page) -> String {
    let [login] = page.commands("Logins");
    output(&mut team.ci.sh(login));
    let [job] = page.commands("The CI job");
    let (printed, requests) = team.asked(|| team.prints(team.ci.sh(job).env("COMMIT", "1")));
    assert_eq!(printed, team.small.built.digest);
    // The cache was sent the layers; the image has them mounted from there.
    let layers = team.small.built.layers.len();
    let sent = |requests: &[String], part: &str| {
        requests.iter().filter(|it| it.starts_with("PUT ") && it.contains(part)).count()
    };
    assert!(sent(&requests, "/team/cache/blobs/") > layers, "{requests:#?}");
    assert_eq!(sent(&requests, "/team/spectralmc/blobs/"), 1, "{requests:#?}");
    assert_eq!(requests.iter().filter(|it| it.contains("mount=") && it.ends_with(" 201")).count(), layers);

    let (again, requests) = team.asked(|| team.prints(team.ci.sh(job).env("COMMIT", "2")));
    assert_eq!(again, printed);
    assert_eq!((sent(&requests, "/blobs/"), sent(&requests, "/manifests/")), (0, 1), "{requests:#?}");
    printed
}

fn a_developer_takes_everything(team: &Team, page: &Page, engine: &Daemon, digest: &str) {
    // The registry's network, and no way beyond it.
    let routes = team.developer.routes();
    assert!(routes.lines().count() == 1 && !routes.contains("default"), "{routes}");
    let ([login], [load]) = (page.commands("Logins"), page.commands("A developer's machine"));
    output(&mut team.developer.sh(login));
    let (printed, requests) = team.asked(|| team.prints(&mut team.developer.sh(load)));
    assert_eq!(printed, digest);
    assert_eq!(engine.run("small:tiny", &["python3", "-c", "import numpy, small; print(1)"]), "1");

    let mut read: Vec<_> = requests.iter().filter(|it| it.ends_with(" 200")).collect();
    assert!(read.iter().all(|it| it.starts_with("GET /v2/")), "{requests:#?}");
    read.retain(|it| it.contains("/team/cache/"));
    let all = read.len();
    read.sort();
    read.dedup();
    assert_eq!(read.len(), all, "nothing is asked for twice");
    let store = assemble::store::Store::open_cache(team.developer.store()).unwrap();
    let locked = small::files(&team.small.lock);
    assert!(!locked.into_iter().any(|file| store.has_blob_file(file)), "a locked file was not needed");
}

fn a_changed_line_is_built_here(team: &Team, page: &Page, engine: &Daemon) {
    let [load] = page.commands("A developer's machine");
    change(&team.developer, "LINE = 1");
    let said = team.says(&mut team.developer.sh(load));
    assert_eq!(built(&said), ["application"], "{said}");
    assert_eq!(engine.run("small:tiny", &["python3", "-c", "import small; print(small.LINE)"]), "1");
}

/// A third machine, whose store is empty, tags what the cache holds.
fn layers_are_not_fetched_to_be_pushed(team: &Team, digest: &str) {
    let mut command = team.developer.command("assemble");
    command.arg("image").arg("--project").arg(&team.ci.project).arg("--store");
    command.arg(team.developer.path("third")).args(["--locked", "--quiet", "--cache"]);
    command.args([format!("{REGISTRY}/team/cache"), "--push".to_owned(), format!("{REGISTRY}/team/third:1")]);
    let (printed, requests) = team.asked(|| team.prints(&mut command));
    assert_eq!(printed, digest);
    let layers = &team.small.built.layers;
    let fetched = |layer: &&small::Layer| {
        requests.iter().any(|it| it.starts_with("GET ") && it.contains(&*layer.digest))
    };
    assert_eq!(layers.iter().filter(fetched).count(), 0, "{requests:#?}");
}

/// Three jobs: of a first commit, of an older and slower one, and of one that overtakes it.
fn the_tag_moves_only_from_where_it_was(team: &Team, page: &Page) {
    let [first, note, move_it] = page.commands("A tag that moves");
    let one = team.prints(&mut team.ci.sh(first));
    let newer = team.ci.path("newer");
    small::copy(&team.ci.project, &newer);
    change(&team.ci, "LINE = 2");
    fs::write(newer.join("small/__init__.py"), "LINE = 3\n").unwrap();
    let (code, said) = fails(&mut team.ci.sh(first));
    assert!(code == 4 && said.contains("is there already") && said.contains(&one), "{code}: {said}");

    let overtaken = format!("{note}(cd '{}'\n{note}{move_it})\n{move_it}", newer.display());
    let slow = team.ci.sh(&overtaken).output().unwrap();
    let (printed, said) =
        (String::from_utf8(slow.stdout).unwrap(), String::from_utf8_lossy(&slow.stderr).into_owned());
    let three = printed.trim();
    assert!(three.starts_with("sha256:") && three != one && !three.contains('\n'), "{printed}");
    assert_eq!(slow.status.code(), Some(4), "{said}");
    for part in ["has moved", &one, three, REGISTRY] {
        assert!(said.contains(part), "`{part}` is missing: {said}");
    }
    let there = team.prints(&mut team.ci.sh(&format!("{note}echo \"$before\"")));
    assert_eq!(there, three);
}

#[test]
fn only_what_ci_has_signed_is_taken() {
    let Some(mut team) = team("signed") else { return };
    team.give_ci_the_results();
    let page = Page::read();
    let ([login], [keygen]) = (page.commands("Logins"), page.commands("Signatures"));
    let ([job], [load]) = (page.commands("The CI job"), page.commands("A developer's machine"));
    // What is taken is the question here, and no engine's business.
    let take = load.replace(" --load", "");
    for host in [&team.ci, &team.developer] {
        output(&mut host.sh(login));
    }
    let public = team.prints(&mut team.ci.sh(keygen));
    let secret = team.ci.path("home/cache.key");
    team.ci.set("ASSEMBLE_CACHE_SECRET", secret.to_str().unwrap());
    let digest = team.prints(team.ci.sh(job).env("COMMIT", "1"));

    // With the key of somebody else nothing is taken, and here nothing can be made.
    let other = team.prints(team.developer.command("assemble").args(["cache", "keygen", "../other.key"]));
    let (code, said) = fails(team.developer.sh(&take).env("ASSEMBLE_CACHE_KEY", other));
    assert_eq!(code, 5, "{said}");
    // The first in full, and all others in one line.
    assert_eq!(warnings(&said).len(), 2, "{said}");
    assert!(said.contains("no key of `--cache-key`") && said.contains("error: "), "{said}");

    team.developer.set("ASSEMBLE_CACHE_KEY", public);
    assert_eq!(team.prints(&mut team.developer.sh(&take)), digest);
}

#[test]
fn a_registry_that_is_gone_costs_a_warning() {
    let Some(team) = team("down") else { return };
    team.give_ci_the_results();
    let page = Page::read();
    let ([login], [job]) = (page.commands("Logins"), page.commands("The CI job"));
    let [load] = page.commands("A developer's machine");
    let take = load.replace(" --load", "");
    output(&mut team.ci.sh(login));
    output(&mut team.developer.sh(login));
    output(team.ci.sh(job).env("COMMIT", "1"));
    team.says(&mut team.developer.sh(&take));

    team.network.set_registry("down");
    change(&team.developer, "LINE = 1");
    let said = team.says(&mut team.developer.sh(&take));
    assert_eq!(built(&said), ["application"], "{said}");
    let warned = warnings(&said);
    assert!(warned.len() == 1 && warned[0].contains(REGISTRY), "{said}");
    assert!(said.contains("it is left alone in this run"), "{said}");
    // What cannot do without it says so.
    let (code, said) = fails(team.ci.sh(job).env("COMMIT", "2"));
    assert!(code == 5 && said.contains(&format!("`{REGISTRY}` ")) && said.contains("hint: "), "{said}");

    team.network.set_registry("up");
    change(&team.developer, "LINE = 2");
    let said = team.says(&mut team.developer.sh(&take));
    assert_eq!((built(&said), warnings(&said).len()), (vec!["application"], 0), "{said}");
}

#[test]
fn plain_http_is_spoken_where_it_is_allowed() {
    let Some(team) = team("plain") else { return };
    team.give_ci_the_results();
    let plain = team.serve_plainly(5000);
    let image = |host: &Host, arguments: &[&str]| {
        let mut command = host.command("assemble");
        command.args(["image", "--locked", "--quiet"]).args(arguments);
        command
    };
    let host = format!("{REGISTRY}:5000");
    let (cache, name) = (format!("{host}/team/cache"), format!("{host}/team/small:1"));
    let publish = ["--cache-to", &cache, "--push", &name];
    let (code, said) = fails(&mut image(&team.ci, &publish));
    assert!(code == 5 && said.contains(&host), "{code}: {said}");
    assert!(plain.requests().iter().all(|request| !request.contains("/v2/")), "{:#?}", plain.requests());

    let insecure = ["--insecure-registry", &host];
    let digest = team.prints(image(&team.ci, &publish).args(insecure));
    let taken = team.prints(image(&team.developer, &["--cache", &cache]).args(insecure));
    assert_eq!((digest.as_str(), taken), (team.small.built.digest.as_str(), digest.clone()));
}

/// Another line at the end of the application's first file.
fn change(host: &Host, line: &str) {
    let path = host.project.join("small/__init__.py");
    let text = fs::read_to_string(&path).unwrap();
    fs::write(path, format!("{text}{line}\n")).unwrap();
}

/// What was said to be built, each once.
fn built(said: &str) -> Vec<&str> {
    let lines = said.lines().filter_map(|line| line.trim().strip_prefix("built "));
    let mut names: Vec<_> = lines.filter_map(|line| line.split_whitespace().next()).collect();
    names.dedup();
    names
}

fn warnings(said: &str) -> Vec<&str> {
    said.lines().filter(|line| line.starts_with("warning: ")).collect()
}
