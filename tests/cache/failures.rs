//! Caches that are down, slow, full or wrong: one warning, and the image all the same.

use super::*;

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
    assert_one_warning(&warnings, &[&closed, "cannot be reached", "not asked again"]);

    let fake = Fake::start(|_| status("503 Service Unavailable\r\nRetry-After: 100"));
    let warnings = builds_all_the_same(&fake.host(), &image, &layers, &[Had::Built; 3]);
    assert_one_warning(&warnings, &[&fake.host(), "503", "not asked again"]);
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
    let fake = Fake::guarded(fake::Guard::Basic("Basic bWU6bWU=".to_owned()), good);
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("config.json"), "no JSON").unwrap();
    let team = Team::new();
    team.bench.store.put_bytes(&wheel()).unwrap();
    let machine = Machine::new(folder.path(), [("DOCKER_CONFIG", "/")]);
    let cache = team.cache_by(Client::new(machine, Settings::default()), &fake.host());
    let built = team.realise(&image, Some(cache));
    assert_eq!(had(&built), [Had::Built; 3]);
    assert_same(&team, &built, &layers);
    assert_one_warning(&team.warnings(), &["config.json", "not asked again"]);
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
    assert_one_warning(&team.warnings(), &["does not answer", "not asked again"]);
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
    assert_one_warning(&team.warnings(), &["is too slow", "not asked again"]);
}

#[test]
fn a_cache_that_goes_down_in_a_blob_costs_one_warning() {
    let (fake, image, layers) = filled(|request| request.is("GET", "/blobs/").then_some(Fault::HangUp(0)));
    let warnings = builds_all_the_same(&fake.host(), &image, &layers, &[Had::Built; 3]);
    assert_one_warning(&warnings, &["not asked again"]);
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
    let wrongs = |digest: &BlobDigest| [(*digest, 0, "it has the digest"), (*digest, 9, "more bytes")];
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
    assert!(error.contains("507") && error.contains("not asked again"), "{error}");
    assert_eq!(fake.asked("PUT", "/manifests/").len(), 0);
    let before = fake.requests().len();
    assert_eq!(team.publish(&image, &cache).unwrap(), Published::default());
    assert_eq!(fake.requests().len(), before);
}
