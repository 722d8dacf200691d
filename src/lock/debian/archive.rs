//! Reading a suite: its signed Release, then its package indexes by digest.

use std::io::Read;

use super::release::{Keyring, Listed, Release, verify};
use crate::error::{Error, Kind, Result};
use crate::fetch::Fetcher;
use crate::fetch::debian::{Archive, NamedBy};
use crate::net::Address;

/// Debian's largest is below one megabyte.
const LARGEST_RELEASE: u64 = 16 << 20;

/// A suite as it was read.
pub struct Suite {
    /// When its Release was made, in seconds since 1970.
    pub date: u64,
    pub pin: u16,
    /// The texts of its package indexes, a component after the other.
    pub texts: Vec<String>,
    pub warnings: Vec<String>,
}

/// Reads one suite from wherever it is.
pub struct Reader<'a> {
    pub fetcher: &'a Fetcher,
    /// The suite's name; the archive's, where that is flat.
    pub name: &'a str,
    /// What an error is about, where the suite's name does not say it.
    pub title: Option<String>,
    /// Below the archive's address: where its `InRelease` is.
    pub folder: String,
    /// Where it may be, the likeliest first.
    pub archives: Vec<Archive>,
    pub keyring: &'a Keyring,
    /// None where the archive is flat.
    pub components: &'a [String],
    /// Whose archive it must be; whoever signs with the keys, if absent.
    pub origin: Option<&'a str>,
    /// Whether it may lack some of the components, for other suites have them.
    pub may_lack: bool,
    pub architecture: &'a str,
    /// What its packages are preferred by, where the archive's own word does not count.
    pub priority: Option<u16>,
    /// In seconds since 1970.
    pub now: u64,
}

impl Reader<'_> {
    /// Reads the suite from the first address that has it, signed.
    ///
    /// # Errors
    /// None has: a line for each says why.
    pub fn suite(&self) -> Result<Suite> {
        let name = self.name;
        let mut failures = Vec::new();
        for archive in &self.archives {
            match self.suite_at(archive) {
                Ok(mut suite) => {
                    suite.warnings.extend(failures.iter().map(Error::message).map(str::to_owned));
                    return Ok(suite);
                }
                // A machine has apt sources of other origins, too: no word is lost on those that
                // do not have the suite at all.
                Err(error) => failures.extend(error),
            }
        }
        let mut error = Error::new(Kind::Network, format!("no archive serves the suite `{name}`"));
        for failure in failures {
            error = error.detail(failure.message());
            for detail in failure.details() {
                error = error.detail(format!("  {detail}"));
            }
        }
        Err(match &self.title {
            Some(title) => error
                .within(format!("{title} cannot be read"))
                .hint("`--url-mirror FROM=TO` reads it elsewhere; its keys stay"),
            None => error.hint(format!(
                "`{}` names a mirror, `{}` a snapshot archive",
                crate::fetch::debian::MIRROR,
                crate::fetch::debian::SNAPSHOT
            )),
        })
    }

    fn is_flat(&self) -> bool {
        self.components.is_empty()
    }

    /// The error is `None` if an apt source has no such suite.
    fn suite_at(&self, archive: &Archive) -> Result<Suite, Option<Error>> {
        let name = self.name;
        let base = archive.address.join(&self.folder)?;
        let address = base.join("InRelease")?;
        let Some(page) = self.fetcher.client().find(&address, None, LARGEST_RELEASE)? else {
            let absent = Error::new(Kind::Network, format!("`{}` has no suite `{name}`", address.host()));
            return Err((!matches!(archive.named_by, NamedBy::Apt(_))).then(|| absent.detail(address)));
        };
        let wrong = |why: String| {
            Error::new(Kind::Network, format!("the `InRelease` of `{name}` at `{}` {why}", address.host()))
                .detail(&address)
        };
        let text = verify(&page.bytes, self.keyring, self.now).map_err(wrong)?;
        let release = Release::parse(&text).map_err(wrong)?;
        if !self.is_flat() {
            release.check(name, self.origin).map_err(wrong)?;
        }
        let mut warnings = Vec::new();
        if let Some(days) = release.expired_for(now_for(archive, self.now)) {
            let expired = wrong(format!("expired {days} days ago"));
            if !archive.may_be_expired {
                let remedy =
                    "if the mirror lags: `--allow-expired`, or apt's `Acquire::Check-Valid-Until \"false\"`";
                return Err(Some(expired.detail(remedy)));
            }
            warnings.push(format!("{}: accepted, as configured", expired.message()));
        }
        let texts = self.indexes(&base, &release)?;
        Ok(Suite { date: release.date, pin: self.priority.unwrap_or(release.pin), texts, warnings })
    }

    fn indexes(&self, base: &Address, release: &Release) -> Result<Vec<String>> {
        if self.is_flat() {
            return Ok(vec![self.index(base, release, "")?]);
        }
        let architectures = [self.architecture, "all"];
        let architectures = &architectures[..1 + usize::from(release.lists_all_apart)];
        let mut texts = Vec::new();
        for component in self.components {
            for architecture in architectures {
                let folder = format!("{component}/binary-{architecture}");
                if self.may_lack && listed_as(release, &folder).is_none() {
                    continue;
                }
                texts.push(self.index(base, release, &folder)?);
            }
        }
        Ok(texts)
    }

    /// `Packages` of a folder, in the smallest form that is listed.
    fn index(&self, base: &Address, release: &Release, folder: &str) -> Result<String> {
        let plain = below(folder, "Packages");
        let Some((ending, listed, path)) = listed_as(release, folder) else {
            return Err(Error::new(Kind::Input, format!("`{}` does not list `{plain}`", base.host()))
                .detail(base)
                .hint("the recipe's `components` and `architecture` name what the suite does not have"));
        };
        let bytes = self.listed_file(base, release, &path, listed)?;
        let broken = |why: String| {
            Error::new(Kind::Network, format!("`{path}` at `{}` cannot be read", base.host())).detail(why)
        };
        // Its size is signed as well: no small file unpacks to a huge one.
        let size = release.file(&plain).map_or(listed.size, |plain| plain.size);
        let text = unpack(&bytes, ending, size).map_err(|error| broken(error.to_string()))?;
        String::from_utf8(text).map_err(|error| broken(error.to_string()))
    }

    fn listed_file(&self, base: &Address, release: &Release, path: &str, listed: Listed) -> Result<Vec<u8>> {
        let client = self.fetcher.client();
        if listed.size > LARGEST_INDEX {
            let error = format!("`{path}` at `{}` has {} bytes", base.host(), listed.size);
            return Err(
                Error::new(Kind::Network, error).detail(format!("no more than {LARGEST_INDEX} are read"))
            );
        }
        let folder = path.rsplit_once('/').map_or("", |(folder, _)| folder);
        let by_hash = base.join(&below(folder, &format!("by-hash/SHA256/{}", listed.sha256)))?;
        let page = if release.by_hash { client.find(&by_hash, None, listed.size)? } else { None };
        let page = match page {
            Some(page) => page,
            None => client.get(&base.join(path)?, None, listed.size)?,
        };
        let found = assemble_layers::digest::Sha256::of(&page.bytes);
        if found == listed.sha256 {
            return Ok(page.bytes);
        }
        Err(Error::new(Kind::Network, format!("`{path}` at `{}` is not what its Release lists", base.host()))
            .detail(format!("expected sha256 {}", listed.sha256))
            .detail(format!("   found sha256 {found}"))
            .hint("the mirror may be in the middle of an update: try again later"))
    }
}

