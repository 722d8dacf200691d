//! A registry that misbehaves: nothing is lost, nothing is half-published, no more is asked than is
//! needed, and what is said names the registry, the blob and what to do.

#[path = "support/registry.rs"]
mod registry;
mod support;

use std::io::{Cursor, Read};
use std::sync::Arc;
use std::time::Duration;

use assemble::deliver::{Built, Condition, Destination, Push, Pushed};
use assemble::fetch::Machine;
use assemble::fetch::http::Patience;
use assemble::oci::Assembled;
use assemble::registry::{Access, Blob, Client, Sent, Settings, Which};
use assemble::{Error, Kind, Result};
use assemble_layers::{BlobDigest, Builder, Sha256};
use registry::{Fake, Fault, Guard, Request, error, status};
use support::{Bench, files};

const SECRET: &str = "hunter2";
/// `me:hunter2`.
const LOGIN: &str = "Basic bWU6aHVudGVyMg==";

fn settings() -> Settings {
    let patience = Patience {
        tries: 3,
        pause: Duration::from_millis(50),
        longest_pause: Duration::from_millis(100),
        stall: Duration::from_secs(5),
    };
    Settings { patience, ..Settings::default() }
}

fn client() -> Client {
    Client::new(Machine::default(), settings())
}

/// A client with an entry for this registry in `config.json`.
fn client_with(fake: &Fake, entry: serde_json::Value) -> Client {
    let folder = tempfile::tempdir().unwrap();
    let config = serde_json::json!({ "auths": { fake.host(): entry } });
    registry::docker_config(&folder.path().join("docker"), &config);
    // It is read when the registry asks for a login, so it stays as long as the process does.
    let folder = folder.keep();
    Client::new(Machine::new(&folder, [("DOCKER_CONFIG", "/docker")]), settings())
}

fn client_with_password(fake: &Fake) -> Client {
    client_with(fake, serde_json::json!({ "username": "me", "password": SECRET }))
}

struct Scene {
    bench: Bench,
    image: Assembled,
}

impl Scene {
    fn new() -> Self {
        let bench = Bench::new();
        let layer = |name: &str| Builder::Files(files(&[(name, "text\n")]));
        let image =
            bench.assembled(&[layer("etc/one"), layer("etc/two"), layer("etc/three"), layer("etc/one")]);
        Self { bench, image }
    }

    fn push(&self, client: &Client, destination: &Destination) -> Result<Pushed> {
        let source = Built { store: &self.bench.store, image: &self.image };
        let (events, _) = std::sync::mpsc::channel();
        let parts = source.parts();
        let push = Push { client, source: &source, parts: &parts, memory: Some(&self.bench.store), events };
        push.run(std::slice::from_ref(destination)).map(|mut pushed| pushed.remove(0))
    }

    /// To `team/app:1`.
    fn push_to(&self, fake: &Fake) -> Result<Pushed> {
        self.push(&client(), &destination(fake, "team/app:1"))
    }

    fn layer(&self, number: usize) -> BlobDigest {
        self.image.layers[number].packed.digest
    }

    /// That the tag names the image, and that all of it is there.
    fn assert_whole(&self, fake: &Fake) {
        assert_eq!(fake.manifest("team/app", "1").as_deref(), Some(&self.image.manifest.bytes[..]));
        for digest in self.image.layers.iter().map(|it| it.packed.digest).chain([self.image.config.digest]) {
            let blob = fake.blob("team/app", digest);
            assert_eq!(blob.map(|bytes| BlobDigest(Sha256::of(&bytes))), Some(digest));
        }
    }

    fn assert_untouched(fake: &Fake) {
        assert_eq!(fake.manifest("team/app", "1"), None);
        assert_eq!(fake.asked("PUT", "/manifests/").len(), 0);
    }
}

fn destination(fake: &Fake, name: &str) -> Destination {
    format!("{}/{name}", fake.host()).parse().unwrap()
}

