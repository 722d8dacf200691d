use tempfile::TempDir;

use super::super::http::Page;
use super::super::server::{Server, ok, reply};
use super::*;

fn page(content_type: &str, text: &str) -> Vec<Listed> {
    let address = Address::parse("https://me:secret@index.example/simple/torch/").unwrap();
    read_page(&Page { bytes: text.into(), content_type: content_type.into(), address }).unwrap()
}

const DIGEST: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

#[test]
fn pages_of_html() {
    let files = page(
        "text/html",
        &format!(
            r#"<!DOCTYPE html><html><head><meta name="pypi:repository-version" content="1.0"/></head><body>
            <!-- <a href="commented.whl">commented.whl</a> -->
            <a href="https://files.example/torch-2.7.1%2Bcu128-x.whl#sha256={DIGEST}"
               data-requires-python="&gt;=3.9" data-core-metadata='sha256=1>2'>torch-2.7.1+cu128-x.whl</a><br/>
            <A HREF='../../files/a&amp;b.whl#md5=1'> a&#38;b.whl </A>
            <a rel=internal href=c.whl>c.whl</a>
            <a name=none>no address</a>"#
        ),
    );
    let found: Vec<_> = files.iter().map(|file| (file.name.as_str(), file.address.to_string())).collect();
    let expected = [
        ("torch-2.7.1+cu128-x.whl", "https://files.example/torch-2.7.1%2Bcu128-x.whl"),
        ("a&b.whl", "https://index.example/files/a&b.whl"),
        ("c.whl", "https://index.example/simple/torch/c.whl"),
    ];
    assert_eq!(found, expected.map(|(name, address)| (name, address.to_owned())));
    let digests: Vec<_> = files.iter().map(|file| file.sha256.is_some()).collect();
    assert_eq!(digests, [true, false, false]);
    let logins: Vec<_> = files.iter().map(|file| file.address.has_login()).collect();
    assert_eq!(logins, [false, true, true]);
}

#[test]
fn a_base_in_html() {
    let files = page("text/html", r#"<base href="https://files.example/x/"><a href="a.whl">a.whl</a>"#);
    assert_eq!(files[0].address.to_string(), "https://files.example/x/a.whl");
}

#[test]
fn broken_html_is_no_panic() {
    for text in [
        "<",
        "<a",
        "<a href",
        "<a href=",
        "<a href='",
        "< a = / >x",
        "<a / href=x>",
        "<!--",
        "&#x110000;<a href='&#;'>&",
    ] {
        page("text/html", text);
    }
}

/// By looks at the rest for each character reference, this would take a day.
#[test]
fn many_references_are_read_in_time() {
    let name = "&".repeat(4 << 20);
    let files = page("text/html", &format!("<a href='x'>{name}&amp;&#x41;</a>"));
    assert_eq!(files[0].name.len(), (4 << 20) + 2);
    assert!(files[0].name.ends_with("&&A"));
}

#[test]
fn pages_of_json() {
    let files = page(
        "application/vnd.pypi.simple.v1+json",
        &format!(
            r#"{{"meta": {{"api-version": "1.1"}}, "name": "torch", "files": [
            {{"filename": "a.whl", "url": "../../files/a.whl", "hashes": {{"sha256": "{DIGEST}"}}, "size": 7,
              "yanked": false}},
            {{"filename": "b.whl", "url": "https://files.example/b.whl", "hashes": {{}}}}]}}"#
        ),
    );
    assert_eq!(files[0].address.to_string(), "https://index.example/files/a.whl");
    assert_eq!((files[0].size, files[0].sha256.is_some()), (Some(7), true));
    assert_eq!((files[1].size, files[1].sha256.is_some()), (None, false));
}

#[test]
fn what_else_a_page_says_of_a_file() {
    let json = page(
        "application/vnd.pypi.simple.v1+json",
        &format!(
            r#"{{"files": [
            {{"filename": "a", "url": "a", "requires-python": ">=3", "yanked": "why", "upload-time": "then",
              "core-metadata": {{"sha256": "{DIGEST}"}}, "dist-info-metadata": false}},
            {{"filename": "b", "url": "b", "requires-python": null, "yanked": true, "dist-info-metadata": true}},
            {{"filename": "c", "url": "c", "yanked": null, "core-metadata": {{}}}},
            {{"filename": "d", "url": "d", "yanked": false, "core-metadata": false}}]}}"#
        ),
    );
    let html = page(
        "text/html",
        &format!(
            "<a href=a data-requires-python='&gt;=3' data-yanked=why data-core-metadata='sha256={DIGEST}' \
                data-dist-info-metadata=false>a</a>
             <a data-yanked href=b data-dist-info-metadata=true>b</a>
             <a href=c data-core-metadata>c</a>
             <a href=d data-core-metadata=false>d</a>"
        ),
    );
    let digest = Metadata { sha256: Some(DIGEST.parse().unwrap()) };
    let none = Metadata { sha256: None };
    let expected = [
        (Some(">=3"), Some("why"), Some(digest)),
        (None, Some(""), Some(none.clone())),
        (None, None, Some(none)),
        (None, None, None),
    ];
    for files in [&json, &html] {
        let said = |file: &Listed| (file.requires_python.clone(), file.yanked.clone(), file.metadata.clone());
        let expected = expected.clone().map(|(python, yanked, metadata)| {
            (python.map(str::to_owned), yanked.map(str::to_owned), metadata)
        });
        assert_eq!(files.iter().map(said).collect::<Vec<_>>(), expected);
    }
    assert_eq!(json[0].uploaded.as_deref(), Some("then"));
}

