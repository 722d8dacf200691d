//! Sending blobs, and moving tags.

use super::*;

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
    // The tag, and whether the blobs are still there.
    assert_eq!(fake.requests().len(), requests.len() + 1 + 4);

    // Another tag, and the manifest is there: three requests more.
    scene.push(&client(), &destination(&fake, "team/app:2")).unwrap();
    assert_eq!(fake.requests().len(), requests.len() + 1 + 4 + 3 + 4);

    // Another repository: what this one holds is mounted from there, HEAD and POST a blob.
    let before = fake.requests().len();
    let mounted = scene.push(&client(), &destination(&fake, "other/app:1")).unwrap();
    assert_eq!((mounted.sent.blobs, mounted.mounted.blobs), (0, 4));
    assert_eq!(fake.requests().len() - before, 2 + 2 * 4 + 1);
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
fn what_passes_is_tried_again() {
    let scene = Scene::new();
    for line in PASSING {
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

/// A server or a proxy that says "too large" while it is being sent, and hangs up, whatever it is sent.
#[test]
fn a_refusal_in_the_middle_of_an_upload_is_heard() {
    let fake = Fake::start(|request| {
        let head = "413 Payload Too Large".to_owned();
        let sends = matches!(&*request.method, "PUT" | "PATCH");
        sends.then(|| Fault::Refuse(head, b"<html>".to_vec()))
    });
    let error = send(&client(), &fake, &bytes(4_000_000), None).unwrap_err();
    assert_says(&error, &["413", "raise its limit", &fake.host()]);
}

/// A proxy takes no more than a size, which it does not tell.
#[test]
fn what_is_too_large_is_sent_in_pieces() {
    const LIMIT: usize = 1 << 20;
    type Answer = fn() -> Fault;
    let heard: Answer = || Fault::Answer("413 Payload Too Large".to_owned(), b"<html>".to_vec());
    let hangs_up: Answer = || Fault::Refuse("413 Payload Too Large".to_owned(), b"<html>".to_vec());
    for refuse in [heard, hangs_up] {
        let fake = Fake::start(move |request| (request.length() > LIMIT).then(refuse));
        let (blob, client) = (bytes(1_500_000), client());
        send(&client, &fake, &blob, None).unwrap();
        assert_eq!(fake.blob("team/app", BlobDigest(Sha256::of(&blob))), Some(blob.clone()));
        let taken: Vec<_> = fake.asked("PATCH", "").iter().map(Request::length).collect();
        let pieces = &taken[taken.len() - 6..];
        assert_eq!(pieces, [LIMIT, LIMIT, LIMIT, LIMIT, LIMIT, 6_000_000 - 5 * LIMIT], "{taken:?}");
        // What was found out is known for the next blob, and for another repository.
        let before = fake.requests().len();
        let other = bytes(1_400_000);
        send(&client, &fake, &other, None).unwrap();
        let methods: Vec<_> = fake.requests().split_off(before).into_iter().map(|it| it.method).collect();
        assert_eq!(methods.concat(), ["POST", &"PATCH".repeat(6), "PUT"].concat());
        // What fits goes in one request.
        send(&client, &fake, &bytes(1000), None).unwrap();
        assert_eq!(fake.requests().last().unwrap().length(), 4000);
    }
}

#[test]
fn a_registry_may_ask_for_pieces() {
    let asks = |size: &'static str| {
        Fake::start(move |request| {
            (request.method == "POST").then(|| Fault::Header(format!("OCI-Chunk-Min-Length: {size}")))
        })
    };
    let blob = bytes(18_000_000);
    let fake = asks("1048576");
    send(&client(), &fake, &blob, None).unwrap();
    let sent: Vec<_> = fake.asked("PATCH", "").iter().map(Request::length).collect();
    assert_eq!(sent, [64 << 20, 72_000_000 - (64 << 20)]);
    assert!(fake.blob("team/app", BlobDigest(Sha256::of(&blob))) == Some(blob));
    // Less than it asks for is one piece.
    let fake = asks("100000000");
    send(&client(), &fake, &bytes(1000), None).unwrap();
    assert_eq!(fake.asked("PATCH", "").len(), 0);
    let fake = asks("nonsense");
    send(&client(), &fake, &bytes(1000), None).unwrap();
}

#[test]
fn a_piece_that_is_lost_begins_the_blob_anew() {
    let fake = Fake::start(|request| match &*request.method {
        "PUT" if request.length() > 1 << 20 => status("413 Payload Too Large"),
        "PATCH" if request.length() > 1 << 20 => status("413 Payload Too Large"),
        // In the middle of the second piece, and then a busy registry.
        "PATCH" if request.header("content-range")?.starts_with("1048576-") && request.before == 1 => {
            Some(Fault::HangUp(100))
        }
        _ => None,
    });
    let blob = bytes(900_000);
    send(&client(), &fake, &blob, None).unwrap();
    assert!(fake.blob("team/app", BlobDigest(Sha256::of(&blob))) == Some(blob));
}

/// 307 and 308 say to send the same elsewhere; the login stays behind.
#[test]
fn an_upload_is_redirected() {
    for (line, hangs_up) in [
        ("307 Temporary Redirect", false),
        ("308 Permanent Redirect", false),
        ("307 Temporary Redirect", true),
    ] {
        let storage = Fake::start(good);
        // Another name of this machine is another host.
        let elsewhere = storage.host().replace("127.0.0.1", "localhost");
        let fake = Fake::guarded(Guard::Basic(LOGIN.to_owned()), move |request| {
            let head = format!("{line}\r\nLocation: http://{elsewhere}{}", request.target);
            let moved = request.method == "PUT" && request.header("authorization").is_some();
            match hangs_up {
                true => moved.then(|| Fault::Refuse(head, Vec::new())),
                false => moved.then(|| Fault::Answer(head, Vec::new())),
            }
        });
        let blob = bytes(1_000_000);
        send(&client_with_password(&fake), &fake, &blob, None).unwrap();
        assert!(storage.blob("team/app", BlobDigest(Sha256::of(&blob))) == Some(blob), "{line}");
        for request in storage.requests() {
            assert_eq!(request.header("authorization"), None, "{request:?}");
            assert_eq!(request.target.matches("digest=").count(), 1, "{}", request.target);
        }
    }
    // The beginning of an upload may be elsewhere as well, in the registry itself.
    let fake = Fake::guarded(Guard::Basic(LOGIN.to_owned()), |request| {
        let first = request.method == "POST" && !request.target.contains("again");
        first.then(|| status(&format!("307 Temporary Redirect\r\nLocation: {}?again=1", request.target)))?
    });
    send(&client_with_password(&fake), &fake, b"blob", None).unwrap();
    assert_eq!(fake.asked("POST", "again").last().unwrap().header("authorization"), Some(LOGIN));
    // To plain text on another host, and by an answer that would change what is sent.
    for (line, said) in [
        ("307 Temporary Redirect\r\nLocation: http://r.example/", "not encrypted"),
        ("302 Found\r\nLocation: /elsewhere", "307 and 308"),
    ] {
        let fake = Fake::start(move |request| (request.method == "PUT").then(|| status(line))?);
        assert_says(&send(&client(), &fake, b"blob", None).unwrap_err(), &[said, &fake.host()]);
        assert_eq!(fake.asked("GET", "").len(), 0);
    }
}

/// It knows Docker's manifests alone.
#[test]
fn a_registry_that_takes_no_oci_manifests() {
    for (line, code) in [
        ("415 Unsupported Media Type", "UNSUPPORTED"),
        ("415 Unsupported Media Type", ""),
        ("400 Bad Request", "MANIFEST_INVALID"),
    ] {
        let fake = Fake::start(move |request| {
            let oci = request.header("content-type").is_some_and(|kind| kind.contains("oci"));
            (request.is("PUT", "/manifests/") && oci).then(|| error(line, code, "unknown media type"))?
        });
        let mut scene = Scene::new();
        assert_says(&scene.push_to(&fake).unwrap_err(), &["hint: ", "`--format docker`", &fake.host()]);
        assert_eq!(fake.manifest("team/app", "1"), None);
        scene.image = scene.image.in_docker_format().unwrap();
        let pushed = scene.push_to(&fake).unwrap();
        scene.assert_whole(&fake);
        assert_eq!((pushed.sent.blobs, pushed.present.blobs), (0, 4), "the blobs are the same");
        let kind =
            fake.asked("PUT", "/manifests/1").last().unwrap().header("content-type").map(str::to_owned);
        assert_eq!(kind.as_deref(), Some("application/vnd.docker.distribution.manifest.v2+json"));
    }
}

/// As a proxy does that passes on `Host` without the port.
#[test]
fn a_location_that_lost_its_port_is_said() {
    let fake = Fake::start(|request| {
        let location = format!("202 Accepted\r\nLocation: http://127.0.0.1{}", request.path());
        (request.method == "POST").then(|| status(&location))?
    });
    let error = send(&client(), &fake, b"blob", None).unwrap_err();
    assert_says(&error, &["without its port", &fake.host(), "hint: the proxy before", "$http_host"]);
}

/// It wants TLS, and is on loopback.
#[test]
fn a_registry_that_wants_tls_is_said() {
    let fake = Fake::start(|_| {
        let body = b"Client sent an HTTP request to an HTTPS server.\n".to_vec();
        Some(Fault::Answer("400 Bad Request".to_owned(), body))
    });
    assert_says(&Scene::new().push_to(&fake).unwrap_err(), &["plain HTTP", "if it wants TLS", &fake.host()]);
    assert_says(&send(&client(), &fake, b"blob", None).unwrap_err(), &["if it wants TLS"]);
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

/// More than what fits between the two is on its way when nobody reads any more.
#[test]
fn a_reader_that_stops_is_noticed() {
    let fake = Fake::start(|request| {
        let hour = Duration::from_secs(3600);
        (request.method == "PUT" && request.before == 0).then_some(Fault::Slow(1 << 20, hour))
    });
    let mut settings = settings();
    settings.patience.stall = Duration::from_secs(1);
    let blob = bytes(16 << 20);
    send(&Client::new(Machine::default(), settings), &fake, &blob, None).unwrap();
    assert!(fake.asked("PUT", "/blobs/").len() >= 2);
    assert!(fake.blob("team/app", BlobDigest(Sha256::of(&blob))) == Some(blob));
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

/// A registry that lets GET alone pass, and a storage whose addresses are signed for GET.
#[test]
fn a_head_that_is_refused_is_asked_by_get() {
    let storage = Fake::start(|request| (request.method == "HEAD").then(|| status("403 Forbidden"))?);
    let digest = storage.put_blob("team/app", b"blob");
    let elsewhere = storage.host().replace("127.0.0.1", "localhost");
    let fake = Fake::start(move |request| {
        let head = format!("307 Temporary Redirect\r\nLocation: http://{elsewhere}{}", request.target);
        request.target.contains("/blobs/sha256").then(|| status(&head))?
    });
    let client = client();
    assert!(remote!(fake, client, Pull).has_blob(digest).unwrap());
    assert!(!remote!(fake, client, Pull).has_blob(BlobDigest(Sha256::of(b"other"))).unwrap());
    assert_eq!((storage.asked("HEAD", "").len(), storage.asked("GET", "").len()), (2, 2));

    for refusal in ["401 Unauthorized", "403 Forbidden"] {
        let fake = Fake::guarded(Guard::Basic(LOGIN.to_owned()), move |request| {
            let blob = request.is("HEAD", "/blobs/") && request.header("authorization").is_some();
            blob.then(|| status(refusal))?
        });
        let digest = fake.put_blob("team/app", b"blob");
        let client = client_with_password(&fake);
        assert!(remote!(fake, client, Pull).has_blob(digest).unwrap(), "{refusal}");
        let ranges: Vec<_> =
            fake.asked("GET", "/blobs/").iter().map(|it| it.header("range").map(str::to_owned)).collect();
        assert_eq!(ranges, [Some("bytes=0-0".to_owned())]);
    }
}

/// A login may send and not read.
#[test]
fn a_registry_that_does_not_say_what_it_has_is_sent_all() {
    let scene = Scene::new();
    let fake = Fake::guarded(Guard::Basic(LOGIN.to_owned()), |request| {
        let reads = request.is("HEAD", "/blobs/") || request.is("GET", "/blobs/");
        (reads && request.header("authorization").is_some()).then(|| status("403 Forbidden"))?
    });
    let client = client_with_password(&fake);
    let pushed = scene.push(&client, &destination(&fake, "team/app:1")).unwrap();
    assert_eq!(pushed.sent.blobs, 4);
    scene.assert_whole(&fake);
    let error = remote!(fake, client, Pull).has_blob(scene.layer(0)).unwrap_err();
    assert_says(&error, &["403", "cannot be asked for", &fake.host()]);
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