fn good(_: &Request) -> Option<Fault> {
    None
}

#[track_caller]
fn assert_says(error: &Error, parts: &[&str]) {
    let text = error.to_string();
    for part in parts {
        assert!(text.contains(part), "`{part}` is missing:\n{text}");
    }
    assert!(!format!("{text} {error:?}").contains(SECRET), "{text}");
}

/// A client, and a repository of the fake for it.
macro_rules! remote {
    ($fake:expr, $client:expr, $access:ident) => {
        $client.repository(&format!("{}/team/app", $fake.host()).parse().unwrap(), Access::$access).unwrap()
    };
}

/// Bytes that do not repeat, so that pieces in the wrong place show.
fn bytes(count: u32) -> Vec<u8> {
    (0..count).flat_map(u32::to_le_bytes).collect()
}

fn send(client: &Client, fake: &Fake, bytes: &[u8], from: Option<&str>) -> Result<Sent> {
    let open = || Ok(Box::new(Cursor::new(bytes.to_vec())) as Box<dyn Read + Send>);
    let digest = BlobDigest(Sha256::of(bytes));
    let blob = Blob { digest, size: bytes.len() as u64, open: &open, progress: Arc::new(|_| {}) };
    let from = from.map(|name| format!("{}/{name}", fake.host()).parse().unwrap());
    remote!(fake, client, Push).send_blob(&blob, from.as_ref())
}

fn pull(fake: &Fake, digest: BlobDigest, size: Option<u64>) -> Result<Option<Vec<u8>>> {
    let client = client();
    let remote = remote!(fake, client, Pull);
    let Some(mut stream) = remote.blob(digest, size)? else { return Ok(None) };
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes)?;
    Ok(Some(bytes))
}

#[test]
fn no_more_is_asked_than_is_needed() {
    let (scene, fake) = (Scene::new(), Fake::start(good));
    let pushed = scene.push_to(&fake).unwrap();
    scene.assert_whole(&fake);
    assert_eq!((pushed.sent.blobs, pushed.mounted.blobs, pushed.present.blobs), (4, 0, 0));
    // The tag and the digest; HEAD, POST and PUT a blob; the manifest last.
    let requests = fake.requests();
    assert_eq!(requests.len(), 2 + 3 * 4 + 1);
    assert!(requests.last().unwrap().is("PUT", "/manifests/1"));
    let config = scene.image.config.digest.hex();
    assert!(requests[requests.len() - 2].is("PUT", &config), "the configuration goes after the layers");

    let again = scene.push_to(&fake).unwrap();
    assert_eq!((again.sent.blobs, again.present.blobs), (0, 4));
    assert_eq!(fake.requests().len(), requests.len() + 1);

    // Another tag, and the manifest is there: three requests, and no blob is asked for.
    scene.push(&client(), &destination(&fake, "team/app:2")).unwrap();
    assert_eq!(fake.requests().len(), requests.len() + 4);

    // Another repository: what this one holds is mounted from there, HEAD and POST a blob.
    let before = fake.requests().len();
    let mounted = scene.push(&client(), &destination(&fake, "other/app:1")).unwrap();
    assert_eq!((mounted.sent.blobs, mounted.mounted.blobs), (0, 4));
    assert_eq!(fake.requests().len() - before, 2 + 2 * 4 + 1);
}

#[test]
fn a_token_that_expires_half_way_is_renewed() {
    let guard = Guard::Bearer { uses: 4, login: Some(LOGIN.to_owned()) };
    let (scene, fake) = (Scene::new(), Fake::guarded(guard, good));
    scene.push(&client_with_password(&fake), &destination(&fake, "team/app:1")).unwrap();
    scene.assert_whole(&fake);
    let tokens = fake.asked("GET", "/token");
    assert!(tokens.len() >= 4, "{}", tokens.len());
    let first = &tokens[0].target;
    assert!(first.contains("service=fake&scope=repository%3Ateam%2Fapp%3Apull%2Cpush&account=me"), "{first}");
    // The password goes to the token server alone.
    for request in fake.requests().iter().filter(|request| request.path() != "/token") {
        assert!(request.header("authorization").is_none_or(|value| value.starts_with("Bearer issued-")));
    }
}