/// How a folder's `Packages` is listed: its ending, what it is, its path.
fn listed_as(release: &Release, folder: &str) -> Option<(&'static str, Listed, String)> {
    [".xz", ".gz", ""].into_iter().find_map(|ending| {
        let path = below(folder, &format!("Packages{ending}"));
        Some((ending, release.file(&path)?, path))
    })
}

/// A flat archive has its files where it is itself.
fn below(folder: &str, name: &str) -> String {
    if folder.is_empty() { name.to_owned() } else { format!("{folder}/{name}") }
}

/// A snapshot is judged by its own time: it shall be as it was then.
fn now_for(archive: &Archive, now: u64) -> u64 {
    match archive.named_by {
        NamedBy::Snapshot(time) => now.min(time),
        NamedBy::User | NamedBy::Apt(_) | NamedBy::Base | NamedBy::Recipe => now,
    }
}

/// The largest `Packages` that is read, in bytes, unpacked; that of Debian 12's `main` has 50 MB.
const LARGEST_INDEX: u64 = 512 << 20;

fn unpack(bytes: &[u8], ending: &str, size: u64) -> std::io::Result<Vec<u8>> {
    if size > LARGEST_INDEX {
        return Err(std::io::Error::other(format!(
            "it has {size} bytes, and no more than {LARGEST_INDEX} are read"
        )));
    }
    let reader: Box<dyn Read + '_> = match ending {
        ".xz" => Box::new(liblzma::read::XzDecoder::new_multi_decoder(bytes)),
        ".gz" => Box::new(flate2::read::MultiGzDecoder::new(bytes)),
        _ => Box::new(bytes),
    };
    let mut text = Vec::with_capacity(usize::try_from(size).unwrap_or_default());
    reader.take(size + 1).read_to_end(&mut text)?;
    if text.len() as u64 == size {
        return Ok(text);
    }
    Err(std::io::Error::other(format!("it unpacks to other than the {size} bytes that the Release lists")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unpacking_has_a_limit() {
        use std::io::Write;
        let mut xz = liblzma::write::XzEncoder::new(Vec::new(), 1);
        xz.write_all(&[b'x'; 1000]).unwrap();
        let xz = xz.finish().unwrap();
        assert_eq!(unpack(&xz, ".xz", 1000).unwrap().len(), 1000);
        assert!(unpack(&xz, ".xz", 999).is_err());
        assert!(unpack(&xz, ".xz", 1001).is_err());
        assert!(unpack(&xz[..xz.len() - 9], ".xz", 1000).is_err());
    }
}
