//! Names of images and of the repositories that hold them.
//!
//! The grammar is that of Docker and the OCI distribution-spec (distribution, `reference`), and so
//! is what a name means where it says no registry: Docker's own.

use std::fmt;
use std::str::FromStr;

use assemble_layers::BlobDigest;

use crate::{Error, Kind, Result};

/// The registry that a name without one means.
const DOCKER: &str = "docker.io";
/// Where Docker's registry answers.
const DOCKER_HOST: &str = "registry-1.docker.io";
/// Where Docker's registry keeps images whose name has one part.
const DOCKER_NAMESPACE: &str = "library";

/// A repository as it was written: `spectralmc`, `registry.example:5000/team/image`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Repository(String);

impl Repository {
    /// The registry's name: `docker.io`, `registry.example:5000`.
    pub fn registry(&self) -> &str {
        self.split().0
    }

    /// The host, and the port if one is named, that answers for the registry.
    pub fn host(&self) -> &str {
        match self.registry() {
            DOCKER => DOCKER_HOST,
            registry => registry,
        }
    }

    /// The name within the registry: `library/spectralmc`, `team/image`.
    pub fn path(&self) -> String {
        match self.split() {
            (DOCKER, path) if !path.contains('/') => format!("{DOCKER_NAMESPACE}/{path}"),
            (_, path) => path.to_owned(),
        }
    }

    /// With the registry and the namespace that Docker means where none is written.
    pub fn qualified(&self) -> String {
        format!("{}/{}", self.registry(), self.path())
    }

    /// Whether the registry is written, and not Docker's by default.
    pub fn names_registry(&self) -> bool {
        self.split().1 != self.0
    }

    fn split(&self) -> (&str, &str) {
        match self.0.split_once('/') {
            // An old name of the same.
            Some(("index.docker.io", path)) => (DOCKER, path),
            Some((host, path)) if is_host(host) => (host, path),
            _ => (DOCKER, &self.0),
        }
    }

    fn is_valid(&self) -> bool {
        let (registry, path) = self.split();
        let host =
            |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b':' | b'-' | b'[' | b']');
        registry.bytes().all(host)
            && !registry.starts_with([':', '.', '-'])
            && path.split('/').all(is_component)
            && self.0.len() <= 255
    }
}

/// Whether what stands before the first slash is a registry, and not a namespace of Docker's.
fn is_host(text: &str) -> bool {
    text.contains(['.', ':']) || text == "localhost" || text.bytes().any(|byte| byte.is_ascii_uppercase())
}

/// `path-component`: lower-case letters and digits, with `.`, `_`, `__` or dashes between them.
fn is_component(text: &str) -> bool {
    let separates = |character: char| matches!(character, '.' | '_' | '-');
    let word = |word: &str| word.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit());
    let ends = text.starts_with(separates) || text.ends_with(separates);
    let mut separators = text.split(|character: char| !separates(character)).filter(|run| !run.is_empty());
    !text.is_empty()
        && !ends
        && text.split(separates).all(word)
        && separators.all(|run| matches!(run, "." | "_" | "__") || run.bytes().all(|byte| byte == b'-'))
}

fn is_tag(text: &str) -> bool {
    let first = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    text.len() <= 128
        && text.bytes().next().is_some_and(first)
        && text.bytes().all(|byte| first(byte) || matches!(byte, b'.' | b'-'))
}

impl FromStr for Repository {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let this = Self(text.to_owned());
        if this.is_valid() { Ok(this) } else { Err(invalid(text)) }
    }
}

impl fmt::Display for Repository {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

/// An image in a repository: `NAME`, `NAME:TAG`, `NAME@DIGEST` or `NAME:TAG@DIGEST`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Reference {
    pub repository: Repository,
    /// `latest` where neither a tag nor a digest is written, as with Docker.
    pub tag: Option<String>,
    pub digest: Option<BlobDigest>,
}

impl Reference {
    /// A name that an image can be given: a tag, and no digest.
    ///
    /// # Errors
    /// A text that is no name, or one with a digest.
    pub fn parse_tag(text: &str) -> Result<Self> {
        let this: Self = text.parse()?;
        match this.digest {
            None => Ok(this),
            Some(_) => Err(Error::new(Kind::Usage, format!("`{text}` has a digest"))
                .hint("the digest of an image is what it is; give it a tag")),
        }
    }