#[test]
fn one_token_does_for_all_that_runs_at_once() {
    let guard = Guard::Bearer { uses: 1000, login: None };
    let (scene, fake) = (Scene::new(), Fake::guarded(guard, good));
    scene.push_to(&fake).unwrap();
    assert_eq!(fake.asked("GET", "/token").len(), 1);
    assert_eq!(fake.requests().len(), 2 + 2 + 3 * 4 + 1);
}

#[test]
fn a_mount_needs_to_read_the_other_repository() {
    let guard = Guard::Bearer { uses: 1000, login: None };
    let fake = Fake::guarded(guard, good);
    fake.put_blob("team/base", b"blob");
    assert_eq!(send(&client(), &fake, b"blob", Some("team/base")).unwrap(), Sent::Mounted);
    let scopes = "scope=repository%3Ateam%2Fapp%3Apull%2Cpush&scope=repository%3Ateam%2Fbase%3Apull";
    assert!(fake.asked("GET", "/token")[0].target.ends_with(scopes));
}

#[test]
fn passwords_and_identity_tokens() {
    let scene = Scene::new();
    let fake = Fake::guarded(Guard::Basic(LOGIN.to_owned()), good);
    scene.push(&client_with_password(&fake), &destination(&fake, "team/app:1")).unwrap();
    scene.assert_whole(&fake);

    let fake = Fake::guarded(Guard::Bearer { uses: 100, login: None }, good);
    let client = client_with(&fake, serde_json::json!({ "identitytoken": SECRET }));
    scene.push(&client, &destination(&fake, "team/app:1")).unwrap();
    scene.assert_whole(&fake);
    let bodies = fake.token_bodies();
    assert_eq!(bodies.len(), 1);
    for part in
        ["grant_type=refresh_token", "refresh_token=hunter2", "scope=repository%3Ateam%2Fapp%3Apull%2Cpush"]
    {
        assert!(bodies[0].contains(part), "{bodies:?}");
    }
    let seen = fake.requests().iter().any(|request| format!("{request:?}").contains(SECRET));
    assert!(!seen, "an identity token stands in an address or a header");
}

#[test]
fn a_login_that_is_not_taken() {
    let scene = Scene::new();
    for guard in [
        Guard::Basic("Basic other".to_owned()),
        Guard::Bearer { uses: 100, login: Some("Basic other".to_owned()) },
        // Tokens are given, and none is taken.
        Guard::Bearer { uses: 0, login: Some(LOGIN.to_owned()) },
    ] {
        let fake = Fake::guarded(guard, good);
        let error = scene.push(&client_with_password(&fake), &destination(&fake, "team/app:1")).unwrap_err();
        assert_says(&error, &[&fake.host(), "401", "`docker login"]);
        assert!(fake.requests().len() <= 3, "{:?}", fake.requests());
        Scene::assert_untouched(&fake);
    }
    // A 401 that does not say what it wants.
    let fake = Fake::start(|_| status("401 Unauthorized"));
    assert_says(&scene.push_to(&fake).unwrap_err(), &["401", "docker login"]);
    assert_eq!(fake.requests().len(), 1);
}

#[test]
fn token_servers_that_answer_nonsense() {
    let scene = Scene::new();
    for body in ["no JSON: hunter2", "{}", r#"{"token":""}"#, r#"{"token":"a\nb"}"#, r#"{"token":7}"#] {
        let guard = Guard::Bearer { uses: 100, login: None };
        let fake = Fake::guarded(guard, move |request| {
            (request.path() == "/token").then(|| Fault::Answer("200 OK".to_owned(), body.into()))
        });
        assert_says(&scene.push_to(&fake).unwrap_err(), &["127.0.0.1"]);
        assert!(fake.requests().len() <= 2);
    }
    // One that passes is asked again.
    let fake = Fake::guarded(Guard::Bearer { uses: 100, login: None }, |request| {
        (request.path() == "/token" && request.before == 0).then(|| status("503 Service Unavailable"))?
    });
    scene.push_to(&fake).unwrap();
    scene.assert_whole(&fake);
    assert_eq!(fake.asked("GET", "/token").len(), 2);
}

