//! What a Python installer writes beside a wheel's own files: scripts, `INSTALLER`, `RECORD`, and
//! the editable install of the project itself. Formats: packaging.python.org, "Recording installed
//! projects", "Entry points specification"; the exact bytes are those of Poetry's `installer`
//! library and of poetry-core, and the test against `poetry install` holds them.

use crate::NodeId;
use crate::derivation::{FileEntry, FileSource};
use crate::digest::Sha256;
use crate::lock::{Lock, Python, RootPackage};
pub use crate::scheme::Scheme;
use crate::tree::{InvalidPath, RawBytes, TreePath};

/// pip's `INSTALLER`; it alone leaves `REQUESTED`.
pub const PIP: &str = "pip\n";

impl Scheme {
    /// That of the Python which the lock is for.
    ///
    /// # Errors
    /// A version of Python in the lock that is no part of a path.
    pub fn of(lock: &Lock, installer: &str) -> Result<Self, InvalidPath> {
        match lock.requirements.python.standalone {
            Some(_) => Self::standalone(&lock.python, installer),
            None => Self::debian(&lock.python, installer),
        }
    }

    /// That of an environment in a folder (absolute), which has a Python of its own by name alone (PEP 405).
    ///
    /// # Errors
    /// A folder or a version of Python that is no path.
    pub fn environment(lock: &Lock, folder: &str, installer: &str) -> Result<Self, InvalidPath> {
        let version = lock.python.short_version();
        let data = TreePath::new(folder.trim_start_matches('/'))?;
        Ok(Self {
            library: data.join(format!("lib/python{version}/site-packages"))?,
            scripts: data.join("bin")?,
            headers: data.join(format!("include/site/python{version}"))?,
            data,
            interpreter: format!("{folder}/bin/python3"),
            installer: installer.to_owned(),
        })
    }

    /// Where a Python below `/usr/local` finds what is installed: its scheme `posix_prefix`.
    fn standalone(python: &Python, installer: &str) -> Result<Self, InvalidPath> {
        let version = python.short_version();
        Ok(Self {
            library: TreePath::new(format!("usr/local/lib/python{version}/site-packages"))?,
            scripts: TreePath::new("usr/local/bin")?,
            data: TreePath::new("usr/local")?,
            headers: TreePath::new(format!("usr/local/include/python{version}"))?,
            interpreter: format!("/usr/local/bin/python{version}"),
            installer: installer.to_owned(),
        })
    }

    /// Where Debian's Python finds what was installed system-wide: its scheme `posix_local`, which
    /// has its headers beside the interpreter's own, and not below `/usr/local`.
    ///
    /// # Errors
    /// A version of Python in the lock that is no part of a path.
    fn debian(python: &Python, installer: &str) -> Result<Self, InvalidPath> {
        let version = python.short_version();
        Ok(Self {
            library: TreePath::new(format!("usr/local/lib/python{version}/dist-packages"))?,
            scripts: TreePath::new("usr/local/bin")?,
            data: TreePath::new("usr/local")?,
            headers: TreePath::new(format!("usr/include/python{version}"))?,
            interpreter: format!("/usr/bin/python{version}"),
            installer: installer.to_owned(),
        })
    }
}

/// `sha256=` and the digest in URL-safe base64 without padding, as `RECORD` has it (PEP 376, PEP 427).
pub fn record_hash(digest: Sha256) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let mut text = String::from("sha256=");
    for chunk in digest.as_bytes().chunks(3) {
        let bits =
            chunk.iter().fold(0u32, |bits, byte| bits << 8 | u32::from(*byte)) << (8 * (3 - chunk.len()));
        for place in 0..=chunk.len() {
            text.push(char::from(ALPHABET[(bits >> (18 - 6 * place)) as usize & 63]));
        }
    }
    text
}

/// A field of a CSV line as Python's `csv` module writes it with minimal quoting.
pub fn csv_field(field: &str) -> String {
    if field.contains([',', '"', '\r', '\n']) {
        format!("\"{}\"", field.replace('"', "\"\""))
    } else {
        field.to_owned()
    }
}

