//! Caches that are down, slow, full or wrong: one warning, and the image all the same.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use super::*;
use crate::support::fake::Guard;

/// Builds on a machine that has the wheel and asks a cache that fails: the image, and what was warned.
#[track_caller]
fn builds_all_the_same(host: &str, image: &Image, layers: &[RealisedLayer], expected: &[Had]) -> Vec<String> {
    let team = Team::new();
    team.bench.store.put_bytes(&wheel()).unwrap();
    let built = team.realise(image, Some(team.cache(host)));
    assert_eq!(had(&built), expected);
    assert_same(&team, &built, layers);
    team.warnings()
}

#[test]
fn a_cache_that_is_down_costs_one_warning() {
    let (_, image, layers) = builder();
    let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    let warnings = builds_all_the_same(&closed, &image, &layers, &[Had::Built; 3]);
    assert_one_warning(&warnings, &[&closed, "cannot be reached", "left alone"]);

    let fake = Fake::start(|_| status("503 Service Unavailable\r\nRetry-After: 100"));
    let warnings = builds_all_the_same(&fake.host(), &image, &layers, &[Had::Built; 3]);
    assert_one_warning(&warnings, &[&fake.host(), "503", "left alone"]);
    // Two layers were begun at once, each was tried twice, and then nobody asked any more.
    assert!(fake.requests().len() <= 4, "{:#?}", fake.requests());
}

#[test]
fn a_cache_that_may_not_be_read_costs_one_warning() {
    let (_, image, layers) = builder();
    let fake = Fake::start(|_| error("403 Forbidden", "DENIED", "not for you"));
    let warnings = builds_all_the_same(&fake.host(), &image, &layers, &[Had::Built; 3]);
    assert_one_warning(&warnings, &["not for you", REPOSITORY]);
}

/// Every layer asks, and no login can be read.
#[test]
fn a_login_that_cannot_be_read_costs_one_warning() {
    let (_, image, layers) = builder();
    let fake = Fake::guarded(Guard::Basic("Basic bWU6bWU=".to_owned()), good);
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("config.json"), "no JSON").unwrap();
    let team = Team::new();
    team.bench.store.put_bytes(&wheel()).unwrap();
    let machine = Machine::new(folder.path(), [("DOCKER_CONFIG", "/")]);
    let cache = team.cache_by(Client::new(machine, Settings::default()), &fake.host());
    let built = team.realise(&image, Some(cache));
    assert_eq!(had(&built), [Had::Built; 3]);
    assert_same(&team, &built, &layers);
    assert_one_warning(&team.warnings(), &["config.json", "left alone"]);
}

#[test]
fn a_slow_cache_is_left_alone() {
    let (_, image, layers) = builder();
    let fake = Fake::start(|_| {
        std::thread::sleep(Duration::from_secs(3));
        None
    });
    let team = Team::new();
    team.bench.store.put_bytes(&wheel()).unwrap();
    let cache = team.cache_by(client_for(Duration::from_millis(300)), &fake.host());
    let built = team.realise(&image, Some(cache));
    assert_eq!(had(&built), [Had::Built; 3]);
    assert_same(&team, &built, &layers);
    assert_one_warning(&team.warnings(), &["does not answer", "left alone"]);
}

/// It is never silent.
#[test]
fn a_cache_that_trickles_is_left_alone() {
    let (fake, image, layers) =
        filled(|request| request.is("GET", "/blobs/").then_some(Fault::Trickle(Duration::from_millis(20))));
    let team = Team::new();
    team.bench.store.put_bytes(&wheel()).unwrap();
    let pace = Pace { bytes: 1_000_000, time: Duration::from_millis(200) };
    let built = team.realise(&image, Some(team.cache(&fake.host()).with_pace(pace)));
    assert_eq!(had(&built), [Had::Built; 3]);
    assert_same(&team, &built, &layers);
    assert_one_warning(&team.warnings(), &["is too slow", "left alone"]);
}

#[test]
fn a_cache_that_goes_down_in_a_blob_costs_one_warning() {
    let (first, image, layers) = filled(good);
    let down = Arc::new(AtomicBool::new(false));
    let fake = Fake::copy(&first, move |request| {
        let is_down = down.load(Relaxed) || request.is("GET", "/blobs/");
        down.store(is_down, Relaxed);
        is_down.then_some(Fault::HangUp(0))
    });
    let warnings = builds_all_the_same(&fake.host(), &image, &layers, &[Had::Built; 3]);
    assert_one_warning(&warnings, &["left alone"]);
}

