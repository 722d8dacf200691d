//! `assemble image`.

use std::collections::{BTreeMap, BTreeSet};
use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::time::Instant;

use assemble_layers::recipe::Base;
use assemble_layers::{BlobDigest, Builder, Image, Recipes};
use serde_json::json;

use super::choice::{Choice, Declared};
use super::options::Options;
use super::push;
use super::report::{self, Reporter, Step};
use super::session::Session;
use crate::cache::Published;
use crate::deliver::docker::{Engine, Loaded};
use crate::deliver::{Built, Destination, Push, Pushed};
use crate::net::Machine;
use crate::net::http::Patience;
use crate::oci::{self, Assembled, Reference, Repository};
use crate::realise::{Had, Whole};
use crate::{Error, Kind, Result, deliver, inspect};

#[derive(clap::Args)]
pub struct Arguments {
    #[command(flatten)]
    options: Options,
    #[command(flatten)]
    choice: Choice,
    /// Write an archive for `docker load` (FILE), an OCI layout (DIR/), or the archive to stdout (-).
    #[arg(long, short, value_name = "FILE|DIR/|-")]
    output: Option<PathBuf>,
    /// Load it into the Docker engine (or podman), without the layers that it holds already.
    #[arg(long)]
    load: bool,
    /// A name for the image [default: NAME:VARIANT] (may be given several times).
    #[arg(long = "tag", short, value_name = "NAME:TAG", value_parser = Reference::parse_tag)]
    tags: Vec<Reference>,
    /// Push to a registry; with a digest, only if the tag still points to it (may be given several
    /// times).
    #[arg(long = "push", value_name = "NAME:TAG[@DIGEST]")]
    pushes: Vec<Destination>,
    #[command(flatten)]
    pushing: push::Options,
    /// Publish the results to a repository of a registry, and take from it what it has (may be given
    /// several times).
    #[arg(long = "cache-to", value_name = "HOST/NAME", value_parser = super::options::cache_repository)]
    caches_to: Vec<Repository>,
    /// Sign what is published by the key in this file, and take only what is signed; `assemble cache
    /// keygen` makes one.
    #[arg(long, value_name = "FILE", env = "ASSEMBLE_CACHE_SECRET")]
    cache_secret: Option<PathBuf>,
    /// Write the manifest as OCI has it, or as Docker did (schema 2), for registries that take no other; this
    /// changes the image's digest.
    #[arg(long, value_name = "FORMAT", value_enum, default_value_t)]
    format: Format,
    /// Annotate the image's manifest; this changes its digest (may be given several times).
    #[arg(long = "annotation", value_name = "KEY=VALUE", value_parser = super::options::pair)]
    annotations: Vec<(String, String)>,
    /// Fail if the lock does not fit, instead of mending it.
    #[arg(long)]
    locked: bool,
    /// Print one JSON object instead of the digest.
    #[arg(long)]
    json: bool,
}

impl Arguments {
    pub fn base(&self) -> Base {
        self.options.base()
    }
}

/// How the manifest is written.
#[derive(Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
enum Format {
    #[default]
    Oci,
    Docker,
}

impl Format {
    fn of(self, image: Assembled) -> Result<Assembled> {
        match self {
            Self::Oci => Ok(image),
            Self::Docker => image.in_docker_format(),
        }
    }
}

/// What means this process's own stdout.
const STDOUT: [&str; 4] = ["-", "/dev/stdout", "/dev/fd/1", "/proc/self/fd/1"];

