//! A record whose bytes are gone, and a machine that makes something else: the promise is dropped, and
//! what the machine made counts.

use super::*;

/// A cache that was filled by a machine whose first step came to something else, and whose every later
/// step was made upon that; and the image's records there.
fn promised(fake: &Fake) -> Image {
    let (team, image) = (Team::new(), demo("1"));
    team.bench.store.put_bytes(&wheel()).unwrap();
    // What the step came to there is what another step comes to here.
    let other = support::image(&[Builder::Files(files(&[("etc/one", "1\n"), ("etc/two", "2\n")]))]);
    team.realise(&other, None);
    let outcome = team.shareable(&other).remove(0).record;
    let key = builder().0.shareable(&image)[0].key;
    team.bench.store.put_record(key, &outcome).unwrap();
    team.realise(&image, None);
    let published = team.publish(&image, &team.cache(&fake.host())).unwrap();
    assert_eq!(published.records, 6);
    image
}

/// The blobs of the first step's record, and its packed layer.
fn blobs_of_the_first(fake: &Fake, image: &Image) -> Vec<BlobDigest> {
    let team = Team::new();
    let layers = team.with(Some(team.cache(&fake.host())), |engine| engine.locate(image)).unwrap().layers;
    let tree = team.bench.store.tree(layers[0].diff_id).unwrap().unwrap();
    tree.blobs().into_iter().chain([layers[0].packed.digest]).collect()
}

/// The cache without the bytes of the first step.
fn without_bytes(misbehave: impl Fn(&Request) -> Option<Fault> + Send + Sync + 'static) -> (Fake, Image) {
    let first = Fake::start(good);
    let image = promised(&first);
    let lost = blobs_of_the_first(&first, &image);
    let rest = lost.into_iter().fold(first, |fake, blob| Fake::copy_without(&fake, blob));
    (Fake::copy(&rest, misbehave), image)
}

#[test]
fn a_promise_without_bytes_is_dropped_and_what_was_made_counts() {
    let (fake, image) = without_bytes(good);
    let (_, _, honest) = builder();
    let team = Team::new();
    team.bench.store.put_bytes(&wheel()).unwrap();
    let cache = Arc::new(team.cache(&fake.host()));
    let layers = team.realise_with(&image, &cache);
    // The wheels' layer is made from nothing that was promised.
    assert_eq!(had(&layers), [Had::Built, Had::Substituted, Had::Built]);
    assert_same(&team, &layers, &honest);
    let warnings = team.warnings();
    assert_eq!(warnings.len(), 2, "{warnings:#?}");
    assert!(warnings[0].contains("no longer its bytes"), "{warnings:#?}");
    assert!(warnings[1].contains("the bytes of `layer 0` were nowhere"), "{warnings:#?}");

    // The record that nobody could take is replaced, and a third machine takes everything.
    assert!(team.publish(&image, &cache).unwrap().records >= 3);
    takes_everything(&fake.host(), &image, &layers);
}

/// A machine that only sends what a registry lacks finds out late that there are no bytes.
#[test]
fn an_image_that_was_located_is_located_again() {
    let (fake, image) = without_bytes(good);
    let (_, _, honest) = builder();
    let team = Team::new();
    team.bench.store.put_bytes(&wheel()).unwrap();
    team.with(Some(team.cache(&fake.host())), |engine| {
        let located = engine.locate(&image).unwrap().layers;
        assert_ne!(located[0].packed, honest[0].packed);
        assert!(engine.is_current(&image, &located).unwrap());
        let error = engine.obtain(&image, &located, |_| true).unwrap_err();
        assert!(error.message().contains("to other bytes"), "{error}");
        assert!(!engine.is_current(&image, &located).unwrap());
        let located = engine.locate(&image).unwrap().layers;
        engine.obtain(&image, &located, |_| true).unwrap();
        assert!(engine.is_current(&image, &located).unwrap());
        assert_same(&team, &located, &honest);
    });
}

/// The record was taken by an earlier run, and the cache is gone by now.
#[test]
fn a_promise_in_the_store_is_dropped_as_well() {
    let (fake, image) = without_bytes(good);
    let (_, _, honest) = builder();
    let team = Team::new();
    team.bench.store.put_bytes(&wheel()).unwrap();
    team.with(Some(team.cache(&fake.host())), |engine| engine.locate(&image)).unwrap();
    team.warnings();
    let layers = team.realise(&image, None);
    assert_same(&team, &layers, &honest);
    let again = team.realise(&image, None);
    assert_same(&team, &again, &honest);
    // What is made from it may have been asked for before it was known to be gone.
    let (follow, first): (Vec<_>, Vec<_>) =
        team.warnings().into_iter().partition(|it| it.contains("what it is made from has changed"));
    assert_one_warning(&first, &["`layer 0` were nowhere", "its record said", "it is now"]);
    assert!(follow.iter().all(|it| it.contains("`application` were nowhere")), "{follow:#?}");
}

/// Another folder's store is a cache too, and may lack what its records say.
#[test]
fn a_folder_s_promise_is_dropped_as_well() {
    let fake = Fake::start(good);
    let image = promised(&fake);
    let (other, team) = (Team::new(), Team::new());
    other.realise(&image, Some(other.cache(&fake.host())));
    for blob in blobs_of_the_first(&fake, &image) {
        other.bench.store.discard_blob(blob).unwrap();
    }
    let (_, _, honest) = builder();
    team.bench.store.put_bytes(&wheel()).unwrap();
    let folder = assemble::store::Store::open_cache(other.bench.path("store")).unwrap();
    let caches: [Box<dyn Substituter>; 1] = [Box::new(folder)];
    let layers = team.bench.engine(|engine| {
        Engine { caches: &caches, events: team.events.clone(), ..*engine }.realise(&image).unwrap().layers
    });
    assert_same(&team, &layers, &honest);
    assert_one_warning(&team.warnings(), &["`layer 0` were nowhere"]);
}