/// Whatever a record names is replaced by something else, each alone: of the same size, and larger.
#[test]
fn what_is_damaged_is_built() {
    let (fake, image, layers) = filled(good);
    let asked = fake.requests();
    let puts = asked.iter().filter(|request| request.is("PUT", "/blobs/uploads/"));
    let digests: BTreeSet<BlobDigest> = puts
        .filter_map(|request| request.target.split("digest=sha256%3A").nth(1)?[..64].parse().ok())
        .map(|hex: Sha256| BlobDigest(hex))
        .collect();
    assert!(digests.len() >= 8, "{digests:?}");
    let mut damaged = 0;
    let wrongs = |digest: &BlobDigest| [(*digest, 0, "it has the digest"), (*digest, 9, "and should have")];
    for (digest, more, message) in digests.iter().flat_map(wrongs) {
        let bytes = fake.blob(REPOSITORY, digest).unwrap();
        let fake = Fake::copy(&fake, move |request| {
            let wrong = vec![b'x'; bytes.len() + more];
            request.is("GET", &digest.to_string()).then(|| Fault::Answer("200 OK".to_owned(), wrong))
        });
        let team = Team::new();
        team.bench.store.put_bytes(&wheel()).unwrap();
        let built = team.realise(&image, Some(team.cache(&fake.host())));
        assert_same(&team, &built, &layers);
        let warnings = team.warnings();
        // What was not needed was not noticed.
        if fake.asked("GET", &digest.to_string()).is_empty() {
            assert_eq!((warnings.len(), had(&built)), (0, vec![Had::Substituted; 3]));
            continue;
        }
        damaged += 1;
        assert_one_warning(&warnings, &[&digest.to_string(), message]);
        assert_eq!(built.iter().filter(|layer| layer.had == Had::Built).count(), 1, "{digest}");
    }
    assert_eq!(damaged, 2 * 6, "three trees and three layers");
}

/// The registry says that it has a blob, and gives nothing, or not all of it, or an error of its storage.
#[test]
fn a_blob_that_cannot_be_read_is_passed_over_alone() {
    let (first, image, layers) = filled(good);
    let bad = layers[0].packed.digest;
    let faults: [fn() -> Fault; 5] = [
        || Fault::Answer("200 OK".to_owned(), Vec::new()),
        || Fault::Cut(0),
        || Fault::HangUp(0),
        || Fault::Answer("500 Internal Server Error".to_owned(), Vec::new()),
        || Fault::Answer("403 Forbidden".to_owned(), Vec::new()),
    ];
    for fault in faults {
        let mended = AtomicBool::new(false);
        let fake = Fake::copy(&first, move |request| {
            mended.fetch_or(request.is("PUT", &bad.hex()), Relaxed);
            let is_bad = request.is("GET", &format!("/blobs/{bad}")) && !mended.load(Relaxed);
            is_bad.then(fault)
        });
        let expected = [Had::Built, Had::Substituted, Had::Substituted];
        let team = Team::new();
        let cache = Arc::new(team.cache(&fake.host()));
        let built = team.realise_with(&image, &cache);
        assert_eq!(had(&built), expected);
        assert_same(&team, &built, &layers);
        cache.tell_others();
        assert_one_warning(&team.warnings(), &[&bad.to_string(), "`layer 0` cannot be used", "passed over"]);

        // Whoever publishes then sends it, though the registry says that it has it.
        let heads = fake.asked("HEAD", &bad.to_string()).len();
        team.publish(&image, &cache).unwrap();
        let sent = fake.asked("PUT", "/blobs/uploads/");
        let sent = sent.iter().filter(|put| put.target.contains(&bad.hex())).count();
        assert_eq!((sent, fake.asked("HEAD", &bad.to_string()).len()), (1, heads));
        assert_eq!(team.warnings(), [""; 0]);
        takes_everything(&fake.host(), &image, &layers);
    }
}

