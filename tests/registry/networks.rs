//! What stands between a registry and its user: proxies, certificates, servers before it. The registry is
//! Debian's, in TLS; whatever is asked for `registry.example` is led to it by a proxy of the test's.

use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::sync::Mutex;

use super::*;
use crate::support::certificates::certificates;

const NAME: &str = "registry.example";

/// A proxy on loopback that leads every connection to one port, by HTTP's CONNECT or by SOCKS 5 (RFC 1928).
struct Relay {
    port: u16,
    asked: Arc<Mutex<Vec<String>>>,
}

impl Relay {
    fn to(host: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let (asked, host) = (Arc::<Mutex<Vec<String>>>::default(), host.to_owned());
        let seen = Arc::clone(&asked);
        std::thread::spawn(move || {
            for client in listener.incoming().map_while(std::result::Result::ok) {
                let (host, seen) = (host.clone(), Arc::clone(&seen));
                // A client that goes away in the middle is no matter.
                std::thread::spawn(move || serve(client, &host, &seen));
            }
        });
        Self { port, asked }
    }

    fn address(&self, scheme: &str) -> String {
        format!("{scheme}://127.0.0.1:{}", self.port)
    }

    fn asked(&self) -> Vec<String> {
        self.asked.lock().unwrap().clone()
    }
}

fn serve(mut client: TcpStream, host: &str, seen: &Mutex<Vec<String>>) -> std::io::Result<()> {
    let mut first = [0];
    client.peek(&mut first)?;
    let target = if first == [5] { socks(&mut client)? } else { connect(&mut client)? };
    seen.lock().unwrap().push(target);
    let server = TcpStream::connect(host)?;
    let (mut from, mut to) = (server.try_clone()?, client.try_clone()?);
    std::thread::spawn(move || {
        let _ = std::io::copy(&mut from, &mut to);
        let _ = to.shutdown(std::net::Shutdown::Write);
    });
    std::io::copy(&mut client, &mut { &server })?;
    server.shutdown(std::net::Shutdown::Write)
}

fn connect(client: &mut TcpStream) -> std::io::Result<String> {
    let mut lines = BufReader::new(client.try_clone()?).lines();
    let first = lines.next().unwrap()?;
    lines.map_while(std::result::Result::ok).take_while(|line| !line.is_empty()).for_each(drop);
    client.write_all(b"HTTP/1.1 200 OK\r\n\r\n")?;
    Ok(first.split(' ').nth(1).unwrap().to_owned())
}

fn socks(client: &mut TcpStream) -> std::io::Result<String> {
    let mut greeting = [0; 2];
    client.read_exact(&mut greeting)?;
    client.read_exact(&mut vec![0; usize::from(greeting[1])])?;
    client.write_all(&[5, 0])?;
    // A name, its length before it, and a port.
    let mut request = [0; 5];
    client.read_exact(&mut request)?;
    let mut name = vec![0; usize::from(request[4]) + 2];
    client.read_exact(&mut name)?;
    client.write_all(&[5, 0, 0, 1, 0, 0, 0, 0, 0, 0])?;
    let port = u16::from_be_bytes([name[name.len() - 2], name[name.len() - 1]]);
    Ok(format!("{}:{port}", String::from_utf8_lossy(&name[..name.len() - 2])))
}

/// A registry in TLS, the proxy that leads to it, and a machine that is told so.
struct Place {
    scene: Scene,
    relay: Relay,
    _registry: Registry,
}

/// What of [`certificates`] the registry shows, and whether it wants to see one.
struct Shows {
    certificate: PathBuf,
    key: PathBuf,
    clients_of: Option<PathBuf>,
}

impl Place {
    /// `None` where the registry is not installed.
    fn new(shows: &Shows) -> Option<Self> {
        let clients = shows.clients_of.as_ref();
        let clients = clients.map_or(String::new(), |path| format!(", clientcas: ['{}']", path.display()));
        let sections = format!(
            "http: {{addr: '127.0.0.1:0', tls: {{certificate: '{}', key: '{}'{clients}}}}}",
            shows.certificate.display(),
            shows.key.display()
        );
        let Some(registry) = Registry::serve(Command::new("docker-registry"), &sections) else {
            skipped("registries in TLS: they need Debian's `docker-registry`");
            return None;
        };
        let relay = Relay::to(&registry.host);
        Some(Self { scene: Scene::new(), relay, _registry: registry })
    }