#[test]
fn forbidden_is_final_and_says_what_is() {
    let scene = Scene::new();
    let fake = Fake::guarded(Guard::Basic(LOGIN.to_owned()), |request| {
        let refused = request.is("POST", "/blobs/uploads/");
        // A registry that repeats the login that it was sent.
        refused.then(|| error("403 Forbidden", "DENIED", "no rights for bWU6aHVudGVyMg=="))?
    });
    let error = scene.push(&client_with_password(&fake), &destination(&fake, "team/app:1")).unwrap_err();
    assert_eq!(error.kind(), Kind::Network);
    assert_says(&error, &["403", "DENIED: no rights for ***", "sha256:", &fake.host(), "hint: the login"]);
    assert!(!error.to_string().contains("bWU6aHVudGVyMg=="));
    // Those that ran at once, and none again.
    assert!(fake.asked("POST", "/blobs/uploads/").len() <= 3);
    Scene::assert_untouched(&fake);
}

#[test]
fn a_blob_that_was_promised_is_sent_all_the_same() {
    let scene = Scene::new();
    let lost = scene.layer(1).hex();
    let promised = lost.clone();
    let fake = Fake::start(move |request| (request.is("HEAD", &promised)).then(|| status("200 OK"))?);
    let pushed = scene.push_to(&fake).unwrap();
    scene.assert_whole(&fake);
    assert_eq!((pushed.sent.blobs, pushed.present.blobs), (4, 0));
    assert_eq!(fake.asked("PUT", "/manifests/").len(), 2);
    assert_eq!(fake.asked("PUT", &lost).len(), 1);

    // One that keeps nothing of what it is sent is not tried for ever.
    let fake = Fake::start(|request| request.is("PUT", "/blobs/").then(|| status("201 Created"))?);
    assert_says(&scene.push_to(&fake).unwrap_err(), &["loses blobs", "no tag was moved"]);
    assert_eq!(fake.manifest("team/app", "1"), None);
}

#[test]
fn a_promised_blob_that_is_not_there_to_read() {
    let fake = Fake::start(|request| request.is("HEAD", "/blobs/").then(|| status("200 OK"))?);
    let client = client();
    let nothing = BlobDigest(Sha256::of(b"nothing"));
    assert!(remote!(fake, client, Pull).has_blob(nothing).unwrap());
    assert_eq!(pull(&fake, nothing, Some(7)).unwrap(), None);
    assert_eq!(fake.asked("GET", "/blobs/").len(), 1);
}

#[test]
fn what_passes_is_tried_again() {
    let scene = Scene::new();
    for line in [
        "429 Too Many Requests",
        "429 Too Many Requests\r\nRetry-After: 1",
        "503 Service Unavailable",
        "503 Service Unavailable\r\nRetry-After: 3600",
        "503 Service Unavailable\r\nRetry-After: Fri, 31 Dec 1999 23:59:59 GMT",
        "408 Request Timeout",
        "500 Internal Server Error",
    ] {
        let fake = Fake::start(move |request| (request.before == 0).then(|| status(line))?);
        let pushed = scene.push_to(&fake).unwrap();
        assert_eq!(pushed.sent.blobs, 4, "{line}");
        scene.assert_whole(&fake);
    }
    let fake = Fake::start(|request| request.is("PUT", "/blobs/").then(|| status("502 Bad Gateway"))?);
    let error = scene.push_to(&fake).unwrap_err();
    assert_says(&error, &["502", "tried 3 times", "sha256:", &fake.host(), "hint: the registry is at fault"]);
    Scene::assert_untouched(&fake);
}

