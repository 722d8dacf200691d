//! The store: what every substituter must do, and what a store is after the worst.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use crate::support::{Bench, child, folder_of_child, output, path, skipped};
use assemble::pack::{Segment, Spliced};
use assemble::store::{Outcome, Packed, Record, Store, Substituter};
use assemble::{Kind, Result};
use assemble_layers::{BlobDigest, Content, DiffId, Entry, Key, Sha256, Tree};

/// What is put into a store: a blob, one that is ranges of it, a tree of it, and what led to them.
struct Goods {
    key: Key,
    record: Record,
    diff_id: DiffId,
    tree: Tree,
    bytes: Vec<u8>,
    spliced: Vec<u8>,
}

impl Goods {
    fn new(name: &str, size: usize) -> Self {
        let bytes = name.repeat(size / name.len() + 2).into_bytes();
        let spliced = [&bytes[bytes.len() - 3..], &bytes[..5]].concat();
        let content = Content::Plain { blob: digest(&bytes), offset: 1, length: 2 };
        let diff_id = DiffId(Sha256::of(name.as_bytes()));
        Self {
            key: Key(Sha256::of(format!("key of {name}").as_bytes())),
            record: Record {
                builder: "files 1".to_owned(),
                name: name.to_owned(),
                outcome: Outcome::Tree { diff_id, size: 1024 },
                milliseconds: 1,
                findings: Default::default(),
            },
            diff_id,
            tree: Tree::new(vec![Entry::file(path("file"), content, 0o644)]).unwrap(),
            bytes,
            spliced,
        }
    }

    fn put(&self, store: &Store) -> Result<()> {
        let source = store.put_bytes(&self.bytes)?;
        let length = self.bytes.len() as u64;
        let segment = |offset, length| Segment { source: 0, offset, length };
        let segments = vec![segment(length - 3, 3), segment(0, 5)];
        store.put_spliced(digest(&self.spliced), &Spliced { sources: vec![source], segments })?;
        store.put_tree(self.diff_id, &self.tree)?;
        store.put_record(self.key, &self.record)
    }
}

/// A store's folder waits for nothing, whatever it costs.
const COST: std::time::Duration = std::time::Duration::ZERO;

fn digest(bytes: &[u8]) -> BlobDigest {
    BlobDigest(Sha256::of(bytes))
}

fn blob(substituter: &dyn Substituter, digest: BlobDigest) -> Option<Vec<u8>> {
    let bench = Bench::new();
    let had = substituter.blob(digest, None, &bench.store, COST).unwrap();
    assert_eq!(had, bench.store.has_blob_file(digest));
    had.then(|| std::fs::read(bench.store.blob_file(digest)).unwrap())
}

/// What every substituter must do. `make` gives one that holds the goods it is given.
fn keeps_the_contract(make: impl Fn(&[Goods]) -> Box<dyn Substituter>) {
    let (one, other, absent) =
        (Goods::new("one", 10), Goods::new("other", 3 << 20), Goods::new("absent", 10));
    let substituter = make(&[one, other]);
    assert!(!substituter.name().is_empty());
    for goods in [Goods::new("one", 10), Goods::new("other", 3 << 20)] {
        // Asked twice, for nothing may be used up; from two threads, for the engine does.
        std::thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    assert_eq!(substituter.record(goods.key, COST).unwrap().as_ref(), Some(&goods.record));
                    assert_eq!(
                        substituter.tree(goods.key, goods.diff_id, COST).unwrap().as_ref(),
                        Some(&goods.tree)
                    );
                    assert!(blob(&*substituter, digest(&goods.bytes)) == Some(goods.bytes.clone()));
                    assert_eq!(blob(&*substituter, digest(&goods.spliced)), Some(goods.spliced.clone()));
                });
            }
        });
    }
    assert_eq!(substituter.record(absent.key, COST).unwrap(), None);
    assert_eq!(substituter.tree(absent.key, absent.diff_id, COST).unwrap(), None);
    assert_eq!(blob(&*substituter, digest(&absent.bytes)), None);
    // A key is no diffID and no blob.
    assert_eq!(blob(&*substituter, BlobDigest(Key(Sha256::of(b"key of one")).0)), None);
}

