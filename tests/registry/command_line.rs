//! `assemble push` as it is called: what it prints, where logins come from, what it never shows.

use std::os::unix::fs::PermissionsExt;

use assemble::deliver::to_file;

use super::*;

/// A folder with an archive, `DOCKER_CONFIG` and a helper program.
struct Desk {
    scene: Scene,
    fake: Fake,
}

impl Desk {
    fn new(guard: Guard) -> Self {
        let scene = Scene::new();
        let names = ["demo:1".parse().unwrap()];
        to_file(&scene.bench.store, &scene.image, &names, &scene.bench.path("image.tar")).unwrap();
        Self { scene, fake: Fake::guarded(guard, |_| None) }
    }

    /// A program `docker-credential-test` that notes how it was called.
    fn helper(&self, script: &str) {
        let called = self.scene.bench.path("called");
        let script = format!("#!/bin/sh\n{{ echo \"$@\"; cat; }} >'{}'\n{script}\n", called.display());
        let path = self.scene.bench.write("bin/docker-credential-test", script);
        std::fs::set_permissions(path, PermissionsExt::from_mode(0o755)).unwrap();
    }

    fn push(&self, config: &Value, arguments: &[&str]) -> Command {
        let bench = &self.scene.bench;
        bench.write("docker/config.json", config.to_string());
        let mut command = Command::new(env!("CARGO_BIN_EXE_assemble"));
        command.arg("push").arg(bench.path("image.tar")).args(arguments);
        command.arg("--store").arg(bench.path("store"));
        command.env("DOCKER_CONFIG", bench.path("docker"));
        let path = std::env::var("PATH").unwrap();
        command.env("PATH", format!("{}:{path}", bench.path("bin").display()));
        for proxy in [
            "HTTP_PROXY",
            "http_proxy",
            "HTTPS_PROXY",
            "https_proxy",
            "ALL_PROXY",
            "all_proxy",
            "NO_PROXY",
            "no_proxy",
        ] {
            command.env_remove(proxy);
        }
        command
    }

    fn to(&self) -> String {
        format!("{}/team/app:1", self.fake.host())
    }
}

#[test]
fn the_digest_is_on_stdout() {
    let desk = Desk::new(Guard::Nobody);
    let digest = desk.scene.image.manifest.digest.to_string();
    let printed = output(&mut desk.push(&json!({}), &[&desk.to()]));
    assert_eq!(String::from_utf8(printed).unwrap(), format!("{digest}\n"));
    desk.scene.assert_whole(&desk.fake);

    let second = format!("{}/team/app:2", desk.fake.host());
    let printed = output(&mut desk.push(&json!({}), &["--json", &desk.to(), &second]));
    let printed: Value = serde_json::from_slice(&printed).unwrap();
    assert_eq!(printed["digest"], digest);
    assert_eq!(printed["pushed"][1]["reference"], second);
    assert_eq!(printed["pushed"].as_array().unwrap().iter().map(amounts).collect::<Vec<_>>(), [[0, 0, 4]; 2]);
    assert!(desk.fake.manifest("team/app", "2").is_some());
}

#[test]
fn a_helper_gives_the_login() {
    let desk = Desk::new(Guard::Basic(LOGIN.to_owned()));
    let host = desk.fake.host();
    desk.helper(&format!(r#"echo '{{"ServerURL":"{host}","Username":"me","Secret":"{SECRET}"}}'"#));
    for config in [json!({ "credHelpers": { &host: "test" } }), json!({ "credsStore": "test" })] {
        let said = desk.push(&config, &[&desk.to()]).output().unwrap();
        let said =
            format!("{}{}", String::from_utf8_lossy(&said.stdout), String::from_utf8_lossy(&said.stderr));
        assert!(said.contains("sha256:") && !said.contains(SECRET), "{said}");
        let called = std::fs::read_to_string(desk.scene.bench.path("called")).unwrap();
        assert_eq!(called, format!("get\n{host}\n"));
    }
    desk.scene.assert_whole(&desk.fake);
}

#[test]
fn a_helper_gives_an_identity_token() {
    let desk = Desk::new(Guard::Bearer { uses: 100, login: None });
    desk.helper(&format!(r#"echo '{{"ServerURL":"","Username":"<token>","Secret":"{SECRET}"}}'"#));
    output(&mut desk.push(&json!({ "credsStore": "test" }), &[&desk.to()]));
    assert!(desk.fake.token_bodies()[0].contains(SECRET));
    desk.scene.assert_whole(&desk.fake);
}

#[test]
fn a_helper_that_fails_shows_no_secret() {
    let desk = Desk::new(Guard::Basic(LOGIN.to_owned()));
    for script in [&format!("echo {SECRET}; exit 1"), &format!("echo {SECRET}; echo {SECRET} >&2")] {
        desk.helper(script);
        let (code, said) = small::fails(&mut desk.push(&json!({ "credsStore": "test" }), &[&desk.to()]));
        assert!(
            code == 8 && said.contains("docker-credential-test") && !said.contains(SECRET),
            "{code}: {said}"
        );
    }
    // It has none, so the file is asked.
    desk.helper("echo credentials not found in native keychain; exit 1");
    let auths = json!({ desk.fake.host(): { "username": "me", "password": SECRET } });
    output(&mut desk.push(&json!({ "credsStore": "test", "auths": auths }), &[&desk.to()]));
    desk.scene.assert_whole(&desk.fake);
}

/// A proxy stands for a registry that is not on loopback.
#[test]
fn plain_text_is_only_for_registries_that_are_named() {
    let desk = Desk::new(Guard::Nobody);
    let proxy = format!("http://{}", desk.fake.host());
    let to = "registry.example/team/app:1";
    let mut command = desk.push(&json!({}), &["--insecure-registry", "registry.example", to]);
    output(command.env("HTTP_PROXY", &proxy));
    desk.scene.assert_whole(&desk.fake);

    let before = desk.fake.requests().len();
    let mut command = desk.push(&json!({}), &[to]);
    let (code, said) = small::fails(command.env("HTTP_PROXY", &proxy).env("HTTPS_PROXY", &proxy));
    assert!(code == 5 && said.contains("does not lead to `registry.example`"), "{code}: {said}");
    assert!(desk.fake.requests()[before..].iter().all(|request| request.method == "CONNECT"));
}

#[test]
fn what_makes_no_sense_is_said_at_once() {
    let desk = Desk::new(Guard::Nobody);
    let digest = desk.scene.image.manifest.digest;
    for to in ["Team/App", &format!("{}/team/app@{digest}", desk.fake.host())] {
        let (code, said) = small::fails(&mut desk.push(&json!({}), &[to]));
        assert!(code == 2 && said.contains(to), "{code}: {said}");
    }
    assert_eq!(desk.fake.requests().len(), 0);
}