/// Where the image goes.
enum Target<'a> {
    Store,
    Stream,
    Folder(&'a Path),
    File(&'a Path),
}

impl<'a> Target<'a> {
    fn of(output: Option<&'a Path>) -> Self {
        match output {
            None => Self::Store,
            Some(path) if STDOUT.iter().any(|name| path == Path::new(name)) => Self::Stream,
            Some(path) if path.as_os_str().as_encoded_bytes().ends_with(b"/") || path.is_dir() => {
                Self::Folder(path)
            }
            Some(path) => Self::File(path),
        }
    }
}

pub fn run(recipes: &dyn Recipes, arguments: &Arguments) -> Result<()> {
    let started = Instant::now();
    let target = Target::of(arguments.output.as_deref());
    check_target(&target, arguments)?;
    let engine = arguments.load.then(|| Engine::connect(&Machine::this())).transpose()?;
    let destinations = arguments.pushing.destinations(&arguments.pushes);
    let mut reporter = Reporter::start(arguments.options.quiet, arguments.options.verbose);
    let mut session = Session::open(&arguments.options, recipes, reporter.events())?;
    if let Target::File(path) = target {
        session.check_output(path)?;
    }
    session.share_with(&arguments.caches_to, arguments.cache_secret.as_deref())?;
    let Declared { lock, mended, image, why } =
        arguments.choice.declare(&mut session, arguments.locked, true)?;
    if !arguments.options.quiet {
        why.iter().for_each(|line| super::say(format_args!("  gpu       {line}\n")));
    }
    let names = names(arguments, &image)?;
    let making = Making {
        arguments,
        session: &session,
        declared: &image,
        names: &names,
        target: &target,
        engine: engine.as_ref(),
        destinations: &destinations,
    };
    let (last, steps) = reporter.steps();
    let made = std::thread::scope(|scope| {
        let (session, image) = (&session, &image);
        scope.spawn(move || session.publish_meanwhile(image, steps));
        let made = making.run();
        // It ends by itself where it has nothing to do.
        let _ = last.send(Step::Last);
        made
    });
    session.tell_others();
    reporter.finish();
    let Made { whole, assembled, whys, published, loaded, pushed } = made?;
    let notes = report::notes(&lock, &whole, &assembled);
    if !arguments.options.quiet {
        super::say(report::image_summary(&lock, &mended, &whole.image, &assembled, &whys, &notes));
        published.iter().for_each(|(cache, published)| super::say(report::publish_summary(cache, published)));
        super::say(loaded.map_or(String::new(), |loaded| report::load_summary(&names, loaded)));
        pushed.iter().for_each(|pushed| super::say(report::push_summary(pushed)));
    }
    let seconds = started.elapsed().as_secs_f64();
    match target {
        // stdout carries the archive.
        Target::Stream => super::say(format!("  {}   {seconds:.1} s\n", assembled.manifest.digest)),
        _ if arguments.json => {
            let delivered = Delivered { names: &names, loaded, pushed: &pushed };
            let mut value = as_json(&whole.image, &assembled, &delivered, seconds);
            value["notes"] = json!(notes);
            super::print_json(&value)?;
        }
        _ => {
            super::print(assembled.manifest.digest)?;
            if !arguments.options.quiet {
                super::say(format!("  {seconds:.1} s\n"));
            }
        }
    }
    Ok(())
}

/// One image on its way to everywhere it was asked for.
struct Making<'a> {
    arguments: &'a Arguments,
    session: &'a Session<'a>,
    declared: &'a Image,
    names: &'a [Reference],
    target: &'a Target<'a>,
    engine: Option<&'a Engine>,
    destinations: &'a [Destination],
}

/// What came of it.
struct Made {
    whole: Whole,
    assembled: Assembled,
    whys: Vec<inspect::Why>,
    published: Vec<(String, Published)>,
    loaded: Option<Loaded>,
    pushed: Vec<Pushed>,
}

impl Making<'_> {
    /// Makes the image: again from the beginning where a layer that only a cache's record knew came to
    /// other bytes when they were needed.
    fn run(&self) -> Result<Made> {
        let engine = self.session.engine();
        // There are no more promises than derivations.
        for _ in self.declared.graph.nodes() {
            let whole = self.share_on_failure(engine.locate(self.declared))?;
            match self.deliver(whole.clone()) {
                Err(_) if !engine.is_current(&whole.image, &whole.layers)? => {}
                made => return self.share_on_failure(made),
            }
        }
        self.deliver(engine.locate(self.declared)?)
    }

    /// What was made before the step that failed need not be made again, wherever the next run is.
    fn share_on_failure<T>(&self, result: Result<T>) -> Result<T> {
        result.inspect_err(|_| {
            let _ = self.session.publish(self.declared, &[]);
        })
    }

    fn deliver(&self, whole: Whole) -> Result<Made> {
        let Self { arguments, session, declared, names, target, engine, destinations } = *self;
        let (image, layers) = (&whole.image, &whole.layers);
        inspect::gpu::keep_promises(&session.engine(), image, layers)?;
        let whys = inspect::why(&session.store, &arguments.options.project, declared, layers)?;
        let annotations = arguments.annotations.iter().cloned().collect();
        let assembled = arguments.format.of(oci::assemble(image, layers.clone())?.annotated(&annotations)?)?;
        let obtain = |wanted: &dyn Fn(BlobDigest) -> bool| {
            session.engine().obtain(image, &assembled.layers, |layer| wanted(layer.packed.digest))
        };
        let built = Built { store: &session.store, image: &assembled, obtain: &obtain };
        let obtain_own = || session.engine().obtain(image, &assembled.layers, |layer| layer.had != Had::Base);
        match target {
            // Whoever else takes it asks for what he lacks.
            Target::Store if session.publishes_what_others_have() => obtain_own()?,
            Target::Store if arguments.load || !destinations.is_empty() => {}
            Target::Store => obtain_own()?,
            _ => obtain(&|_| true)?,
        }
        // Before it is pushed, which has its layers mounted from there.
        let published = session.publish(image, &assembled.layers)?;
        write(session, &assembled, names, target)?;
        let loaded = engine.map(|engine| deliver::docker::load(engine, &built, names, &session.events));
        let loaded = loaded.transpose()?;
        let pushed = push(session, image, &built, destinations)?;
        Ok(Made { whole, assembled, whys, published, loaded, pushed })
    }
}