fn open(folder: impl Into<PathBuf>) -> Result<Store> {
    Store::open(folder, assemble::sandbox::remove_folder)
}

#[test]
fn a_store_keeps_the_contract() {
    for open in [open as fn(String) -> Result<Store>, Store::open_cache] {
        let bench = Bench::new();
        keeps_the_contract(|goods| {
            goods.iter().for_each(|goods| goods.put(&bench.store).unwrap());
            Box::new(open(bench.store.folder().to_str().unwrap().to_owned()).unwrap())
        });
    }
}

/// What must be true of a store at any time: a name stands for a whole thing, and a record for things
/// that are there.
fn check(folder: &Path) {
    let files = |name: &str| {
        let entries = std::fs::read_dir(folder.join(name)).unwrap().map(|entry| entry.unwrap());
        entries.map(|entry| (entry.file_name().into_string().unwrap(), std::fs::read(entry.path()).unwrap()))
    };
    let store = Store::open_cache(folder).unwrap();
    for (name, bytes) in files("blobs") {
        assert_eq!(name, Sha256::of(&bytes).to_string(), "a blob is not what it is called");
    }
    for (name, _) in files("spliced") {
        let digest = BlobDigest(name.parse().unwrap());
        assert_eq!(blob(&store, digest).map(|bytes| Sha256::of(&bytes)), Some(digest.0));
    }
    for (name, _) in files("records") {
        let record = store.record(Key(name.parse().unwrap())).unwrap().expect("a record that can be read");
        let Outcome::Tree { diff_id, .. } = record.outcome else { continue };
        let tree = store.tree(diff_id).unwrap().expect("the tree of a record");
        assert!(
            tree.blobs().into_iter().all(|blob| store.has_blob_file(blob)),
            "a blob of a tree is missing"
        );
    }
}

/// Writes into the store until it is killed, or for some rounds.
fn write_on(folder: &Path, rounds: usize) {
    let store = open(folder).unwrap();
    for round in 0..rounds {
        // Two processes write the same things at times.
        let goods = Goods::new(&format!("goods {}", round % 40), 300_000);
        let working = store.working_folder().unwrap();
        std::fs::write(working.path().join("literal"), &goods.bytes).unwrap();
        store.put_reader(&mut &goods.bytes[..], digest(&goods.bytes)).unwrap();
        goods.put(&store).unwrap();
    }
}

/// Names below `tmp`.
fn work(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder.join("tmp")).unwrap();
    entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

fn start(test: impl Fn(), folder: &Path) -> Child {
    let [program, arguments @ ..] = &child(test, folder)[..] else { unreachable!() };
    Command::new(program).args(arguments).stdout(Stdio::null()).spawn().unwrap()
}

#[test]
fn a_killed_process_leaves_a_sound_store() {
    if let Some(folder) = folder_of_child() {
        return write_on(&folder, usize::MAX);
    }
    let bench = Bench::new();
    let folder = bench.path("killed");
    let mut left = 0;
    for round in 0..12 {
        let mut process = start(a_killed_process_leaves_a_sound_store, &folder);
        while !folder.join("version").exists()
            || std::fs::read_dir(folder.join("records")).unwrap().count() == 0
        {
            std::thread::sleep(Duration::from_millis(1));
        }
        // Whenever it is, it is in the midst of something.
        std::thread::sleep(Duration::from_micros(7_919 * round % 30_000));
        process.kill().unwrap();
        process.wait().unwrap();
        left += work(&folder).iter().filter(|name| name.starts_with("work-")).count();
        check(&folder);
        let store = open(&folder).unwrap();
        drop(store.working_folder().unwrap());
        let names = work(&folder);
        assert!(names.iter().all(|name| name.starts_with("draft-")), "{names:?}");
    }
    assert!(left > 0, "no process was killed at work");
}

