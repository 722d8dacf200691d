use std::time::Duration;

use tempfile::TempDir;

use super::super::server::{Reply, Server, ok, reply, rest};
use super::*;

fn impatient() -> Patience {
    Patience {
        tries: 3,
        pause: Duration::from_millis(1),
        longest_pause: Duration::from_millis(20),
        stall: Duration::from_millis(300),
        crowd: Duration::from_millis(50),
    }
}

pub(in crate::fetch) fn client(machine: &Machine) -> Client {
    Client::new(machine, impatient(), &Way::default()).unwrap()
}

/// A file that does not repeat itself, so that pieces in the wrong place show.
fn file() -> Vec<u8> {
    (0..300_000_u32).flat_map(u32::to_le_bytes).collect()
}

struct Download {
    folder: TempDir,
    file: Vec<u8>,
    progress: Vec<u64>,
}

impl Download {
    fn new() -> Self {
        Self { folder: TempDir::new().unwrap(), file: file(), progress: Vec::new() }
    }

    fn part(&self) -> std::path::PathBuf {
        self.folder.path().join("x.part")
    }

    fn run(&mut self, server: &Server) -> Result<()> {
        let wanted = Wanted { file: "x.whl", sha256: Sha256::of(&self.file), size: self.file.len() as u64 };
        let part = self.part();
        let progress = &mut self.progress;
        client(&Machine::default())
            .download(&server.address("/x"), wanted, &part, &mut |bytes| progress.push(bytes))
    }

    fn assert_whole(&self) {
        assert!(fs_err::read(self.part()).unwrap() == self.file);
        assert_eq!(self.progress.last(), Some(&(self.file.len() as u64)));
    }
}

/// The whole file is promised, and some of it comes.
fn cut(file: &[u8], length: usize) -> Reply {
    reply(&format!("200 OK\r\nContent-Length: {}", file.len()), &file[..length])
}

#[test]
fn a_truncated_body_is_continued() {
    let mut download = Download::new();
    let file = download.file.clone();
    let server = Server::start(move |number, request| match number {
        0 => cut(&file, 100_000),
        _ => rest(&file, request.from()),
    });
    download.run(&server).unwrap();
    download.assert_whole();
    let asked: Vec<_> = server.requests().iter().map(|request| request.from()).collect();
    assert_eq!(asked, [0, 100_000]);
}

#[test]
fn what_an_earlier_run_left_is_continued() {
    let mut download = Download::new();
    fs_err::write(download.part(), &download.file[..5]).unwrap();
    let file = download.file.clone();
    let server = Server::start(move |_, request| rest(&file, request.from()));
    download.run(&server).unwrap();
    download.assert_whole();
    assert_eq!(server.requests()[0].from(), 5);
}

#[test]
fn a_whole_file_is_not_asked_for() {
    let mut download = Download::new();
    fs_err::write(download.part(), &download.file).unwrap();
    let server = Server::start(|_, _| reply("404 Not Found", b""));
    download.run(&server).unwrap();
    download.assert_whole();
    assert_eq!(server.requests().len(), 0);
}

#[test]
fn rotten_leftovers_are_begun_anew() {
    for leftover in [vec![1; 7], vec![1; 2_000_000], vec![1; file().len()]] {
        let mut download = Download::new();
        fs_err::write(download.part(), leftover).unwrap();
        let file = download.file.clone();
        let server = Server::start(move |_, request| match request.from() {
            0 => ok(&file),
            from => rest(&file, from),
        });
        download.run(&server).unwrap();
        download.assert_whole();
    }
}

#[test]
fn progress_is_worth_more_tries() {
    let mut download = Download::new();
    let file = download.file.clone();
    let server = Server::start(move |_, request| {
        let mut reply = rest(&file, request.from());
        let rest_of_file = file.len() - request.from();
        reply.bytes.truncate(reply.bytes.len() - rest_of_file + rest_of_file.min(150_000));
        reply
    });
    download.run(&server).unwrap();
    download.assert_whole();
    assert_eq!(server.requests().len(), 8);
}

#[test]
fn a_stall_is_noticed() {
    let mut download = Download::new();
    let file = download.file.clone();
    let server = Server::start(move |number, request| match number {
        0 => Reply { linger: Duration::from_secs(60), ..cut(&file, 10) },
        _ => rest(&file, request.from()),
    });
    download.run(&server).unwrap();
    download.assert_whole();
    assert_eq!(server.requests()[1].from(), 10);
}

