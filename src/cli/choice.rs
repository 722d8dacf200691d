//! Which image is meant: by name, by what the environment says, or by the GPUs that are to run it.

use std::process::Command;

use assemble_layers::gpu::Capability;
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
    /// Finds the variant, the lock, and what the recipe makes of them.
    ///
    /// # Errors
    /// There is no such variant, or none for these GPUs; a lock that does not fit and may not be
    /// mended; what the recipe says.
    pub fn declare(&self, session: &mut Session<'_>, locked: bool) -> Result<Declared> {
        if self.variant.as_deref() != Some(AUTO) {
            if !self.gpus.is_empty() {
                return Err(Error::new(Kind::Usage, "`--gpu` chooses a variant, and one was named")
                    .hint("`--variant auto --gpu X.Y`"));
            }
            let variant = session.variant(self.variant.as_deref())?;
            let (lock, mended) = session.fitting_lock(locked)?;
            let image = session.image(&variant, &lock)?;
            return Ok(Declared { lock, mended, image, why: Vec::new() });
        }
        let gpus = if self.gpus.is_empty() { of_this_machine()? } else { self.gpus.clone() };
        let (lock, mended) = session.fitting_lock(locked)?;
        let (image, why) = choose(session, &lock, &gpus)?;
        Ok(Declared { lock, mended, image, why })
    }
}

/// The first variant that promises to serve every one of the GPUs.
fn choose(session: &Session<'_>, lock: &Lock, gpus: &[Capability]) -> Result<(Image, Vec<String>)> {
    let mut chosen: Option<Image> = None;
    let mut why = Vec::new();
    for variant in session.recipes.variants() {
        let name = variant.name;
        match session.image(name, lock) {
            Err(error) => why.push(error.to_string()),
            Ok(image) => match (unserved(&image, gpus), &chosen) {
                (Some(reason), _) => why.push(reason),
                (None, None) => {
                    why.push(format!("`{name}` is for {}", list(gpus)));
                    chosen = Some(image);
                }
                (None, Some(before)) => {
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
