//! Build steps as plain data, and their keys.

mod key;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::amend::Amend;
use crate::digest::{BlobDigest, Commit, DiffId, Sha256};
use crate::pack::Compression;
use crate::scheme::Scheme;
use crate::tree::{RawBytes, TreePath};

/// What the engine knows how to run. `Input` is [`NodeId`](crate::NodeId) in a recipe, and the content's
/// [`Sha256`] (a diffID or a file's digest) once it is known: only then there is a key.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "builder")]
pub enum Builder<Input> {
    /// Bytes by their digest, wherever they come from: fixed-output.
    Fetch(Fetch),
    /// A repository's files at a commit, submodules included: fixed-output.
    Git(Git),
    /// A layer of an image that others made, as it stands in their registry: fixed-output.
    ImageLayer(ImageLayer),
    /// Debian packages to one tree, configured by their maintainer scripts.
    UnpackDebs(UnpackDebs<Input>),
    /// Wheels to one tree.
    UnpackWheels(UnpackWheels<Input>),
    /// A tar that somebody publishes, to one tree.
    UnpackArchive(UnpackArchive<Input>),
    /// Files of the project, of other trees, and literal ones.
    Files(Files<Input>),
    /// A command in the sandbox.
    Run(Run<Input>),
    /// A tree as its image needs it. No recipe asks for it: what checks the image as a whole does.
    Amend(Amend<Input>),
}

/// A locked file.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Fetch {
    /// The file's own name: `torch-2.7.1-cp311-cp311-manylinux_2_28_x86_64.whl`.
    pub file: String,
    pub sha256: Sha256,
    /// In bytes.
    pub size: u64,
    pub origin: Origin,
}

/// Which kind of place serves a locked file. Never an address that is the machine's: those are configuration.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "from")]
pub enum Origin {
    /// A Debian archive: the suite that listed the file, and the file's path below the archive.
    Debian { suite: String, path: String },
    /// A Python index: a source named in `pyproject.toml`, or the default index.
    Python { project: String, source: Option<String> },
    /// The address at which a recipe names the file.
    Url { url: String },
}

/// The files of a commit, as its objects hold them: nothing is checked out, so no filter, line ending
/// or attribute changes a byte. Modes are 0644 and 0755, times are the one constant.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Git {
    /// Where the repository is published, or its folder on this machine.
    pub url: String,
    pub commit: Commit,
    /// Where in the tree the files stand.
    pub folder: TreePath,
}

/// A layer of an image that is built upon. It goes into the new image as it is, packed by whoever made
/// it, and is read only where a step runs over it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ImageLayer {
    /// Where it is, with its registry: `docker.io/nvidia/cuda`.
    pub repository: String,
    /// Of the packed layer.
    pub digest: BlobDigest,
    /// Of the packed layer, in bytes.
    pub size: u64,
    pub compression: Compression,
    /// What it holds.
    pub diff_id: DiffId,
}

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct UnpackDebs<Input> {
    /// Trees that stand below; the result is the difference to them.
    pub over: Vec<Input>,
    pub packages: Vec<DebInput<Input>>,
    /// What the packages' scripts make by chance and the result is to be without: files, and everything
    /// in folders, which stay themselves.
    pub without: Vec<TreePath>,
}

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct DebInput<Input> {
    /// The package's name.
    pub package: String,
    pub file: Input,
    /// Whether it is there as a dependency only; apt's `extended_states` says so.
    pub automatic: bool,
}

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct UnpackWheels<Input> {
    pub wheels: Vec<WheelInput<Input>>,
    pub layout: Layout,
}

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct WheelInput<Input> {
    /// The wheel's file name. Of a wheel that is built, it ends in [`ANY_TAGS`].
    pub filename: String,
    /// A fetched file, or a tree that holds the one wheel of that name.
    pub file: Input,
    /// Whether the installer was asked for it by name; pip leaves a file `REQUESTED` then.
    pub requested: bool,
}

/// `-*.whl`: what a wheel's name and version are followed by where only its build decides the tags.
pub const ANY_TAGS: &str = "-*.whl";

/// Where a wheel's members go.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Layout {
    /// As a Python installer does it.
    Site(Scheme),
    /// Folders of the wheel to folders of the tree; the first rule that fits counts.
    Relocate(Vec<Relocation>),
}

/// A tar, packed with gzip, xz, zstd or not at all, which its first bytes say. Modes are 0644 and 0755,
/// owners are root, times are the one constant; a hard link is a file of its own.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct UnpackArchive<Input> {
    /// A fetched file.
    pub file: Input,
    /// Folders of the tar to folders of the tree; the first rule that fits counts, and a file that none fits
    /// is an error.
    pub rules: Vec<Relocation>,
}

/// One rule about where members of an archive go.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Relocation {
    /// A folder or file of the archive; a part may have one `*`, which stands for anything.
    pub from: String,
    /// What takes its place; `None` leaves it out.
    pub to: Option<TreePath>,
}

