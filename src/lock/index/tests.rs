use std::io::Write;
use std::net::TcpStream;
use std::path::Path;
use std::sync::mpsc::Sender;

use assemble_layers::Packer;
use assemble_layers::derivation::ImageLayer;
use assemble_layers::lock::FileKind;
use serde_json::Value;
use tempfile::TempDir;

use super::*;
use crate::fetch::http::Patience;
use crate::fetch::server::{self, Reply, Server, ok, reply, rest};
use crate::fetch::{Configuration, git};
use crate::net::Machine;
use crate::realise;
use crate::sandbox::Sandbox;
use crate::store::Store;

const FILE: &[u8] = b"the bytes of a file that an index has";

/// What the sandbox hears.
#[derive(Debug)]
struct Heard {
    status: u16,
    head: String,
    body: Vec<u8>,
}

impl Heard {
    fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap()
    }

    fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }
}

/// The engine's fetcher is the one that the index asks.
struct Same<'a>(&'a Fetcher);

impl realise::Fetcher for Same<'_> {
    fn fetch(&self, fetch: &Fetch, into: &Path, progress: &mut dyn FnMut(u64)) -> Result<()> {
        self.0.fetch(fetch, into, progress)
    }

    fn repository<'a>(&'a self, _: &Path) -> Result<git::Repository<'a>> {
        unreachable!("no test has a repository")
    }

    fn image_layer(&self, _: &ImageLayer, _: &mut dyn FnMut(&mut dyn Read) -> Result<()>) -> Result<()> {
        unreachable!("no test has a base image")
    }
}

struct Scene {
    folder: TempDir,
    store: Store,
    sandbox: Sandbox,
    fetcher: Fetcher,
}

impl Scene {
    /// The source `private` of the manifest, and the default index, are at these addresses.
    fn new(private: &str, default: &str, netrc: &str, variables: &[(&str, &str)]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs_err::create_dir(folder.path().join("home")).unwrap();
        fs_err::write(folder.path().join("home/.netrc"), netrc).unwrap();
        let variables = variables.iter().copied().chain([("HOME", "/home")]);
        let machine = Machine::new(folder.path(), variables);
        let configuration = Configuration {
            sources: [("private".to_owned(), private.to_owned())].into(),
            indexes: [(DEFAULT.to_owned(), default.to_owned())].into(),
            patience: Patience { tries: 2, pause: std::time::Duration::ZERO, ..Patience::default() },
            ..Configuration::default()
        };
        let unknown = Box::new(|_: &Fetcher| Err(Error::new(Kind::Usage, "there is no other")));
        let fetcher = Fetcher::new(&machine, &configuration, unknown).unwrap();
        let store = Store::open(folder.path().join("store"), crate::sandbox::remove_folder).unwrap();
        Self { folder, store, sandbox: Sandbox::default(), fetcher }
    }

    fn at(server: &Server) -> Self {
        let address = server.other_name("/simple/");
        Self::new(&address, &address, "", &[])
    }

    fn engine<'a>(&'a self, fetcher: &'a Same<'a>, events: Sender<Event>) -> Engine<'a> {
        let (store, sandbox, project) = (&self.store, &self.sandbox, self.folder.path());
        let packer = Packer::default();
        Engine { store, caches: &[], fetcher, packer, executor: sandbox, sandbox, project, jobs: 1, events }
    }

    /// Serves the index, has `talk` ask it, and judges a lock that came to nothing bad.
    fn serve(&self, talk: impl FnOnce(&dyn Fn(&str, &str) -> Heard)) -> (Result<()>, Vec<Event>) {
        let (events, happened) = std::sync::mpsc::channel();
        let fetcher = Same(&self.fetcher);
        let engine = self.engine(&fetcher, events);
        let index = Index::new(&engine, &self.fetcher, ["private".to_owned()].into_iter());
        std::thread::scope(|scope| {
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            let address = listener.local_addr().unwrap();
            let _listening = index.serve(scope, listener);
            talk(&|path, headers| {
                let mut connection = TcpStream::connect(address).unwrap();
                write!(connection, "GET {path} HTTP/1.1\r\n{headers}\r\n").unwrap();
                let mut bytes = Vec::new();
                connection.read_to_end(&mut bytes).unwrap();
                let end = bytes.windows(4).position(|four| four == b"\r\n\r\n").unwrap();
                let head = String::from_utf8(bytes[..end].to_vec()).unwrap();
                let status = head.split(' ').nth(1).unwrap().parse().unwrap();
                Heard { status, head, body: bytes.split_off(end + 4) }
            });
        });
        (index.judge(Ok(())), happened.try_iter().collect())
    }
}