/// The bytes are gone and nobody asks for them: the promise stands, and nothing is built.
#[test]
fn a_promise_that_nobody_needs_stands() {
    let (fake, image) = without_bytes(good);
    let team = Team::new();
    let layers = team.with(Some(team.cache(&fake.host())), |engine| engine.locate(&image)).unwrap().layers;
    assert_eq!(had(&layers), [Had::Substituted; 3]);
    assert_eq!(team.warnings(), [""; 0]);
}

/// A machine with a warm store, which took nothing, looks after what others will want to take.
#[test]
fn a_publisher_with_a_warm_store_mends_what_is_gone() {
    let (first, image, layers) = filled(good);
    let (team, ..) = builder();
    for layer in &layers {
        let fake = Fake::copy_without(&first, layer.packed.digest);
        team.publish(&image, &team.cache(&fake.host())).unwrap();
        assert!(fake.blob(REPOSITORY, layer.packed.digest).is_some());
        assert_eq!(team.warnings(), [""; 0]);
        takes_everything(&fake.host(), &image, &layers);
    }
}

/// It costs a request for a blob that nobody read, each once, and sends nothing.
#[test]
fn looking_after_blobs_is_cheap() {
    let (fake, image, _) = filled(good);
    let (team, ..) = builder();
    let before = fake.requests().len();
    assert_eq!(team.publish(&image, &team.cache(&fake.host())).unwrap(), Published::default());
    let asked = fake.requests().split_off(before);
    let heads: Vec<_> = asked.iter().filter(|request| request.is("HEAD", "/blobs/")).collect();
    let distinct: BTreeSet<_> = heads.iter().map(|request| &request.target).collect();
    assert_eq!(heads.len(), distinct.len());
    assert_eq!(asked.len() - heads.len(), 6, "the records: {asked:#?}");

    // What was taken in this run is known to be there.
    let other = Team::new();
    let cache = Arc::new(other.cache(&fake.host()));
    other.realise_with(&image, &cache);
    let before = fake.requests().len();
    other.publish(&image, &cache).unwrap();
    let asked = fake.requests().split_off(before);
    assert!(asked.iter().all(|request| request.is("HEAD", "/blobs/")) && asked.len() <= 2, "{asked:#?}");
}

/// An image, or whatever else, under a key's tag.
#[test]
fn a_foreign_manifest_under_a_key_s_tag_is_replaced() {
    let (fake, image, layers) = filled(good);
    let (team, ..) = builder();
    let records = team.shareable(&image);
    let foreign = br#"{"schemaVersion":2,"config":{},"layers":[]}"#;
    for record in &records[..2] {
        fake.put_manifest(REPOSITORY, &record.key.hex(), foreign);
    }
    let other = Team::new();
    other.bench.store.put_bytes(&wheel()).unwrap();
    let cache = Arc::new(other.cache(&fake.host()));
    other.realise_with(&image, &cache);
    assert_eq!(other.publish(&image, &cache).unwrap().records, 2);
    cache.tell_others();
    let warnings = other.warnings();
    assert_eq!(warnings.len(), 2, "{warnings:#?}");
    assert!(warnings[0].contains("no record of this key"), "{warnings:#?}");
    takes_everything(&fake.host(), &image, &layers);
}

/// A registry whose tags cannot be moved keeps what nobody can take: a warning, and all else is published.
#[test]
fn what_cannot_be_replaced_is_a_warning() {
    let (first, image, _) = filled(good);
    let (team, ..) = builder();
    let tag = team.shareable(&image)[0].key.hex();
    let part = format!("/manifests/{tag}");
    let fake = Fake::copy(&first, move |request| match request.is("PUT", &part) {
        true => error("400 Bad Request", "TAG_INVALID", "the tag is immutable"),
        false => None,
    });
    fake.put_manifest(REPOSITORY, &tag, br#"{"schemaVersion":2,"config":{},"layers":[]}"#);
    assert_eq!(team.publish(&image, &team.cache(&fake.host())).unwrap().records, 0);
    let warnings = team.warnings();
    assert_eq!(warnings.len(), 2, "{warnings:#?}");
    assert!(warnings[1].contains("cannot be replaced") && warnings[1].contains(&tag), "{warnings:#?}");
}

/// Two caches: the first has lost its bytes, and the second has another result, with its bytes.
#[test]
fn another_cache_s_result_is_taken_where_the_first_has_lost_its_own() {
    let (lost, image) = without_bytes(good);
    let (whole, _, honest) = filled(good);
    let team = Team::new();
    let caches = [&lost, &whole].map(|fake| Box::new(team.cache(&fake.host())) as Box<dyn Substituter>);
    let layers = team.bench.engine(|engine| {
        Engine { caches: &caches, events: team.events.clone(), ..*engine }.realise(&image).unwrap().layers
    });
    // Neither is anything built, nor is the wheel at hand.
    assert_eq!(had(&layers), [Had::Substituted; 3]);
    assert_same(&team, &layers, &honest);
}
