//! `image --load` where the engine is at fault: one in the test that answers as told. What real engines
//! make of it is in `load_real.rs`.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex};

use assemble::deliver::docker::{self, Engine, Loaded};
use assemble::deliver::{Built, nothing_to_obtain};
use assemble::net::Machine;
use assemble::oci::{Assembled, blob_path};
use assemble::{Kind, Result};
use assemble_layers::Builder;
use serde_json::json;

use crate::support::{Bench, files};

const LOADED: &str = "{\"stream\":\"Loaded image ID\\n\"}\n";

/// A request that the fake engine got.
#[derive(Clone)]
struct Asked {
    line: String,
    body: Vec<u8>,
}

impl Asked {
    fn is_load(&self) -> bool {
        self.line.starts_with("POST /v1.45/images/load")
    }

    /// What an inspection is about.
    fn inspects(&self) -> Option<&str> {
        let rest = self.line.strip_prefix("GET /v1.45/images/")?;
        rest.split_once("/json?").map(|(name, _)| name)
    }

    /// The archive's blobs.
    fn blobs(&self) -> BTreeSet<String> {
        let mut archive = tar::Archive::new(self.body.as_slice());
        let names = archive.entries().unwrap().map(|entry| entry.unwrap().path().unwrap().into_owned());
        names.filter_map(|name| Some(name.to_str()?.to_owned())).collect()
    }
}

/// An engine in the test, at a socket.
struct Fake {
    bench: Bench,
    image: Assembled,
    asked: Arc<Mutex<Vec<Asked>>>,
}

impl Fake {
    /// Answers `/_ping` like Docker 27, and everything else with what `answer` says: raw bytes, after
    /// which the connection is closed. It is given the image, how many archives came before, and the request.
    fn start(answer: impl Fn(&Assembled, usize, &Asked) -> Vec<u8> + Send + 'static) -> Self {
        let bench = Bench::new();
        let layer = |name: &str| Builder::Files(files(&[(name, name)]));
        let image = bench.assembled(&[layer("one"), layer("two"), layer("three")]);
        let listener = UnixListener::bind(bench.path("socket")).unwrap();
        let asked = Arc::new(Mutex::new(Vec::<Asked>::new()));
        let (seen, known) = (Arc::clone(&asked), image.clone());
        std::thread::spawn(move || {
            for socket in listener.incoming() {
                let mut socket = socket.unwrap();
                let Some(request) = read(&socket) else { continue };
                let reply = if request.line.contains("/_ping") {
                    b"HTTP/1.1 200 OK\r\nApi-Version: 1.45\r\nContent-Length: 2\r\n\r\nOK".to_vec()
                } else {
                    let before = seen.lock().unwrap().iter().filter(|asked| asked.is_load()).count();
                    seen.lock().unwrap().push(request.clone());
                    answer(&known, before, &request)
                };
                let _ = socket.write_all(&reply);
            }
        });
        Self { bench, image, asked }
    }

    fn load(&self) -> Result<Loaded> {
        let (events, _) = std::sync::mpsc::channel();
        let engine = Engine::connect(&machine(&self.bench.path("socket")))?;
        let names = ["demo:test".parse().unwrap()];
        {
            let built = Built { store: &self.bench.store, image: &self.image, obtain: &nothing_to_obtain };
            docker::load(&engine, &built, &names, &events)
        }
    }

    fn asked(&self) -> Vec<Asked> {
        self.asked.lock().unwrap().clone()
    }

    fn loads(&self) -> Vec<Asked> {
        self.asked().into_iter().filter(Asked::is_load).collect()
    }

    fn tags(&self) -> Vec<String> {
        let tagged = |asked: &Asked| asked.line.contains("/tag?");
        self.asked().into_iter().filter(tagged).map(|asked| asked.line).collect()
    }
}

fn machine(socket: &Path) -> Machine {
    Machine::new(Path::new("/"), [("DOCKER_HOST", format!("unix://{}", socket.display()))])
}

