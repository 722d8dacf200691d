//! The shared cache in a registry: a second machine builds nothing, what is damaged is built, and a cache
//! that fails costs one warning and never the build.

mod failures;
mod promises;
mod races;

use std::collections::BTreeSet;
use std::io::Read;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

use crate::support::debian::Registry;
use crate::support::fake::{Fake, Fault, Request, error, status};
use crate::support::{self, Bench, fetch, files, image, member, path, scheme, skipped, zip};
use assemble::cache::{Cache, Pace, Published, SecretKey};
use assemble::deliver::{Built, Destination, Push, nothing_to_obtain};
use assemble::fetch::http::Patience;
use assemble::net::Machine;
use assemble::realise::{Engine, Event, Had, RealisedLayer, Shareable};
use assemble::registry::{Client, Settings};
use assemble::store::{Outcome, Substituter};
use assemble_layers::derivation::{
    FileEntry, FileSource, Files, ImageLayer, Layout, UnpackWheels, WheelInput,
};
use assemble_layers::image::Layer;
use assemble_layers::pack::Compression;
use assemble_layers::{BlobDigest, Builder, DiffId, Image, NodeId, Sha256};

const WHEEL: &str = "demo-1.0-py3-none-any.whl";
const REPOSITORY: &str = "team/cache";

/// As patient as a loaded machine needs it.
fn client() -> Client {
    client_for(Duration::from_secs(20))
}

fn client_for(stall: Duration) -> Client {
    let patience = Patience {
        tries: 2,
        pause: Duration::from_millis(20),
        longest_pause: Duration::from_millis(50),
        stall,
        crowd: Duration::from_millis(20),
    };
    Client::new(Machine::default(), Settings { patience, ..Settings::default() })
}

/// A machine with a store of its own, and what was said there.
struct Team {
    bench: Bench,
    events: Sender<Event>,
    said: Receiver<Event>,
}

impl Team {
    /// Its store is empty.
    fn new() -> Self {
        let (events, said) = channel();
        Self { bench: Bench::new(), events, said }
    }

    fn cache(&self, host: &str) -> Cache {
        self.cache_by(client(), host)
    }

    fn cache_by(&self, client: Client, host: &str) -> Cache {
        Cache::new(client, format!("{host}/{REPOSITORY}").parse().unwrap(), self.events.clone())
    }