#[test]
fn an_upload_that_is_cut_begins_anew() {
    let blob = bytes(2_000_000);
    let fake = Fake::start(|request| {
        (request.method == "PUT" && request.before == 0).then_some(Fault::HangUp(1_000_000))
    });
    assert_eq!(send(&client(), &fake, &blob, None).unwrap(), Sent::Uploaded);
    assert_eq!(fake.blob("team/app", BlobDigest(Sha256::of(&blob))), Some(blob));

    let fake = Fake::start(|request| (request.method == "PUT").then_some(Fault::HangUp(100)));
    let error = send(&client(), &fake, &bytes(2_000_000), None).unwrap_err();
    assert_says(&error, &["sha256:", &fake.host(), "tried 3 times", "hint: "]);
}

/// A server or a proxy that says "too large" while it is being sent, and hangs up.
#[test]
fn a_refusal_in_the_middle_of_an_upload_is_heard() {
    let fake = Fake::start(|request| {
        let head = "413 Payload Too Large".to_owned();
        (request.method == "PUT").then(|| Fault::Refuse(head, b"<html>".to_vec()))
    });
    let error = send(&client(), &fake, &bytes(4_000_000), None).unwrap_err();
    assert_says(&error, &["413", "raise its limit", &fake.host()]);
}

#[test]
fn a_slow_reader_is_borne_with() {
    let fake = Fake::start(|request| {
        (request.method == "PUT").then_some(Fault::Slow(200_000, Duration::from_millis(100)))
    });
    let mut settings = settings();
    settings.patience.stall = Duration::from_millis(800);
    let client = Client::new(Machine::default(), settings);
    let blob = bytes(1_000_000);
    send(&client, &fake, &blob, None).unwrap();
    assert_eq!(fake.asked("PUT", "/blobs/").len(), 1);
    assert_eq!(fake.blob("team/app", BlobDigest(Sha256::of(&blob))), Some(blob));
}

#[test]
fn what_is_not_mounted_is_sent() {
    // 202: the repository that was thought to have it has it not.
    let fake = Fake::start(good);
    assert_eq!(send(&client(), &fake, b"blob", Some("team/base")).unwrap(), Sent::Uploaded);
    let methods: Vec<_> = fake.requests().into_iter().map(|request| request.method).collect();
    assert_eq!(methods, ["POST", "PUT"], "the session of the mount is used");
    // A registry that knows no mounts, or will not.
    for line in ["400 Bad Request", "403 Forbidden", "404 Not Found", "405 Method Not Allowed"] {
        let fake = Fake::start(move |request| request.is("POST", "mount=").then(|| status(line))?);
        fake.put_blob("team/base", b"blob");
        assert_eq!(send(&client(), &fake, b"blob", Some("team/base")).unwrap(), Sent::Uploaded, "{line}");
        assert_eq!(fake.requests().len(), 3);
    }
}

#[test]
fn uploads_go_where_they_are_told() {
    // Relative to the root is what the fake says by itself.
    for location in ["1?state=a%2Fb", "http://HOST/v2/team/app/blobs/uploads/1?state=a%2Fb"] {
        let fake = Fake::start(|_| None);
        let location = location.replace("HOST", &fake.host());
        let told = Fake::start(move |request| {
            (request.method == "POST")
                .then(|| status(&format!("202 Accepted\r\nLocation: {}", location.replace("HOST", "x"))))?
        });
        send(&client(), &told, b"blob", None).unwrap();
        let target =
            if told.asked("PUT", "").is_empty() { fake.asked("PUT", "") } else { told.asked("PUT", "") };
        assert_eq!(target[0].path(), "/v2/team/app/blobs/uploads/1");
        assert!(target[0].target.contains("?state=a%2Fb&digest=sha256%3A"), "{}", target[0].target);
    }
    // Nowhere; and in plain text to a host that nobody allowed.
    for (line, said) in
        [("202 Accepted", "says not where"), ("202 Accepted\r\nLocation: http://r.example/", "not encrypted")]
    {
        let fake = Fake::start(move |request| (request.method == "POST").then(|| status(line))?);
        assert_says(&send(&client(), &fake, b"blob", None).unwrap_err(), &[said, &fake.host()]);
        assert_eq!(fake.requests().len(), 1);
    }
}