/// The text of a console script of a wheel, as the `installer` library writes it.
pub fn script(interpreter: &str, module: &str, attribute: &str) -> String {
    let function = attribute.split('.').next().unwrap_or(attribute);
    format!(
        "#!{interpreter}\n\
         # -*- coding: utf-8 -*-\n\
         import re\n\
         import sys\n\
         from {module} import {function}\n\
         if __name__ == \"__main__\":\n    \
         sys.argv[0] = re.sub(r\"(-script\\.pyw|\\.exe)?$\", \"\", sys.argv[0])\n    \
         sys.exit({attribute}())\n"
    )
}

/// The files of Poetry's editable install of the project in `folder`: a `.pth`, its scripts, and the
/// `.dist-info`, whose `RECORD` has absolute paths, CRLF and no order (poetry, `EditableBuilder`).
///
/// # Errors
/// A name in the lock that is no file name.
pub fn editable(
    root: &RootPackage,
    scheme: &Scheme,
    folder: &str,
) -> Result<Vec<FileEntry<NodeId>>, InvalidPath> {
    let dist_info = scheme.library.join(&root.dist_info)?;
    let name = root.name.replace('-', "_");
    let paths: String = match &root.paths {
        None => format!("{folder}\n"),
        Some(paths) => paths.iter().map(|path| format!("{folder}/{path}\n")).collect(),
    };
    let mut files = vec![(scheme.library.join(format!("{name}.pth"))?, 0o644, paths)];
    let entry_points = root.files.get("entry_points.txt").map_or("", String::as_str);
    for (script, module, attribute) in console_scripts(entry_points).unwrap_or_default() {
        let text = editable_script(&scheme.interpreter, &module, &attribute);
        files.push((scheme.scripts.join(script)?, 0o755, text));
    }
    for (name, text) in &root.files {
        files.push((dist_info.join(name)?, 0o644, text.clone()));
    }
    files.push((dist_info.join("INSTALLER")?, 0o644, scheme.installer.clone()));
    let url = format!("{{\"dir_info\": {{\"editable\": true}}, \"url\": \"file://{folder}\"}}");
    files.push((dist_info.join("direct_url.json")?, 0o644, url));
    let own = dist_info.join("RECORD")?;
    let mut record = String::new();
    for (path, _, text) in &files {
        let hash = record_hash(Sha256::of(text.as_bytes()));
        record.push_str(&format!("{},{hash},{}\r\n", csv_field(&format!("/{path}")), text.len()));
    }
    record.push_str(&format!("{},,\r\n", csv_field(&format!("/{own}"))));
    files.push((own, 0o644, record));
    let entry = |(path, mode, text): (TreePath, u32, String)| FileEntry {
        path,
        mode,
        source: FileSource::Literal(RawBytes(text.into_bytes())),
    };
    Ok(files.into_iter().map(entry).collect())
}

/// The text of a console script of an editable install (poetry, `EditableBuilder.SCRIPT_TEMPLATE`).
fn editable_script(interpreter: &str, module: &str, attribute: &str) -> String {
    let function = attribute.split('.').next().unwrap_or(attribute);
    format!(
        "#!{interpreter}\nimport sys\nfrom {module} import {function}\n\nif __name__ == '__main__':\n    \
         sys.exit({attribute}())\n"
    )
}

/// What makes a folder (absolute) an environment of its own: `pyvenv.cfg`, and the names by which the lock's
/// Python is started in it (PEP 405, and CPython's `venv`, which writes the same lines).
///
/// # Errors
/// A folder or a version of Python that is no path.
pub fn environment(lock: &Lock, folder: &str) -> Result<Vec<FileEntry<NodeId>>, InvalidPath> {
    let scheme = Scheme::of(lock, PIP)?;
    let root = TreePath::new(folder.trim_start_matches('/'))?;
    let home = scheme.interpreter.rsplit_once('/').map_or("/", |(home, _)| home);
    let version = &lock.python.python;
    let text = format!("home = {home}\ninclude-system-site-packages = false\nversion = {version}\n");
    let link = |name: &str, target: &str| {
        let source = FileSource::Symlink(RawBytes(target.as_bytes().to_vec()));
        Ok(FileEntry { path: root.join("bin")?.join(name)?, mode: 0o777, source })
    };
    Ok(vec![
        FileEntry {
            path: root.join("pyvenv.cfg")?,
            mode: 0o644,
            source: FileSource::Literal(RawBytes(text.into_bytes())),
        },
        link("python3", &scheme.interpreter)?,
        link("python", "python3")?,
        link(&format!("python{}", lock.python.short_version()), "python3")?,
    ])
}