#[test]
fn a_server_that_ignores_ranges_is_read_from_the_start() {
    let mut download = Download::new();
    let file = download.file.clone();
    let server = Server::start(move |number, _| if number == 0 { cut(&file, 100_000) } else { ok(&file) });
    download.run(&server).unwrap();
    download.assert_whole();
    assert_eq!(server.requests()[1].from(), 100_000);
}

#[test]
fn another_range_than_asked_for_is_not_believed() {
    let mut download = Download::new();
    let file = download.file.clone();
    let server = Server::start(move |number, request| match number {
        0 => cut(&file, 100_000),
        1 => rest(&file, 50_000),
        _ if request.from() == 0 => ok(&file),
        _ => reply("416 Range Not Satisfiable\r\nContent-Length: 0", b""),
    });
    download.run(&server).unwrap();
    download.assert_whole();
}

#[test]
fn a_wrong_digest_names_the_file_and_both() {
    let mut download = Download::new();
    let mut other = download.file.clone();
    other[77] ^= 1;
    let found = Sha256::of(&other);
    let server = Server::start(move |_, _| ok(&other));
    let error = download.run(&server).unwrap_err();
    let text = error.to_string();
    assert_eq!(error.kind(), Kind::Network);
    assert!(text.contains("`x.whl`"), "{text}");
    assert!(
        text.contains(&found.to_string()) && text.contains(&Sha256::of(&download.file).to_string()),
        "{text}"
    );
    assert!(!download.part().exists());
}

#[test]
fn sizes_that_lie() {
    // The length says so, and the body does.
    for head in ["200 OK\r\nContent-Length: 1200001", "200 OK"] {
        let mut download = Download::new();
        let mut longer = download.file.clone();
        longer.push(0);
        let server = Server::start(move |_, _| reply(head, &longer));
        let error = download.run(&server).unwrap_err();
        assert!(error.to_string().contains("found 1200001 or more"), "{error}");
        assert_eq!(server.requests().len(), 1);
    }
    // An end that is none, over and over.
    let mut download = Download::new();
    let server = Server::start(|_, request| match request.from() {
        0 => reply("200 OK", b"short"),
        _ => reply("416 Range Not Satisfiable\r\nContent-Length: 0", b""),
    });
    let error = download.run(&server).unwrap_err();
    assert!(error.to_string().contains("tried 3 times"), "{error}");
}

#[test]
fn not_found_is_final() {
    let server = Server::start(|_, _| reply("404 Not Found\r\nContent-Length: 0", b""));
    let error = Download::new().run(&server).unwrap_err();
    assert_eq!(error.kind(), Kind::Network);
    assert!(error.message().contains("127.0.0.1") && error.message().contains("404"), "{error}");
    assert_eq!(server.requests().len(), 1);
    assert!(client(&Machine::default()).find(&server.address("/x"), None, 10).unwrap().is_none());
}

#[test]
fn unavailable_passes_and_says_when() {
    let server = Server::start(|number, _| match number {
        0 => reply("503 Service Unavailable\r\nRetry-After: 3600\r\nContent-Length: 0", b""),
        1 => reply("429 Too Many Requests\r\nContent-Length: 0", b""),
        _ => ok(b"page"),
    });
    // An hour is cut down to the longest pause.
    let page = client(&Machine::default()).get(&server.address("/x"), None, 10).unwrap();
    assert_eq!(page.bytes, b"page");
    let server = Server::start(|_, _| reply("500 Internal Server Error\r\nContent-Length: 0", b""));
    let error = Download::new().run(&server).unwrap_err();
    assert!(error.message().contains("500") && error.to_string().contains("tried 3 times"), "{error}");
    assert_eq!(server.requests().len(), 3);
}

#[test]
fn refused_connections_name_the_host_and_no_login() {
    let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let address = Address::parse(&format!("http://me:secret@{closed}/x?token=secret")).unwrap();
    let error = client(&Machine::default()).get(&address, None, 10).err().unwrap();
    assert_eq!(error.kind(), Kind::Network);
    assert!(error.message().contains("127.0.0.1"), "{error}");
    assert!(!format!("{error} {error:?}").contains("secret"), "{error:?}");
}

