//! Files of an archive at an address.

use std::rc::Rc;

use super::files::Download;
use super::part::{AnyPart, Expansion, Laid, Named, Part, Told, handle};
use super::words::inside;
use super::{RecipeError, Result};
use crate::Builder;
use crate::derivation::{Relocation, UnpackArchive};
use crate::image::Layer;

/// What of a tar goes where: see [`Download::unpacked`].
#[derive(Clone)]
pub struct Unpacked(Rc<Data>);

#[derive(Clone)]
struct Data {
    archive: Download,
    rules: Vec<(String, Option<String>)>,
    told: Told,
}

impl Download {
    /// The files of the archive that it is, a tar as such or packed with gzip, xz or zstd: folders of it go
    /// to folders of the image, by the first rule that fits. A part of a rule may have one `*`, which stands
    /// for anything; `None` leaves out, and what no rule is about is an error.
    ///
    /// ```
    /// # use assemble_layers::recipe::Download;
    /// let node = Download::new("node", "https://example.org/node-v22.11.0-linux-x64.tar.xz");
    /// let node = node.unpacked([("node-*/share", None), ("node-*/*.md", None), ("node-*", Some("/usr/local"))]);
    /// ```
    pub fn unpacked<'r>(&self, rules: impl IntoIterator<Item = (&'r str, Option<&'r str>)>) -> Unpacked {
        let owned = |(from, to): (&str, Option<&str>)| (from.to_owned(), to.map(str::to_owned));
        let rules = rules.into_iter().map(owned).collect();
        Unpacked(Rc::new(Data { archive: self.clone(), rules, told: Told::default() }))
    }
}

handle!(Unpacked, named);

impl Part for Data {
    fn made_with(&self) -> Vec<AnyPart> {
        vec![(&self.archive).into()]
    }

    fn expand(&self, expansion: &mut Expansion<'_>) -> Result<Vec<Laid>> {
        let name = self.told.name.clone().unwrap_or_else(|| self.archive.name().to_owned());
        if self.rules.is_empty() {
            return Err(RecipeError(format!("no rule says what of the archive `{name}` goes where")));
        }
        let rule = |(from, to): &(String, Option<String>)| {
            let to = to.as_deref().map(inside).transpose()?;
            Ok(Relocation { from: from.trim_matches('/').to_owned(), to })
        };
        let rules = self.rules.iter().map(rule).collect::<Result<_>>()?;
        let file = self.archive.fetch(expansion)?;
        let tree = expansion.graph.add(&name, Builder::UnpackArchive(UnpackArchive { file, rules }));
        let step = self.told.step.clone().unwrap_or(name);
        let history = || format!("curl {} | tar --extract", self.archive.url());
        let created_by = self.told.history.clone().unwrap_or_else(history);
        Ok(vec![Laid { layer: Layer { tree, step, created_by }, low: true }])
    }
}