/// `name`, `module`, `attribute` of each console and GUI script of an `entry_points.txt`.
///
/// # Errors
/// A line that is no entry point, in words.
pub fn console_scripts(text: &str) -> Result<Vec<(String, String, String)>, String> {
    let mut scripts = Vec::new();
    let mut section = "";
    for line in text.lines().map(str::trim) {
        if line.is_empty() || line.starts_with(['#', ';']) {
            continue;
        }
        if let Some(name) = line.strip_prefix('[').and_then(|line| line.strip_suffix(']')) {
            section = name.trim();
        } else if matches!(section, "console_scripts" | "gui_scripts") {
            let wrong = || format!("its entry point `{line}` is not `name = module:function`");
            let (name, object) = line.split_once('=').ok_or_else(wrong)?;
            let object = object.split('[').next().unwrap_or_default();
            let (module, attribute) = object.split_once(':').ok_or_else(wrong)?;
            scripts.push((name.trim().to_owned(), module.trim().to_owned(), attribute.trim().to_owned()));
        }
    }
    Ok(scripts)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `printf '' | openssl dgst -sha256 -binary | basenc --base64url`.
    #[test]
    fn record_hashes_are_url_safe_base64() {
        assert_eq!(record_hash(Sha256::of(b"")), "sha256=47DEQpj8HBSa-_TImW-5JCeuQeRkm5NMpJWZG3hSuFU");
    }

    #[test]
    fn entry_points_are_read() {
        let text = "[console_scripts]\nf2py = numpy.f2py:main [extra]\n\n[numpy.array_api]\nx = y\n";
        let script = ("f2py".to_owned(), "numpy.f2py".to_owned(), "main".to_owned());
        assert_eq!(console_scripts(text), Ok(vec![script]));
        assert!(console_scripts("[gui_scripts]\nnothing\n").is_err());
    }

    /// As Poetry 2.5.1 was seen to write it.
    #[test]
    fn an_editable_install_is_poetrys() {
        let folder = |text: &str| TreePath::new(text).unwrap();
        let scheme = Scheme {
            library: folder("lib"),
            scripts: folder("bin"),
            data: folder("data"),
            headers: folder("include"),
            interpreter: "/usr/bin/python3".to_owned(),
            installer: "poetry".to_owned(),
        };
        let entry_points = "[console_scripts]\ndemo = demo:Main.run\n".to_owned();
        let root = RootPackage {
            name: "demo-app".to_owned(),
            version: "1".to_owned(),
            dist_info: "demo_app-1.dist-info".to_owned(),
            paths: None,
            files: [("entry_points.txt".to_owned(), entry_points)].into(),
        };
        let entries = editable(&root, &scheme, "/app").unwrap();
        let texts: Vec<(String, String)> = entries
            .iter()
            .map(|entry| match &entry.source {
                FileSource::Literal(RawBytes(bytes)) => {
                    (format!("{:o} {}", entry.mode, entry.path), String::from_utf8(bytes.clone()).unwrap())
                }
                other => panic!("{other:?}"),
            })
            .collect();
        let names: Vec<&str> = texts.iter().map(|(name, _)| &name[..]).collect();
        assert_eq!(
            names,
            [
                "644 lib/demo_app.pth",
                "755 bin/demo",
                "644 lib/demo_app-1.dist-info/entry_points.txt",
                "644 lib/demo_app-1.dist-info/INSTALLER",
                "644 lib/demo_app-1.dist-info/direct_url.json",
                "644 lib/demo_app-1.dist-info/RECORD",
            ]
        );
        assert_eq!(texts[0].1, "/app\n");
        assert!(
            texts[1].1.contains("from demo import Main\n") && texts[1].1.contains("sys.exit(Main.run())")
        );
        assert_eq!(texts[4].1, r#"{"dir_info": {"editable": true}, "url": "file:///app"}"#);
        let record = &texts[5].1;
        assert_eq!(record.matches("\r\n").count(), names.len());
        assert!(record.starts_with("/lib/demo_app.pth,sha256="), "{record}");
        assert!(record.ends_with("\r\n/lib/demo_app-1.dist-info/RECORD,,\r\n"), "{record}");
    }

    #[test]
    fn fields_are_quoted_where_needed() {
        assert_eq!(csv_field("a b"), "a b");
        assert_eq!(csv_field("a,\"b\""), "\"a,\"\"b\"\"\"");
    }
}