/// A request and its whole body; `None` if the client went away.
fn read(socket: &UnixStream) -> Option<Asked> {
    let mut reader = BufReader::new(socket);
    let head: Vec<_> =
        reader.by_ref().lines().map_while(|line| line.ok().filter(|line| !line.is_empty())).collect();
    let length = head.iter().find_map(|line| line.strip_prefix("Content-Length: ")).map_or("0", |it| it);
    let mut body = vec![0; length.parse().unwrap()];
    reader.read_exact(&mut body).ok()?;
    Some(Asked { line: head.first()?.clone(), body })
}

fn reply(status: &str, body: &str) -> Vec<u8> {
    format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\n\r\n{body}", body.len()).into_bytes()
}

fn ok(body: &str) -> Vec<u8> {
    reply("200 OK", body)
}

fn absent() -> Vec<u8> {
    reply("404 Not Found", r#"{"message":"No such image"}"#)
}

/// An image as an engine describes it; `whole` is what containerd's store says of its blobs.
fn inspected(id: &str, layers: &[String], whole: Option<bool>) -> Vec<u8> {
    let mut image = json!({ "Id": id, "RootFS": { "Type": "layers", "Layers": layers } });
    if let Some(whole) = whole {
        image["Manifests"] = json!([{ "Kind": "image", "Available": whole }]);
    }
    ok(&image.to_string())
}

fn diff_ids(image: &Assembled) -> Vec<String> {
    image.layers.iter().map(|layer| layer.diff_id.to_string()).collect()
}

fn other() -> String {
    format!("sha256:{}", "0".repeat(64))
}

/// An engine with this image in it under our name, that takes whatever it is sent.
fn holding(layers: impl Fn(&Assembled) -> Vec<String> + Send + 'static, containerd: bool) -> Fake {
    Fake::start(move |image, loads, asked| {
        let ours = if containerd { &image.manifest } else { &image.config };
        match asked.inspects() {
            Some("demo:test") => inspected(&other(), &layers(image), containerd.then_some(true)),
            Some(id) if id == ours.digest.to_string() && loads > 0 => {
                inspected(id, &diff_ids(image), containerd.then_some(true))
            }
            Some(_) => absent(),
            None if asked.is_load() => ok(LOADED),
            None => ok("[]"),
        }
    })
}

/// Which of the image's three layers were in the first archive.
fn first_archive(fake: &Fake) -> [bool; 3] {
    let blobs = fake.loads()[0].blobs();
    [0, 1, 2].map(|at| blobs.contains(&blob_path(fake.image.layers[at].packed.digest)))
}

/// The classic store knows a layer by all that is below it, containerd's store by itself.
#[test]
fn what_can_be_spared_depends_on_the_store() {
    type Layers = fn(&Assembled) -> Vec<String>;
    let foreign = || format!("sha256:{}", "1".repeat(64));
    let same_below: Layers = |image| diff_ids(image)[..2].to_vec();
    let same_above: Layers = |image| {
        let mut layers = diff_ids(image);
        layers[0] = other();
        layers
    };
    for (layers, containerd, sent) in [
        (same_below, false, [false, false, true]),
        (same_below, true, [false, false, true]),
        (same_above, false, [true, true, true]),
        (same_above, true, [true, false, false]),
    ] {
        let fake = holding(
            move |image| {
                let mut layers = layers(image);
                layers.push(foreign());
                layers
            },
            containerd,
        );
        let loaded = fake.load().unwrap();
        assert_eq!(first_archive(&fake), sent, "containerd: {containerd}");
        assert_eq!(loaded.sent, fake.loads()[0].body.len() as u64);
        let spared = fake.image.layers.iter().zip(sent).filter(|(_, sent)| !sent);
        assert_eq!(loaded.spared, spared.map(|(layer, _)| layer.packed.size).sum::<u64>());
    }
}

/// Without a name until it is known to be whole.
#[test]
fn an_archive_for_an_engine_names_nothing() {
    let fake = holding(|_| Vec::new(), false);
    fake.load().unwrap();
    let body = fake.loads()[0].body.clone();
    let text = String::from_utf8_lossy(&body);
    assert!(text.contains("\"RepoTags\":[]") && !text.contains("demo:test"), "{text}");
    let config = fake.image.config.digest;
    assert_eq!(fake.tags(), [format!("POST /v1.45/images/{config}/tag?repo=demo&tag=test HTTP/1.1")]);
}

#[test]
fn an_image_that_is_held_is_only_named() {
    let fake = Fake::start(|image, _, asked| match asked.inspects() {
        Some(id) if id == image.config.digest.to_string() => inspected(id, &diff_ids(image), None),
        _ => absent_or_tagged(asked),
    });
    let loaded = fake.load().unwrap();
    assert_eq!(loaded.sent, 0);
    assert_eq!(loaded.spared, fake.image.layers.iter().map(|layer| layer.packed.size).sum::<u64>());
    assert_eq!((fake.loads().len(), fake.tags().len()), (0, 1));
}

fn absent_or_tagged(asked: &Asked) -> Vec<u8> {
    if asked.line.contains("/tag?") { reply("201 Created", "") } else { absent() }
}

/// An engine with all but the top layer, which at the first archive does what `fault` says.
fn faulty(fault: fn() -> Vec<u8>, whole_after_fault: bool) -> Fake {
    Fake::start(move |image, loads, asked| match asked.inspects() {
        Some("demo:test") => inspected(&other(), &diff_ids(image)[..2], Some(true)),
        Some(id) if id == image.manifest.digest.to_string() && loads > 0 => {
            inspected(id, &diff_ids(image), Some(loads > 1 || whole_after_fault))
        }
        Some(_) => absent(),
        None if asked.is_load() && loads == 0 => fault(),
        None if asked.is_load() => ok(LOADED),
        None => ok("[]"),
    })
}

#[test]
fn on_any_doubt_everything_is_sent() {
    let cut = || {
        let chunk = format!("{:x}\r\n{LOADED}\r\n", LOADED.len());
        format!("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{chunk}").into_bytes()
    };
    let unpacking = || {
        ok(&format!(
            "{LOADED}{{\"stream\":\"Error unpacking image: content digest sha256:1: not found\\n\"}}\n"
        ))
    };
    let detail =
        || ok("{\"errorDetail\":{\"message\":\"open layer.tar: no such file\"},\"error\":\"open\"}\n");
    type Answer = fn() -> Vec<u8>;
    let faults: [(&str, Answer, bool); 6] = [
        ("an answer that is cut", cut, true),
        ("an error in the middle of the answer", unpacking, true),
        ("an error at its end", detail, true),
        ("a refusal", || reply("500 Internal Server Error", r#"{"message":"no such layer"}"#), true),
        ("a hang-up", Vec::new, true),
        ("an answer that is fine, and an image that is not", || ok(LOADED), false),
    ];
    for (case, fault, whole_after_fault) in faults {
        let fake = faulty(fault, whole_after_fault);
        let loaded = fake.load().unwrap_or_else(|error| panic!("{case}: {error}"));
        let loads = fake.loads();
        assert_eq!(loads.len(), 2, "{case}");
        assert_eq!(first_archive(&fake), [false, false, true], "{case}");
        for layer in &fake.image.layers {
            assert!(loads[1].blobs().contains(&blob_path(layer.packed.digest)), "{case}");
        }
        assert_eq!(loaded.sent, (loads[0].body.len() + loads[1].body.len()) as u64, "{case}");
        assert_eq!((loaded.spared, fake.tags().len()), (0, 1), "{case}");
        let last = fake.asked().pop().unwrap();
        assert!(last.line.contains("/tag?"), "{case}: {}", last.line);
    }
}

/// Docker before 28 does not say of containerd's store what is in it.
#[test]
fn an_engine_that_cannot_say_whether_it_has_all_is_sent_everything() {
    let fake = Fake::start(move |image, loads, asked| match asked.inspects() {
        Some("demo:test") => inspected(&other(), &diff_ids(image)[..2], None),
        Some(id) if id == image.manifest.digest.to_string() && loads > 0 => {
            inspected(id, &diff_ids(image), None)
        }
        Some(_) => absent(),
        None if asked.is_load() => ok(LOADED),
        None => ok("[]"),
    });
    let loaded = fake.load().unwrap();
    assert_eq!((fake.loads().len(), loaded.spared), (2, 0));
    let manifest = fake.image.manifest.digest;
    assert_eq!(fake.tags(), [format!("POST /v1.45/images/{manifest}/tag?repo=demo&tag=test HTTP/1.1")]);
}

/// What it holds is only asked for to save something.
#[test]
fn an_engine_that_does_not_say_what_it_holds_is_sent_everything() {
    let fake = Fake::start(|image, loads, asked| match asked.inspects() {
        Some(id) if id == image.config.digest.to_string() => match loads {
            0 => absent(),
            _ => inspected(id, &diff_ids(image), None),
        },
        Some("demo:test") => reply("500 Internal Server Error", r#"{"message":"try later"}"#),
        Some(_) => absent(),
        None => ok(LOADED),
    });
    let loaded = fake.load().unwrap();
    assert_eq!((fake.loads().len(), loaded.spared, fake.tags().len()), (1, 0, 1));
}

/// Nothing gets a name that the engine does not have whole, however well it says that it went.
#[test]
fn a_broken_image_gets_no_name() {
    let never_whole = |image: &Assembled, _: usize, asked: &Asked| match asked.inspects() {
        Some(id) if id == image.manifest.digest.to_string() => inspected(id, &diff_ids(image), Some(false)),
        Some(_) => absent(),
        None if asked.is_load() => ok(LOADED),
        None => ok("[]"),
    };
    let other_layers = |image: &Assembled, _: usize, asked: &Asked| match asked.inspects() {
        Some(id) if id == image.config.digest.to_string() => inspected(id, &diff_ids(image)[..1], None),
        Some(_) => absent(),
        None if asked.is_load() => ok(LOADED),
        None => ok("[]"),
    };
    for fake in [Fake::start(never_whole), Fake::start(other_layers)] {
        let error = fake.load().unwrap_err();
        assert_eq!(error.kind(), Kind::Network, "{error}");
        assert!(error.to_string().contains("does not have it whole"), "{error}");
        assert_eq!((fake.loads().len(), fake.tags().len()), (1, 0));
    }
}

/// An engine whose disk is full says so while it is still being sent to.
#[test]
fn the_reason_of_an_upload_that_was_broken_off_is_told() {
    let bench = Bench::new();
    let noise: String =
        (0..300_000u32).map(|number| format!("{:x}", number.wrapping_mul(2_654_435_761))).collect();
    let image = bench.assembled(&[Builder::Files(files(&[("large", &noise)]))]);
    let socket = bench.path("socket");
    let listener = UnixListener::bind(&socket).unwrap();
    std::thread::spawn(move || {
        for connection in listener.incoming() {
            let mut connection = connection.unwrap();
            let mut some = [0; 4096];
            let length = connection.read(&mut some).unwrap();
            let line = String::from_utf8_lossy(&some[..length]).into_owned();
            let reply = match line.split(' ').nth(1).unwrap_or_default() {
                "/_ping" => b"HTTP/1.1 200 OK\r\nApi-Version: 1.45\r\nContent-Length: 0\r\n\r\n".to_vec(),
                path if path.contains("/load") => {
                    reply("500 Internal Server Error", r#"{"message":"no space left on device"}"#)
                }
                path if path.ends_with("/images/json") => ok("[]"),
                _ => absent(),
            };
            connection.write_all(&reply).unwrap();
        }
    });
    let engine = Engine::connect(&machine(&socket)).unwrap();
    let (events, _) = std::sync::mpsc::channel();
    let built = Built { store: &bench.store, image: &image, obtain: &nothing_to_obtain };
    let error = docker::load(&engine, &built, &[], &events).unwrap_err();
    assert!(error.to_string().contains("status 500: no space left on device"), "{error}");
}

/// A blob that is broken in the store is no fault of the engine's: it is not sent a second time.
#[test]
fn a_broken_store_is_not_blamed_on_the_engine() {
    let fake = holding(|image| diff_ids(image)[..2].to_vec(), false);
    let top = fake.image.layers[2].packed.digest;
    std::fs::write(fake.bench.store.blob_file(top), b"short").unwrap();
    let error = fake.load().unwrap_err();
    assert_eq!(error.kind(), Kind::Store, "{error}");
    assert!(error.to_string().contains(&top.to_string()), "{error}");
    assert_eq!((fake.loads().len(), fake.tags().len()), (0, 0));
}

#[test]
fn nonsense_is_an_error_and_no_more() {
    let endless: fn() -> Vec<u8> = || [b"HTTP/1.1 200 OK\r\n".to_vec(), b"X: y\r\n".repeat(100_000)].concat();
    let answers: [fn() -> Vec<u8>; 9] = [
        Vec::new,
        endless,
        || b"SSH-2.0-OpenSSH_9.2\r\n\r\n".to_vec(),
        || ok("<html>"),
        || ok(r#"{"Id": 3}"#),
        || reply("301 Moved Permanently", ""),
        || b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{".to_vec(),
        || b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffffff\r\n".to_vec(),
        || b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}}}".to_vec(),
    ];
    for (number, answer) in answers.into_iter().enumerate() {
        let fake = Fake::start(move |_, _, _| answer());
        let error = fake.load().expect_err(&number.to_string());
        assert_eq!(error.kind(), Kind::Network, "{number}: {error}");
        assert!(fake.loads().is_empty() && fake.tags().is_empty(), "{number}");
    }
}

/// `assemble image --load`, as it is where no engine was reached: before anything is built.
fn refused(socket: &Path, prepare: impl FnOnce(&mut Command)) -> (i32, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_assemble"));
    command.args(["image", "--load", "--project", "/nowhere"]).env_clear();
    command.env("DOCKER_HOST", format!("unix://{}", socket.display()));
    prepare(&mut command);
    let output = command.output().unwrap();
    (output.status.code().unwrap(), String::from_utf8(output.stderr).unwrap())
}

#[test]
fn where_no_engine_is_the_error_says_what_was_tried() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("socket");
    let (code, said) = refused(&socket, |_| {});
    assert_eq!(code, 5, "{said}");
    assert!(said.contains("no Docker engine answers") && said.contains(socket.to_str().unwrap()), "{said}");
    assert!(said.contains("hint: start one"), "{said}");
}

#[test]
fn where_the_socket_is_closed_to_the_user_the_error_says_so() {
    let folder = tempfile::tempdir().unwrap();
    let socket: PathBuf = folder.path().join("socket");
    let _listener = UnixListener::bind(&socket).unwrap();
    std::fs::set_permissions(folder.path(), PermissionsExt::from_mode(0o755)).unwrap();
    std::fs::set_permissions(&socket, PermissionsExt::from_mode(0o000)).unwrap();
    // Nothing is closed to root.
    let (code, said) = refused(&socket, |command| {
        if rustix::process::geteuid().is_root() {
            command.uid(65534).gid(65534);
        }
    });
    assert_eq!(code, 8, "{said}");
    assert!(said.contains("ermission denied") && said.contains("group `docker`"), "{said}");
}
