//! Jobs that publish the same at once: to have lost a race is no refusal.

use super::*;

/// The other job was first: its commit is there when this one's is refused.
fn refused_commits(line: &'static str, code: &'static str) -> impl Fn(&Request) -> Option<Fault> {
    move |request| request.is("PUT", "/blobs/uploads/").then(|| error(line, code, "no")).flatten()
}

#[test]
fn a_commit_that_another_job_made_first_is_done() {
    let (first, image, layers) = filled(good);
    for (line, code) in [
        ("400 Bad Request", ""),
        ("400 Bad Request", "BLOB_UPLOAD_INVALID"),
        ("404 Not Found", "BLOB_UPLOAD_UNKNOWN"),
        ("409 Conflict", "DENIED"),
        ("416 Range Not Satisfiable", ""),
    ] {
        // HEAD says once that nothing is there: it is asked before the other job is done.
        let refused = refused_commits(line, code);
        let fake = Fake::copy(&first, move |request| {
            let is_early = request.is("HEAD", "/blobs/") && request.before == 0;
            let is_missing =
                is_early || request.is("GET", "/manifests/") || request.is("HEAD", "/manifests/");
            if is_missing && request.before == 0 { status("404 Not Found") } else { refused(request) }
        });
        let (team, ..) = builder();
        let cache = team.cache(&fake.host());
        team.publish(&image, &cache).unwrap_or_else(|error| panic!("{line}: {error}"));
        assert_eq!(team.warnings(), [""; 0]);
        let puts = fake.asked("PUT", "/blobs/uploads/");
        let distinct: BTreeSet<_> = puts.iter().map(|put| put.target.clone()).collect();
        assert!(!puts.is_empty() && distinct.len() == puts.len(), "{line}: nothing is sent twice");
        takes_everything(&first.host(), &image, &layers);
    }
}

#[test]
fn a_commit_that_nobody_made_is_refused() {
    let fake = Fake::start(refused_commits("400 Bad Request", ""));
    let (team, image, _) = builder();
    let error = team.publish(&image, &team.cache(&fake.host())).unwrap_err().to_string();
    assert!(error.contains("400"), "{error}");
    assert_eq!(fake.asked("PUT", "/manifests/").len(), 0);
}

/// Tags that cannot be moved, as registries refuse it.
#[test]
fn an_immutable_tag_that_another_job_set_first_is_done() {
    for line in ["400 Bad Request", "403 Forbidden", "409 Conflict", "412 Precondition Failed"] {
        let (first, image, layers) = filled(good);
        let fake = Fake::copy(&first, move |request| match (request.method.as_str(), request.before) {
            _ if !request.target.contains("/manifests/") => None,
            ("GET" | "HEAD", 0) => status("404 Not Found"),
            ("PUT", _) => error(line, "TAG_INVALID", "the tag is immutable"),
            _ => None,
        });
        let (team, ..) = builder();
        let published = team.publish(&image, &team.cache(&fake.host()));
        published.unwrap_or_else(|error| panic!("{line}: {error}"));
        assert_eq!(team.warnings(), [""; 0], "{line}");
        takes_everything(&fake.host(), &image, &layers);
    }
}

/// The other job came to something else: its record stays, with a warning.
#[test]
fn the_other_job_s_record_stays_where_its_tag_cannot_be_moved() {
    let (first, image, _) = filled(good);
    let (team, ..) = builder();
    let mut records = team.shareable(&image);
    let tag = records[0].key.hex();
    let Outcome::Tree { size, .. } = &mut records[0].record.outcome else { panic!() };
    *size += 1;
    let part = format!("/manifests/{tag}");
    let fake = Fake::copy(&first, move |request| match (request.method.as_str(), request.before) {
        _ if !request.target.ends_with(&part) => None,
        ("GET" | "HEAD", 0) => status("404 Not Found"),
        ("PUT", _) => error("400 Bad Request", "TAG_INVALID", "the tag is immutable"),
        _ => None,
    });
    let before = fake.manifest(REPOSITORY, &tag);
    team.cache(&fake.host()).publish(&records, &team.bench.store).unwrap();
    assert_one_warning(&team.warnings(), &["another result", "the first"]);
    assert_eq!(fake.manifest(REPOSITORY, &tag), before);
}

/// An image that another job has pushed, to a tag that cannot be moved.
#[test]
fn a_push_that_lost_the_race_to_the_same_image_is_done() {
    let (fake, image, layers) = filled(good);
    let (team, ..) = builder();
    pushed(&team, &fake, &image, layers.clone(), "team/app");
    for line in ["400 Bad Request", "403 Forbidden", "409 Conflict", "412 Precondition Failed"] {
        let late = Fake::copy(&fake, move |request| match (request.method.as_str(), request.before) {
            _ if !request.target.contains("/manifests/") => None,
            ("HEAD", 0) => status("404 Not Found"),
            ("PUT", _) => error(line, "TAG_INVALID", "the tag is immutable"),
            _ => None,
        });
        pushed(&team, &late, &image, layers.clone(), "team/app");
        assert_eq!(late.asked("PUT", "/manifests/").len(), 1);
    }
}

/// Another image has it: that is a refusal, and says what is there.
#[test]
fn a_push_that_lost_the_race_to_another_image_is_refused() {
    let (fake, image, layers) = filled(good);
    let (team, ..) = builder();
    let there = fake.put_manifest("team/app", "1", br#"{"schemaVersion":2}"#);
    let late = Fake::copy(&fake, |request| match request.is("PUT", "/manifests/") {
        true => error("400 Bad Request", "TAG_INVALID", "the tag is immutable"),
        false => None,
    });
    let assembled = assemble::oci::assemble(&image, layers).unwrap();
    let built = Built { store: &team.bench.store, image: &assembled, obtain: &nothing_to_obtain };
    let (client, parts) = (client(), built.parts());
    let push =
        Push { client: &client, source: &built, parts: &parts, memory: None, events: team.events.clone() };
    let destination: Destination = format!("{}/team/app:1", late.host()).parse().unwrap();
    let error = push.run(&[destination]).unwrap_err().to_string();
    assert!(error.contains("immutable") && error.contains(&there.to_string()), "{error}");
}

/// Twelve machines that have built the same at once, and Debian's registry.
#[test]
fn twelve_publishers_fill_one_cache() {
    let Some(registry) = Registry::start() else {
        return skipped("publishers at once in Debian's registry need `docker-registry`");
    };
    let (_, image, layers) = builder();
    std::thread::scope(|scope| {
        for _ in 0..12 {
            scope.spawn(|| {
                let (team, image, _) = builder();
                team.publish(&image, &team.cache(&registry.host)).unwrap();
                // This registry answers 500 while a blob is moved to its place.
                let warnings = team.warnings();
                assert!(warnings.iter().all(|it| it.contains("waited for")), "{warnings:#?}");
            });
        }
    });
    takes_everything(&registry.host, &image, &layers);
}