/// Debian's registry with an empty file for a blob: it says that the blob is there, and keeps that file
/// when it is sent again. That is said, and what to do.
#[test]
fn a_registry_that_keeps_a_broken_blob_is_told_of() {
    let Some(registry) = Registry::start() else {
        return skipped("a broken blob in Debian's registry needs `docker-registry`");
    };
    let (ci, image, layers) = builder();
    ci.publish(&image, &ci.cache(&registry.host)).unwrap();
    let bad = layers[0].packed.digest;
    let file = registry.blob_file(&bad.hex());
    std::fs::write(&file, "").unwrap();

    let team = Team::new();
    let cache = Arc::new(team.cache(&registry.host));
    let built = team.realise_with(&image, &cache);
    assert_eq!(had(&built), [Had::Built, Had::Substituted, Had::Substituted]);
    assert_same(&team, &built, &layers);
    team.publish(&image, &cache).unwrap();
    let warnings = team.warnings();
    assert_eq!(warnings.len(), 2, "{warnings:#?}");
    assert!(warnings[0].contains("cannot be used"), "{warnings:#?}");
    assert!(warnings[1].contains("keeps its copy") && warnings[1].contains(&bad.hex()), "{warnings:#?}");

    // Whoever does what the hint says is done.
    std::fs::remove_file(&file).unwrap();
    let team = Team::new();
    let cache = Arc::new(team.cache(&registry.host));
    team.realise_with(&image, &cache);
    team.publish(&image, &cache).unwrap();
    takes_everything(&registry.host, &image, &layers);
}

/// Twelve layers whose blobs are gone or wrong: one warning, and at the end a line that names the others.
#[test]
fn twelve_troubles_alike_are_one_warning() {
    let builders: Vec<_> = (0..12)
        .map(|number| Builder::Files(files(&[(&format!("etc/{number}"), &number.to_string())])))
        .collect();
    let image = image(&builders);
    let first = Fake::start(good);
    let team = Team::new();
    let layers = team.realise(&image, None);
    team.publish(&image, &team.cache(&first.host())).unwrap();
    for (answer, words, others) in [
        ("404 Not Found", "no longer its bytes", "it has no bytes for the records of"),
        ("200 OK", "cannot be used", "it has unreadable blobs of"),
    ] {
        let fake = Fake::copy(&first, move |request| {
            let is_layer = request.is("GET", "/blobs/") && request.before < 99;
            is_layer.then(|| Fault::Answer(answer.to_owned(), Vec::new()))
        });
        let team = Team::new();
        let cache = Arc::new(team.cache(&fake.host()));
        let built = team.realise_with(&image, &cache);
        assert_eq!(had(&built), [Had::Built; 12]);
        assert_same(&team, &built, &layers);
        assert_one_warning(&team.warnings(), &[words]);
        cache.tell_others();
        assert_one_warning(&team.warnings(), &[others, "`layer 0`, `layer 1`", "and 7 more"]);
        cache.tell_others();
        assert_eq!(team.warnings(), [""; 0]);
    }
}

/// What an earlier version published is not believed, and makes place.
#[test]
fn older_records_are_one_warning_and_are_replaced() {
    let (fake, image, layers) = filled(good);
    let (team, ..) = builder();
    for shared in team.shareable(&image) {
        let tag = shared.key.hex();
        let text = String::from_utf8(fake.manifest(REPOSITORY, &tag).unwrap()).unwrap();
        fake.put_manifest(REPOSITORY, &tag, text.replace("record.v2", "record.v1").as_bytes());
    }
    let warnings = builds_all_the_same(&fake.host(), &image, &layers, &[Had::Built; 3]);
    assert_one_warning(&warnings, &["an earlier version of this program wrote"]);
    assert_eq!(team.publish(&image, &team.cache(&fake.host())).unwrap().records, 6);
    takes_everything(&fake.host(), &image, &layers);
}

/// A signature that is right, over layers that are others: they are not taken, and inflate nothing.
#[test]
fn other_layers_behind_a_signed_record_are_not_taken() {
    let (fake, (ci, image, layers)) = (Fake::start(good), builder());
    let secret = SecretKey::generate().unwrap();
    let keys = vec![secret.public()];
    ci.publish(&image, &ci.cache(&fake.host()).with_keys(Vec::new(), Some(secret))).unwrap();
    let bomb = fake.put_blob(REPOSITORY, &[7; 5000]);
    for shared in ci.shareable(&image) {
        let tag = shared.key.hex();
        let mut manifest: serde_json::Value =
            serde_json::from_slice(&fake.manifest(REPOSITORY, &tag).unwrap()).unwrap();
        for layer in manifest["layers"].as_array_mut().unwrap() {
            layer["digest"] = bomb.to_string().into();
            layer["size"] = 5000.into();
        }
        fake.put_manifest(REPOSITORY, &tag, manifest.to_string().as_bytes());
    }
    let team = Team::new();
    team.bench.store.put_bytes(&wheel()).unwrap();
    let built = team.realise(&image, Some(team.cache(&fake.host()).with_keys(keys, None)));
    assert_eq!(had(&built), [Had::Built; 3]);
    assert_same(&team, &built, &layers);
    assert_one_warning(&team.warnings(), &["its layers are not those of its record"]);
    assert_eq!(fake.asked("GET", &bomb.to_string()).len(), 0);
}