const JSON: &str = "Accept: application/vnd.pypi.simple.v1+json\r\n";

/// A page that lists `one-1.tar.gz`, at `address`.
fn lists(address: &str, sha256: &str) -> Reply {
    let page = format!(
        r#"{{"meta": {{"api-version": "1.1"}}, "name": "one", "versions": ["1"], "files": [
        {{"filename": "one-1.tar.gz", "url": "{address}", "hashes": {{{sha256}}}, "size": {},
          "requires-python": ">=3", "yanked": "a & b", "core-metadata": {{"sha256": "{}"}},
          "upload-time": "2024-01-01T00:00:00Z"}},
        {{"filename": "one-1.zip", "url": "{address}", "hashes": {{}}, "yanked": false}}]}}"#,
        FILE.len(),
        Sha256::of(b"metadata")
    );
    reply(
        &format!(
            "200 OK\r\nContent-Type: application/vnd.pypi.simple.v1+json\r\nContent-Length: {}",
            page.len()
        ),
        page.as_bytes(),
    )
}

fn digest(of: &[u8]) -> String {
    format!(r#""sha256": "{}""#, Sha256::of(of))
}

/// An index with one file, which is at `address`.
fn index_of(address: &'static str) -> Server {
    Server::start(move |_, request| match request.path.as_str() {
        "/simple/one/" => lists(address, &digest(FILE)),
        "/files/one-1.tar.gz" => match request.header("range") {
            Some(_) => rest(FILE, request.from()),
            None => ok(FILE),
        },
        "/files/one-1.tar.gz.metadata" => ok(b"metadata"),
        _ => reply("404 Not Found\r\nContent-Length: 0", b""),
    })
}

#[test]
fn pages_name_no_host_and_lose_nothing() {
    let server = index_of("https://files.example/one?secret");
    let (judged, _) = Scene::at(&server).serve(|ask| {
        let page = ask("/private/simple/One/", JSON);
        assert!(page.head.contains(page::JSON), "{page:?}");
        let page = page.json();
        let file = &page["files"][0];
        assert_eq!(file["url"], "/private/files/one/one-1.tar.gz");
        for (field, value) in [
            ("hashes", serde_json::json!({ "sha256": Sha256::of(FILE).to_string() })),
            ("size", FILE.len().into()),
            ("requires-python", ">=3".into()),
            ("yanked", "a & b".into()),
            ("core-metadata", serde_json::json!({ "sha256": Sha256::of(b"metadata").to_string() })),
            ("upload-time", "2024-01-01T00:00:00Z".into()),
        ] {
            assert_eq!(file[field], value, "{field}");
        }
        let older = ask("/pypi/simple/one/", "");
        assert!(older.head.contains("text/html"), "{older:?}");
        let (sha256, metadata) = (Sha256::of(FILE), Sha256::of(b"metadata"));
        let link = format!(
            "<a href=\"/pypi/files/one/one-1.tar.gz#sha256={sha256}\" data-requires-python=\"&gt;=3\" \
             data-yanked=\"a &amp; b\" data-core-metadata=\"sha256={metadata}\" \
             data-dist-info-metadata=\"sha256={metadata}\">one-1.tar.gz</a>"
        );
        assert!(older.text().contains(&link), "{}", older.text());
        for page in [page.to_string(), older.text().to_owned()] {
            assert!(!page.contains("example") && !page.contains("secret") && !page.contains("://"), "{page}");
        }
    });
    judged.unwrap();
}

/// Answers whoever has a login, and says nothing else to anybody.
fn wants_login(wanted: &'static str, answer: fn(&server::Request) -> Reply) -> Server {
    Server::start(move |_, request| match request.header("authorization") {
        Some(login) if login == wanted => answer(request),
        _ => reply("401 Unauthorized\r\nContent-Length: 0", b""),
    })
}

/// `me:secret`, in base 64.
const LOGIN: &str = "Basic bWU6c2VjcmV0";

#[test]
fn a_login_is_used_outside_and_goes_to_its_own_origin_alone() {
    let answer = |request: &server::Request| match request.path.as_str() {
        "/simple/one/" => lists("/moved/one-1.tar.gz", &digest(FILE)),
        "/moved/one-1.tar.gz" => {
            reply("302 Found\r\nLocation: /files/one-1.tar.gz\r\nContent-Length: 0", b"")
        }
        "/files/one-1.tar.gz" => ok(FILE),
        _ => reply("404 Not Found\r\nContent-Length: 0", b""),
    };
    let logins: [(&str, &[(&str, &str)]); 3] = [
        ("machine localhost login me password secret", &[]),
        ("default login me password secret", &[]),
        (
            "",
            &[("POETRY_HTTP_BASIC_PRIVATE_USERNAME", "me"), ("POETRY_HTTP_BASIC_PRIVATE_PASSWORD", "secret")],
        ),
    ];
    for (netrc, variables) in logins {
        let server = wants_login(LOGIN, answer);
        let scene = Scene::new(&server.other_name("/simple"), "http://localhost:1/", netrc, variables);
        let (judged, _) = scene.serve(|ask| {
            let page = ask("/private/simple/one/", JSON);
            assert_eq!(page.status, 200, "{netrc} {variables:?}");
            let file = ask("/private/files/one/one-1.tar.gz", "");
            assert_eq!(file.body, FILE);
            for heard in [page, file] {
                let all = format!("{heard:?} {}", String::from_utf8_lossy(&heard.body));
                assert!(
                    !all.contains("secret") && !all.contains("bWU6") && !all.contains("localhost"),
                    "{all}"
                );
            }
        });
        judged.unwrap();
    }
}

#[test]
fn a_file_on_another_host_is_asked_for_without_the_login() {
    let files = Arc::new(Server::start(|_, request| match request.header("authorization") {
        None => ok(FILE),
        Some(_) => reply("500 Told Too Much\r\nContent-Length: 0", b""),
    }));
    let index = {
        let files = Arc::clone(&files);
        Server::start(move |_, request| match (request.path.as_str(), request.header("authorization")) {
            ("/simple/one/", Some(LOGIN)) => {
                lists(&format!("{}", files.address("/one-1.tar.gz")), &digest(FILE))
            }
            _ => reply("401 Unauthorized\r\nContent-Length: 0", b""),
        })
    };
    let address = index.other_name("/simple/").replace("://", "://me:secret@");
    let (judged, _) = Scene::new(&address, &address, "", &[]).serve(|ask| {
        assert_eq!(ask("/private/files/one/one-1.tar.gz", "").body, FILE);
    });
    judged.unwrap();
    assert_eq!(files.requests().len(), 1);
}

#[test]
fn a_whole_file_is_checked_and_kept() {
    let server = index_of("/files/one-1.tar.gz");
    let scene = Scene::at(&server);
    let (judged, _) = scene.serve(|ask| {
        for _ in 0..2 {
            let file = ask("/private/files/one/one-1.tar.gz", "");
            assert_eq!((file.status, &file.body[..]), (200, FILE));
        }
        let part = ask("/pypi/files/one/one-1.tar.gz", "Range: bytes=-3\r\n");
        assert_eq!((part.status, &part.body[..]), (206, &FILE[FILE.len() - 3..]));
        assert!(part.head.contains(&format!("Content-Range: bytes 34-36/{}", FILE.len())), "{part:?}");
    });
    judged.unwrap();
    assert_eq!(fs_err::read(scene.store.blob_file(BlobDigest(Sha256::of(FILE)))).unwrap(), FILE);
    assert_eq!(server.requests().iter().filter(|request| request.path.starts_with("/files")).count(), 1);
}

#[test]
fn other_bytes_than_were_listed_never_get_in_and_fail_the_lock() {
    let other = [FILE, b"."].concat();
    for (served, listed) in [(FILE, digest(b"something else")), (&other, digest(FILE))] {
        let served = served.to_vec();
        let server = Server::start(move |_, request| match request.path.as_str() {
            "/simple/one/" => lists("/files/one-1.tar.gz", &listed),
            _ => ok(&served),
        });
        let scene = Scene::at(&server);
        let (judged, _) = scene.serve(|ask| {
            let file = ask("/private/files/one/one-1.tar.gz", "");
            assert_eq!((file.status, &file.body[..]), (424, &b""[..]));
        });
        let error = judged.unwrap_err();
        assert_eq!(error.kind(), Kind::Network);
        assert!(error.to_string().contains("serves another file as `one-1.tar.gz`"), "{error}");
        assert_eq!(fs_err::read_dir(scene.store.folder().join("blobs")).unwrap().count(), 0);
    }
}

#[test]
fn a_part_of_a_file_is_passed_on() {
    let server = index_of("/files/one-1.tar.gz");
    let scene = Scene::at(&server);
    let (judged, _) = scene.serve(|ask| {
        let part = ask("/private/files/one/one-1.tar.gz", "Range: bytes=30-\r\n");
        assert_eq!((part.status, &part.body[..]), (206, &FILE[30..]));
        assert!(part.head.contains(&format!("Content-Range: bytes 30-36/{}", FILE.len())), "{part:?}");
        let metadata = ask("/private/files/one/one-1.tar.gz.metadata", "");
        assert_eq!((metadata.status, metadata.text()), (200, "metadata"));
        for range in ["lines=1-2", &format!("bytes={}", "1-2,".repeat(99))] {
            assert_eq!(ask("/private/files/one/one-1.tar.gz", &format!("Range: {range}\r\n")).status, 400);
        }
    });
    judged.unwrap();
    assert!(!scene.store.has_blob(BlobDigest(Sha256::of(FILE))), "nobody has checked it");
}

#[test]
fn a_file_without_a_digest_is_read_whole_once() {
    let server = Server::start(|_, request| match request.path.as_str() {
        "/simple/one/" => {
            reply("200 OK\r\nContent-Type: text/html", b"<a href=/files/one-1.zip>one-1.zip</a>")
        }
        _ => reply("200 OK", FILE),
    });
    let scene = Scene::at(&server);
    let (judged, _) = scene.serve(|ask| {
        for _ in 0..2 {
            assert_eq!(ask("/private/files/one/one-1.zip", "").body, FILE);
        }
        assert_eq!(ask("/private/files/one/one-1.zip", "Range: bytes=0-2\r\n").body, &FILE[..3]);
    });
    judged.unwrap();
    assert!(scene.store.has_blob(BlobDigest(Sha256::of(FILE))));
    assert_eq!(server.requests().len(), 2);
}

#[test]
fn what_nobody_lists_leads_nowhere() {
    let server = index_of("/files/one-1.tar.gz");
    let (judged, _) = Scene::at(&server).serve(|ask| {
        for path in [
            "/",
            "/private/simple/",
            "/other/simple/one/",
            "/private/files/one/two-1.zip",
            "/private/files/one/one-1.zip.metadata",
            "/private/files/one/..%2F..%2Fadmin",
            "/private/simple/..%2Fadmin/",
            "/private/simple/%2E%2E/",
            "/private/simple/one%3Fx=y/",
            "/private/simple/@elsewhere/",
            "/private/simple/-/",
            "/private/admin/one/",
            "/private/simple/absent/",
        ] {
            assert_eq!(ask(path, "").status, 404, "{path}");
        }
    });
    judged.unwrap();
    let asked: BTreeSet<_> = server.requests().into_iter().map(|request| request.path).collect();
    assert_eq!(asked, ["/simple/absent/", "/simple/one/"].map(str::to_owned).into());
}

#[test]
fn an_index_that_cannot_be_read_fails_the_lock_and_one_that_refuses_warns() {
    let server = Server::start(|_, request| match request.path.as_str() {
        "/simple/refused/" | "/simple/refused-too/" => reply("403 Forbidden\r\nContent-Length: 0", b""),
        "/simple/garbage/" => reply("200 OK\r\nContent-Type: application/json\r\nContent-Length: 1", b"{"),
        _ => reply("503 Busy\r\nContent-Length: 0", b""),
    });
    let scene = Scene::at(&server);
    let (judged, events) = scene.serve(|ask| {
        for _ in 0..2 {
            assert_eq!(ask("/private/simple/refused/", "").status, 404);
            assert_eq!(ask("/private/simple/refused-too/", "").status, 404);
        }
    });
    judged.unwrap();
    let warnings: Vec<_> = events.iter().filter(|event| matches!(event, Event::Warning(_))).collect();
    assert_eq!(warnings.len(), 1, "{events:?}");
    for project in ["broken", "garbage"] {
        let (judged, _) = scene.serve(|ask| {
            let page = ask(&format!("/private/simple/{project}/"), "");
            assert_eq!((page.status, &page.body[..]), (424, &b""[..]));
        });
        let error = judged.unwrap_err();
        assert_eq!(
            (error.kind(), error.message()),
            (Kind::Network, &*format!("source `private` does not show its files of `{project}`"))
        );
    }
}

#[test]
fn what_a_lock_that_failed_could_not_have_is_said() {
    let server = Server::start(|_, _| reply("401 Unauthorized\r\nContent-Length: 0", b""));
    let scene = Scene::at(&server);
    let fetcher = Same(&scene.fetcher);
    let (events, _) = std::sync::mpsc::channel();
    let engine = scene.engine(&fetcher, events);
    let index = Index::new(&engine, &scene.fetcher, std::iter::empty());
    let request = |path: &str| Request {
        head: false,
        path: path.split('/').map(str::to_owned).collect(),
        range: None,
        accept: String::new(),
    };
    index.answer(&request("pypi/simple/one/"));
    let failed = Err::<(), _>(Error::new(Kind::Conflict, "no solution"));
    let error = index.judge(failed).unwrap_err();
    assert_eq!((error.kind(), error.message()), (Kind::Conflict, "no solution"));
    assert!(error.to_string().contains("401 Unauthorized"), "{error}");
    assert!(error.hint_text().unwrap().contains("netrc"), "{error}");
}

#[test]
fn what_is_wanted_has_a_bound() {
    let scene = Scene::new("http://localhost:1/", "http://localhost:1/", "", &[]);
    let fetcher = Same(&scene.fetcher);
    let (events, _) = std::sync::mpsc::channel();
    let engine = scene.engine(&fetcher, events);
    let index = Index::new(&engine, &scene.fetcher, std::iter::empty());
    index.spend(MOST_BYTES).unwrap();
    let error = index.spend(1).unwrap_err();
    assert!(error.message().contains("more of the indexes than 100 GiB"), "{error}");
    assert!(index.spend(u64::MAX).is_err());
}

#[test]
fn a_locked_file_is_one_that_its_source_lists() {
    let server = index_of("/files/one-1.tar.gz");
    let scene = Scene::at(&server);
    let fetcher = Same(&scene.fetcher);
    let (events, _) = std::sync::mpsc::channel();
    let engine = scene.engine(&fetcher, events);
    let index = Index::new(&engine, &scene.fetcher, ["private".to_owned()].into_iter());
    let file = |name: &str, bytes: &[u8], size| File {
        name: name.to_owned(),
        kind: FileKind::Sdist,
        sha256: Sha256::of(bytes),
        size,
    };
    let (one, size) = ("one-1.tar.gz", FILE.len() as u64);
    let lists = |source, project, file: &File| index.lists(source, project, file).unwrap();
    for source in [None, Some("private")] {
        assert!(lists(source, "One", &file(one, FILE, size)));
        assert!(!lists(source, "two", &file(one, FILE, size)));
    }
    assert!(!lists(Some("elsewhere"), "one", &file(one, FILE, size)));
    assert!(!lists(None, "one", &file(one, b"other", size)));
    assert!(!lists(None, "one", &file(one, FILE, size + 1)));
    assert!(!lists(None, "one", &file("two-1.tar.gz", FILE, size)));
    // The index says no digest: then it is what was read.
    assert!(!lists(None, "one", &file("one-1.zip", FILE, size)));
    let path = ["pypi", "files", "one", "one-1.zip"].map(str::to_owned).into();
    index.answer(&Request { head: false, path, range: None, accept: String::new() });
    assert!(lists(None, "one", &file("one-1.zip", FILE, size)));
    assert!(!lists(None, "one", &file("one-1.zip", b"other", size)));
}

#[test]
fn ranges() {
    for (range, span) in [
        ("bytes=0-0", Some(Some((0, 0)))),
        ("bytes=2-", Some(Some((2, 9)))),
        ("bytes=2-99", Some(Some((2, 9)))),
        ("bytes=-3", Some(Some((7, 9)))),
        ("bytes=-99", Some(Some((0, 9)))),
        ("bytes=10-", Some(None)),
        ("bytes=3-2", Some(None)),
        ("bytes=-0", Some(None)),
        ("bytes=1-2,4-5", None),
        ("bytes=-", None),
        ("bytes=a-b", None),
        ("lines=1-2", None),
    ] {
        assert_eq!(parse_range(range, 10), span, "{range}");
    }
    assert_eq!(parse_range("bytes=0-", 0), Some(None));
}

#[test]
fn addresses_inside_are_quoted() {
    assert_eq!(simple_pages("a/b c"), "http://127.0.0.1:8080/a%2Fb%20c/simple");
}
