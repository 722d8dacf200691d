//! Whose suites are looked at, and where each is.

use assemble_layers::lock::ThirdPartyArchive;

use super::Request;
use super::archive::Reader;
use super::keys::OtherSource;
use super::release::Keyring;
use crate::error::Result;
use crate::fetch::Fetcher;

/// A suite whose packages are looked at.
pub struct Place<'a> {
    /// Its name; the archive's, where that is a flat one of a recipe.
    pub suite: &'a str,
    pub owner: Owner<'a>,
}

#[derive(Clone, Copy)]
pub enum Owner<'a> {
    /// Debian, or whatever a base image is of.
    Distribution,
    /// An archive that the recipe names.
    ThirdParty(&'a ThirdPartyArchive),
    /// An archive that the base image alone names.
    BaseImage(&'a OtherSource),
}

/// The distribution's suites, then those of others, in the order of the requirements and of the base image.
pub fn places<'a>(request: &Request<'a>) -> Vec<Place<'a>> {
    let requirements = request.requirements;
    let distribution = requirements.suites.iter().map(|suite| Place { suite, owner: Owner::Distribution });
    let third_party = requirements.third_party.iter().flat_map(|archive| {
        let flat = archive.suites.is_empty().then_some(&archive.name);
        let suites = flat.into_iter().chain(&archive.suites);
        suites.map(move |suite| Place { suite, owner: Owner::ThirdParty(archive) })
    });
    let of_base = request.installed.into_iter().flat_map(|installed| &installed.sources.others);
    let of_base = of_base.map(|other| Place { suite: &other.suite, owner: Owner::BaseImage(other) });
    distribution.chain(third_party).chain(of_base).collect()
}

impl<'a> Place<'a> {
    /// What reads it; `keyring` has the keys that it may be signed with.
    ///
    /// # Errors
    /// Nobody knows where it is.
    pub fn reader(
        &self,
        fetcher: &'a Fetcher,
        request: &Request<'a>,
        keyring: &'a Keyring,
    ) -> Result<Reader<'a>> {
        let is_distribution = matches!(self.owner, Owner::Distribution);
        let over_image = request.installed.is_some();
        let (archives, components, priority) = match self.owner {
            Owner::Distribution => (fetcher.archives_of(self.suite)?, &request.requirements.components, None),
            Owner::ThirdParty(it) => (vec![fetcher.archive_of_recipe(&it.url)?], &it.components, it.priority),
            Owner::BaseImage(it) => (vec![fetcher.archive_of_base(&it.source)?], &it.source.components, None),
        };
        Ok(Reader {
            fetcher,
            name: self.suite,
            title: self.title(),
            folder: self.folder(components.is_empty()),
            archives,
            keyring,
            components,
            origin: (is_distribution && !over_image).then_some("Debian"),
            may_lack: is_distribution && over_image,
            architecture: &request.requirements.architecture,
            priority,
            now: request.now,
        })
    }

    /// What an error is about, where the suite's name does not say it.
    pub fn title(&self) -> Option<String> {
        match self.owner {
            Owner::Distribution => None,
            Owner::ThirdParty(archive) => Some(format!("the archive `{}`", archive.name)),
            Owner::BaseImage(other) => {
                let (address, suite) = (&other.source.address, &other.suite);
                Some(format!("the base image's apt source `{address} {suite}`"))
            }
        }
    }

    /// Where its `InRelease` is, below the archive's address (sources.list(5)).
    fn folder(&self, is_flat: bool) -> String {
        match self.owner {
            Owner::ThirdParty(_) if is_flat => String::new(),
            // `/`, `./` or `amd64/`.
            Owner::BaseImage(_) if is_flat => format!("./{}/", self.suite.trim_matches('/')),
            _ => format!("dists/{}/", self.suite),
        }
    }
}
