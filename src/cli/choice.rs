//! Which image is meant: by name, by what the environment says, or by the GPUs that are to run it.

use std::process::Command;

use assemble_layers::gpu::Capability;
use assemble_layers::recipe::Variant;
use assemble_layers::{Image, Lock};

use super::session::Session;
use crate::inspect::gpu::cards;
use crate::{Error, Kind, Result};

/// The variant's name that means: whichever serves the GPU.
const AUTO: &str = "auto";

#[derive(clap::Args)]
pub struct Choice {
    /// The image; see `assemble variants`. `auto` is the first that serves the GPU.
    #[arg(long, value_name = "NAME")]
    variant: Option<String>,
    /// The compute capability of a GPU that `auto` is to serve [default: what `nvidia-smi` says]
    /// (may be given several times).
    #[arg(long = "gpu", value_name = "X.Y")]
    gpus: Vec<Capability>,
}

/// An image as its recipe declares it.
pub struct Declared {
    pub lock: Lock,
    /// What was done to the lock.
    pub mended: Vec<String>,
    pub image: Image,
    /// Why it is this variant, and why no other.
    pub why: Vec<String>,
}

impl Choice {
    /// Finds the variant, the lock, and what the recipe makes of them. A lock that is made or mended is
    /// written if it is to be kept.
    ///
    /// # Errors
    /// There is no such variant, or none for these GPUs; a lock that does not fit and may not be
    /// mended; what the recipe says.
    pub fn declare(&self, session: &mut Session<'_>, locked: bool, keep: bool) -> Result<Declared> {
        if self.variant.as_deref() != Some(AUTO) {
            if !self.gpus.is_empty() {
                return Err(Error::new(Kind::Usage, "`--gpu` goes with `--variant auto`")
                    .hint("that takes the first variant which serves these GPUs; a variant that is named is built whatever it serves"));
            }
            let variant = session.variant(self.variant.as_deref())?;
            let (lock, mended) = session.fitting_lock(locked, keep)?;
            let image = session.image(&variant, &lock)?;
            return Ok(Declared { lock, mended, image, why: Vec::new() });
        }
        let gpus = if self.gpus.is_empty() { of_this_machine()? } else { self.gpus.clone() };
        let (lock, mended) = session.fitting_lock(locked, keep)?;
        let (image, why) =
            choose(&session.recipes.variants(), &|variant| session.image(variant, &lock), &gpus)?;
        Ok(Declared { lock, mended, image, why })
    }
}

/// The first variant that promises to serve every one of the GPUs.
fn choose(
    variants: &[Variant],
    declare: &dyn Fn(&str) -> Result<Image>,
    gpus: &[Capability],
) -> Result<(Image, Vec<String>)> {
    let mut chosen: Option<Image> = None;
    let mut why = Vec::new();
    for Variant { name, .. } in variants {
        match declare(name).map(|image| (unserved(&image, gpus), image)) {
            Err(error) => why.push(error.to_string()),
            Ok((Some(reason), _)) => why.push(reason),
            Ok((None, image)) => match &chosen {
                None => {
                    why.push(format!("`{name}` is for {}", list(gpus)));
                    chosen = Some(image);
                }
                Some(before) => {
                    why.push(format!("`{name}` is for it too, and `{}` stands before it", before.variant));
                }
            },
        }
    }
    match chosen {
        Some(image) => Ok((image, why)),
        None => {
            let error = Error::new(Kind::Usage, format!("no variant is for {}", list(gpus)));
            Err(why.into_iter().fold(error, Error::detail).hint("`--variant NAME` builds one all the same"))
        }
    }
}

/// Why an image is not for these GPUs.
fn unserved(image: &Image, gpus: &[Capability]) -> Option<String> {
    if image.promises.is_empty() {
        return Some(format!("`{}` promises nothing of GPUs", image.variant));
    }
    let broken = image.promises.iter().find_map(|promise| {
        let gpu = gpus.iter().find(|gpu| !promise.serves(**gpu))?;
        Some((gpu, promise))
    });
    broken.map(|(gpu, promise)| format!("`{}` is not for {gpu}: it promises {promise}", image.variant))
}

