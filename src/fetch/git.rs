//! Repositories at a commit, through the `git` program: where the objects come from, and which files
//! they hold.
//!
//! All objects stand in one bare repository of the store's, so that what came once is never fetched
//! again, whatever it was fetched for. Nothing is checked out: [`files`] reads a commit's objects as
//! they are. So no hook, filter (LFS), attribute (`export-subst`) or line ending has a say, and no
//! link leads a file elsewhere.
//!
//! A repository is hostile. It names its submodules' addresses, in `.gitmodules`: only the protocols
//! in [`PROTOCOLS`] are heeded there, never a folder of this machine, unless the repository is itself
//! one of this machine and the address is relative to it. Whatever could be taken for an option stands
//! behind `--` or is refused.

mod files;
mod place;

use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use assemble_layers::Commit;
use fs_err as fs;

pub(crate) use files::reads_printed;
pub use files::{Member, MemberKind, files};
pub use place::{Mirror, Place};

use crate::net::without_logins;
use crate::{Error, Kind, Result, bounded};

/// What git may speak to servers.
const PROTOCOLS: [&str; 4] = ["https", "http", "ssh", "git"];

/// Submodules of submodules, so deep at most.
const DEEPEST: usize = 16;

/// The largest `.gitmodules` that is read, in bytes, as git prints it.
const LARGEST_MODULES: u64 = 4 << 20;

/// How many of git's last words stand in an error.
const LAST_LINES: usize = 8;

/// The store's repository, and how to fill it.
pub struct Repository<'a> {
    folder: PathBuf,
    pub mirrors: &'a [Mirror],
    /// Whether what is not there may be fetched.
    pub offline: bool,
}

/// One repository at its commit, and where its files belong.
struct Module {
    place: Place,
    commit: Commit,
    /// Below the outermost repository's folder; empty for itself.
    path: Vec<u8>,
    depth: usize,
}

impl<'a> Repository<'a> {
    /// `folder` is made if it is not there.
    ///
    /// # Errors
    /// There is no `git`; the disk's.
    pub fn open(folder: &Path, mirrors: &'a [Mirror], offline: bool) -> Result<Self> {
        let this = Self { folder: folder.to_owned(), mirrors, offline };
        if !folder.join("HEAD").exists() {
            fs::create_dir_all(folder)?;
            this.run(["init", "--quiet", "--bare", "--template=", "."], &mut |_| ())?;
        }
        Ok(this)
    }

    /// Brings everything of a commit, and tells every file of it, submodules' included.
    /// `say` gets what git prints.
    ///
    /// # Errors
    /// A server that cannot be reached, a commit or a submodule that is gone (`Network`); a
    /// repository that no folder can hold (`Input`). What came is kept, and the next try goes on.
    pub fn members(&self, url: &str, commit: &Commit, say: &mut dyn FnMut(&str)) -> Result<Vec<Member>> {
        let mut members = Vec::new();
        let place = Place::given(url)?;
        let mut waiting = vec![Module { place, commit: commit.clone(), path: Vec::new(), depth: 0 }];
        while let Some(module) = waiting.pop() {
            let named = |error: Error| match module.path.is_empty() {
                true => error,
                false => error.within(format!(
                    "the submodule `{}` could not be fetched",
                    String::from_utf8_lossy(&module.path)
                )),
            };
            self.bring(&module, say).map_err(named)?;
            let listed = files::list(self, &module.commit)?;
            waiting.extend(self.submodules(&module, &listed.submodules).map_err(named)?);
            members.extend(listed.members.into_iter().map(|member| member.below(&module.path)));
        }
        Ok(members)
    }

    /// Whether a commit is here. It came in one pack with all that it holds.
    fn has(&self, commit: &Commit) -> bool {
        let object = format!("{commit}^{{tree}}");
        let asked = self.command(["cat-file", "-e", &object]).stderr(Stdio::null()).status();
        asked.is_ok_and(|status| status.success())
    }

    fn bring(&self, module: &Module, say: &mut dyn FnMut(&str)) -> Result<()> {
        let commit = &module.commit;
        if self.has(commit) {
            return Ok(());
        }
        let place = module.place.mirrored(self.mirrors)?;
        let missing = |what: &str| Error::new(Kind::Network, format!("the commit `{commit}` {what}"));
        if self.offline && !place.is_local() {
            return Err(missing("is not in the store, and `--offline` allows no network")
                .detail(format!("of `{place}`"))
                .hint("run once without `--offline`; what is fetched stays in the store"));
        }
        say(&format!("git fetch {place} {commit}"));
        let one = ["--depth=1", "--", place.address(), commit.as_str()];
        let Err(error) = self.fetch(&place, &one, say) else { return self.check(commit, &place) };
        let says = |what: &str| error.details().iter().any(|line| line.contains(what));
        if says("not our ref") {
            return self.check(commit, &place);
        }
        if !says("unadvertised object") {
            return Err(error);
        }
        say("the server does not serve the commit alone: fetching everything");
        let everything =
            ["--", place.address(), "+refs/heads/*:refs/seen/heads/*", "+refs/tags/*:refs/seen/tags/*"];
        self.fetch(&place, &everything, say)?;
        self.check(commit, &place)
    }

