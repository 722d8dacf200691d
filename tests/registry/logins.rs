//! Logins, tokens, and where they go.

use std::sync::atomic::{AtomicBool, Ordering};

use super::*;

#[test]
fn a_token_that_expires_half_way_is_renewed() {
    let guard = Guard::Bearer { uses: 4, login: Some(LOGIN.to_owned()) };
    let (scene, fake) = (Scene::new(), Fake::guarded(guard, good));
    scene.push(&client_with_password(&fake), &destination(&fake, "team/app:1")).unwrap();
    scene.assert_whole(&fake);
    let tokens = fake.asked("GET", "/token");
    assert!(tokens.len() >= 3, "{}", tokens.len());
    let first = &tokens[0].target;
    assert!(first.contains("service=fake&scope=repository%3Ateam%2Fapp%3Apull%2Cpush&account=me"), "{first}");
    // The password goes to the token server alone.
    for request in fake.requests().iter().filter(|request| request.path() != "/token") {
        assert!(request.header("authorization").is_none_or(|value| value.starts_with("Bearer issued-")));
    }
}

/// The token of the first request is spent when the connection breaks off.
#[test]
fn a_token_that_expires_within_a_download_is_renewed() {
    let guard = Guard::Bearer { uses: 1, login: Some(LOGIN.to_owned()) };
    let fake = Fake::guarded(guard, |request| {
        (request.is("GET", "/blobs/") && request.before == 1).then_some(Fault::Cut(300_000))
    });
    let blob = bytes(100_000);
    let digest = fake.put_blob("team/app", &blob);
    let client = client_with_password(&fake);
    let remote = remote!(fake, client, Pull);
    let mut read = Vec::new();
    remote.blob(digest, Some(400_000)).unwrap().unwrap().read_to_end(&mut read).unwrap();
    assert!(read == blob);
    assert_eq!(fake.asked("GET", "/token").len(), 2);
    let ranges = fake.asked("GET", "/blobs/").into_iter().map(|it| it.header("range").map(str::to_owned));
    let rest = Some("bytes=300000-".to_owned());
    assert_eq!(ranges.collect::<Vec<_>>(), [None, None, rest.clone(), rest]);
}

#[test]
fn one_token_does_for_all_that_runs_at_once() {
    let guard = Guard::Bearer { uses: 1000, login: None };
    let (scene, fake) = (Scene::new(), Fake::guarded(guard, good));
    scene.push_to(&fake).unwrap();
    assert_eq!(fake.asked("GET", "/token").len(), 1);
    assert_eq!(fake.requests().len(), 2 + 2 + 3 * 4 + 1);
}

/// A registry before another one, which knows the repository by another path (as proxies of registries do):
/// it takes a token only if its own word for it was asked for.
#[test]
fn a_scope_in_the_registry_s_own_words_is_asked_for() {
    let own = "repository:upstream/team/app:pull,push";
    let is_good = AtomicBool::new(false);
    let fake = Fake::start(move |request| {
        if request.path() == "/token" {
            let asked = request.target.contains("repository%3Aupstream%2Fteam%2Fapp%3Apull%2Cpush");
            is_good.store(asked, Ordering::SeqCst);
            return Some(Fault::Answer("200 OK".to_owned(), r#"{"token":"t","expires_in":"60"}"#.into()));
        }
        let realm = format!("http://{}/token", request.header("host").unwrap());
        let head = format!("401 Unauthorized\r\nWWW-Authenticate: Bearer realm=\"{realm}\",scope=\"{own}\"");
        let refused = request.header("authorization").is_none() || !is_good.load(Ordering::SeqCst);
        refused.then(|| Fault::Answer(head, "".into()))
    });
    let scene = Scene::new();
    scene.push_to(&fake).unwrap();
    scene.assert_whole(&fake);
    assert_eq!(fake.asked("GET", "/token").len(), 2);
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
    let client = client_with(&fake, json!({ "identitytoken": SECRET }));
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

/// A storage takes signed addresses, and no logins.
#[test]
fn a_storage_that_refuses_is_no_matter_of_a_login() {
    let answers = Fake::start(|_| {
        let body =
            b"<?xml version=\"1.0\"?><Error><Code>RequestTimeTooSkewed</Code><Message>no</Message></Error>";
        Some(Fault::Answer("403 Forbidden".to_owned(), body.to_vec()))
    });
    let elsewhere = answers.host().replace("127.0.0.1", "localhost");
    let to = elsewhere.clone();
    let fake = Fake::start(move |request| {
        let head = format!("307 Temporary Redirect\r\nLocation: http://{to}/signed?signature=hunter2");
        request.is("GET", "/blobs/").then(|| status(&head))?
    });
    let digest = fake.put_blob("team/app", b"blob");
    let error = pull(&fake, digest, None).unwrap_err();
    let said = ["403", "RequestTimeTooSkewed", &elsewhere, &format!("`{}` led there", fake.host()), "clock"];
    assert_says(&error, &said);
    assert!(!error.to_string().contains("docker login"), "{error}");
    // The address was made for one use: another one was asked for.
    assert_eq!(fake.asked("GET", "/blobs/").len(), 3);
}

#[test]
fn a_stale_address_is_asked_for_again() {
    let storage = Fake::start(|request| request.target.contains("stale").then(|| status("403 Forbidden"))?);
    let digest = storage.put_blob("team/app", b"blob");
    let elsewhere = storage.host().replace("127.0.0.1", "localhost");
    let fake = Fake::start(move |request| {
        let state = if request.before == 0 { "stale" } else { "fresh" };
        let head =
            format!("307 Temporary Redirect\r\nLocation: http://{elsewhere}{}?{state}", request.path());
        request.is("GET", "/blobs/").then(|| status(&head))?
    });
    assert_eq!(pull(&fake, digest, None).unwrap().as_deref(), Some(&b"blob"[..]));
}

/// Each repository may have a login of its own.
#[test]
fn the_login_of_the_longest_name_is_sent() {
    let fake = Fake::guarded(Guard::Basic(LOGIN.to_owned()), good);
    let folder = tempfile::tempdir().unwrap();
    let mine = json!({ "username": "me", "password": SECRET });
    let other = json!({ "username": "other", "password": "wrong" });
    let auths = json!({ fake.host(): other, format!("{}/team", fake.host()): mine });
    docker_config(folder.path(), &json!({ "auths": auths }));
    let client = Client::new(Machine::new(folder.path(), [("DOCKER_CONFIG", "/")]), settings());
    let scene = Scene::new();
    scene.push(&client, &destination(&fake, "team/app:1")).unwrap();
    scene.assert_whole(&fake);
    assert_says(&scene.push(&client, &destination(&fake, "other/app:1")).unwrap_err(), &["401"]);
}

#[test]
fn a_file_of_logins_that_cannot_be_read_is_said() {
    let fake = Fake::guarded(Guard::Basic(LOGIN.to_owned()), good);
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("config.json"), format!("{{ \"auths\": \"{SECRET}\" }}")).unwrap();
    let client = Client::new(Machine::new(folder.path(), [("DOCKER_CONFIG", "/")]), settings());
    let error = Scene::new().push(&client, &destination(&fake, "team/app:1")).unwrap_err();
    assert_eq!(error.kind(), Kind::Input);
    assert_says(&error, &["`/config.json`", "line 1"]);
}