/// What comes over an open line needs a digest that came over a closed one.
#[test]
fn an_encrypted_index_leads_to_plain_text_for_what_has_a_digest() {
    let text = format!(
        "<a href='http://files.example/a.whl'>a</a><a href='http://files.example/b.whl#sha256={DIGEST}'>b</a>
         <a href='https://files.example/c.whl'>c</a><a href='d.whl'>d</a>"
    );
    let json =
        r#"{"files": [{"filename": "a", "url": "http://files.example/a"}, {"filename": "c", "url": "c"}]}"#;
    for (files, refused) in [
        (page("text/html", &text), [true, true, false, false].as_slice()),
        (page("application/vnd.pypi.simple.v1+json", json), &[true, false]),
    ] {
        let unchecked: Vec<_> = files.iter().map(|file| file.unchecked_address().is_err()).collect();
        assert_eq!(unchecked, refused);
        let error = files[0].unchecked_address().unwrap_err().to_string();
        assert!(error.contains("`a`") && error.contains("http://files.example/a"), "{error}");
    }
}

/// `default` is for the indexes that somebody named, an entry by name for its host and encrypted.
#[test]
fn hosts_that_a_page_names_are_strangers() {
    let server = Server::start(|_, request| match request.path.as_str() {
        "/simple/x/" => {
            let other = request.header("host").unwrap().replace("127.0.0.1", "localhost");
            ok(format!("<a href=/own>own</a><a href=http://{other}/named>named</a>").as_bytes())
        }
        _ => ok(b""),
    });
    let named = server.other_name("/simple/");
    for (netrc, others, sent) in [
        ("default login me password secret", BTreeMap::new(), [true, true, false]),
        (
            "machine 127.0.0.1 login me password a machine localhost login me password b",
            BTreeMap::new(),
            [true, true, false],
        ),
        ("default login me password secret", sources([("named", named.as_str())]), [true, true, true]),
    ] {
        let home = TempDir::new().unwrap();
        fs_err::write(home.path().join("netrc"), netrc).unwrap();
        let machine = Machine::new(home.path(), [("NETRC", "/netrc")]);
        let client = super::super::http::tests::client(&machine);
        let indexes = Indexes::find(&machine, Settings::default(), &others, &BTreeMap::new(), &[]).unwrap();
        let before = server.requests().len();
        let files = indexes.files(&client, &server.address("/simple/"), "x").unwrap();
        for listed in files.iter() {
            client.get(&listed.address, None, 100).unwrap();
        }
        let requests = server.requests();
        let logins = requests[before..].iter().map(|it| it.header("authorization").is_some());
        assert_eq!(logins.collect::<Vec<_>>(), sent, "{netrc}");
    }
}

#[test]
fn names_are_normalized() {
    assert_eq!(normalize("Nvidia_CUDA.-nvrtc"), "nvidia-cuda-nvrtc");
}