#[test]
fn a_login_stays_behind_at_a_redirect() {
    let store = Fake::start(good);
    let digest = store.put_blob("team/app", b"blob");
    // Another name of this machine is another host.
    let elsewhere = store.host().replace("127.0.0.1", "localhost");
    let redirect = move |request: &Request| {
        let reads = request.is("GET", "/blobs/") || request.is("HEAD", "/blobs/");
        let head = format!("307 Temporary Redirect\r\nLocation: http://{elsewhere}{}", request.target);
        let upload =
            format!("202 Accepted\r\nLocation: http://{elsewhere}/v2/team/app/blobs/uploads/1?state=a%2Fb");
        match () {
            () if reads && request.header("authorization").is_some() => status(&head),
            () if request.method == "POST" && request.header("authorization").is_some() => status(&upload),
            () => None,
        }
    };
    let fake = Fake::guarded(Guard::Basic(LOGIN.to_owned()), redirect);
    let client = client_with_password(&fake);
    let remote = remote!(fake, client, Pull);
    assert!(remote.has_blob(digest).unwrap());
    let mut read = Vec::new();
    remote.blob(digest, None).unwrap().unwrap().read_to_end(&mut read).unwrap();
    assert_eq!(read, b"blob");
    send(&client, &fake, b"another", None).unwrap();
    assert_eq!(store.requests().len(), 3);
    for request in store.requests() {
        assert_eq!(request.header("authorization"), None, "{request:?}");
    }

    let fake = Fake::start(|_| status("307 Temporary Redirect\r\nLocation: ?"));
    assert_says(&pull(&fake, digest, None).unwrap_err(), &["circles"]);
}

#[test]
fn a_download_that_is_cut_goes_on() {
    let blob = bytes(500_000);
    let fake = Fake::start(|request| {
        (request.is("GET", "/blobs/") && request.before < 2).then_some(Fault::Cut(700_000))
    });
    let digest = fake.put_blob("team/app", &blob);
    assert_eq!(pull(&fake, digest, Some(2_000_000)).unwrap(), Some(blob));
    let ranges: Vec<_> = fake.requests().iter().map(|it| it.header("range").map(str::to_owned)).collect();
    assert_eq!(ranges, [None, Some("bytes=700000-".to_owned()), Some("bytes=1400000-".to_owned())]);
}

#[test]
fn a_registry_without_ranges_is_read_from_the_start() {
    let blob = bytes(500_000);
    let whole = blob.clone();
    for later in
        ["200 OK", "416 Range Not Satisfiable", "206 Partial Content\r\nContent-Range: bytes 5-9/2000000"]
    {
        let body = whole.clone();
        let fake = Fake::start(move |request| match (request.before, request.header("range")) {
            (0, _) => Some(Fault::Cut(700_000)),
            (_, Some(_)) => Some(Fault::Answer(later.to_owned(), body.clone())),
            _ => None,
        });
        let digest = fake.put_blob("team/app", &blob);
        assert!(pull(&fake, digest, None).unwrap() == Some(blob.clone()), "{later}");
    }
}

