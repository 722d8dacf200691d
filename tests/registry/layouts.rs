//! `assemble push FILE`: what anybody may have written is pushed if it is what it says.

use assemble::deliver::{Layout, to_file, to_folder};

use super::*;

fn names() -> Vec<assemble::oci::Reference> {
    vec!["demo:1".parse().unwrap(), "demo:2".parse().unwrap()]
}

fn push_layout(scene: &Scene, path: &Path, fake: &Fake) -> Result<Pushed> {
    let layout = Layout::open(path)?;
    push(&client(), &layout, &layout.parts()?, &scene.bench, &destination(fake, "team/app:1"))
}

#[test]
fn an_archive_and_a_folder_are_pushed() {
    let scene = Scene::new();
    let (file, folder) = (scene.bench.path("image.tar"), scene.bench.path("layout"));
    to_file(&scene.bench.store, &scene.image, &names(), &file).unwrap();
    to_folder(&scene.bench.store, &scene.image, &names(), &folder).unwrap();
    // As GNU tar packs a folder.
    let packed = scene.bench.path("packed.tar");
    output(Command::new("tar").arg("-cf").arg(&packed).arg("-C").arg(&folder).arg("."));
    for path in [&file, &folder, &packed] {
        let fake = Fake::start(|_| None);
        let pushed = push_layout(&scene, path, &fake).unwrap();
        assert_eq!(pushed.sent.blobs, 4);
        scene.assert_whole(&fake);
    }
}

/// Rewrites one document of a layout in a folder, and everything that names it.
fn with_manifest(scene: &Scene, name: &str, change: impl Fn(&mut Value)) -> std::path::PathBuf {
    let folder = scene.bench.path(name);
    to_folder(&scene.bench.store, &scene.image, &names(), &folder).unwrap();
    let mut manifest: Value = serde_json::from_slice(&scene.image.manifest.bytes).unwrap();
    change(&mut manifest);
    let bytes = serde_json::to_vec(&manifest).unwrap();
    let digest = Sha256::of(&bytes);
    std::fs::write(folder.join(format!("blobs/sha256/{digest}")), &bytes).unwrap();
    let index = folder.join("index.json");
    let mut text: Value = serde_json::from_slice(&std::fs::read(&index).unwrap()).unwrap();
    for descriptor in text["manifests"].as_array_mut().unwrap() {
        descriptor["digest"] = json!(format!("sha256:{digest}"));
        descriptor["size"] = json!(bytes.len());
    }
    std::fs::write(index, text.to_string()).unwrap();
    folder
}

#[test]
fn what_is_not_what_it_says_is_not_pushed() {
    let scene = Scene::new();
    let layout = |name: &str| {
        let folder = scene.bench.path(name);
        to_folder(&scene.bench.store, &scene.image, &names(), &folder).unwrap();
        folder
    };
    let blob = |digest: BlobDigest| format!("blobs/sha256/{}", digest.hex());
    let missing = layout("a blob is missing");
    std::fs::remove_file(missing.join(blob(scene.layer(0)))).unwrap();
    let short = layout("a blob is short");
    std::fs::write(short.join(blob(scene.layer(0))), "short").unwrap();
    let other = layout("a blob is another");
    let path = other.join(blob(scene.layer(0)));
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[20] ^= 1;
    std::fs::write(&path, bytes).unwrap();
    let manifest = layout("the manifest is another");
    let path = manifest.join(blob(scene.image.manifest.digest));
    std::fs::write(
        &path,
        std::fs::read_to_string(&path).unwrap().replace("amd64", "arm64").replace("vnd.oci", "vnd.ico"),
    )
    .unwrap();
    let index = layout("no JSON");
    std::fs::write(index.join("index.json"), "{").unwrap();
    let large = layout("a large index");
    std::fs::File::create(large.join("index.json")).unwrap().set_len(5 << 20).unwrap();
    let two = layout("two images");
    let text = std::fs::read_to_string(two.join("index.json")).unwrap();
    let second = text.replacen(&scene.image.manifest.digest.hex(), &scene.layer(0).hex(), 1);
    std::fs::write(two.join("index.json"), second).unwrap();
    let up = with_manifest(&scene, "a digest that is a path", |manifest| {
        manifest["config"]["digest"] = json!("sha256:../../../../etc/passwd");
    });
    let double = with_manifest(&scene, "two media types", |manifest| {
        manifest["mediaType"] = json!("application/vnd.oci.image.index.v1+json");
    });
    let cases = [
        (missing, "is not in it"),
        (short, "should have"),
        (other, "has the digest"),
        (manifest, "has the digest"),
        (index, "no image that can be pushed"),
        (large, "larger than"),
        (two, "holds 2 images"),
        (up, "no image that can be pushed"),
        (double, "something else"),
        (scene.bench.write("no archive.tar", "no archive"), "is no archive"),
        (scene.bench.write("nothing.tar", ""), "`oci-layout` is not in it"),
    ];
    for (path, said) in cases {
        let fake = Fake::start(|_| None);
        let error = push_layout(&scene, &path, &fake).unwrap_err();
        assert_eq!(error.kind(), Kind::Input, "{}: {error}", path.display());
        assert_says(&error, &[said]);
        Scene::assert_untouched(&fake);
    }
}

#[test]
fn an_archive_that_ends_too_soon() {
    let scene = Scene::new();
    let whole = scene.bench.path("image.tar");
    to_file(&scene.bench.store, &scene.image, &names(), &whole).unwrap();
    let bytes = std::fs::read(&whole).unwrap();
    // The last one within the last blob, which is smaller than a block of the archive.
    for length in [100, 512, 700, bytes.len() / 2, bytes.len() - 1024 - 502] {
        let cut = scene.bench.write("cut.tar", &bytes[..length]);
        let fake = Fake::start(|_| None);
        let error = push_layout(&scene, &cut, &fake).unwrap_err();
        assert_eq!(error.kind(), Kind::Input, "{length}: {error}");
        Scene::assert_untouched(&fake);
    }
}

/// A store after a power failure.
#[test]
fn a_short_blob_of_the_store() {
    let scene = Scene::new();
    let digest = scene.layer(1);
    std::fs::write(scene.bench.store.blob_file(digest), "short").unwrap();
    let fake = Fake::start(|_| None);
    let error = scene.push_to(&fake).unwrap_err();
    assert_eq!(error.kind(), Kind::Store, "{error}");
    assert_says(&error, &[&digest.to_string(), "has 5 bytes"]);
    Scene::assert_untouched(&fake);
}