    fn with<T>(&self, cache: Option<Cache>, run: impl FnOnce(&Engine<'_>) -> T) -> T {
        let caches: Vec<Box<dyn Substituter>> =
            cache.into_iter().map(|cache| Box::new(cache) as Box<dyn Substituter>).collect();
        self.bench.engine(|engine| run(&Engine { caches: &caches, events: self.events.clone(), ..*engine }))
    }

    fn realise(&self, image: &Image, cache: Option<Cache>) -> Vec<RealisedLayer> {
        self.with(cache, |engine| engine.realise(image)).unwrap().layers
    }

    fn realise_with(&self, image: &Image, cache: &Arc<Cache>) -> Vec<RealisedLayer> {
        let caches: [Box<dyn Substituter>; 1] = [Box::new(Arc::clone(cache))];
        self.bench.engine(|engine| {
            Engine { caches: &caches, events: self.events.clone(), ..*engine }.realise(image).unwrap().layers
        })
    }

    fn shareable(&self, image: &Image) -> Vec<Shareable> {
        self.with(None, |engine| engine.shareable(image, &[])).unwrap()
    }

    fn publish(&self, image: &Image, cache: &Cache) -> assemble::Result<Published> {
        cache.publish(&self.shareable(image), &self.bench.store)
    }

    fn warnings(&self) -> Vec<String> {
        let warning = |event| if let Event::Warning(text) = event { Some(text) } else { None };
        self.said.try_iter().filter_map(warning).collect()
    }
}

fn wheel() -> Vec<u8> {
    let text = "print('hello')\n".repeat(1000);
    let record = "demo/__init__.py,,\ndemo-1.0.dist-info/METADATA,,\ndemo-1.0.dist-info/WHEEL,,\ndemo-1.0.dist-info/RECORD,,\n";
    zip(&[
        member("demo/__init__.py", text),
        member("demo-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: demo\nVersion: 1.0\n"),
        member("demo-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"),
        member("demo-1.0.dist-info/RECORD", record),
    ])
}

/// A layer of files, one of a wheel whose streams are spliced, and one that has a file of the first.
fn demo(text: &str) -> Image {
    let mut image = image(&[Builder::Files(files(&[("etc/one", "one\n"), ("etc/two", "two\n")]))]);
    let first = image.layers[0].tree;
    let file = image.graph.add(WHEEL, Builder::Fetch(fetch(WHEEL, &wheel())));
    let wheels = vec![WheelInput { filename: WHEEL.to_owned(), file, requested: false }];
    let layout = Layout::Site(scheme());
    let wheels = Builder::UnpackWheels(UnpackWheels { wheels, layout });
    let taken = FileSource::Tree { tree: first, path: path("etc/two") };
    let mut last: Files<NodeId> = files(&[("app/main", text)]);
    last.entries.push(FileEntry { path: path("app/two"), mode: 0o644, source: taken });
    for (name, builder) in [("wheels", wheels), ("application", Builder::Files(last))] {
        let tree = image.graph.add(name, builder);
        image.layers.push(Layer { tree, ..image.layers[0].clone() });
    }
    image
}

fn good(_: &Request) -> Option<Fault> {
    None
}

/// A machine that has built the image.
fn builder() -> (Team, Image, Vec<RealisedLayer>) {
    let (team, image) = (Team::new(), demo("1"));
    team.bench.store.put_bytes(&wheel()).unwrap();
    let layers = team.realise(&image, None);
    assert!(layers.iter().all(|layer| layer.had == Had::Built));
    (team, image, layers)
}

/// A registry that was filled, and what it was filled with.
fn filled(
    misbehave: impl Fn(&Request) -> Option<Fault> + Send + Sync + 'static,
) -> (Fake, Image, Vec<RealisedLayer>) {
    let fake = Fake::start(misbehave);
    let (team, image, layers) = builder();
    let published = team.publish(&image, &team.cache(&fake.host())).unwrap();
    assert_eq!(published.records, 6);
    assert_eq!(team.warnings(), [""; 0]);
    (fake, image, layers)
}

fn had(layers: &[RealisedLayer]) -> Vec<Had> {
    layers.iter().map(|layer| layer.had).collect()
}

#[track_caller]
fn assert_same(team: &Team, layers: &[RealisedLayer], others: &[RealisedLayer]) {
    let digests = |layers: &[RealisedLayer]| {
        layers.iter().map(|layer| (layer.diff_id, layer.packed)).collect::<Vec<_>>()
    };
    assert_eq!(digests(layers), digests(others));
    for layer in layers {
        let mut bytes = Vec::new();
        team.bench.store.open_blob(layer.packed.digest).unwrap().read_to_end(&mut bytes).unwrap();
        assert_eq!(BlobDigest(Sha256::of(&bytes)), layer.packed.digest);
    }
}

/// The second machine has neither results nor the wheel, and nowhere to get that from.
fn takes_everything(host: &str, image: &Image, layers: &[RealisedLayer]) {
    let team = Team::new();
    let taken = team.realise(image, Some(team.cache(host)));
    assert_eq!(had(&taken), [Had::Substituted; 3]);
    assert_same(&team, &taken, layers);
    assert_eq!(team.warnings(), [""; 0]);
}

#[test]
fn a_second_machine_builds_nothing() {
    let (fake, image, layers) = filled(good);
    let before = fake.requests().len();
    takes_everything(&fake.host(), &image, &layers);
    let asked = fake.requests().split_off(before);
    // A record, and what it names, for each tree and each packed layer.
    assert_eq!(asked.len(), 4 * layers.len());
    let distinct: BTreeSet<_> = asked.iter().map(|request| &request.target).collect();
    assert_eq!(distinct.len(), asked.len());
    // A locked file comes from where the lock has it.
    assert_eq!(fake.blob(REPOSITORY, BlobDigest(Sha256::of(&wheel()))), None);
}

/// The check of a whole image asks what a base's layers hold; one machine reads them for all others.
#[test]
fn what_a_base_holds_is_taken_instead_of_the_base() {
    let mut tar = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_ustar();
    header.set_entry_type(tar::EntryType::Directory);
    header.set_mode(0o700);
    header.set_size(0);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    tar.append_data(&mut header, "root/", &b""[..]).unwrap();
    let tar = tar.into_inner().unwrap();
    let sha256 = Sha256::of(&tar);
    let base = Builder::ImageLayer(ImageLayer {
        repository: "registry.example/base".to_owned(),
        digest: BlobDigest(sha256),
        size: tar.len() as u64,
        compression: Compression::None,
        diff_id: DiffId(sha256),
    });
    let image = image(&[base, Builder::Files(files(&[("root/.profile", "x")]))]);
    let (fake, team) = (Fake::start(good), Team::new());
    team.bench.store.put_bytes(&tar).unwrap();
    let whole = team.with(None, |engine| engine.realise(&image)).unwrap();
    assert_eq!(team.publish(&whole.image, &team.cache(&fake.host())).unwrap().records, 5);

    let other = Team::new();
    let taken = other.with(Some(other.cache(&fake.host())), |engine| engine.realise(&image)).unwrap();
    let tree = other.bench.store.tree(taken.layers[1].diff_id).unwrap().unwrap();
    assert_eq!(tree.find(&path("root")).unwrap().mode, 0o700);
    assert_eq!(had(&taken.layers), [Had::Base, Had::Substituted]);
    assert!(!other.bench.store.has_blob(BlobDigest(sha256)));
    assert_eq!(other.warnings(), [""; 0]);
}

#[test]
fn debian_s_registry_is_a_cache() {
    let Some(registry) = Registry::start() else {
        return skipped("a cache in Debian's registry needs `docker-registry`");
    };
    let (team, image, layers) = builder();
    let cache = team.cache(&registry.host);
    assert_eq!(team.publish(&image, &cache).unwrap().records, 6);
    takes_everything(&registry.host, &image, &layers);
    let puts = |registry: &Registry| registry.requests().iter().filter(|it| it.starts_with("PUT")).count();
    let before = puts(&registry);
    let nothing = Published::default();
    assert_eq!(team.publish(&image, &team.cache(&registry.host)).unwrap(), nothing);
    assert_eq!(puts(&registry), before);
    assert_eq!(team.warnings(), [""; 0]);
}

#[test]
fn what_was_made_before_a_step_failed_is_shared() {
    let (fake, image) = (Fake::start(good), demo("1"));
    let team = Team::new();
    let error = team.with(None, |engine| engine.realise(&image)).unwrap_err();
    assert!(error.to_string().contains(WHEEL), "{error}");
    assert_eq!(team.publish(&image, &team.cache(&fake.host())).unwrap().records, 4);

    let other = Team::new();
    other.bench.store.put_bytes(&wheel()).unwrap();
    let layers = other.realise(&image, Some(other.cache(&fake.host())));
    assert_eq!(had(&layers), [Had::Substituted, Had::Built, Had::Substituted]);
}

#[test]
fn content_is_fetched_for_the_step_that_needs_it() {
    let (fake, image, _) = filled(good);
    let team = Team::new();
    team.realise(&image, Some(team.cache(&fake.host())));
    // Another run, whose last step reads a file of the first layer: its tree is here, its content is not.
    let layers = team.realise(&demo("2"), Some(team.cache(&fake.host())));
    assert_eq!(had(&layers), [Had::Reused, Had::Reused, Had::Built]);
    assert_eq!(team.warnings(), [""; 0]);
}

/// What a push to another repository of the cache's registry has mounted, and what it sends: blobs.
fn pushed(team: &Team, fake: &Fake, image: &Image, layers: Vec<RealisedLayer>, name: &str) -> (usize, usize) {
    let assembled = assemble::oci::assemble(image, layers).unwrap();
    let built = Built { store: &team.bench.store, image: &assembled, obtain: &nothing_to_obtain };
    let (client, parts) = (client(), built.parts());
    let memory = Some(&team.bench.store);
    let push = Push { client: &client, source: &built, parts: &parts, memory, events: team.events.clone() };
    let destination: Destination = format!("{}/{name}:1", fake.host()).parse().unwrap();
    let pushed = push.run(&[destination]).unwrap();
    (pushed[0].mounted.blobs, pushed[0].sent.blobs)
}

#[test]
fn an_image_beside_the_cache_shares_its_blobs() {
    let fake = Fake::start(good);
    let (team, image, layers) = builder();
    team.publish(&image, &team.cache(&fake.host())).unwrap();
    assert_eq!(pushed(&team, &fake, &image, layers, "team/app"), (3, 1));

    let team = Team::new();
    let cache = Arc::new(team.cache(&fake.host()));
    let layers = team.realise_with(&image, &cache);
    cache.remember(&team.bench.store).unwrap();
    assert_eq!(pushed(&team, &fake, &image, layers, "team/other"), (3, 1));
}

#[track_caller]
fn assert_one_warning(warnings: &[String], parts: &[&str]) {
    let [warning] = warnings else { panic!("{warnings:#?}") };
    for part in parts {
        assert!(warning.contains(part), "`{part}` is missing: {warning}");
    }
}

#[test]
fn the_first_record_stays() {
    let (fake, image, _) = filled(good);
    let (team, ..) = builder();
    let mut records = team.shareable(&image);
    let tag = records[0].key.hex();
    let first = fake.manifest(REPOSITORY, &tag).unwrap();
    // That it took longer here is no other result.
    records[0].record.milliseconds += 1;
    let nothing = Published::default();
    assert_eq!(team.cache(&fake.host()).publish(&records, &team.bench.store).unwrap(), nothing);
    assert_eq!(team.warnings(), [""; 0]);
    let Outcome::Tree { size, .. } = &mut records[0].record.outcome else { panic!() };
    *size += 1;
    assert_eq!(team.cache(&fake.host()).publish(&records, &team.bench.store).unwrap(), nothing);
    assert_one_warning(
        &team.warnings(),
        &["another result", "`layer 0`", "the first", "does not give the same bytes"],
    );
    assert_eq!(fake.manifest(REPOSITORY, &tag).unwrap(), first);
}

/// Both found nothing, and the other one was quicker.
#[test]
fn a_record_that_was_published_meanwhile_stays() {
    let (first, image, _) = filled(good);
    let (team, ..) = builder();
    let tag = team.shareable(&image)[0].key.hex();
    let part = format!("/manifests/{tag}");
    let fake = Fake::copy(&first, move |request| match (request.method.as_str(), request.before) {
        _ if !request.target.ends_with(&part) => None,
        ("GET", 0) | ("HEAD", _) => status("404 Not Found"),
        ("PUT", _) => status("412 Precondition Failed"),
        _ => None,
    });
    let published = team.publish(&image, &team.cache(&fake.host())).unwrap();
    assert_eq!(published.records, 0);
    let put = fake.asked("PUT", &tag).remove(0);
    assert_eq!(put.header("if-none-match"), Some("*"));
}

/// What the registry lost of a record is sent again by whoever noticed and built it.
#[test]
fn a_blob_that_is_gone_comes_back() {
    let (first, image, layers) = filled(good);
    let lost = layers[0].packed.digest;
    let fake = Fake::copy_without(&first, lost);
    let team = Team::new();
    let cache = Arc::new(team.cache(&fake.host()));
    let built = team.realise_with(&image, &cache);
    assert_eq!(had(&built), [Had::Built, Had::Substituted, Had::Substituted]);
    team.publish(&image, &cache).unwrap();
    assert!(fake.blob(REPOSITORY, lost).is_some());
    assert_one_warning(&team.warnings(), &["it has the record of `layer 0` and no longer its bytes"]);
    takes_everything(&fake.host(), &image, &layers);
}

#[test]
fn only_what_is_signed_by_the_key_is_taken() {
    let (fake, (ci, image, layers)) = (Fake::start(good), builder());
    let keys = [(); 2].map(|()| SecretKey::generate().unwrap());
    let [ours, theirs] = keys.each_ref().map(SecretKey::public);
    let [_, secret] = keys;
    let cache = ci.cache(&fake.host()).with_keys(Vec::new(), Some(secret));
    assert_eq!(ci.publish(&image, &cache).unwrap().records, 6);
    for (keys, expected) in [
        (vec![], Had::Substituted),
        (vec![ours.clone(), theirs.clone()], Had::Substituted),
        (vec![ours], Had::Built),
    ] {
        let team = Team::new();
        team.bench.store.put_bytes(&wheel()).unwrap();
        let layers_here = team.realise(&image, Some(team.cache(&fake.host()).with_keys(keys, None)));
        assert_eq!(had(&layers_here), [expected; 3]);
        assert_same(&team, &layers_here, &layers);
        match expected {
            Had::Built => assert_one_warning(&team.warnings(), &["no key of `--cache-key`"]),
            _ => assert_eq!(team.warnings(), [""; 0]),
        }
    }

    // A record that is signed, under the key of another step.
    let records = ci.shareable(&image);
    let other = fake.manifest(REPOSITORY, &records[1].key.hex()).unwrap();
    fake.put_manifest(REPOSITORY, &records[0].key.hex(), &other);
    let team = Team::new();
    let engine_cache = team.cache(&fake.host()).with_keys(vec![theirs], None);
    let taken = team.with(Some(engine_cache), |engine| engine.realise(&image));
    // The wheel alone is not here, and its layer is signed: the other two are made from nothing.
    assert_eq!(had(&taken.unwrap().layers), [Had::Built, Had::Substituted, Had::Substituted]);
    assert_one_warning(&team.warnings(), &["no record of this key"]);
}

/// Whoever signs takes nothing that others have made, and does not put his name to it.
#[test]
fn what_stands_unsigned_is_neither_taken_nor_signed() {
    let (fake, image, layers) = filled(good);
    let secret = SecretKey::generate().unwrap();
    let public = secret.public();
    let ci = Team::new();
    ci.bench.store.put_bytes(&wheel()).unwrap();
    let cache = Arc::new(ci.cache(&fake.host()).with_keys(Vec::new(), Some(secret)));
    let built = ci.realise_with(&image, &cache);
    assert_eq!(had(&built), [Had::Built; 3]);
    assert_same(&ci, &built, &layers);
    assert_eq!(ci.publish(&image, &cache).unwrap(), Published::default());
    assert_one_warning(&ci.warnings(), &["no key of `--cache-key` has signed", "to an empty repository"]);

    let team = Team::new();
    team.bench.store.put_bytes(&wheel()).unwrap();
    let cache = team.cache(&fake.host()).with_keys(vec![public], None);
    assert_eq!(had(&team.realise(&image, Some(cache))), [Had::Built; 3]);
}

/// `assemble cache keygen`, as it is called.
#[test]
fn a_key_is_made_for_its_owner_alone() {
    use std::os::unix::fs::PermissionsExt;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("secret");
    let keygen = || {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_assemble"));
        command.args(["cache", "keygen"]).arg(&path);
        command
    };
    let public = String::from_utf8(support::output(&mut keygen())).unwrap();
    assert_eq!(SecretKey::read(&path).unwrap().public().to_string(), public.trim_end());
    assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600);
    let again = keygen().output().unwrap();
    assert_eq!(again.status.code(), Some(7), "{again:?}");
    assert_eq!(SecretKey::read(&path).unwrap().public().to_string(), public.trim_end());
}

/// What lies in the project is in the image.
#[test]
fn a_secret_key_that_an_image_would_hold_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let project = folder.path().join("project");
    std::fs::create_dir(&project).unwrap();
    std::fs::write(project.join("pyproject.toml"), "[project]\nname = \"demo\"\nversion = \"1\"\n").unwrap();
    let run = |secret: &str| {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_assemble"));
        command.args(["image", "--locked", "--variant", "binary"]).arg("--project").arg(&project);
        command.arg("--store").arg(folder.path().join("store"));
        command.arg("--cache-secret").arg(folder.path().join(secret));
        let output = command.output().unwrap();
        (output.status.code(), String::from_utf8(output.stderr).unwrap())
    };
    for secret in ["project/secret", "outside"] {
        std::fs::write(folder.path().join(secret), "").unwrap();
    }
    let (code, said) = run("project/secret");
    assert!(code == Some(2) && said.contains("lies in the project"), "{said}");
    // Where it is ignored, or elsewhere, it goes on, to find that there is no lock.
    assert_eq!(run("outside").0, Some(3));
    std::fs::write(project.join(".dockerignore"), "secret\n").unwrap();
    let (code, said) = run("project/secret");
    assert!(code == Some(3) && said.contains("there is no"), "{said}");
}