    /// A push from a machine whose own settings stand in the scene's folder `home`.
    fn push(&self, variables: &[(&str, &str)]) -> Result<Pushed> {
        let home = self.scene.bench.path("home");
        let proxy = self.relay.address("http");
        let mut all = vec![("HTTPS_PROXY", proxy.as_str()), ("HOME", home.to_str().unwrap())];
        all.extend(variables);
        let client = Client::new(Machine::new(Path::new("/"), all), settings());
        self.scene.push(&client, &format!("{NAME}/team/app:1").parse().unwrap())
    }

    fn copy(&self, from: &Path, to: &str) {
        self.scene.bench.write(&format!("home/.config/{to}"), std::fs::read(from).unwrap());
    }
}

/// The usual ones, for `registry.example`.
fn keys() -> (tempfile::TempDir, impl Fn(&str) -> PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    certificates(&folder.path().join("keys"), &format!("DNS:{NAME}"));
    let at = folder.path().join("keys");
    (folder, move |name| at.join(name))
}

#[test]
fn the_authority_of_one_registry() {
    let (_folder, key) = keys();
    let shows = Shows { certificate: key("server.pem"), key: key("server-key.pem"), clients_of: None };
    let Some(place) = Place::new(&shows) else { return };
    let error = place.push(&[]).unwrap_err();
    assert_says(&error, &[NAME, "UnknownIssuer", "SSL_CERT_FILE", &format!("certs.d/{NAME}/ca.crt")]);
    // For another registry, or another port of it.
    place.copy(&key("ca.pem"), "docker/certs.d/other.example/ca.crt");
    place.copy(&key("ca.pem"), &format!("docker/certs.d/{NAME}:5000/ca.crt"));
    place.push(&[]).unwrap_err();
    place.copy(&key("ca.pem"), &format!("docker/certs.d/{NAME}/ca.crt"));
    assert_eq!(place.push(&[]).unwrap().sent.blobs, 4);
    assert!(place.relay.asked().iter().all(|asked| *asked == format!("{NAME}:443")));
    // Of the whole machine.
    std::fs::remove_dir_all(place.scene.bench.path("home")).unwrap();
    let authority = key("ca.pem");
    assert_eq!(place.push(&[("SSL_CERT_FILE", authority.to_str().unwrap())]).unwrap().present.blobs, 4);
    let error = place.push(&[("SSL_CERT_FILE", "/nowhere/ca.pem")]).unwrap_err();
    assert!(error.kind() == Kind::Input && error.to_string().contains("SSL_CERT_FILE"), "{error}");
}

#[test]
fn a_client_shows_its_certificate() {
    let (_folder, key) = keys();
    let clients_of = Some(key("ca.pem"));
    let shows = Shows { certificate: key("server.pem"), key: key("server-key.pem"), clients_of };
    let Some(place) = Place::new(&shows) else { return };
    let folder = format!("containers/certs.d/{NAME}");
    place.copy(&key("ca.pem"), &format!("{folder}/ca.crt"));
    assert_says(&place.push(&[]).unwrap_err(), &[NAME, "ertificate"]);
    place.copy(&key("cert.pem"), &format!("{folder}/client.cert"));
    assert_says(&place.push(&[]).unwrap_err(), &["client.key"]);
    place.copy(&key("key.pem"), &format!("{folder}/client.key"));
    assert_eq!(place.push(&[]).unwrap().sent.blobs, 4);
}

/// As Docker's documents make one ("Use self-signed certificates"): it is its own authority.
fn self_signed(folder: &Path, name: &str, environment: &[(&str, &str)]) -> PathBuf {
    let mut command = Command::new("openssl");
    command
        .args(["req", "-newkey", "rsa:2048", "-nodes", "-sha256", "-x509", "-days", "1", "-subj", "/CN=x"]);
    command.arg("-keyout").arg(folder.join(format!("{name}.key")));
    command.arg("-out").arg(folder.join(format!("{name}.crt")));
    command.args(["-addext", &format!("subjectAltName = DNS:{name}")]).envs(environment.iter().copied());
    output(&mut command);
    folder.join(format!("{name}.crt"))
}