#[test]
fn other_bytes_than_the_digest_says_are_not_kept() {
    let bench = Bench::new();
    let blob = bytes(100_000);
    let digest = BlobDigest(Sha256::of(&blob));
    let mut other = blob.clone();
    other[77] ^= 1;
    let mut longer = blob.clone();
    longer.push(0);
    for (served, size) in [(&other, Some(400_000)), (&other, None), (&longer, Some(400_000)), (&longer, None)]
    {
        let served = served.clone();
        let fake = Fake::start(move |_| Some(Fault::Answer("200 OK".to_owned(), served.clone())));
        let client = client();
        let remote = remote!(fake, client, Pull);
        let kept = match remote.blob(digest, size) {
            Ok(stream) => bench.store.put_reader(&mut stream.unwrap(), digest),
            Err(error) => Err(error),
        };
        assert_says(&kept.unwrap_err(), &[&digest.to_string(), &fake.host()]);
        assert!(!bench.store.has_blob(digest));
        assert_eq!(fake.requests().len(), 1, "what is wrong is not asked for again");
    }
    // A registry that finds the digest wrong.
    let fake = Fake::start(|request| {
        request.is("PUT", "/blobs/").then(|| error("400 Bad Request", "DIGEST_INVALID", "it is another"))?
    });
    let error = send(&client(), &fake, b"blob", None).unwrap_err();
    assert_says(&error, &["DIGEST_INVALID", "damaged", &fake.host()]);
    assert_eq!(fake.asked("PUT", "").len(), 1);
}

#[test]
fn manifests_have_a_limit() {
    let fake = Fake::start(|_| Some(Fault::Answer("200 OK".to_owned(), vec![b' '; (4 << 20) + 1])));
    let client = client();
    let error = remote!(fake, client, Pull).manifest(Which::Tag("1")).unwrap_err();
    assert_says(&error, &["larger than 4194304 bytes", &fake.host(), "`1`"]);
}

#[test]
fn a_manifest_is_what_its_digest_says() {
    let fake = Fake::start(|request| {
        let other = BlobDigest(Sha256::of(b"other"));
        match request.path() {
            "/v2/team/app/manifests/1" => {
                Some(Fault::Answer(format!("200 OK\r\nDocker-Content-Digest: {other}"), b"{}".to_vec()))
            }
            _ => Some(Fault::Answer("200 OK".to_owned(), b"{}".to_vec())),
        }
    });
    let client = client();
    let remote = remote!(fake, client, Pull);
    let other = BlobDigest(Sha256::of(b"other"));
    for which in [Which::Tag("1"), Which::Digest(other)] {
        let error = remote.manifest(which).unwrap_err();
        assert_says(&error, &["another manifest", &other.to_string(), &fake.host()]);
    }
    assert_eq!(remote.manifest(Which::Tag("2")).unwrap().unwrap().bytes, b"{}");
}