/// `5.2 (GTX 960, GTX 970, …), 8.6 (…)`.
fn list(gpus: &[Capability]) -> String {
    let one = |gpu: &Capability| match cards(*gpu) {
        Some(cards) => format!("{gpu} ({cards})"),
        None => gpu.to_string(),
    };
    gpus.iter().map(one).collect::<Vec<_>>().join(", ")
}

/// What the driver of this machine says of its GPUs.
fn of_this_machine() -> Result<Vec<Capability>> {
    let unknown = |how: String| {
        Error::new(Kind::Machine, "`nvidia-smi` does not say which GPU this machine has")
            .detail(how)
            .hint("`--gpu X.Y` names a compute capability, such as 8.6")
    };
    let query = ["--query-gpu=compute_cap", "--format=csv,noheader"];
    let output =
        Command::new("nvidia-smi").args(query).output().map_err(|error| unknown(error.to_string()))?;
    let text = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        return Err(unknown(format!("{text} {} ({})", said.trim(), output.status).trim().to_owned()));
    }
    let mut gpus: Vec<Capability> = text
        .lines()
        .map(|line| line.trim().parse())
        .collect::<Result<_, _>>()
        .map_err(|error: assemble_layers::gpu::InvalidCapability| unknown(error.to_string()))?;
    gpus.sort_unstable();
    gpus.dedup();
    if gpus.is_empty() { Err(unknown("it names none".to_owned())) } else { Ok(gpus) }
}

#[cfg(test)]
mod tests {
    use assemble_layers::Graph;
    use assemble_layers::image::Config;

    use super::*;

    /// What SpectralMC's two variants promise where no index is substituted.
    fn declare(variant: &str) -> Result<Image> {
        let promise = match variant {
            "binary" => "libtorch_cuda.so 7.5 8.0 8.6 9.0 10.0 12.0+PTX",
            "source" => "libtorch_cuda.so 5.2",
            "old" => "libtorch_cuda.so 5.0",
            _ => return Err(Error::new(Kind::Input, "`broken` cannot be declared")),
        };
        Ok(Image {
            name: "demo".to_owned(),
            variant: variant.to_owned(),
            graph: Graph::default(),
            layers: Vec::new(),
            config: Config::default(),
            promises: vec![promise.parse().unwrap()],
            ..Image::default()
        })
    }

    fn chosen(variants: &[&'static str], gpus: &[&str]) -> Result<(String, Vec<String>)> {
        let variants: Vec<_> = variants.iter().map(|name| Variant { name, description: "" }).collect();
        let gpus: Vec<_> = gpus.iter().map(|gpu| gpu.parse().unwrap()).collect();
        choose(&variants, &declare, &gpus).map(|(image, why)| (image.variant, why))
    }

    #[test]
    fn the_variant_that_serves_is_taken_and_the_other_is_not_for_a_reason() {
        let (variant, why) = chosen(&["binary", "source"], &["5.2"]).unwrap();
        assert_eq!(variant, "source");
        let not = "`binary` is not for 5.2: it promises libtorch_cuda.so 7.5 8.0 8.6 9.0 10.0 12.0+PTX";
        let is = "`source` is for 5.2 (GTX 960, GTX 970, GTX 980 Ti, GTX Titan X, Tesla M40)";
        assert_eq!(why, [not, is]);
        for gpu in ["7.5", "8.9", "12.0", "13.0"] {
            let (variant, why) = chosen(&["source", "binary"], &[gpu]).unwrap();
            assert_eq!(variant, "binary");
            assert_eq!(why[0], format!("`source` is not for {gpu}: it promises libtorch_cuda.so 5.2"));
        }
    }

    #[test]
    fn the_first_of_two_is_taken() {
        let (variant, why) = chosen(&["source", "old"], &["5.2"]).unwrap();
        assert_eq!((variant.as_str(), why.len()), ("source", 2));
        assert_eq!(why[1], "`old` is for it too, and `source` stands before it");
    }

    #[test]
    fn none_is_an_error_that_says_why() {
        let error = chosen(&["binary", "broken"], &["8.6", "6.1"]).unwrap_err();
        assert_eq!(error.kind(), Kind::Usage);
        assert!(error.message().starts_with("no variant is for 8.6 (RTX 3060"), "{error}");
        assert!(error.details()[0].starts_with("`binary` is not for 6.1"), "{error}");
        assert_eq!(error.details()[1], "`broken` cannot be declared");
    }
}
