//! What is reused is what its name says; a record is believed after a look at the disk.

use super::*;

fn flip(path: &Path, at: usize) {
    let mut bytes = fs::read(path).unwrap();
    bytes[at] ^= 1;
    fs::write(path, bytes).unwrap();
}

#[test]
fn a_wrong_blob_of_a_folder_is_written_anew() {
    let bench = Bench::new();
    let (folder, blob) = layout(&bench, "layout");
    let right = fs::read(&blob).unwrap();
    flip(&blob, right.len() / 2);
    assert_eq!(layout(&bench, "layout").0, folder);
    assert_eq!(fs::read(&blob).unwrap(), right);
    // A link in its place is replaced, and what it leads to is not written.
    let elsewhere = bench.write("elsewhere", &right);
    fs::remove_file(&blob).unwrap();
    symlink(&elsewhere, &blob).unwrap();
    layout(&bench, "layout");
    assert!(!blob.is_symlink());
    assert_eq!(fs::read(&blob).unwrap(), right);
}

#[test]
fn a_lost_bit_reaches_no_output() {
    type Output<'a> = &'a dyn Fn(&Bench, &Assembled) -> Result<(), Error>;
    let outputs: [(&str, Output<'_>); 3] = [
        ("file", &|bench, image| to_file(&bench.store, image, &names(), &bench.path("out.tar"))),
        ("folder", &|bench, image| to_folder(&bench.store, image, &names(), &bench.path("out"))),
        ("stream", &|bench, image| to_writer(&bench.store, image, &names(), &mut std::io::sink())),
    ];
    for (name, write) in outputs {
        let bench = Bench::new();
        let image = wheel_image(&bench, &small_wheel());
        let layers = bench.realise(&image).unwrap();
        let made = assemble::oci::assemble(&image, layers.clone()).unwrap();
        // The wheel, of which the first layer is ranges; and the second layer, which is a file.
        for lost in [BlobDigest(Sha256::of(&small_wheel())), layers[1].packed.digest] {
            let file = bench.store.blob_file(lost);
            flip(&file, 60);
            let error = refused(
                write(&bench, &made),
                Kind::Store,
                &["is corrupt in the store", "run the command again"],
            );
            assert!(error.to_string().contains(&lost.hex().to_string()), "{name}: {error}");
            assert!(!file.exists(), "{name}: what is corrupt stays");
            assert!(!bench.path("out.tar").exists() && !bench.path("out/index.json").exists(), "{name}");
            // The next run makes it again, of what is there.
            bench.store.put_bytes(&small_wheel()).unwrap();
            let again = bench.realise(&image).unwrap();
            assert_eq!(again[1].packed, layers[1].packed);
            write(&bench, &made).unwrap();
            let _ = (fs::remove_file(bench.path("out.tar")), fs::remove_dir_all(bench.path("out")));
        }
    }
}

/// As a power failure may leave it.
#[test]
fn an_empty_file_is_no_blob() {
    let bench = Bench::new();
    let blob = bench.store.put_bytes(b"bytes").unwrap();
    fs::write(bench.store.blob_file(blob), "").unwrap();
    let mut bytes = Vec::new();
    let read = bench.store.open_blob(blob).unwrap().read_to_end(&mut bytes);
    refused(read.map_err(Error::from), Kind::Store, &["is corrupt in the store"]);
    assert!(!bench.store.has_blob(blob));
    // The blob of no bytes is one.
    let nothing = bench.store.put_bytes(b"").unwrap();
    assert_eq!(bench.store.open_blob(nothing).unwrap().read_to_end(&mut bytes).unwrap(), 0);
}

/// A bit that no check of an archive covers: a mode in a zip's directory.
#[test]
fn a_lost_bit_reaches_no_builder() {
    let bench = Bench::new();
    let wheel = small_wheel();
    let image = wheel_image(&bench, &wheel);
    let directory = wheel.windows(4).position(|four| four == b"PK\x01\x02").unwrap();
    let file = bench.store.blob_file(BlobDigest(Sha256::of(&wheel)));
    flip(&file, directory + 38 + 2);
    // There is no network to fetch it again from.
    refused(bench.realise(&image), Kind::Network, &[WHEEL]);
    assert!(!file.exists());
}

/// Of a tree whose tar a step left, and that another step is run over.
#[test]
fn a_lost_bit_reaches_no_packed_layer() {
    let bench = Bench::new();
    let image = image(&[Builder::Files(files(&[("etc/motd", "hello"), ("etc/issue", "x")]))]);
    let right = bench.realise(&image).unwrap();
    // The layer goes, and what it is made of loses a bit.
    bench.store.discard_blob(right[0].packed.digest).unwrap();
    let tree = bench.store.tree(right[0].diff_id).unwrap().unwrap();
    let blob = *tree.blobs().first().unwrap();
    flip(&bench.store.blob_file(blob), 2);
    assert_eq!(bench.realise(&image).unwrap()[0].packed, right[0].packed);
    assert!(bench.store.is_intact(blob).unwrap());
}

#[test]
fn a_record_with_a_wrong_size_removes_nothing() {
    for size in [1 << 63, u64::MAX, 0, 1] {
        let bench = Bench::new();
        let image = image(&[Builder::Files(files(&[("etc/motd", "hello")]))]);
        let right = bench.realise(&image).unwrap()[0].packed;
        for record in fs::read_dir(bench.store.folder().join("records")).unwrap() {
            let record = record.unwrap();
            let mut known: Record = serde_json::from_slice(&fs::read(record.path()).unwrap()).unwrap();
            if let Outcome::Packed(packed) = &mut known.outcome {
                *packed = Packed { size, ..*packed };
                fs::write(record.path(), serde_json::to_vec(&known).unwrap()).unwrap();
            }
        }
        let before = fs::metadata(bench.store.blob_file(right.digest)).unwrap().modified().unwrap();
        assert_eq!(bench.realise(&image).unwrap()[0].packed, right, "{size}");
        assert!(fs::metadata(bench.store.blob_file(right.digest)).unwrap().modified().unwrap() >= before);
        let mut wrong = assemble::oci::assemble(&image, bench.realise(&image).unwrap()).unwrap();
        wrong.layers[0].packed.size = size;
        refused(to_file(&bench.store, &wrong, &names(), &bench.path("x")), Kind::Store, &["wrong size"]);
        assert!(bench.store.has_blob(right.digest), "{size}");
    }
}

/// A folder that is taken from is never written to.
#[test]
fn what_is_corrupt_in_a_cache_stays_there() {
    let (bench, image) = (Bench::new(), image(&[Builder::Files(files(&[("etc/motd", "hello")]))]));
    let packed = bench.realise(&image).unwrap()[0].packed.digest;
    let file = bench.store.blob_file(packed);
    flip(&file, 30);
    let other = Bench::new();
    let caches: Vec<Box<dyn assemble::store::Substituter>> =
        vec![Box::new(Store::open_cache(bench.store.folder()).unwrap())];
    let (events, heard) = std::sync::mpsc::channel();
    let engine = assemble::realise::Engine {
        store: &other.store,
        caches: &caches,
        fetcher: &assemble::realise::NoFetcher,
        packer: assemble_layers::Packer::default(),
        executor: &assemble::sandbox::Sandbox::default(),
        sandbox: &assemble::sandbox::Sandbox::default(),
        project: &other.path("project"),
        jobs: 1,
        events,
    };
    assert_eq!(engine.realise(&image).unwrap().layers[0].packed.digest, packed);
    assert!(file.exists());
    let warned = heard
        .try_iter()
        .any(|event| matches!(event, assemble::realise::Event::Warning(text) if text.contains("is corrupt")));
    assert!(warned);
}