/// What can be known to be wrong before anything is built.
fn check_target(target: &Target<'_>, arguments: &Arguments) -> Result<()> {
    match target {
        Target::Stream if std::io::stdout().is_terminal() => {
            Err(Error::new(Kind::Usage, "an archive is not written to a terminal")
                .hint("`--output - | docker load`"))
        }
        _ if arguments.format == Format::Docker && !arguments.annotations.is_empty() => {
            Err(Error::new(Kind::Usage, "a manifest of Docker's has no annotations")
                .hint("leave out `--format docker`, or `--annotation`"))
        }
        _ if arguments.options.offline && !arguments.pushes.is_empty() => {
            Err(Error::new(Kind::Usage, "`--offline` forbids what `--push` asks for")
                .hint("build with `--offline` first: what is in the store is pushed without building"))
        }
        Target::Stream if arguments.json => {
            Err(Error::new(Kind::Usage, "stdout cannot carry both the archive and JSON")
                .hint("write the archive to a file"))
        }
        Target::File(path) | Target::Folder(path) => {
            let parent =
                path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
            if parent.is_dir() {
                return Ok(());
            }
            Err(Error::new(Kind::Usage, format!("the folder `{}` is not there", parent.display())))
        }
        _ => Ok(()),
    }
}

fn names(arguments: &Arguments, image: &Image) -> Result<Vec<Reference>> {
    if arguments.tags.is_empty() {
        return Ok(vec![format!("{}:{}", image.name, image.variant).parse()?]);
    }
    Ok(arguments.tags.clone())
}

fn write(session: &Session<'_>, image: &Assembled, names: &[Reference], target: &Target<'_>) -> Result<()> {
    match target {
        Target::Store => Ok(()),
        Target::Stream => deliver::to_writer(&session.store, image, names, &mut std::io::stdout().lock()),
        Target::Folder(path) => deliver::to_folder(&session.store, image, names, path),
        Target::File(path) => {
            deliver::to_file(&session.store, image, names, path)
                .map_err(|error| error.within(format!("`{}` cannot be written", path.display())))?;
            session.warn_unless_ignored(path);
            Ok(())
        }
    }
}

fn push(
    session: &Session<'_>,
    image: &Image,
    built: &Built<'_>,
    destinations: &[Destination],
) -> Result<Vec<Pushed>> {
    if destinations.is_empty() {
        return Ok(Vec::new());
    }
    for (repository, blobs) in layers_of_bases(image) {
        deliver::remember(&session.store, &repository.parse()?, blobs)?;
    }
    let client = session.options.registries.client(Patience::default());
    let events = session.events.clone();
    Push { client: &client, source: built, parts: &built.parts(), memory: Some(&session.store), events }
        .run(destinations)
}

/// By the repository that has them.
fn layers_of_bases(image: &Image) -> BTreeMap<&str, BTreeSet<BlobDigest>> {
    let mut held: BTreeMap<&str, BTreeSet<BlobDigest>> = BTreeMap::new();
    for layer in &image.layers {
        if let Builder::ImageLayer(layer) = &image.graph.node(layer.tree).builder {
            held.entry(&layer.repository).or_default().insert(layer.digest);
        }
    }
    held
}

/// Where the image went beside files.
struct Delivered<'a> {
    names: &'a [Reference],
    loaded: Option<Loaded>,
    pushed: &'a [Pushed],
}

fn as_json(
    image: &Image,
    assembled: &Assembled,
    delivered: &Delivered<'_>,
    seconds: f64,
) -> serde_json::Value {
    let layers = image.layers.iter().zip(&assembled.layers).map(|(declared, layer)| {
        json!({
            "diffid": layer.diff_id,
            "digest": layer.packed.digest,
            "size": layer.packed.size,
            "step": declared.step,
            "name": image.graph.node(declared.tree).name,
            "had": layer.had.as_str(),
            "seconds": layer.took.as_secs_f64(),
        })
    });
    let loaded = delivered.loaded.as_ref().map(|Loaded { sent, spared }| {
        let names: Vec<_> = delivered.names.iter().map(ToString::to_string).collect();
        json!({ "names": names, "sent": sent, "spared": spared })
    });
    let mut value = json!({
        "digest": assembled.manifest.digest,
        "config": assembled.config.digest,
        "media_type": assembled.media_type.to_string(),
        "variant": image.variant,
        "layers": layers.collect::<Vec<_>>(),
        "loaded": loaded,
        "seconds": seconds,
    });
    if !delivered.pushed.is_empty() {
        value["pushed"] = delivered.pushed.iter().map(push::as_json).collect();
    }
    value
}
