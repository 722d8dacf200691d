use assemble_layers::digest::Sha256;
use tempfile::TempDir;

use super::server::{Server, ok, reply};
use super::*;

const BYTES: &[u8] = b"the very bytes";

fn fetcher(server: &Server, offline: bool) -> Fetcher {
    let base = server.address("/").to_string();
    let configuration = Configuration {
        offline,
        indexes: [("cu128".to_owned(), format!("{base}simple/"))].into(),
        debian_mirror: Some(format!("{base}debian")),
        debian_snapshot: Some(format!("{base}snapshot")),
        ..Configuration::default()
    };
    let mut fetcher =
        Fetcher::new(&Machine::default(), &configuration, Box::new(|_| unreachable!("an index is named")))
            .unwrap();
    fetcher.client = http::tests::client(&Machine::default());
    fetcher
}

fn locked(origin: Origin) -> Fetch {
    Fetch { file: "x_1_all.deb".into(), sha256: Sha256::of(BYTES), size: BYTES.len() as u64, origin }
}

fn debian() -> Fetch {
    locked(Origin::Debian { suite: "bookworm-security".into(), path: "pool/x_1_all.deb".into() })
}

fn python() -> Fetch {
    locked(Origin::Python { project: "x".into(), source: Some("cu128".into()) })
}

fn fetch(fetcher: &Fetcher, file: &Fetch) -> Result<Vec<u8>> {
    let folder = TempDir::new().unwrap();
    let part = folder.path().join("part");
    fetcher.fetch(file, &part, &mut |_| {})?;
    Ok(fs_err::read(part)?)
}

#[test]
fn the_snapshot_has_what_the_mirror_dropped() {
    let server = Server::start(|_, request| {
        match request.path.starts_with("/snapshot/archive/debian-security/19700102") {
            true => ok(BYTES),
            false => reply("404 Not Found\r\nContent-Length: 0", b""),
        }
    });
    assert_eq!(fetch(&fetcher(&server, false), &debian()).unwrap(), BYTES);
    let paths: Vec<_> = server.requests().into_iter().map(|request| request.path).collect();
    assert_eq!(paths[0], "/debian-security/pool/x_1_all.deb");
    assert_eq!(paths.len(), 3);
}

#[test]
fn a_python_file_by_its_page() {
    let server = Server::start(|_, request| match request.path.as_str() {
        "/simple/x/" => ok(b"<a href=../../files/1>x_1_all.deb</a>"),
        "/files/1" => ok(BYTES),
        _ => reply("404 Not Found\r\nContent-Length: 0", b""),
    });
    assert_eq!(fetch(&fetcher(&server, false), &python()).unwrap(), BYTES);
}

#[test]
fn served_nowhere_says_who_was_asked_and_what_to_do() {
    let server = Server::start(|_, _| reply("404 Not Found\r\nContent-Length: 0", b""));
    let error = fetch(&fetcher(&server, false), &debian()).unwrap_err();
    assert_eq!(error.kind(), Kind::Network);
    assert!(error.message().contains("`x_1_all.deb` is served nowhere"), "{error}");
    assert_eq!(error.details().iter().filter(|line| line.contains("404")).count(), 3, "{error}");
    assert!(error.hint_text().unwrap().contains(debian::SNAPSHOT), "{error}");
    let error = fetch(&fetcher(&server, false), &python()).unwrap_err();
    assert!(error.hint_text().unwrap().contains("`--index cu128=URL`"), "{error}");
}

#[test]
fn offline_asks_nobody() {
    let server = Server::start(|_, _| ok(BYTES));
    let error = fetch(&fetcher(&server, true), &debian()).unwrap_err();
    assert!(error.message().contains("--offline"), "{error}");
    assert_eq!(server.requests().len(), 0);
}