#[test]
fn what_lives_is_not_removed_and_old_drafts_are() {
    let bench = Bench::new();
    let working = bench.store.working_folder().unwrap();
    let draft = |name: &str, age: u64| {
        let file = std::fs::File::create(bench.store.folder().join("tmp").join(name)).unwrap();
        file.set_modified(std::time::SystemTime::now() - Duration::from_secs(age)).unwrap();
    };
    draft("draft-of-now", 0);
    draft("draft-of-last-week", 7 * 24 * 60 * 60);
    drop(open(bench.store.folder()).unwrap().working_folder().unwrap());
    assert!(working.path().exists());
    let mut names = work(bench.store.folder());
    names.retain(|name| name.starts_with("draft-"));
    assert_eq!(names, ["draft-of-now"]);
}

#[test]
fn two_processes_share_a_store() {
    if let Some(folder) = folder_of_child() {
        return write_on(&folder, 60);
    }
    let bench = Bench::new();
    let folder = bench.path("shared");
    // They open it, and make it, at once.
    let processes = [0, 1, 2].map(|_| start(two_processes_share_a_store, &folder));
    for mut process in processes {
        assert!(process.wait().unwrap().success());
    }
    check(&folder);
    assert_eq!(work(&folder), [""; 0]);
}

#[test]
fn many_threads_make_one_store() {
    let bench = Bench::new();
    let folder = bench.path("new");
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| write_on(&folder, 3));
        }
    });
    check(&folder);
}

/// Runs a test again in a mount namespace of its own, where `$1` is an empty tmpfs of 1 MiB; whether it
/// could be.
fn in_small_file_system(test: impl Fn() + Copy) {
    let name = crate::support::name(test);
    let folder = tempfile::tempdir().unwrap();
    let unshare = |script: &str| {
        let mut command = Command::new("unshare");
        command.args([
            "--mount",
            "sh",
            "-euc",
            &format!("mount -t tmpfs -o size=1m none \"$1\"\nshift\n{script}"),
            "sh",
        ]);
        command.arg(folder.path()).args(child(test, folder.path()));
        command
    };
    match unshare("").output() {
        Ok(tried) if tried.status.success() => drop(output(&mut unshare("exec \"$@\""))),
        Ok(tried) => skipped(&format!(
            "{name}: no mount namespace: {}",
            String::from_utf8_lossy(&tried.stderr).trim_end()
        )),
        Err(error) => skipped(&format!("{name}: `unshare` cannot be run: {error}")),
    }
}

#[test]
fn a_full_disk_is_an_error_and_no_harm() {
    let Some(folder) = folder_of_child() else {
        return in_small_file_system(a_full_disk_is_an_error_and_no_harm);
    };
    let store = open(folder.join("store")).unwrap();
    let small = Goods::new("small", 1000);
    small.put(&store).unwrap();
    let large = Goods::new("large", 2 << 20);
    let errors = [
        large.put(&store).unwrap_err(),
        store.put_reader(&mut &large.bytes[..], digest(&large.bytes)).unwrap_err(),
    ];
    for error in errors {
        assert_eq!((error.kind(), error.hint_text().is_some()), (Kind::Store, true), "{error}");
        assert!(error.to_string().contains("No space left"), "{error}");
    }
    check(store.folder());
    assert!(!store.has_blob(digest(&large.bytes)));
    assert_eq!(work(store.folder()), [""; 0]);
    Goods::new("medium", 300_000).put(&store).unwrap();
}

#[test]
fn a_read_only_store_is_read() {
    let Some(folder) = folder_of_child() else { return in_small_file_system(a_read_only_store_is_read) };
    let goods = Goods::new("goods", 1000);
    goods.put(&open(folder.join("store")).unwrap()).unwrap();
    output(Command::new("mount").args(["-o", "remount,ro"]).arg(&folder));
    for open in [open, Store::open_cache] {
        let store = open(folder.join("store")).unwrap();
        assert_eq!(store.record(goods.key).unwrap(), Some(goods.record.clone()));
        assert_eq!(blob(&store, digest(&goods.spliced)), Some(goods.spliced.clone()));
        let error = Goods::new("other", 10).put(&store).unwrap_err();
        assert!(error.hint_text().is_some_and(|hint| hint.contains("--store")), "{error}");
    }
    let error = open(folder.join("new")).unwrap_err();
    assert!(error.message().contains("cannot be written"), "{error}");
    assert!(error.hint_text().is_some_and(|hint| hint.contains("--store")), "{error}");
}

