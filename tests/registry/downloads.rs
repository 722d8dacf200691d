//! Reading blobs and manifests.

use super::*;

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
fn what_passes_is_asked_for_again() {
    for line in PASSING {
        let fake = Fake::start(move |request| (request.before == 0).then(|| status(line))?);
        let digest = fake.put_blob("team/app", b"blob");
        fake.put_manifest("team/app", "1", b"{}");
        assert_eq!(pull(&fake, digest, Some(4)).unwrap().as_deref(), Some(&b"blob"[..]), "{line}");
        let client = client();
        let manifest = remote!(fake, client, Pull).manifest(Which::Tag("1")).unwrap().unwrap();
        assert_eq!((manifest.bytes.as_slice(), fake.requests().len()), (&b"{}"[..], 4), "{line}");
    }
}

/// Its own pause would be an hour.
#[test]
fn the_registry_says_how_long_to_wait() {
    let wait = "429 Too Many Requests\r\nRetry-After: 0";
    let fake = Fake::start(move |request| (request.before == 0).then(|| status(wait))?);
    let digest = fake.put_blob("team/app", b"blob");
    let mut settings = settings();
    let hour = Duration::from_secs(3600);
    (settings.patience.pause, settings.patience.longest_pause) = (hour, hour);
    let client = Client::new(Machine::default(), settings);
    assert!(remote!(fake, client, Pull).has_blob(digest).unwrap());
    assert_eq!(send(&client, &fake, b"another", None).unwrap(), Sent::Uploaded);
}

#[test]
fn reading_may_be_forbidden() {
    let fake = Fake::start(|_| error("403 Forbidden", "DENIED", "not for you"));
    let digest = BlobDigest(Sha256::of(b"blob"));
    let error = pull(&fake, digest, None).unwrap_err();
    assert_says(&error, &["403", "DENIED: not for you", &digest.to_string(), &fake.host(), "hint: "]);
    let client = client();
    let error = remote!(fake, client, Pull).manifest(Which::Tag("1")).unwrap_err();
    assert_says(&error, &["403", "DENIED: not for you", "`1`", &fake.host(), "hint: "]);
    assert_eq!(fake.requests().len(), 2, "what is final is asked once");
}

#[test]
fn a_download_that_gets_nowhere_is_given_up() {
    let (bench, blob) = (Bench::new(), bytes(100_000));
    let fake = Fake::start(|request| Some(Fault::Cut(if request.before == 0 { 100_000 } else { 0 })));
    let digest = fake.put_blob("team/app", &blob);
    let client = client();
    let remote = remote!(fake, client, Pull);
    let mut stream = remote.blob(digest, None).unwrap().unwrap();
    let error = bench.store.put_reader(&mut stream, digest).unwrap_err();
    assert_says(&error, &[&digest.to_string(), &fake.host(), "tried 3 times"]);
    assert!(!bench.store.has_blob(digest));
}

#[test]
fn a_manifest_that_is_cut_is_asked_for_again() {
    let fake = Fake::start(|request| (request.before == 0).then_some(Fault::Cut(5)));
    let digest = fake.put_manifest("team/app", "1", br#"{"layers":[]}"#);
    let client = client();
    let manifest = remote!(fake, client, Pull).manifest(Which::Tag("1")).unwrap().unwrap();
    assert_eq!((manifest.digest, fake.requests().len()), (digest, 2));
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
    let shorter = blob[..399_999].to_vec();
    for (served, size) in [other, longer, shorter].iter().flat_map(|it| [(it, Some(400_000)), (it, None)]) {
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
