//! Debian's packages, unpacked and configured.

use super::*;

/// A package of a folder, a file, a link, a conffile, and nothing to run.
pub(super) fn small_deb(folder: &std::path::Path) -> PathBuf {
    let tar = |entries: &[(&str, tar::EntryType, &str)]| {
        let mut bytes = Vec::new();
        let mut builder = tar::Builder::new(&mut bytes);
        for (name, kind, content) in entries {
            let mut header = tar::Header::new_gnu();
            header.set_entry_type(*kind);
            header.set_mode(if *kind == tar::EntryType::Directory { 0o755 } else { 0o644 });
            header.set_mtime(1_000_000_000);
            header.set_uid(0);
            header.set_gid(0);
            if *kind == tar::EntryType::Symlink {
                header.set_size(0);
                builder.append_link(&mut header, name, content).unwrap();
            } else {
                header.set_size(content.len() as u64);
                builder.append_data(&mut header, name, content.as_bytes()).unwrap();
            }
        }
        builder.finish().unwrap();
        drop(builder);
        bytes
    };
    let (file, directory, symlink) =
        (tar::EntryType::Regular, tar::EntryType::Directory, tar::EntryType::Symlink);
    let control = "Package: small\nVersion: 1.0-1\nArchitecture: all\nMaintainer: Nobody <nobody@example>\n\
                   Description: a package\n of a test\n";
    let control = tar(&[("./control", file, control), ("./conffiles", file, "/etc/small.conf\n")]);
    let data = tar(&[
        ("./", directory, ""),
        ("./etc/", directory, ""),
        ("./etc/small.conf", file, "answer = 42\n"),
        ("./lib/", directory, ""),
        ("./lib/small", file, "small\n"),
        ("./lib/link", symlink, "small"),
    ]);
    let mut ar = b"!<arch>\n".to_vec();
    for (name, bytes) in [("debian-binary", &b"2.0\n"[..]), ("control.tar", &control), ("data.tar", &data)] {
        ar.extend(
            format!("{name:<16}{:<12}{:<6}{:<6}{:<8}{:<10}`\n", 0, 0, 0, "100644", bytes.len()).bytes(),
        );
        ar.extend(bytes);
        ar.resize(ar.len().next_multiple_of(2), b'\n');
    }
    let path = folder.join("small.deb");
    std::fs::write(&path, ar).unwrap();
    path
}

/// `unpack-debs` makes a tree of known identity.
/// A root of Debian's, as far as unpacking asks for one, whose `dpkg` is a script.
pub(super) fn debian(scene: &mut Scene, dpkg: &str) -> Vec<Entry> {
    let status = "Package: base\nStatus: install ok installed\nVersion: 1\nArchitecture: all\n\
                  Maintainer: Nobody <nobody@example>\nDescription: a base\n\n";
    vec![
        // The links of a merged /usr, which entries are rewritten through.
        Entry::symlink(path("lib"), "usr/lib"),
        Entry::directory(path("usr")),
        Entry::directory(path("usr/bin")),
        Entry::directory(path("usr/lib")),
        Entry::directory(path("usr/sbin")),
        scene.file("usr/bin/dpkg", format!("#!/bin/sh\n{dpkg}").as_bytes(), 0o755),
        scene.file("var/lib/dpkg/status", status.as_bytes(), 0o644),
        Entry::directory(path("var/lib/dpkg/triggers")),
        scene.file("var/lib/dpkg/info/base.list", b"/.\n", 0o644),
        scene.file("var/lib/dpkg/info/format", b"1\n", 0o644),
    ]
}

/// As maintainer scripts do: while packages are configured.
#[test]
fn what_is_made_by_chance_while_packages_are_configured_is_left_out() {
    let configure = "mkdir -p /etc/ssh /etc/ssl/certs /etc/ssl/private /var/lib/mysql/sys
        date >/etc/ssh/ssh_host_rsa_key; date >/etc/ssh/ssh_host_rsa_key.pub; echo Port 22 >/etc/ssh/sshd_config
        date >/etc/ssl/private/ssl-cert-snakeoil.key; date >/etc/ssl/certs/ssl-cert-snakeoil.pem
        ln -sf ssl-cert-snakeoil.pem /etc/ssl/certs/2db8f5f8.0
        date >/var/lib/mysql/sys/user.frm; date >/var/lib/mysql/ibdata1; date >/var/lib/mysql-files
        date >/etc/ssh/ssh_host_old_key\n";
    let scene = Scene::new("chance", |scene| {
        let mut root = debian(scene, configure);
        // What lies below is not ours to take away, though a script writes it again.
        root.push(scene.file("etc/ssh/ssh_host_old_key", b"old", 0o600));
        root
    });
    let deb = DebFile { package: "small".to_owned(), path: small_deb(&scene.folder), automatic: false };
    let names = |without: &[&str]| {
        let without = without.iter().map(|name| path(*name)).collect();
        let job = scene.job(Task::UnpackDebs { packages: vec![deb.clone()], without });
        let outcome = sandbox().run(&job, &mut |_| ()).unwrap();
        let names = outcome.tree.entries().iter().map(|entry| entry.path.to_string());
        let made = ["etc/ssh", "etc/ssl", "var/lib/mysql"];
        names.filter(|name| made.iter().any(|folder| name.starts_with(folder))).collect::<Vec<_>>()
    };
    let always = [
        "etc/ssh",
        "etc/ssh/ssh_host_old_key",
        "etc/ssh/sshd_config",
        "etc/ssl",
        "etc/ssl/certs",
        "etc/ssl/private",
        "var/lib/mysql",
    ];
    let database =
        ["var/lib/mysql-files", "var/lib/mysql/ibdata1", "var/lib/mysql/sys", "var/lib/mysql/sys/user.frm"];
    assert_eq!(names(&[]), [&always[..], &database].concat());
    assert_eq!(names(&["var/lib/mysql", "var/lib/mysql-files"]), always);
}

#[test]
fn a_package_becomes_a_known_tree() {
    let scene = Scene::new("debs", |scene| debian(scene, "exit 0\n"));
    let deb = DebFile { package: "small".to_owned(), path: small_deb(&scene.folder), automatic: false };
    let job = scene.job(Task::UnpackDebs { packages: vec![deb], without: Vec::new() });
    let outcome = sandbox().run(&job, &mut |_| ()).unwrap();
    let listing = listing(&outcome);
    for line in ["f 644 0:0 usr/lib/small \"small\\n\"", "l usr/lib/link -> small"] {
        assert!(listing.iter().any(|found| found == line), "{line}: {listing:#?}");
    }
    assert_eq!(
        outcome.diff_id.hex(),
        // Version 2 has the folders above what changed.
        "852acd5792372cecfe44f1c2030c0ed695a090159ad5aafe5bf656c7a2edab90",
        "`unpack-debs` makes another tree of the same input: raise the builder's version in \
         layers/src/derivation.rs, then write the new diffID here: {listing:#?}"
    );
}
