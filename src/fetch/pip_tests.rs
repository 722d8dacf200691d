use std::fmt::Write;

use super::*;

/// The settings of a machine with these files and variables; relative paths begin at `/work`.
fn read(files: &[(&str, &str)], variables: &[(&str, &str)]) -> Result<Settings> {
    let root = tempfile::tempdir().unwrap();
    Settings::read(&machine(root.path(), files, variables))
}

fn machine(root: &Path, files: &[(&str, &str)], variables: &[(&str, &str)]) -> Machine {
    for (path, text) in files {
        let path = root.join(path);
        fs_err::create_dir_all(path.parent().unwrap()).unwrap();
        fs_err::write(path, text).unwrap();
    }
    let home = [("HOME", "/home/me")];
    Machine::new(root, home.iter().chain(variables).copied()).in_folder("/work")
}

fn index(files: &[(&str, &str)], variables: &[(&str, &str)]) -> Option<String> {
    read(files, variables).unwrap().index().unwrap().map(|address| address.to_string())
}

fn names(host: &str) -> String {
    format!("[global]\nindex-url = https://{host}.example/simple\n")
}

fn at(host: &str) -> Option<String> {
    Some(format!("https://{host}.example/simple/"))
}

/// Each file before those that come after it, as `pip config debug` lists them.
#[test]
fn the_files_count_in_pip_s_order() {
    let all = [
        "work/mine.conf",
        "work/env/pip.conf",
        "home/me/.config/pip/pip.conf",
        "home/me/.pip/pip.conf",
        "etc/pip.conf",
        "etc/xdg/pip/pip.conf",
    ];
    let texts: Vec<_> = (0..all.len()).map(|number| names(&format!("n{number}"))).collect();
    let files: Vec<_> = all.iter().copied().zip(texts.iter().map(String::as_str)).collect();
    let environment = ("VIRTUAL_ENV", "/work/env");
    let named = ("PIP_CONFIG_FILE", "/work/mine.conf");
    assert_eq!(index(&files, &[environment, named]), at("n0"));
    for first in 1..all.len() {
        assert_eq!(index(&files[first..], &[environment]), at(&format!("n{first}")));
    }
    assert_eq!(index(&[], &[environment]), None);
    // The user's are not read where a file is named that says nothing of it; the environment's is.
    let silent = ("work/mine.conf", "[global]\ntimeout = 3\n");
    let users = [silent, files[2], files[3], files[4]];
    assert_eq!(index(&users, &[named]), at("n4"));
    assert_eq!(index(&[silent, files[1], files[4]], &[named, environment]), at("n1"));
    assert_eq!(index(&files, &[environment, ("PIP_CONFIG_FILE", "/dev/null")]), None);
    assert_eq!(index(&files, &[named, ("PIP_INDEX_URL", "https://variable.example/simple")]), at("variable"));
}

/// The default index was used in silence.
#[test]
fn a_relative_file_counts() {
    let text = names("mine");
    for path in ["pip.conf", "./pip.conf", "/work/pip.conf"] {
        assert_eq!(index(&[("work/pip.conf", &text)], &[("PIP_CONFIG_FILE", path)]), at("mine"), "{path}");
    }
    let missing = read(&[], &[("PIP_CONFIG_FILE", "pip.conf")]).err().unwrap();
    assert!(missing.to_string().contains("PIP_CONFIG_FILE"), "{missing}");
}

#[test]
fn sections_and_values_are_those_of_configparser() {
    let index = |text: &str| index(&[("etc/pip.conf", text)], &[]);
    for text in [
        "# all\n[other]\nindex-url = https://no.example\n[global]\nindex_url: https://a.example/simple\n",
        "[global]\n--Index-URL = https://a.example/simple\n",
        "[global]\nindex-url =\n    https://a.example/simple\n",
        "[install]\nindex-url = https://a.example/simple\n[global]\nindex-url = https://b.example/\n",
        "[DEFAULT]\nindex-url = https://a.example/simple\n[global]\ntimeout = 3\n",
        "\u{feff}[global] ; said\n; index-url = https://b.example\nindex-url = https://a.example/simple\n",
    ] {
        assert_eq!(index(text), at("a"), "{text}");
    }
    assert_eq!(index("[global]\nindex-url =\ntimeout = 3\n"), None);
    assert_eq!(index("[download]\nindex-url = https://b.example\n"), None);
    for wrong in ["index-url = https://a.example\n", "[global]\nindex-url\n"] {
        let error = read(&[("etc/pip.conf", wrong)], &[]).err().unwrap();
        assert!(error.kind() == Kind::Input && error.to_string().contains("line "), "{error}");
    }
    let error = read(&[("etc/pip.conf/x", "")], &[]).err().unwrap();
    assert!(error.to_string().contains("/etc/pip.conf"), "{error}");
}