#[test]
fn a_file_is_found_by_name_and_content_and_a_page_read_once() {
    let text = format!(r#"<a href="/f/a.whl#sha256={DIGEST}">a.whl</a><a href="/f/b.whl">b.whl</a>"#);
    let server = Server::start(move |_, _| {
        reply(
            &format!("200 OK\r\nContent-Type: text/html; charset=utf-8\r\nContent-Length: {}", text.len()),
            text.as_bytes(),
        )
    });
    let client = super::super::http::tests::client(&Machine::default());
    let indexes = Indexes::default();
    let base = server.address("/simple/");
    let locate = |file: &str, digest: Sha256| indexes.locate(&client, &base, "Some.Project", file, digest);
    let digest = DIGEST.parse().unwrap();
    assert_eq!(locate("a.whl", digest).unwrap().path(), "/f/a.whl");
    assert_eq!(locate("b.whl", digest).unwrap().path(), "/f/b.whl");
    let error = locate("a.whl", Sha256::of(b"other")).unwrap_err();
    assert!(error.message().contains("lists another `a.whl`"), "{error}");
    assert!(locate("c.whl", digest).unwrap_err().message().contains("does not list `c.whl`"));
    let asked: Vec<_> = server.requests().into_iter().map(|request| request.path).collect();
    assert_eq!(asked, ["/simple/some-project/"]);
    assert!(server.requests()[0].header("accept").unwrap().contains("simple.v1+json"));
}

#[test]
fn failures_are_not_remembered() {
    let server =
        Server::start(
            |number, _| if number == 0 { reply("404 Not Found\r\nContent-Length: 0", b"") } else { ok(b"") },
        );
    let client = super::super::http::tests::client(&Machine::default());
    let indexes = Indexes::default();
    let base = server.address("/");
    assert!(indexes.files(&client, &base, "x").is_err());
    assert!(indexes.files(&client, &base, "x").is_ok());
}

fn sources<const N: usize>(entries: [(&str, &str); N]) -> BTreeMap<String, String> {
    entries.into_iter().map(|(name, address)| (name.to_owned(), address.to_owned())).collect()
}

#[test]
fn which_index_is_asked() {
    let folder = TempDir::new().unwrap();
    let bare = Machine::new::<&str, &str>(folder.path(), []);
    let pip = Machine::new(folder.path(), [("PIP_INDEX_URL", "https://pip.example/simple")]);
    let named = sources([("cu128", "https://torch.example/cu128"), ("gone", "https://gone.example/")]);
    let explicit = sources([("pypi", "https://explicit.example/simple/"), ("cu128", "https://mine.example")]);
    let gone = ["gone".to_owned()];
    let ask = |machine: &Machine, explicit: &BTreeMap<String, String>, source: Option<&str>| {
        let indexes =
            Indexes::find(machine, Settings::read(machine).unwrap(), explicit, &named, &gone).unwrap();
        indexes.base(source, || Address::folder("https://fallback.example/simple")).unwrap().to_string()
    };
    let none = BTreeMap::new();
    assert_eq!(ask(&bare, &none, None), "https://fallback.example/simple/");
    assert_eq!(ask(&bare, &none, Some("pypi")), "https://fallback.example/simple/");
    assert_eq!(ask(&pip, &none, None), "https://pip.example/simple/");
    assert_eq!(ask(&pip, &explicit, None), "https://explicit.example/simple/");
    assert_eq!(ask(&pip, &none, Some("cu128")), "https://torch.example/cu128/");
    assert_eq!(ask(&pip, &explicit, Some("cu128")), "https://mine.example/");
    assert_eq!(ask(&pip, &none, Some("gone")), "https://pip.example/simple/");
}

/// Whatever pip is told, an option says otherwise.
#[test]
fn indexes_beside_the_default_one() {
    let machine = Machine::new(
        std::path::Path::new("/nowhere"),
        [("PIP_EXTRA_INDEX_URL", "https://extra.example/simple"), ("PIP_CONFIG_FILE", "/dev/null")],
    );
    let named = sources([("cu128", "https://torch.example/cu128")]);
    let extra = |explicit: &BTreeMap<String, String>, source: Option<&str>| {
        let pip = Settings::read(&machine).unwrap();
        let indexes = Indexes::find(&machine, pip, explicit, &named, &[]).unwrap();
        indexes.extra(source).unwrap().len()
    };
    assert_eq!(extra(&BTreeMap::new(), None), 1);
    assert_eq!(extra(&BTreeMap::new(), Some("pypi")), 1);
    assert_eq!(extra(&BTreeMap::new(), Some("cu128")), 0);
    assert_eq!(extra(&sources([("pypi", "https://mine.example/")]), None), 0);
}

#[test]
fn poetry_s_logins() {
    let folder = TempDir::new().unwrap();
    fs_err::create_dir_all(folder.path().join("c/pypoetry")).unwrap();
    fs_err::write(
        folder.path().join("c/pypoetry/auth.toml"),
        "[http-basic.private]\nusername = \"me\"\npassword = \"secret\"\n",
    )
    .unwrap();
    let explicit = sources([("private", "https://index.example/"), ("my-own", "https://index.example/")]);
    let machine = Machine::new(
        folder.path(),
        [("XDG_CONFIG_HOME", "/c"), ("POETRY_HTTP_BASIC_MY_OWN_USERNAME", "you")],
    );
    let indexes = Indexes::find(&machine, Settings::default(), &explicit, &BTreeMap::new(), &[]).unwrap();
    let login = |source| indexes.base(Some(source), || unreachable!()).unwrap().split().1;
    assert_eq!(login("private"), Some(("me".to_owned(), Some("secret".to_owned()))));
    assert_eq!(login("my-own"), Some(("you".to_owned(), None)));
    fs_err::write(folder.path().join("c/pypoetry/auth.toml"), "[http-basic.private]\npassword = secret")
        .unwrap();
    let error = Indexes::find(&machine, Settings::default(), &explicit, &BTreeMap::new(), &[]).err().unwrap();
    assert!(error.kind() == Kind::Input && !error.to_string().contains("secret"), "{error}");
}

#[test]
fn what_pip_falls_back_to() {
    let text = "class PackageIndex:\n    pass\n\n\nPyPI = PackageIndex(\"https://index.example/\", file_storage_domain=\"x\")\n";
    assert_eq!(pip_default(text).unwrap().to_string(), "https://index.example/simple/");
    assert!(pip_default("PyPI = None").is_err());
}