#[test]
fn a_certificate_that_is_its_own_authority() {
    let folder = tempfile::tempdir().unwrap();
    let certificate = self_signed(folder.path(), NAME, &[]);
    let shows = |certificate: &Path| Shows {
        certificate: certificate.to_owned(),
        key: certificate.with_extension("key"),
        clients_of: None,
    };
    let Some(place) = Place::new(&shows(&certificate)) else { return };
    assert_says(&place.push(&[]).unwrap_err(), &[NAME, "certs.d"]);
    // Another one of that name is no reason to believe this one.
    std::fs::create_dir(folder.path().join("other")).unwrap();
    let other = self_signed(&folder.path().join("other"), NAME, &[]);
    place.push(&[("SSL_CERT_FILE", other.to_str().unwrap())]).unwrap_err();
    assert_eq!(place.push(&[("SSL_CERT_FILE", certificate.to_str().unwrap())]).unwrap().sent.blobs, 4);
    place.copy(&certificate, &format!("docker/certs.d/{NAME}/ca.crt"));
    assert_eq!(place.push(&[]).unwrap().present.blobs, 4);

    // It is believed for the names that it has alone, and as long as it says.
    let other_name = self_signed(folder.path(), "other.example", &[]);
    let place = Place::new(&shows(&other_name)).unwrap();
    let error = place.push(&[("SSL_CERT_FILE", other_name.to_str().unwrap())]).unwrap_err();
    assert_says(&error, &[NAME, "ertificate"]);
    let library = "/usr/lib/x86_64-linux-gnu/faketime/libfaketime.so.1";
    if !Path::new(library).exists() {
        skipped("a certificate that has expired: it needs Debian's `libfaketime`");
        return;
    }
    std::fs::create_dir(folder.path().join("old")).unwrap();
    let old = self_signed(&folder.path().join("old"), NAME, &[("LD_PRELOAD", library), ("FAKETIME", "-3d")]);
    let place = Place::new(&shows(&old)).unwrap();
    let error = place.push(&[("SSL_CERT_FILE", old.to_str().unwrap())]).unwrap_err();
    assert_says(&error, &[NAME, "xpired"]);
}

#[test]
fn proxies_of_each_kind() {
    let (_folder, key) = keys();
    let shows = Shows { certificate: key("server.pem"), key: key("server-key.pem"), clients_of: None };
    let Some(place) = Place::new(&shows) else { return };
    place.copy(&key("ca.pem"), &format!("docker/certs.d/{NAME}/ca.crt"));
    for scheme in ["http", "socks5h"] {
        let before = place.relay.asked().len();
        let address = place.relay.address(scheme);
        place.push(&[("HTTPS_PROXY", ""), ("ALL_PROXY", &address)]).unwrap();
        let asked = place.relay.asked().split_off(before);
        assert!(!asked.is_empty() && asked.iter().all(|it| *it == format!("{NAME}:443")), "{asked:?}");
    }
    // Without a proxy for this port there is no such registry; for another port there is one.
    let before = place.relay.asked().len();
    for exception in [format!("{NAME}:443"), NAME.to_owned(), ".example".to_owned()] {
        let error = place.push(&[("NO_PROXY", &exception)]).unwrap_err();
        assert_says(&error, &[NAME, "cannot be reached"]);
        assert!(!error.to_string().contains("proxy `"), "{error}");
    }
    assert_eq!(place.relay.asked().len(), before);
    place.push(&[("NO_PROXY", &format!("{NAME}:5000"))]).unwrap();
}

#[test]
fn a_proxy_that_is_dead_is_named() {
    let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let scene = Scene::new();
    for (scheme, shown) in
        [("http", "http"), ("https", "https"), ("socks5", "socks5"), ("socks5h", "socks5h")]
    {
        let address = format!("{scheme}://me:{SECRET}@{closed}");
        let machine = Machine::new(Path::new("/"), [("https_proxy", &address)]);
        let error = scene.push(&Client::new(machine, settings()), &format!("{NAME}/a:1").parse().unwrap());
        let named = format!("the proxy `{shown}://{closed}` does not lead to `{NAME}`");
        assert_says(&error.unwrap_err(), &[&named, "`https_proxy` names it", &format!("NO_PROXY={NAME}")]);
    }
    // It lives, and will not.
    let fake = Fake::start(|_| status("503 Service Unavailable"));
    let machine = Machine::new(Path::new("/"), [("HTTPS_PROXY", format!("http://{}", fake.host()))]);
    let error = scene.push(&Client::new(machine, settings()), &format!("{NAME}/a:1").parse().unwrap());
    assert_says(&error.unwrap_err(), &[&fake.host(), NAME, "`HTTPS_PROXY` names it"]);
    let machine = Machine::new(Path::new("/"), [("HTTPS_PROXY", format!("ftp://{SECRET}"))]);
    let error = scene.push(&Client::new(machine, settings()), &format!("{NAME}/a:1").parse().unwrap());
    assert_says(&error.unwrap_err(), &["`HTTPS_PROXY`", "socks5://"]);
}