    /// With the registry and the namespace that Docker means where none is written.
    pub fn qualified(&self) -> String {
        self.written(&self.repository.qualified())
    }

    fn written(&self, repository: &str) -> String {
        let tag = self.tag.as_ref().map_or_else(String::new, |tag| format!(":{tag}"));
        let digest = self.digest.map_or_else(String::new, |digest| format!("@{digest}"));
        format!("{repository}{tag}{digest}")
    }
}

impl FromStr for Reference {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let (name, digest) = match text.split_once('@') {
            Some((name, digest)) => (name, Some(digest.parse().map_err(|_| invalid(text))?)),
            None => (text, None),
        };
        let colon = name.rfind(':').filter(|colon| !name[*colon..].contains('/'));
        let (name, tag) = colon.map_or((name, None), |colon| (&name[..colon], Some(&name[colon + 1..])));
        let tag = tag.or(digest.is_none().then_some("latest"));
        let repository = Repository(name.to_owned());
        if !repository.is_valid() || !tag.is_none_or(is_tag) {
            return Err(invalid(text));
        }
        Ok(Self { repository, tag: tag.map(str::to_owned), digest })
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.written(&self.repository.0))
    }
}

fn invalid(text: &str) -> Error {
    Error::new(Kind::Usage, format!("`{text}` is no image name")).hint(
        "a name is `NAME:TAG` or `HOST/NAME:TAG`, in lower case; a digest is `sha256:` and 64 hex digits",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Reference {
        text.parse().unwrap()
    }

    #[test]
    fn names_are_qualified_as_docker_does() {
        let digest = format!("sha256:{}", "0a".repeat(32));
        let cases = [
            ("spectralmc", "docker.io/library/spectralmc:latest"),
            ("team/spectralmc:1", "docker.io/team/spectralmc:1"),
            ("docker.io/spectralmc", "docker.io/library/spectralmc:latest"),
            ("index.docker.io/team/a", "docker.io/team/a:latest"),
            ("localhost:5000/a:b", "localhost:5000/a:b"),
            ("localhost/a", "localhost/a:latest"),
            ("[::1]:5000/a/b__c:d", "[::1]:5000/a/b__c:d"),
        ];
        for (text, qualified) in cases {
            assert_eq!(read(text).qualified(), qualified, "{text}");
        }
        assert_eq!(read(&format!("a@{digest}")).qualified(), format!("docker.io/library/a@{digest}"));
        let both = format!("registry.example/a:b@{digest}");
        assert_eq!(read(&both).to_string(), both);
    }

    #[test]
    fn a_registry_has_a_host() {
        let cases = [
            ("a", "docker.io", "registry-1.docker.io", "library/a"),
            ("registry.example:5000/a/b", "registry.example:5000", "registry.example:5000", "a/b"),
        ];
        for (text, registry, host, path) in cases {
            let repository: Repository = text.parse().unwrap();
            assert_eq!((repository.registry(), repository.host()), (registry, host));
            assert_eq!(repository.path(), path);
        }
    }

    #[test]
    fn other_texts_are_no_names() {
        let texts = [
            "",
            ":",
            "A",
            "a b",
            "a:",
            "a:-b",
            "/a",
            "a//b",
            "-a",
            "a:b c",
            "a..b",
            "a___b",
            "a._b",
            "a@b",
            "a@",
            "a@sha256:00",
            "@sha256:00",
            "a/B",
            "a.b/",
            ":5000/a",
            "a.b/../c",
            "a?b",
            "a:b/c d",
            "é",
        ];
        for text in texts {
            assert!(text.parse::<Reference>().is_err(), "{text:?}");
        }
        let long = format!("a:{}", "b".repeat(129));
        assert!(long.parse::<Reference>().is_err());
    }

    #[test]
    fn a_name_to_give_has_no_digest() {
        assert!(Reference::parse_tag(&format!("a@sha256:{}", "0a".repeat(32))).is_err());
        assert!(Reference::parse_tag("a:b").is_ok());
    }
}