/// What is dear is waited for, what is cheap is not; and where the wait was of use, the cache is back.
#[test]
fn patience_grows_with_what_a_miss_costs() {
    let (first, image, _) = filled(good);
    let key = builder().0.shareable(&image)[0].key;
    let busy = |count| {
        move |request: &Request| {
            let is_busy = request.is("GET", "/manifests/") && request.before < count;
            is_busy.then(|| Fault::Answer("429 Too Many Requests".to_owned(), Vec::new()))
        }
    };
    let (cheap, dear) = (Duration::from_secs(5), Duration::from_secs(3600));

    let fake = Fake::copy(&first, busy(3));
    let team = Team::new();
    let cache = team.cache(&fake.host());
    let error = cache.record(key, cheap).unwrap_err().to_string();
    assert!(error.contains("429") && error.contains("left alone"), "{error}");
    assert_eq!(cache.record(key, cheap).unwrap(), None);
    assert_eq!(fake.requests().len(), 2, "tried twice, and left alone");
    assert!(cache.record(key, dear).unwrap().is_some());
    assert_eq!(team.warnings(), [""; 0], "it was tried twice, as ever");
    assert!(cache.record(key, cheap).unwrap().is_some());

    let fake = Fake::copy(&first, busy(5));
    let cache = team.cache(&fake.host());
    assert!(cache.record(key, dear).unwrap().is_some());
    assert_one_warning(&team.warnings(), &["429", "waited for, up to 360 s"]);
    // What is denied is denied, whatever it costs.
    let fake = Fake::start(|_| error_of("403 Forbidden"));
    let cache = team.cache(&fake.host());
    assert!(cache.record(key, dear).unwrap_err().to_string().contains("403"));
    assert_eq!(fake.requests().len(), 1);
}

/// A wait ends: what is worth three seconds is not waited for any longer.
#[test]
fn patience_ends() {
    let fake = Fake::start(|_| status("503 Service Unavailable"));
    let (team, key) = (Team::new(), builder().0.shareable(&demo("1"))[0].key);
    let (cache, started) = (team.cache(&fake.host()), std::time::Instant::now());
    let error = cache.record(key, Duration::from_secs(30)).unwrap_err().to_string();
    assert!(error.contains("503") && error.contains("left alone"), "{error}");
    assert!((3..20).contains(&started.elapsed().as_secs()), "{:?}", started.elapsed());
    assert_eq!(cache.record(key, Duration::from_secs(30)).unwrap(), None);
}

fn error_of(line: &str) -> Option<Fault> {
    error(line, "DENIED", "not for you")
}

#[test]
fn the_record_of_another_key_is_not_believed() {
    let (fake, image, layers) = filled(good);
    let (team, ..) = builder();
    let records = team.shareable(&image);
    let other = fake.manifest(REPOSITORY, &records[1].key.hex()).unwrap();
    fake.put_manifest(REPOSITORY, &records[0].key.hex(), &other);
    let warnings =
        builds_all_the_same(&fake.host(), &image, &layers, &[Had::Built, Had::Substituted, Had::Substituted]);
    assert_one_warning(&warnings, &["no record of this key"]);
}

#[test]
fn a_full_cache_fails_once_and_names_nothing_that_is_not_there() {
    let fake = Fake::start(|request| {
        let full = request.is("PUT", "/blobs/") && request.before > 2;
        full.then(|| Fault::Answer("507 Insufficient Storage".to_owned(), Vec::new()))
    });
    let (team, image, _) = builder();
    let cache = team.cache(&fake.host());
    let error = team.publish(&image, &cache).unwrap_err().to_string();
    assert!(error.contains("507") && error.contains("left alone"), "{error}");
    assert_eq!(fake.asked("PUT", "/manifests/").len(), 0);
    let before = fake.requests().len();
    assert_eq!(team.publish(&image, &cache).unwrap(), Published::default());
    assert_eq!(fake.requests().len(), before);
}