#[test]
fn a_host_that_never_answered_is_given_up() {
    let hangs_up = |_: usize, _: &_| Reply { bytes: Vec::new(), linger: Duration::ZERO };
    let (server, client) = (Server::start(hangs_up), client(&Machine::default()));
    let ask = |path: &str| client.get(&server.address(path), None, 10).err().unwrap().to_string();
    let first = ask("/one");
    assert!(first.contains("tried 3 times"), "{first}");
    assert_eq!((ask("/another"), server.requests().len()), (first, 3));

    // One that has answered may only be busy.
    let server = Server::start(move |number, request| match number {
        0 | 4 => ok(b"page"),
        _ => hangs_up(number, request),
    });
    let ask = || client.get(&server.address("/"), None, 10);
    assert!(ask().is_ok() && ask().is_err() && ask().is_ok());
}

#[test]
fn pages_have_a_limit() {
    let server = Server::start(|_, _| ok(b"0123456789"));
    assert!(client(&Machine::default()).get(&server.address("/"), None, 10).is_ok());
    let error = client(&Machine::default()).get(&server.address("/"), None, 9).err().unwrap();
    assert!(error.message().contains("more than the 9 bytes"), "{error}");
}

#[test]
fn a_login_stays_with_its_host() {
    let files = Server::start(|_, _| ok(b"page"));
    let elsewhere = files.other_name("/moved");
    let index = Server::start(move |_, request| match request.path.as_str() {
        "/start" => reply("302 Found\r\nLocation: /same\r\nContent-Length: 0", b""),
        _ => reply(&format!("302 Found\r\nLocation: {elsewhere}\r\nContent-Length: 0"), b""),
    });
    let address = index.address("/start").or_login("me", Some("secret"));
    client(&Machine::default()).get(&address, None, 10).unwrap();
    let logins: Vec<_> =
        index.requests().iter().map(|request| request.header("authorization").is_some()).collect();
    assert_eq!(logins, [true, true]);
    assert_eq!(files.requests()[0].header("authorization"), None);
}

#[test]
fn netrc_logins_go_to_their_host() {
    let home = TempDir::new().unwrap();
    fs_err::write(home.path().join("netrc"), "machine 127.0.0.1 login me password secret").unwrap();
    let machine = Machine::new(home.path(), [("NETRC", "/netrc")]);
    let server = Server::start(|_, _| ok(b"page"));
    client(&machine).get(&server.address("/"), None, 10).unwrap();
    let other = Address::parse(&server.other_name("/")).unwrap();
    client(&machine).get(&other, None, 10).unwrap();
    let requests = server.requests();
    assert_eq!(requests[0].header("authorization"), Some("Basic bWU6c2VjcmV0"));
    assert_eq!(requests[1].header("authorization"), None);
}

#[test]
fn circles_end() {
    let server = Server::start(|_, _| reply("302 Found\r\nLocation: /\r\nContent-Length: 0", b""));
    let error = client(&Machine::default()).get(&server.address("/"), None, 10).err().unwrap();
    assert!(error.message().contains("circles"), "{error}");
}

#[test]
fn a_stranger_gets_no_login_that_is_for_any_host() {
    let server = Server::start(|_, request| {
        ok(if request.header("authorization").is_some() { &b"known"[..] } else { b"unknown" })
    });
    let folder = TempDir::new().unwrap();
    fs_err::write(folder.path().join("netrc"), "default login me password secret\n").unwrap();
    let machine = Machine::new(folder.path(), [("NETRC", "/netrc")]);
    let client = client(&machine);
    let address = server.address("/page");
    assert_eq!(client.get(&address, None, 100).unwrap().bytes, b"known");
    client.mistrust(&address);
    assert_eq!(client.get(&address, None, 100).unwrap().bytes, b"unknown");
}

#[test]
fn a_stranger_gets_the_login_of_its_name_where_it_is_encrypted() {
    let folder = TempDir::new().unwrap();
    fs_err::write(folder.path().join("netrc"), "machine files.example login me password secret\n").unwrap();
    let client = client(&Machine::new(folder.path(), [("NETRC", "/netrc")]));
    for (address, allowed) in [("https://files.example/x", true), ("http://files.example/x", false)] {
        let address = Address::parse(address).unwrap();
        assert!(client.login(&address, false).is_some());
        client.mistrust(&address);
        assert_eq!(client.login(&address, false).is_some(), allowed, "{address}");
    }
}
