//! GPUs, as a recipe speaks of them: compute capabilities, and promises about what runs on them.
//!
//! The rules are NVIDIA's (CUDA C++ Programming Guide, "Binary Compatibility" and "PTX
//! Compatibility"): machine code for X.Y runs on X.Z where Z is Y or more; PTX for X.Y is compiled by
//! the driver for any later capability. NVIDIA says so of desktop and data-centre cards, not of Tegra,
//! and those have no amd64.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A compute capability: `8.6`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct Capability {
    pub major: u32,
    pub minor: u32,
}

impl Capability {
    pub const fn new(major: u32, minor: u32) -> Self {
        Self { major, minor }
    }

    /// Whether machine code for this runs on a GPU of `gpu`.
    pub fn runs_on(self, gpu: Self) -> bool {
        self.major == gpu.major && self.minor <= gpu.minor
    }
}

/// What code is for, as PyTorch's `TORCH_CUDA_ARCH_LIST` writes it: `8.6`, or `12.0+PTX` where its
/// PTX serves later GPUs as well.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct Target {
    pub capability: Capability,
    pub ptx: bool,
}

impl Target {
    /// Machine code alone.
    pub const fn new(major: u32, minor: u32) -> Self {
        Self { capability: Capability::new(major, minor), ptx: false }
    }

    /// Machine code and PTX.
    pub const fn with_ptx(major: u32, minor: u32) -> Self {
        Self { capability: Capability::new(major, minor), ptx: true }
    }

    /// Whether code for this runs on a GPU of `gpu`.
    pub fn serves(self, gpu: Capability) -> bool {
        self.capability.runs_on(gpu) || self.ptx && self.capability <= gpu
    }
}

/// What a recipe answers for: that a library of its image has code for these targets. Other
/// libraries may have less, and are not judged. Written `libtorch_cuda.so 7.5 8.0 12.0+PTX`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Promise {
    /// The file's name, wherever in the image it stands: `libtorch_cuda.so`.
    pub library: String,
    pub targets: Vec<Target>,
}

impl Promise {
    pub fn new(library: &str, targets: impl Into<Vec<Target>>) -> Self {
        Self { library: library.to_owned(), targets: targets.into() }
    }

    pub fn serves(&self, gpu: Capability) -> bool {
        self.targets.iter().any(|target| target.serves(gpu))
    }
}

/// A text that is no capability, target or promise.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("`{0}` is no compute capability, such as `8.6`")]
pub struct InvalidCapability(String);

impl fmt::Display for Capability {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.pad(&format!("{}.{}", self.major, self.minor))
    }
}

impl FromStr for Capability {
    type Err = InvalidCapability;

    fn from_str(text: &str) -> Result<Self, InvalidCapability> {
        let number = |part: &str| {
            let valid = (1..=2).contains(&part.len()) && part.bytes().all(|digit| digit.is_ascii_digit());
            if valid { part.parse().ok() } else { None }
        };
        let parts = text.split_once('.').and_then(|(major, minor)| Some((number(major)?, number(minor)?)));
        parts.map(|(major, minor)| Self { major, minor }).ok_or_else(|| InvalidCapability(text.to_owned()))
    }
}

impl fmt::Display for Target {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}{}", self.capability, if self.ptx { "+PTX" } else { "" })
    }
}

impl FromStr for Target {
    type Err = InvalidCapability;

    fn from_str(text: &str) -> Result<Self, InvalidCapability> {
        let capability = text.strip_suffix("+PTX");
        Ok(Self { capability: capability.unwrap_or(text).parse()?, ptx: capability.is_some() })
    }
}

impl fmt::Display for Promise {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.library)?;
        self.targets.iter().try_for_each(|target| write!(formatter, " {target}"))
    }
}

impl FromStr for Promise {
    type Err = InvalidCapability;

    fn from_str(text: &str) -> Result<Self, InvalidCapability> {
        let mut words = text.split_whitespace();
        let library = words.next().ok_or_else(|| InvalidCapability(text.to_owned()))?;
        Ok(Self::new(library, words.map(str::parse).collect::<Result<Vec<_>, _>>()?))
    }
}

/// Serialised as it is written.
macro_rules! as_text {
    ($($type:ty),*) => {$(
        impl Serialize for $type {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = std::borrow::Cow::<str>::deserialize(deserializer)?;
                text.parse().map_err(serde::de::Error::custom)
            }
        }
    )*};
}

as_text!(Capability, Target);

#[cfg(test)]
mod tests {
    use super::*;

    fn gpu(text: &str) -> Capability {
        text.parse().unwrap()
    }

    #[test]
    fn machine_code_serves_its_own_generation_from_its_capability_on() {
        let target: Target = "8.6".parse().unwrap();
        let serves = |capability: &str| target.serves(gpu(capability));
        assert!(serves("8.6") && serves("8.9"));
        assert!(!serves("8.0") && !serves("9.0") && !serves("7.5"));
    }

    #[test]
    fn ptx_serves_whatever_is_later() {
        let target: Target = "9.0+PTX".parse().unwrap();
        assert!(["9.0", "10.0", "12.0"].iter().all(|capability| target.serves(gpu(capability))));
        assert!(!target.serves(gpu("8.9")));
        // By number, not by letters.
        assert!(gpu("10.0") > gpu("9.0"));
    }

    #[test]
    fn a_promise_is_read_as_it_is_written() {
        let text = "libtorch_cuda.so 7.5 8.0 12.0+PTX";
        let promise: Promise = text.parse().unwrap();
        assert_eq!(promise.to_string(), text);
        assert!(promise.serves(gpu("7.5")) && promise.serves(gpu("13.0")) && !promise.serves(gpu("5.2")));
    }

    #[test]
    fn other_texts_are_no_capabilities() {
        for text in ["", "8", "8.", ".6", "8.6a", "sm_86", "8.6.1", "+8.6", "8.600", "-1.0", "8.6+ptx"] {
            assert!(text.parse::<Target>().is_err(), "{text}");
        }
    }
}
