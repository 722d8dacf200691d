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
    fetcher.python = http::tests::client(&Machine::default());
    fetcher
}

/// One whose only settings are pip's.
fn told_to_pip(variables: &[(&str, &str)], configuration: &Configuration) -> Result<Fetcher> {
    let machine = Machine::new(Path::new("/nowhere"), variables.iter().copied());
    let mut fetcher =
        Fetcher::new(&machine, configuration, Box::new(|_| unreachable!("the default index is asked")))?;
    fetcher.python = http::tests::client(&machine);
    Ok(fetcher)
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

/// What a recipe's address has when it is locked is what is fetched ever after, from there or from a mirror.
#[test]
fn a_file_at_an_address() {
    let server = Server::start(|_, request| match request.path.as_str() {
        "/mirror/tool.jar" => ok(BYTES),
        _ => reply("404 Not Found\r\nContent-Length: 0", b""),
    });
    let url = "https://tools.example/1.0/tool.jar";
    let mut fetcher = fetcher(&server, false);
    let to = server.address("/mirror/").to_string();
    fetcher.url_mirrors = vec![format!("https://tools.example/1.0/={to}").parse().unwrap()];
    let folder = TempDir::new().unwrap();
    let mut file = fs_err::File::options()
        .read(true)
        .write(true)
        .create_new(true)
        .open(folder.path().join("file"))
        .unwrap();
    assert_eq!(fetcher.copy(url, 1000, &mut file).unwrap(), Sha256::of(BYTES));
    assert!(fetcher.copy(url, 3, &mut file).is_err());
    let file = locked(Origin::Url { url: url.into() });
    assert_eq!(fetch(&fetcher, &file).unwrap(), BYTES);
    let other = Fetch { sha256: Sha256::of(b"other"), ..file };
    assert!(fetch(&fetcher, &other).unwrap_err().hint_text().unwrap().contains("--url-mirror"));
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

/// As with pip, each index may have it; none of them is asked where an option says which counts.
#[test]
fn a_python_file_of_an_index_beside_the_default_one() {
    let server = Server::start(|_, request| match request.path.as_str() {
        "/extra/x/" => ok(b"<a href=../../files/1>x_1_all.deb</a>"),
        "/files/1" => ok(BYTES),
        _ => reply("404 Not Found\r\nContent-Length: 0", b""),
    });
    let [index, other, extra] = ["/simple", "/other", "/extra"].map(|path| server.address(path).to_string());
    let both = format!("{other} {extra}");
    let variables = [("PIP_INDEX_URL", index.as_str()), ("PIP_EXTRA_INDEX_URL", &both)];
    let file = locked(Origin::Python { project: "x".into(), source: None });
    let fetcher = told_to_pip(&variables, &Configuration::default()).unwrap();
    assert_eq!(fetch(&fetcher, &file).unwrap(), BYTES);
    let paths: Vec<_> = server.requests().into_iter().map(|request| request.path).collect();
    assert_eq!(paths, ["/simple/x/", "/other/x/", "/extra/x/", "/files/1"]);
    let listed = fetcher.python_listing(None, "x", &|_, _| ()).unwrap().unwrap();
    assert_eq!(listed.iter().map(|listed| listed.name.as_str()).collect::<Vec<_>>(), ["x_1_all.deb"]);
    assert_eq!(fetcher.python_listing(None, "y", &|_, _| ()).unwrap().unwrap_err().as_u16(), 404);

    let indexes = [("pypi".to_owned(), index.clone())].into();
    let chosen = Configuration { indexes, ..Configuration::default() };
    let error = fetch(&told_to_pip(&variables, &chosen).unwrap(), &file).unwrap_err();
    assert!(error.to_string().contains("served nowhere"), "{error}");
}

/// What one index lists of a name is no answer for another that refuses to say what it has.
#[test]
fn an_index_that_refuses_is_not_passed_over_for_another() {
    let server = Server::start(|_, request| match request.path.as_str() {
        "/lists/x/" => ok(b"<a href=../../files/1>x_1_all.deb</a>"),
        path if path.starts_with("/401/") => reply("401 Unauthorized\r\nContent-Length: 0", b""),
        path if path.starts_with("/403/") => reply("403 Forbidden\r\nContent-Length: 0", b""),
        path if path.starts_with("/503/") => reply("503 Busy\r\nContent-Length: 0", b""),
        _ => reply("404 Not Found\r\nContent-Length: 0", b""),
    });
    let lists = server.address("/lists/").to_string();
    let address = |path: &str| server.address(path).to_string();
    let with_login = address("/403/").replace("://", "://me:secret@");
    for (other, error, refusals) in [
        (address("/404/"), None, 0),
        (address("/403/"), None, 1),
        (address("/401/"), Some("401"), 0),
        (with_login, Some("403"), 0),
        (address("/503/"), Some("503"), 0),
    ] {
        for (first, extra) in [(&lists, &other), (&other, &lists)] {
            let variables = [("PIP_INDEX_URL", first.as_str()), ("PIP_EXTRA_INDEX_URL", extra)];
            let fetcher = told_to_pip(&variables, &Configuration::default()).unwrap();
            let refused = std::cell::Cell::new(0);
            let count = |_: &Address, _| refused.set(refused.get() + 1);
            match (fetcher.python_listing(None, "x", &count), error) {
                (Ok(listing), None) => assert_eq!(listing.unwrap().len(), 1),
                (Err(found), Some(status)) => {
                    let text = found.to_string();
                    assert!(text.contains(status) && text.contains(&format!("/{status}/")), "{text}");
                    assert!(!text.contains("secret"), "{text}");
                }
                (found, _) => panic!("{other}: {found:?}"),
            }
            assert_eq!(refused.get(), refusals, "{other}");
        }
    }
}

/// The default index is never asked in silence where pip is told otherwise.
#[test]
fn what_pip_is_told_and_is_not_followed() {
    let file = locked(Origin::Python { project: "x".into(), source: None });
    for (variable, value) in [("PIP_NO_INDEX", "1"), ("PIP_INDEX_URL", "x")] {
        let fetcher = told_to_pip(&[(variable, value)], &Configuration::default()).unwrap();
        for error in [fetch(&fetcher, &file).unwrap_err(), fetcher.index(None).unwrap_err()] {
            assert!(error.kind() == Kind::Usage && error.to_string().contains(variable), "{error}");
        }
    }
    for (variable, value) in [("PIP_CONFIG_FILE", "pip.conf"), ("PIP_FIND_LINKS", "https://a.example/")] {
        let error = told_to_pip(&[(variable, value)], &Configuration::default()).err().unwrap();
        assert!(error.to_string().contains(variable), "{error}");
    }
}

/// A locked file may be in a folder; another one of that name is not it.
#[test]
fn a_python_file_in_a_folder() {
    let file = locked(Origin::Python { project: "x".into(), source: None });
    let folder = TempDir::new().unwrap();
    let variables = [("PIP_FIND_LINKS", "/wheels"), ("PIP_NO_INDEX", "1")];
    fs_err::create_dir(folder.path().join("wheels")).unwrap();
    for (bytes, found) in [(BYTES, true), (&b"the other byte"[..], false), (b"", false)] {
        fs_err::write(folder.path().join("wheels/x_1_all.deb"), bytes).unwrap();
        let machine = Machine::new(folder.path(), variables);
        let configuration = Configuration::default();
        let fetcher = Fetcher::new(&machine, &configuration, Box::new(|_| unreachable!())).unwrap();
        match fetch(&fetcher, &file) {
            Ok(bytes) => assert!(found && bytes == BYTES),
            Err(error) => assert!(!found && error.to_string().contains("PIP_NO_INDEX"), "{error}"),
        }
    }
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