    fn check(&self, commit: &Commit, place: &Place) -> Result<()> {
        if self.has(commit) {
            return Ok(());
        }
        Err(Error::new(Kind::Network, format!("`{place}` has no commit `{commit}`"))
            .hint("was its history rewritten? `--git-mirror FROM=TO` names a copy that has it"))
    }

    fn fetch(&self, place: &Place, what: &[&str], say: &mut dyn FnMut(&str)) -> Result<()> {
        // Two processes that shallow one repository would undo each other's work.
        let turn = fs::File::create(self.folder.join("turn"))?;
        turn.file().lock()?;
        let mut protocols = PROTOCOLS.join(":");
        if place.is_local() {
            protocols.push_str(":file");
        }
        let mut command =
            self.command(["fetch", "--no-tags", "--no-recurse-submodules", "--no-write-fetch-head"]);
        command.args(["--no-auto-maintenance", "--update-shallow", "--progress"]).args(what);
        command.env("GIT_ALLOW_PROTOCOL", protocols);
        run(command, say).map_err(|error| {
            error.within(format!("`{place}` could not be fetched")).hint(
                "`--git-mirror FROM=TO` names a copy, `--source NAME=PATH|URL@COMMIT` another repository",
            )
        })
    }

    /// The submodules that a commit's tree holds, where its `.gitmodules` says that they are.
    fn submodules(&self, module: &Module, links: &[(Vec<u8>, Commit)]) -> Result<Vec<Module>> {
        if links.is_empty() {
            return Ok(Vec::new());
        }
        if module.depth == DEEPEST {
            return Err(Error::new(
                Kind::Input,
                format!("submodules stand in submodules {DEEPEST} times over"),
            ));
        }
        let urls = self.submodule_urls(&module.commit)?;
        let one = |(path, commit): &(Vec<u8>, Commit)| {
            let name = String::from_utf8_lossy(path);
            let url = urls.iter().find(|(known, _)| known == path).map(|(_, url)| url).ok_or_else(|| {
                Error::new(Kind::Input, format!("`.gitmodules` says of `{name}` no address"))
                    .detail(format!("in the commit `{}` of `{}`", module.commit, module.place))
            })?;
            let place =
                module.place.submodule(url).map_err(|error| error.detail(format!("submodule `{name}`")))?;
            let path = match module.path.is_empty() {
                true => path.clone(),
                false => [&module.path[..], b"/", path].concat(),
            };
            Ok(Module { place, commit: commit.clone(), path, depth: module.depth + 1 })
        };
        links.iter().map(one).collect()
    }

    /// Path and address of each section of `.gitmodules`.
    fn submodule_urls(&self, commit: &Commit) -> Result<Vec<(Vec<u8>, String)>> {
        let blob = format!("{commit}:.gitmodules");
        let arguments = ["config", "--blob", &blob, "--no-includes", "--null", "--list"];
        let mut command = self.command(arguments);
        let spawned = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn();
        let mut child = spawned.map_err(|error| no_git(&error))?;
        let printed = bounded::bytes(child.stdout.take().expect("piped"), LARGEST_MODULES, ".gitmodules");
        let _ = child.kill();
        let _ = child.wait();
        let printed = printed?;
        let mut sections: std::collections::BTreeMap<&str, (Option<&str>, Option<&str>)> = Default::default();
        let text = String::from_utf8_lossy(&printed);
        for entry in text.split('\0') {
            let Some((key, value)) = entry.split_once('\n') else { continue };
            let Some((section, name)) = key.strip_prefix("submodule.").and_then(|key| key.rsplit_once('.'))
            else {
                continue;
            };
            let known = sections.entry(section).or_default();
            match name {
                "path" => known.0 = Some(value),
                "url" => known.1 = Some(value),
                _ => {}
            }
        }
        let whole = sections.into_values().filter_map(|(path, url)| Some((path?.into(), url?.to_owned())));
        Ok(whole.collect())
    }