/// What was found by the tag is read by digest from then on.
#[test]
fn a_tag_that_changes_during_a_pull() {
    let fake = Fake::start(good);
    let layer = fake.put_blob("team/app", b"layer");
    let old = format!(r#"{{"layers":[{{"digest":"{layer}"}}]}}"#);
    let digest = fake.put_manifest("team/app", "1", old.as_bytes());
    let client = client();
    let remote = remote!(fake, client, Pull);
    let found = remote.manifest(Which::Tag("1")).unwrap().unwrap();
    fake.put_manifest("team/app", "1", b"{}");
    assert_eq!(found.digest, digest);
    assert_eq!(remote.manifest(Which::Digest(digest)).unwrap().unwrap().bytes, old.as_bytes());
    assert_eq!(pull(&fake, layer, Some(5)).unwrap().as_deref(), Some(&b"layer"[..]));
    assert_ne!(remote.see(Which::Tag("1")).unwrap().unwrap().digest, digest);
}

#[test]
fn a_registry_without_head() {
    let scene = Scene::new();
    let fake = Fake::start(|request| (request.method == "HEAD").then(|| status("405 Method Not Allowed"))?);
    let pushed = scene.push_to(&fake).unwrap();
    assert_eq!(pushed.sent.blobs, 4);
    scene.assert_whole(&fake);
    let again = scene.push_to(&fake).unwrap();
    assert_eq!(again.present.blobs, 4);
    let client = client();
    assert!(remote!(fake, client, Pull).has_blob(scene.layer(0)).unwrap());
}

#[test]
fn a_tag_is_moved_on_a_condition() {
    let scene = Scene::new();
    let ours = scene.image.manifest.digest;
    let other = BlobDigest(Sha256::of(b"{}"));
    for (condition, there, moved) in [
        (Condition::Absent, false, true),
        (Condition::Absent, true, false),
        (Condition::Was(other), true, true),
        (Condition::Was(other), false, false),
        (Condition::Was(ours), true, false),
    ] {
        let fake = Fake::start(good);
        if there {
            fake.put_manifest("team/app", "1", b"{}");
        }
        let to = Destination { condition, ..destination(&fake, "team/app:1") };
        let pushed = scene.push(&client(), &to);
        if moved {
            pushed.unwrap();
            scene.assert_whole(&fake);
            // Again: the tag has this very image, whatever was expected.
            assert_eq!(scene.push(&client(), &to).unwrap().sent.blobs, 0);
        } else {
            let error = pushed.unwrap_err();
            assert_eq!(error.kind(), Kind::Conflict);
            assert_says(&error, &[&to.reference.to_string(), "the tag was left as it is"]);
            assert_eq!(fake.requests().len(), 1, "nothing is sent for nothing");
            assert_eq!(fake.manifest("team/app", "1").is_some(), there);
        }
    }
}

/// Somebody else moves the tag while the blobs are on their way.
#[test]
fn a_tag_that_changes_during_a_push() {
    let scene = Scene::new();
    let other = BlobDigest(Sha256::of(b"[]"));
    let was = BlobDigest(Sha256::of(b"{}"));
    // Seen when the tag is looked at for the second time.
    let fake = Fake::start(move |request| {
        let moved = request.is("HEAD", "/manifests/1") && request.before == 1;
        moved.then(|| status(&format!("200 OK\r\nDocker-Content-Digest: {other}")))?
    });
    fake.put_manifest("team/app", "1", b"{}");
    let to = Destination { condition: Condition::Was(was), ..destination(&fake, "team/app:1") };
    let error = scene.push(&client(), &to).unwrap_err();
    assert_says(&error, &["has moved", &was.to_string(), &other.to_string()]);
    assert_eq!(fake.asked("PUT", "/manifests/").len(), 0);

    // Seen by the registry alone, which heeds the condition.
    let fake = Fake::start(|request| match () {
        () if request.is("HEAD", "/manifests/1") => Some(Fault::Header("ETag: \"one\"".to_owned())),
        () if request.is("PUT", "/manifests/1") && request.header("if-match") == Some("\"one\"") => {
            status("412 Precondition Failed")
        }
        () => None,
    });
    fake.put_manifest("team/app", "1", b"{}");
    let to = Destination { condition: Condition::Was(was), ..destination(&fake, "team/app:1") };
    assert_says(&scene.push(&client(), &to).unwrap_err(), &["has moved"]);
    assert_eq!(fake.manifest("team/app", "1").as_deref(), Some(&b"{}"[..]));
}

#[test]
fn a_registry_that_keeps_something_else() {
    let scene = Scene::new();
    let other = BlobDigest(Sha256::of(b"other"));
    let fake = Fake::start(move |request| {
        let put = request.is("PUT", "/manifests/");
        put.then(|| status(&format!("201 Created\r\nDocker-Content-Digest: {other}")))?
    });
    assert_says(&scene.push_to(&fake).unwrap_err(), &["keeps another manifest", &other.to_string()]);
}

#[test]
fn a_registry_that_is_not_there() {
    let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let to: Destination = format!("{closed}/team/app:1").parse().unwrap();
    let error = Scene::new().push(&client(), &to).unwrap_err();
    assert_eq!(error.kind(), Kind::Network);
    assert_says(&error, &[&closed.to_string(), "cannot be reached", "tried 3 times"]);
}