/// It is asked in TLS.
#[test]
fn a_registry_that_speaks_plain_http_is_said() {
    let Some(registry) = real() else { return };
    let relay = Relay::to(&registry.host);
    let machine = Machine::new(Path::new("/"), [("HTTPS_PROXY", relay.address("http"))]);
    let client = Client::new(machine, settings());
    let error = Scene::new().push(&client, &format!("{NAME}:5000/a:1").parse().unwrap()).unwrap_err();
    assert_says(&error, &["not in TLS", &format!("--insecure-registry {NAME}:5000")]);
}

/// nginx before Debian's registry, as distributions have it: it takes bodies of 1 MiB.
struct Nginx {
    child: std::process::Child,
    host: String,
    _folder: tempfile::TempDir,
}

impl Nginx {
    /// `settings` are of its `location`. `None` where it is not installed.
    fn before(registry: &Registry, settings: &str) -> Option<Self> {
        let folder = tempfile::tempdir().unwrap();
        let host = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
        let at = |name: &str| folder.path().join(name).display().to_string();
        let temporary = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"];
        let temporary = temporary.map(|name| format!("{name}_temp_path {};\n", at(name))).concat();
        let text = format!(
            "daemon off; pid {}; error_log {}; worker_processes 1;\nevents {{}}\nhttp {{ access_log off;\n{temporary}\
             server {{ listen {host}; location / {{ proxy_pass http://{}; {settings} }} }} }}\n",
            at("pid"),
            at("log"),
            registry.host
        );
        std::fs::write(folder.path().join("nginx.conf"), text).unwrap();
        let mut command = Command::new("/usr/sbin/nginx");
        command.arg("-c").arg(folder.path().join("nginx.conf")).arg("-e").arg(at("log"));
        let Ok(child) = command.spawn() else {
            skipped("nginx before a registry: it needs Debian's `nginx-light`");
            return None;
        };
        let this = Self { child, host, _folder: folder };
        while TcpStream::connect(&this.host).is_err() {
            std::thread::sleep(Duration::from_millis(20));
        }
        Some(this)
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        // Its workers end with it.
        let process = rustix::process::Pid::from_child(&self.child);
        let _ = rustix::process::kill_process(process, rustix::process::Signal::TERM);
        let _ = self.child.wait();
    }
}

#[test]
fn nginx_before_a_registry() {
    let Some(registry) = real() else { return };
    let Some(nginx) = Nginx::before(&registry, "proxy_set_header Host $http_host;") else { return };
    let repository = format!("{}/team/app", nginx.host).parse().unwrap();
    let blob = bytes(700_000);
    let digest = BlobDigest(Sha256::of(&blob));
    let send = |client: &Client, repository| {
        let bytes = blob.clone();
        let open = || Ok(Box::new(Cursor::new(bytes.clone())) as Box<dyn Read + Send>);
        let blob = Blob { digest, size: bytes.len() as u64, open: &open, progress: Arc::new(|_| {}) };
        client.repository(repository, Access::Push).unwrap().send_blob(&blob, None)
    };
    let client = client();
    assert_eq!(send(&client, &repository).unwrap(), Sent::Uploaded);
    let mut read = Vec::new();
    let remote = client.repository(&repository, Access::Pull).unwrap();
    remote.blob(digest, None).unwrap().unwrap().read_to_end(&mut read).unwrap();
    assert!(read == blob);
    let pieces =
        registry.requests().iter().filter(|it| it.starts_with("PATCH") && it.ends_with("202")).count();
    assert_eq!(pieces, 3);

    // It forgets the port, as is often seen.
    let nginx = Nginx::before(&registry, "proxy_set_header Host $host; client_max_body_size 0;").unwrap();
    let error = send(&client, &format!("{}/other/app", nginx.host).parse().unwrap()).unwrap_err();
    assert_says(&error, &["without its port", &nginx.host, "$http_host"]);
}