    fn run<'c>(&self, arguments: impl IntoIterator<Item = &'c str>, say: &mut dyn FnMut(&str)) -> Result<()> {
        run(self.command(arguments), say)
    }

    /// git in the bare repository. The user's own settings count, for they may say how servers are
    /// reached; the surroundings of a hook that called us do not.
    fn command<'c>(&self, arguments: impl IntoIterator<Item = &'c str>) -> Command {
        let mut command = Command::new("git");
        for (name, _) in std::env::vars_os() {
            if LOCAL_VARIABLES.iter().any(|local| name == *local) {
                command.env_remove(name);
            }
        }
        command.args(["--no-replace-objects", "-c", "core.hooksPath=/dev/null", "-c", "gc.auto=0"]);
        // Small packs too: loose objects would be there before those that they refer to.
        command.args([
            "-c",
            "fetch.unpackLimit=1",
            "-c",
            "core.fsmonitor=false",
            "-c",
            "core.quotePath=false",
        ]);
        command.current_dir(&self.folder).env("GIT_DIR", ".").args(arguments);
        command.env("GIT_TERMINAL_PROMPT", "0").env("LC_ALL", "C.UTF-8").stdin(Stdio::null());
        if std::env::var_os("GIT_SSH_COMMAND").is_none() {
            command.env("GIT_SSH_COMMAND", "ssh -o BatchMode=yes");
        }
        command
    }
}

/// `git rev-parse --local-env-vars`, and what would show what passes over the line.
const LOCAL_VARIABLES: [&str; 18] = [
    "GIT_ALTERNATE_OBJECT_DIRECTORIES",
    "GIT_COMMON_DIR",
    "GIT_CONFIG",
    "GIT_DIR",
    "GIT_GRAFT_FILE",
    "GIT_IMPLICIT_WORK_TREE",
    "GIT_INDEX_FILE",
    "GIT_INTERNAL_SUPER_PREFIX",
    "GIT_NAMESPACE",
    "GIT_NO_REPLACE_OBJECTS",
    "GIT_OBJECT_DIRECTORY",
    "GIT_PREFIX",
    "GIT_REPLACE_REF_BASE",
    "GIT_SHALLOW_FILE",
    "GIT_WORK_TREE",
    "GIT_CURL_VERBOSE",
    "GIT_TRACE_CURL",
    "GIT_TRACE_PACKET",
];

/// The commit that a repository of this machine stands at.
///
/// # Errors
/// A folder that is no repository, or one without a commit.
pub fn head(folder: &Path) -> Result<Commit> {
    let none =
        || Error::new(Kind::Usage, format!("`{}` is no Git repository with a commit", folder.display()));
    let mut command = Command::new("git");
    command.arg("-C").arg(folder).args(["rev-parse", "--verify", "--quiet", "HEAD^{commit}"]);
    let output = command.stdin(Stdio::null()).output().map_err(|error| no_git(&error))?;
    let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    let text = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    text.parse().map_err(|_| if said.is_empty() { none() } else { none().detail(said) })
}

/// Runs git, passes on what it says, and keeps the last of it for an error.
fn run(mut command: Command, say: &mut dyn FnMut(&str)) -> Result<()> {
    command.stdout(Stdio::null()).stderr(Stdio::piped());
    let mut child = command.spawn().map_err(|error| no_git(&error))?;
    let mut stderr = child.stderr.take().expect("piped");
    let (mut line, mut last) = (Vec::new(), std::collections::VecDeque::new());
    let mut bytes = [0; 1 << 12];
    loop {
        let count = stderr.read(&mut bytes)?;
        for byte in bytes[..count].iter().copied() {
            // Progress ends its lines by going back to their beginnings.
            if !matches!(byte, b'\n' | b'\r') && line.len() < 1 << 12 {
                line.push(byte);
                continue;
            }
            let text = without_logins(String::from_utf8_lossy(&line).trim());
            line.clear();
            if !text.is_empty() {
                say(&text);
                last.push_back((byte, text));
            }
            if last.len() > LAST_LINES {
                last.pop_front();
            }
        }
        if count == 0 {
            break;
        }
    }
    let status = child.wait()?;
    if status.success() {
        return Ok(());
    }
    let error = Error::new(Kind::Network, format!("git failed: {status}"));
    let whole = last.into_iter().filter(|(end, _)| *end == b'\n');
    Err(whole.fold(error, |error, (_, text)| error.detail(text)))
}

fn no_git(error: &std::io::Error) -> Error {
    Error::new(Kind::Machine, "the program `git` cannot be started")
        .detail(error)
        .hint("`apt-get install git`, or your system's like")
}
