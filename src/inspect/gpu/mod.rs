//! Which GPUs code is for: what the libraries of an image carry, and whether that is what its recipe
//! promised.
//!
//! ```text
//! tree of the store ─┐                    ┌─► inspect (a person, JSON)
//! packed layer ──────┼─► ELF, ar ─► fatbin ┼─► promise (kept, or an error)
//! wheel ─────────────┘   (binary)          └─► the lock, under a substituted index
//! ```

mod binary;
mod bytes;
mod cards;
mod fatbin;

mod inspection;
mod listing;
mod promise;
mod tar;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::str::FromStr;

use assemble_layers::gpu::{Capability, Target};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

pub use bytes::{Bytes, FileRange, Unsound};
pub use cards::{CARDS, cards};
pub use inspection::Inspection;
pub use listing::{Library, Listing, Names, Select, of_content, of_layer, of_packed};
pub use promise::{carries, keep_promises, promise_keys};

/// Raised when a file is read otherwise than before: what was read then is read again.
pub const VERSION: u32 = 1;

/// The most different fat binaries that a file may have. The largest library known has some dozens.
const COMBINATIONS: usize = 4096;

/// What device code is compiled for: `sm_90a` of machine code, `compute_90a` of PTX.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Architecture {
    pub capability: Capability,
    pub specific: Specific,
}

/// Whether code keeps to what later GPUs have as well (PTX ISA, ".target").
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Specific {
    No,
    /// `f`: it uses what its generation alone has.
    Family,
    /// `a`: it uses what this very capability alone has.
    Architecture,
}

impl Architecture {
    /// Whether machine code for this runs on a GPU of `gpu`.
    fn runs_on(self, gpu: Capability) -> bool {
        match self.specific {
            Specific::Architecture => self.capability == gpu,
            Specific::No | Specific::Family => self.capability.runs_on(gpu),
        }
    }

    /// Whether the driver of a GPU of `gpu` can compile PTX for this.
    fn compiles_for(self, gpu: Capability) -> bool {
        match self.specific {
            Specific::No => self.capability <= gpu,
            Specific::Family | Specific::Architecture => self.runs_on(gpu),
        }
    }
}

/// What follows `sm_` or `compute_`: `90a`.
impl fmt::Display for Architecture {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let suffix = match self.specific {
            Specific::No => "",
            Specific::Family => "f",
            Specific::Architecture => "a",
        };
        write!(formatter, "{}{}{suffix}", self.capability.major, self.capability.minor)
    }
}

impl FromStr for Architecture {
    type Err = Unsound;

    fn from_str(text: &str) -> Result<Self, Unsound> {
        let (number, specific) = match (text.strip_suffix('a'), text.strip_suffix('f')) {
            (Some(number), _) => (number, Specific::Architecture),
            (_, Some(number)) => (number, Specific::Family),
            _ => (text, Specific::No),
        };
        let number: u32 = number.parse().map_err(|_| Unsound(format!("`{text}` is no architecture")))?;
        Ok(Self { capability: Capability::new(number / 10, number % 10), specific })
    }
}

impl Serialize for Architecture {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Architecture {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<str>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// One fat binary: the same kernels for several architectures, of which a driver takes the one that
/// fits best.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
pub struct Fatbin {
    /// Machine code.
    pub cubins: BTreeSet<Architecture>,
    pub ptx: BTreeSet<Architecture>,
}

impl Fatbin {
    pub fn serves(&self, gpu: Capability) -> bool {
        self.cubins.iter().any(|cubin| cubin.runs_on(gpu)) || self.ptx.iter().any(|ptx| ptx.compiles_for(gpu))
    }
}

/// The device code of a file: its fat binaries, those that are for the same architectures counted.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(from = "Vec<(Fatbin, u64)>", into = "Vec<(Fatbin, u64)>")]
pub struct Code(BTreeMap<Fatbin, u64>);

impl From<Vec<(Fatbin, u64)>> for Code {
    fn from(fatbins: Vec<(Fatbin, u64)>) -> Self {
        Self(fatbins.into_iter().collect())
    }
}

impl From<Code> for Vec<(Fatbin, u64)> {
    fn from(code: Code) -> Self {
        code.0.into_iter().collect()
    }
}

impl Code {
    /// What a shared object, an executable, an object file or a static archive carries; empty where
    /// it is none of these, or has no device code.
    ///
    /// # Errors
    /// A file that is damaged, or lies.
    pub fn read(bytes: &dyn Bytes) -> Result<Self, Unsound> {
        let mut code = Self::default();
        binary::read(bytes, &mut code)?;
        Ok(code)
    }

    fn add(&mut self, fatbin: Fatbin) -> Result<(), Unsound> {
        if fatbin.cubins.is_empty() && fatbin.ptx.is_empty() {
            return Ok(());
        }
        *self.0.entry(fatbin).or_default() += 1;
        match self.0.len() > COMBINATIONS {
            true => Err(Unsound(format!("it has more than {COMBINATIONS} different fat binaries"))),
            false => Ok(()),
        }
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The fat binaries and how often each combination is there.
    pub fn fatbins(&self) -> impl Iterator<Item = (&Fatbin, u64)> {
        self.0.iter().map(|(fatbin, count)| (fatbin, *count))
    }

    /// How many fat binaries there are.
    pub fn count(&self) -> u64 {
        self.0.values().fold(0, |sum, count| sum.saturating_add(*count))
    }

    /// Every architecture that there is machine code for, somewhere.
    pub fn cubins(&self) -> BTreeSet<Architecture> {
        self.0.keys().flat_map(|fatbin| &fatbin.cubins).copied().collect()
    }

    /// Every architecture that there is PTX for, somewhere.
    pub fn ptx(&self) -> BTreeSet<Architecture> {
        self.0.keys().flat_map(|fatbin| &fatbin.ptx).copied().collect()
    }

    /// How many of the fat binaries a GPU of `gpu` can run.
    pub fn serving(&self, gpu: Capability) -> u64 {
        self.fatbins()
            .filter(|(fatbin, _)| fatbin.serves(gpu))
            .fold(0, |sum, (_, count)| sum.saturating_add(count))
    }

    /// Whether there is anything for a GPU of `gpu`. A library may have kernels for some GPUs alone,
    /// and choose at run time, so one fat binary without code for it is no defect yet.
    pub fn serves(&self, gpu: Capability) -> bool {
        self.serving(gpu) > 0
    }

    /// Whether what is said of a target is true: later GPUs too, where it says so.
    pub fn meets(&self, target: Target) -> bool {
        let forward =
            |ptx: &Architecture| ptx.specific == Specific::No && ptx.capability <= target.capability;
        self.serves(target.capability) && (!target.ptx || self.ptx().iter().any(forward))
    }

    /// What can be said of it: the targets that it was compiled for. What runs on one GPU alone
    /// (`sm_90a`) is beside the code for all, and is left out.
    pub fn targets(&self) -> Vec<Target> {
        let general = |code: BTreeSet<Architecture>| {
            let general = code.into_iter().filter(|one| one.specific == Specific::No);
            general.map(|one| one.capability).collect::<BTreeSet<_>>()
        };
        let (cubins, ptx) = (general(self.cubins()), general(self.ptx()));
        let all = cubins.union(&ptx);
        all.map(|capability| Target { capability: *capability, ptx: ptx.contains(capability) }).collect()
    }
}

#[cfg(test)]
mod tests;