#[test]
fn several_indexes() {
    let mut text = names("first");
    write!(text, "extra-index-url =\n    https://me:secret@a.example/simple\n    https://b.example/")
        .unwrap();
    let extra = |settings: Settings| {
        let found = settings.extra_indexes().unwrap();
        found.iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    let both = ["https://a.example/simple/", "https://b.example/"];
    assert_eq!(extra(read(&[("etc/pip.conf", &text)], &[]).unwrap()), both);
    let variable = ("PIP_EXTRA_INDEX_URL", "https://a.example/simple https://b.example");
    let settings = read(&[("etc/pip.conf", &text)], &[variable]).unwrap();
    settings.check_for_locking(&Machine::default()).unwrap();
    assert_eq!(extra(settings), both);
    let wrong = read(&[], &[("PIP_EXTRA_INDEX_URL", "secret")]).unwrap().extra_indexes().unwrap_err();
    assert!(!wrong.to_string().contains("secret"), "{wrong}");
}

#[test]
fn no_index_is_an_error() {
    for (text, said) in
        [("[install]\nno-index = yes\n", "/etc/pip.conf"), ("[global]\nno_index = 1\n", "`no-index`")]
    {
        let error = read(&[("etc/pip.conf", text)], &[]).unwrap().check_index().unwrap_err();
        assert!(error.to_string().contains(said), "{error}");
    }
    for value in ["true", "?"] {
        let error = read(&[], &[("PIP_NO_INDEX", value)]).unwrap().check_index().unwrap_err();
        assert!(error.to_string().contains("PIP_NO_INDEX"), "{error}");
    }
    for off in ["0", "false", "No", ""] {
        read(&[], &[("PIP_NO_INDEX", off)]).unwrap().check_index().unwrap();
    }
}

#[test]
fn links_lead_into_folders() {
    let files = [("wheels/x.whl", ""), ("work/here/y.whl", ""), ("work/page.html", ""), ("empty/z/z", "")];
    let ask = |links: &str| {
        let root = tempfile::tempdir().unwrap();
        let machine = machine(root.path(), &files, &[("PIP_FIND_LINKS", links)]);
        fs_err::remove_dir_all(root.path().join("empty/z")).unwrap();
        let settings = Settings::read(&machine).unwrap();
        let folders = settings.folders(&machine)?;
        let below = folders.iter().map(|path| path.strip_prefix(root.path()).unwrap().display().to_string());
        Ok::<_, Error>((below.collect::<Vec<_>>().join(" "), settings.check_for_locking(&machine).is_ok()))
    };
    assert_eq!(ask("/wheels here\nfile:///wheels").unwrap(), ("wheels work/here wheels".to_owned(), false));
    // As pip has it, what is not there is nothing; and what is empty has nothing to be followed.
    assert_eq!(ask("/nothing").unwrap(), (String::new(), true));
    assert_eq!(ask("/empty").unwrap(), ("empty".to_owned(), true));
    for link in ["page.html", "https://links.example/", "/wheels https://links.example/"] {
        let error = ask(link).unwrap_err();
        assert!(error.to_string().contains("`PIP_FIND_LINKS`"), "{error}");
    }
}

#[test]
fn how_indexes_are_reached() {
    let root = tempfile::tempdir().unwrap();
    let way = |files: &[(&str, &str)], variables: &[(&str, &str)]| {
        let machine = machine(root.path(), files, variables);
        Settings::read(&machine)?.way(&machine)
    };
    let proxy = way(&[], &[("PIP_PROXY", "http://me:secret@proxy.example:3128")]).unwrap().proxy.unwrap();
    assert_eq!(proxy.shown(), "http://proxy.example:3128");
    let cert = [("etc/pip.conf", "[global]\ncert = ca.pem\n"), ("work/ca.pem", "no certificate")];
    for (files, said) in [(&cert[..1], "there is no `ca.pem`"), (&cert[..], "`ca.pem` holds no certificate")]
    {
        let error = way(files, &[]).err().unwrap();
        assert!(error.to_string().contains(said), "{error}");
    }
    fs_err::remove_file(root.path().join("etc/pip.conf")).unwrap();
    let error = way(&[("work/both.pem", "secret")], &[("PIP_CLIENT_CERT", "both.pem")]).err().unwrap();
    assert!(error.to_string().contains("both.pem") && !error.to_string().contains("secret"), "{error}");
}
