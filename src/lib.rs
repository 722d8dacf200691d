//! `assemble` makes OCI images from recipes written in Rust: the same bytes everywhere, without
//! Dockerfiles, in the spirit of Nix.
//!
//! # Bird's eye
//!
//! ```text
//! recipe (Rust) ──┐
//!                 ├─► derivations ──► realise ──► layers ──► image ──► deliver
//! assemble.lock ──┘    (keys)      store│substitute│build    (digest)   archive│folder│engine│registry
//! ```
//!
//! A recipe names *parts*; each says what it asks the lock for and, with the lock's answer, which
//! *derivations* (build steps as plain data) it becomes. So a recipe is a pure function from the lock and
//! the project's files to an image: a graph of derivations and an order of layers. Realising computes each
//! derivation's *key* from its arguments and from what its inputs **are** (a file's SHA-256, a tree's
//! diffID), and looks the key up: in the store, in caches, or else it builds. What comes out of a
//! builder is a *tree*: sorted entries whose contents are references into the store. Packing a tree
//! to a layer is a step of its own, the only one that knows a compressor.
//!
//! # Where to begin
//!
//! `cli::image::run` is the main road: [`cli`] → [`lock::read`] → [`project::read`] → the recipe →
//! [`realise::Engine::realise`] → [`oci::assemble`] → [`deliver`]. To add an image, write a recipe
//! (`examples/small.rs` is the smallest whole one); to add a kind of part, an implementation of
//! [`recipe::Part`]; to add a kind of step, a case of `layers::Builder` and its function in
//! `realise::build`; to add a packing, a case of `layers::Packer` and its function in `realise::packing`.
//!
//! # Code map
//!
//! | module | what it knows |
//! |---|---|
//! | crate `assemble-layers` | what a layer **is**: digests, trees, derivations, keys, the lock; and [`recipe`], what recipes are written with. No I/O, no clock, no environment |
//! | program `src/bin/assemble` | SpectralMC's images; the library knows nothing of them |
//! | [`cli`] | the terminal, the environment, exit codes; one file a verb |
//! | [`lock`] | making `assemble.lock`: Debian (signed indexes, apt's choice), Python (real Poetry, in the sandbox, before an index of ours), files of addresses |
//! | [`project`] | the project's files, `.dockerignore`, what has changed |
//! | [`realise`] | keys, records, early cut-off, running builders at once; [`realise::Executor`], the trait of whatever runs commands; sends events, never prints |
//! | [`store`] | blobs, trees, records on disk; [`store::Substituter`], the trait of whatever results can be taken from |
//! | [`cache`] | the shared cache in a registry: a record as a manifest, taking, publishing, signing |
//! | [`network`] | all places that a run fetches from, as options and lock have them; above `fetch`, `registry` and `realise` |
//! | [`net`] | addresses, logins, the machine's own settings, HTTP: what `fetch` and `registry` stand on |
//! | [`fetch`] | locked files by digest, repositories by commit, from addresses found at run time |
//! | [`sandbox`] | namespaces, materialising and capturing a root, Debian packages in it; the only `unsafe` |
//! | [`pack`] | tar, gzip, zip, wheels, `.deb`; synchronous, knows `layers` alone |
//! | [`oci`] | configuration, manifest, index; names of images |
//! | [`debian`] | the order of versions and the relations of packages, as Debian Policy has them |
//! | [`registry`] | image registries: logins, tokens, blobs, manifests; verified, resumed, retried |
//! | [`deliver`] | the archive that everything loads, the OCI layout, Docker engines and what they hold, pushing |
//! | [`inspect`] | why something was built; which GPUs an image's libraries have code for, and whether its promises are kept |
//!
//! # Invariants
//!
//! - **Same lock, same bytes**: on any machine, at any time, as root or not, whatever the store, the
//!   folder, the umask, the time zone, the number of jobs. `tests/variations.rs` holds it, and
//!   `tests/source.rs` of what is compiled.
//! - An image is checked as a whole ([`realise::Whole`]): a folder is one thing in all layers, a path has
//!   one owner, a private key is in none. A tree holds no name that a layer reads as a whiteout.
//! - No name in an engine ever stands for an image that is not whole: names come last.
//! - A key never holds a path of the machine, a time, an address, or a compressed digest.
//! - Every builder has a version, and a golden test that fails if its bytes change and it does not.
//! - JSON that is digested is made by `layers::json::canonical` alone.
//! - A name in the store stands for a whole file, whenever the process is killed.
//! - Foreign bytes are read by `bounded`: regular files, inside their folder, up to a stated bound.
//! - `pack` and `oci` know `layers` alone, but for [`Error`], `bounded` and, in `oci`, the layers that were
//!   realised; nothing imports `cli`.
//! - No address of a package registry stands in this repository: they are configuration.
//! - No credential reaches a log, an error, a key, a layer or a sandbox; nor does the machine's network
//!   reach a sandbox.
//! - A shared cache may cost a warning, and never the build.
//! - Where a layer is known and not here, it is fetched by whoever reads its bytes
//!   ([`realise::Engine::obtain`]), and by nobody else.
//!
//! # Decisions that differ from the first design, and why
//!
//! - **A part has two faces, and is asked, not run twice**: what it requires and what it becomes are two
//!   methods of one value ([`recipe::Part`]), so they cannot name two things. Handles are values that share
//!   what they stand for; nothing is registered with a recipe, so what no image uses is not locked.
//! - **What a part stands on is said by the part**, and is added below it in every image and root; layers
//!   are ordered by whether they seldom change. A recipe can keep its own order.
//! - **A set of packages names the sets below it** in the lock. When each was over all before it, a package
//!   that Poetry's own set had was missing in a later layer that needs it, and nobody would have said so.
//! - **A standalone Python is a tar below `/usr/local`** (`unpack-archive`), without its pip: distributions are
//!   the lock's alone. One place and one scheme, so that wheels need not know which archive it was. What
//!   stands in for it (`--python system`) is written in the lock, as indexes are.
//! - **A package of somebody else's archive is a file at an address**: the recipe names the archive, so its
//!   address is no configuration of the machine's; `--url-mirror` is, as for other files.
//! - **A base image's source is an archive of its own if it is flat or has keys of its own**: mirrors of the
//!   distribution do not serve it, and a suite of it may have the name of one of theirs. Its address is the
//!   image's, so the lock has none.
//! - **An archive's files have no owners, times and special modes**: they are programs that a recipe lays, and
//!   the same files packed by another tar are the same tree. A device or a pipe in it is an error.
//! - **What no engine can start is no image** (`recipe::container`, `realise::whole::container`): engines take
//!   such a configuration and fail when a container starts, and Docker 20.10's daemon crashes on a health check
//!   without a command. A program that is missing is no error: it may come with a volume.
//! - **An equal tag is not believed**: a push asks for each blob, a request each, since registries lose them.
//! - **A panic ends the process** (70), whatever thread it is in: others would wait for that one.
//! - **A job for an executor is a derivation whose inputs are known** ([`realise::Job`]): it names them by
//!   digest, and whatever runs it finds them in the store. A shell and the lock's question stay in this
//!   machine's sandbox: the one has a terminal and what a failed step left here, the other a socket.
//! - **A platform is a value of a recipe and of its graph, and no field of the lock**: what a lock is for can be
//!   one thing as long as one is built. A name that is not built is an error where the recipe says it.
//! - **No overlay in the sandbox.** A root is a plain folder and a snapshot of inodes and change
//!   times; what changed is compared with the tree it came from. It needs no support from the file
//!   system, works in containers, and makes "equal entries are dropped" the rule, not a clean-up.
//! - **The tar is the content.** What a sandboxed step leaves is stored as its uncompressed tar,
//!   whose digest *is* the diffID; its tree refers to ranges of it. One pass writes, hashes and
//!   identifies.
//! - **CUDA and the large wheels lie below Debian.** Layers are ordered by stability alone: trees do
//!   not overlap but in folders, and the highest says of a folder what the image has. A security update of Debian
//!   sends Debian again, not seven gigabytes above it.
//! - **Markers and tags are not evaluated here.** `lock/resolve` asks the libraries of the image's own
//!   Python while locking; the lock says which group wants a distribution, and names one file.
//! - **A front end is a class of `lock/resolve`** (`front_end.py`), and no trait in Rust: what it decides needs
//!   the image's Python and its libraries. Rust knows it by name ([`recipe::ProjectInstall`]), and its section of
//!   the lock is the same for all. uv is asked what its lock means by exports to `pylock.toml`.
//! - **What an image takes of a project is asked as a whole** (`lock::Selection`): markers speak of groups and
//!   extras together, and what each wants by itself does not add up. Poetry's groups without extras do, so a lock
//!   has those by themselves.
//! - **Code that runs while locking sees a project's names and its metadata**, and no other content of it.
//! - **A project's own lock is part of the manifest's digest**: whoever has it not, or another, locks again.
//! - **Tools beside the project have its versions**, as `pip` then `poetry install` leave them in one environment;
//!   what a tool wanted otherwise is in the lock, so that each build can say it.
//! - **Poetry and pip ask an index of our own while locking** (`lock::index`), on a port of the sandbox's
//!   loopback interface whose socket was handed out: code of distributions runs beside them. pip and
//!   Poetry wait as long as it takes; who gives up, retries, logs in and follows redirects is the fetcher.
//! - **An index that cannot be read fails the lock**: Poetry and pip would pass it over, and take from
//!   another what that one should have served.
//! - **The server of that index is a few lines on `httparse`**: a crate's would keep connections, read bodies
//!   or start threads without a bound, or need a runtime of our own.
//! - **A substituted wheel is read while locking.** Which GPUs it is for is recorded with its digest, so
//!   the promise is known before anything is built: it is in the labels, and `--variant auto` goes by
//!   it. Where nothing is substituted the recipe's word stands; either way the built image is read,
//!   once a layer.
//! - **A promise is kept where a library has something for a GPU.** A library may hold kernels that it
//!   uses on some GPUs alone; that part of one has nothing is a warning, and none of it an error.
//! - **`object` for its structures alone.** Its readers keep what they read in memory, and a hostile
//!   header says how much that is.
//! - **AWS-LC instead of `sha2`**: TLS brings it, and without SHA instructions it is 1.7 times as fast.
//! - **`rawzip` instead of `zip`**: it shows each central-directory record as it stands, duplicates too.
//! - **A fuzz harness of our own** (`tests/fuzz.rs`): `cargo fuzz` needs a compiler that is not stable. An
//!   input follows from its number, so a number is all that is kept of a failure.
//! - **No link leads out of a project**: what is read of it goes into an image, or to code of its own.
//! - **No tokio of our own**: every step is threads and files; reqwest's blocking client hides its
//!   own runtime. SIGINT and SIGTERM simply end the process, which the store survives by design; they
//!   are handled (`signal-hook`) because pid 1 of a container is not ended by them otherwise.
//! - **An engine is spoken to by `deliver::docker::http`**, a few lines on `httparse`: reqwest's blocking
//!   client drops the answer of an engine that gives up in the middle of an upload.
//! - **A repository is not checked out.** The files of a commit are read from its objects, so no
//!   filter, hook, attribute or line ending has a say, and a submodule is only another commit.
//! - **nvcc's temporary files stand beside its objects** (`--objdir-as-tempdir`): their names get into
//!   the objects, and elsewhere they hold a process id.
//! - **pip's own check stands where the `.pth` is made**: what the compiled wheel requires is met by
//!   what Poetry installed, or the step that puts it on the path fails.
//! - **A registry client of our own**: those that there are hold blobs in memory, retry nothing, or bring
//!   a runtime. A push that breaks off begins the blob anew: registries differ in what they keep.
//! - **A certificate that is trusted itself is believed**, though it calls itself an authority: WebPKI
//!   refuses that, and OpenSSL, Go and Docker's documents do not. Its names and dates count as any other's.
//! - **Proxies are read here**, not by the HTTP library: an error can name the one that is dead, and
//!   `NO_PROXY` may name a port.
//! - **`--cache-to` beside `--cache`**, as BuildKit's `--cache-to`: who may change what a team takes is
//!   seen in the command and in its help, and is no suffix of a name. It reads as well.
//! - **A cache's manifest is ours, its blobs are the images'.** What a sandboxed step left is its packed
//!   layer, inflated where a step needs it; locked files and commits stay where the lock has them.
//! - **A record without its bytes is a promise**, a cache's or the store's own. It is dropped when the bytes
//!   are needed and nobody has them, and what was planned upon it is planned again: keys above it are of
//!   what it promised.
//! - **Patience is a tenth of what a miss costs**: by the record's duration, or the kind of step where
//!   there is no record yet.
//! - **Records are alike if their outcomes are**: how long a step took does not count. Of those that are
//!   not, the first that was published stays.
//! - **A base image's layer is a derivation that is never built**: its diffID is locked, so keys above it
//!   are known before a byte of it is fetched, and it is delivered as it stands.
//! - **Each base has a lock of its own.** Other packages and another Python are another resolution; one
//!   file for both would change with each.
//! - **A digest counts, where its tag has moved**: that is what a digest is for. It is a warning; gone, it
//!   is an error that says where the tag is now.
//! - **`apt`'s addresses in the image are Debian's**: the example that its `apt` package ships, put
//!   into place.
//! - **A layer that says of a folder what its image has not is another tree** (`layers::amend`), made from
//!   the first when all layers are known: a wheel's key does not depend on the Debian that it lies over, and
//!   where both agree its layer is its own tree. Layers below the one that counts stay as they are.
//! - **125 layers**, not 127: two of them are the container's (moby, `maxLayerDepth`).
//! - **The sandbox's ids are nobody's**, for an ordinary user too, whose own id it had for root: then a
//!   command's files, programs and processes were the user's. So what a step reads of the machine is opened
//!   before its ids are taken, or copied, and a compiler's cache has a folder for each range of ids.
//! - **Each command has a pid 1 of its own, and the helper is not in its namespaces.** What materialises and
//!   captures needs files that no command may see.
//! - **A copy of the process, no third program**: pid 1 is forked by a helper of one thread. Started again
//!   it would need its own file in the root.
//! - **No command in a root waits for the disk**: calls such as `fsync` succeed at once (seccomp), for
//!   a root lives as long as its step.

#![cfg_attr(not(test), deny(clippy::unwrap_used))]

mod bounded;
mod draft;
mod error;

pub mod cache;
pub mod cli;
pub mod debian;
pub mod deliver;
pub mod fetch;
#[doc(hidden)]
pub mod fuzzing;
pub mod inspect;
pub mod lock;
pub mod net;
pub mod network;
pub mod oci;
pub mod pack;
pub mod project;
pub mod realise;
pub mod registry;
pub mod sandbox;
pub mod store;

/// What recipes are written with.
pub use assemble_layers::recipe;
pub use error::{Error, Kind, Result};

/// The program of a team: `fn main() -> ExitCode { assemble::main([variant("mine", "…", mine)]) }`.
pub fn main(recipes: impl Into<recipe::Program>) -> std::process::ExitCode {
    cli::main(&recipes.into())
}