impl Relocation {
    /// The rest of `path` below what the rule is about, empty for that itself; `None` for what is elsewhere.
    pub fn rest<'p>(&self, path: &'p TreePath) -> Option<&'p [u8]> {
        let mut rest = path.as_bytes();
        for wanted in self.from.split('/') {
            let end = rest.iter().position(|byte| *byte == b'/').unwrap_or(rest.len());
            let (part, after) = rest.split_at(end);
            let fits = match wanted.split_once('*') {
                Some((beginning, ending)) => part
                    .strip_prefix(beginning.as_bytes())
                    .is_some_and(|rest| rest.ends_with(ending.as_bytes())),
                None => part == wanted.as_bytes(),
            };
            if part.is_empty() || !fits {
                return None;
            }
            rest = after.strip_prefix(b"/").unwrap_or(after);
        }
        Some(rest)
    }
}

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Files<Input> {
    pub entries: Vec<FileEntry<Input>>,
}

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct FileEntry<Input> {
    pub path: TreePath,
    pub mode: u32,
    pub source: FileSource<Input>,
}

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FileSource<Input> {
    Directory,
    Symlink(RawBytes),
    Literal(RawBytes),
    /// A file of the project, as it was when the project was read.
    Project {
        path: TreePath,
        sha256: Sha256,
        size: u64,
    },
    /// A file of another tree.
    Tree {
        tree: Input,
        path: TreePath,
    },
    /// A locked file, as it is.
    Fetched {
        file: Input,
    },
}

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Run<Input> {
    /// The trees of the root, lowest first.
    pub root: Vec<Input>,
    /// Fetched files that the command sees.
    pub files: Vec<InputFile<Input>>,
    /// The program and its arguments; nothing is read by a shell.
    pub command: Vec<String>,
    /// Beside the sandbox's own constants.
    pub environment: BTreeMap<String, String>,
    /// Absolute, inside the root.
    pub working_directory: String,
    pub output: Output,
    pub effort: Effort,
}

/// A fetched file in the root of a [`Run`], read-only.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct InputFile<Input> {
    /// Absolute, inside the root.
    pub path: String,
    pub file: Input,
}

/// What makes a long build bearable and never another one: no part of the key.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Effort {
    pub cache: Option<Cache>,
    pub jobs: Option<Jobs>,
}

/// A folder that outlives the step, so that a build that was killed goes on where it was.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Cache {
    /// What its folder in the store is called; steps that name it alike share it.
    pub name: TreePath,
    /// Where the command sees it: absolute, inside the root.
    pub path: String,
}

/// How many compilers run at once: by the machine's cores and memory.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Jobs {
    /// The variable that tells the command: `MAX_JOBS`.
    pub variable: String,
    /// What one of them needs at most, in bytes.
    pub memory: u64,
}

/// What a command leaves.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Output {
    /// Everything it changed in the root.
    Difference,
    /// One folder; its content is the tree.
    Folder(TreePath),
}