#[test]
fn a_store_of_another_version_is_left_alone() {
    let bench = Bench::new();
    bench.write("newer/version", "2\n");
    for open in [open, Store::open_cache] {
        let error = open(bench.path("newer")).unwrap_err();
        assert_eq!(error.kind(), Kind::Store);
        assert!(error.message().contains("`2`") && error.message().contains("`1`"), "{error}");
    }
    assert_eq!(std::fs::read_dir(bench.path("newer")).unwrap().count(), 1);
}

#[test]
fn a_cache_that_is_no_store_is_not_made_one() {
    let bench = Bench::new();
    bench.write("home/letter", "dear");
    for name in ["home", "nowhere"] {
        assert_eq!(Store::open_cache(bench.path(name)).unwrap_err().kind(), Kind::Usage);
    }
    assert!(!bench.path("nowhere").exists());
}

#[test]
fn what_cannot_be_read_is_not_there() {
    let bench = Bench::new();
    let goods = Goods::new("goods", 10);
    goods.put(&bench.store).unwrap();
    let file = |name: &str, hex: String| bench.store.folder().join(name).join(hex);
    let record = file("records", goods.key.hex());
    let tree = file("trees", goods.diff_id.hex());
    for path in [&record, &tree] {
        let whole = std::fs::read(path).unwrap();
        for length in 0..whole.len() {
            std::fs::write(path, &whole[..length]).unwrap();
            let seen = (bench.store.record(goods.key).unwrap(), bench.store.tree(goods.diff_id).unwrap());
            assert!(seen.0.is_none() || seen.1.is_none(), "{length} bytes of `{}` were read", path.display());
        }
        std::fs::write(path, [&whole[..], b"more"].concat()).unwrap();
        assert!(
            bench.store.record(goods.key).unwrap().is_none()
                || bench.store.tree(goods.diff_id).unwrap().is_none()
        );
        std::fs::write(path, whole).unwrap();
    }
    // Of a newer program: what is not understood is not believed.
    let text = std::fs::read_to_string(&record).unwrap();
    std::fs::write(&record, text.replacen('{', "{\"signature\":1,", 1)).unwrap();
    assert_eq!(bench.store.record(goods.key).unwrap(), None);
}

#[test]
fn a_spliced_blob_without_its_source_is_not_there() {
    let bench = Bench::new();
    let goods = Goods::new("goods", 10);
    goods.put(&bench.store).unwrap();
    let spliced = digest(&goods.spliced);
    assert!(bench.store.has_blob(spliced) && !bench.store.has_blob_file(spliced));
    bench.store.discard_blob(digest(&goods.bytes)).unwrap();
    assert!(!bench.store.has_blob(spliced));
    assert_eq!(bench.store.open_blob(spliced).err().map(|error| error.kind()), Some(Kind::Store));
}

#[test]
fn a_copy_that_is_not_what_was_asked_for_is_refused() {
    let bench = Bench::new();
    let asked = digest(b"asked for");
    let error = bench.store.put_reader(&mut &b"another"[..], asked).unwrap_err();
    assert_eq!(error.kind(), Kind::Input);
    assert!(!bench.store.has_blob(asked) && !bench.store.has_blob(digest(b"another")));
}

/// Packing is a record like any other.
#[test]
fn records_survive() {
    let bench = Bench::new();
    let packed = Packed { digest: digest(b"packed"), size: 6 };
    let record = Record { outcome: Outcome::Packed(packed), ..Goods::new("goods", 10).record };
    let key = Key(Sha256::of(b"packing"));
    bench.store.put_record(key, &record).unwrap();
    assert_eq!(bench.store.record(key).unwrap(), Some(record));
    bench.store.forget(key).unwrap();
    bench.store.forget(key).unwrap();
    assert_eq!(bench.store.record(key).unwrap(), None);
}