impl<Input> Builder<Input> {
    /// The builder's name, as keys and records have it.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Fetch(_) => "fetch",
            Self::Git(_) => "git",
            Self::ImageLayer(_) => "image-layer",
            Self::UnpackDebs(_) => "unpack-debs",
            Self::UnpackWheels(_) => "unpack-wheels",
            Self::UnpackArchive(_) => "unpack-archive",
            Self::Files(_) => "files",
            Self::Run(_) => "run",
            Self::Amend(_) => "amend",
        }
    }

    /// The builder's version: raised whenever its output changes for an unchanged input. The tests
    /// in `tests/keys.rs` notice if it was not.
    pub fn version(&self) -> u32 {
        match self {
            Self::Fetch(_) => 1,
            Self::Git(_) => 1,
            Self::ImageLayer(_) => 1,
            // 2: with the folders above what changed; without keys made at random and attributes that are an
            // engine's own.
            Self::UnpackDebs(_) => 2,
            Self::UnpackWheels(_) => 1,
            Self::UnpackArchive(_) => 1,
            // 2: what was found of private keys is recorded. 3: those in JSON and in programs, too.
            Self::Files(_) => 3,
            // 2: with the folders above what changed; without attributes that are an engine's own.
            Self::Run(_) => 2,
            Self::Amend(_) => 1,
        }
    }

    /// What it is built from.
    pub fn inputs(&self) -> Vec<&Input> {
        match self {
            Self::Fetch(_) | Self::Git(_) | Self::ImageLayer(_) => Vec::new(),
            Self::UnpackDebs(it) => it.over.iter().chain(it.packages.iter().map(|deb| &deb.file)).collect(),
            Self::UnpackWheels(it) => it.wheels.iter().map(|wheel| &wheel.file).collect(),
            Self::UnpackArchive(it) => vec![&it.file],
            Self::Files(it) => it.entries.iter().filter_map(|entry| entry.source.input()).collect(),
            Self::Run(it) => it.root.iter().chain(it.files.iter().map(|file| &file.file)).collect(),
            Self::Amend(it) => vec![&it.tree],
        }
    }

    /// What it comes to, where that is known before anything is built: a file's digest, a layer's diffID.
    pub fn fixed_output(&self) -> Option<Sha256> {
        match self {
            Self::Fetch(fetch) => Some(fetch.sha256),
            Self::ImageLayer(layer) => Some(layer.diff_id.0),
            _ => None,
        }
    }

    /// The trees that its result is a difference to: it lies over them, and what it has instead of theirs is
    /// meant.
    pub fn made_over(&self) -> &[Input] {
        match self {
            Self::UnpackDebs(it) => &it.over,
            Self::Run(it) if it.output == Output::Difference => &it.root,
            _ => &[],
        }
    }

    /// The same builder with each input replaced.
    ///
    /// # Errors
    /// The first that `replace` returns.
    pub fn try_map<Other, E>(
        &self,
        mut replace: impl FnMut(&Input) -> Result<Other, E>,
    ) -> Result<Builder<Other>, E> {
        Ok(match self {
            Self::Fetch(it) => Builder::Fetch(it.clone()),
            Self::Git(it) => Builder::Git(it.clone()),
            Self::ImageLayer(it) => Builder::ImageLayer(it.clone()),
            Self::Files(it) => Builder::Files(Files {
                entries: it
                    .entries
                    .iter()
                    .map(|entry| {
                        Ok(FileEntry {
                            path: entry.path.clone(),
                            mode: entry.mode,
                            source: entry.source.try_map(&mut replace)?,
                        })
                    })
                    .collect::<Result<_, E>>()?,
            }),
            Self::UnpackDebs(it) => Builder::UnpackDebs(UnpackDebs {
                over: it.over.iter().map(&mut replace).collect::<Result<_, E>>()?,
                packages: it
                    .packages
                    .iter()
                    .map(|deb| {
                        Ok(DebInput {
                            package: deb.package.clone(),
                            file: replace(&deb.file)?,
                            automatic: deb.automatic,
                        })
                    })
                    .collect::<Result<_, E>>()?,
                without: it.without.clone(),
            }),
            Self::UnpackWheels(it) => Builder::UnpackWheels(UnpackWheels {
                wheels: it
                    .wheels
                    .iter()
                    .map(|wheel| {
                        Ok(WheelInput {
                            filename: wheel.filename.clone(),
                            file: replace(&wheel.file)?,
                            requested: wheel.requested,
                        })
                    })
                    .collect::<Result<_, E>>()?,
                layout: it.layout.clone(),
            }),
            Self::UnpackArchive(it) => {
                Builder::UnpackArchive(UnpackArchive { file: replace(&it.file)?, rules: it.rules.clone() })
            }
            Self::Run(it) => Builder::Run(Run {
                root: it.root.iter().map(&mut replace).collect::<Result<_, E>>()?,
                files: it
                    .files
                    .iter()
                    .map(|file| Ok(InputFile { path: file.path.clone(), file: replace(&file.file)? }))
                    .collect::<Result<_, E>>()?,
                command: it.command.clone(),
                environment: it.environment.clone(),
                working_directory: it.working_directory.clone(),
                output: it.output.clone(),
                effort: it.effort.clone(),
            }),
            Self::Amend(it) => Builder::Amend(Amend {
                tree: replace(&it.tree)?,
                folders: it.folders.clone(),
                without: it.without.clone(),
            }),
        })
    }
}

impl<Input> FileSource<Input> {
    fn input(&self) -> Option<&Input> {
        match self {
            Self::Tree { tree: input, .. } | Self::Fetched { file: input } => Some(input),
            _ => None,
        }
    }

    fn try_map<Other, E>(
        &self,
        replace: impl FnOnce(&Input) -> Result<Other, E>,
    ) -> Result<FileSource<Other>, E> {
        Ok(match self {
            Self::Directory => FileSource::Directory,
            Self::Symlink(target) => FileSource::Symlink(target.clone()),
            Self::Literal(bytes) => FileSource::Literal(bytes.clone()),
            Self::Project { path, sha256, size } => {
                FileSource::Project { path: path.clone(), sha256: *sha256, size: *size }
            }
            Self::Tree { tree, path } => FileSource::Tree { tree: replace(tree)?, path: path.clone() },
            Self::Fetched { file } => FileSource::Fetched { file: replace(file)? },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_star_stands_for_any_part_of_a_name() {
        let rest = |from: &str, path: &str| {
            let rule = Relocation { from: from.to_owned(), to: None };
            let path = TreePath::new(path).unwrap();
            rule.rest(&path).map(|rest| String::from_utf8(rest.to_vec()).unwrap())
        };
        let header = "nvidia/cublas/include/cublas.h";
        assert_eq!(rest("nvidia/*/include", header).as_deref(), Some("cublas.h"));
        assert_eq!(rest("nvidia", header).as_deref(), Some("cublas/include/cublas.h"));
        assert_eq!(rest("nvidia/*/lib", header), None);
        assert_eq!(rest("nvidia/cublas/include/cublas.h/x", header), None);
        assert_eq!(rest("python/bin/pip*", "python/bin/pip3.12").as_deref(), Some(""));
        assert_eq!(rest("python/bin/pip*", "python/bin/python3"), None);
        assert_eq!(rest("a*a", "a"), None);
        assert_eq!(rest("a*a", "aa").as_deref(), Some(""));
    }
}
