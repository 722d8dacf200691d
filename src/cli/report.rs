//! What a person sees on stderr while something happens, and afterwards.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::io::IsTerminal;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use assemble_layers::lock::GpuCode;
use assemble_layers::recipe::Base;
use assemble_layers::{Builder, Image, Lock};
use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::terminal;
use crate::cache::Published;
use crate::deliver::Pushed;
use crate::deliver::docker::Loaded;
use crate::inspect::Why;
use crate::oci::{Assembled, DOCKER_MANIFEST, Reference};
use crate::realise::{Event, Had, Shadowed, Whole};
use crate::sandbox::KEYS_MADE_AT_RANDOM;

/// Downloads below this size, in bytes, get no line of their own where there is no terminal.
const WORTH_A_LINE: u64 = 50_000_000;

/// What the line of an image is called that goes to an engine.
const SENDING: &str = "sending to the engine";

/// Hears the engine's events on a thread of its own.
pub struct Reporter {
    events: Sender<Event>,
    thread: JoinHandle<()>,
    steps: (Sender<Step>, Receiver<Step>),
}

/// What whoever shares results while others are still made wants to hear.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// One was built or packed.
    Ended,
    /// No more comes.
    Last,
}

impl Reporter {
    pub fn start(quiet: bool, verbose: bool) -> Self {
        let ((events, received), steps) = (channel(), channel());
        let ended = steps.0.clone();
        let thread = std::thread::spawn(move || Screen::new(quiet, verbose, ended).show(&received));
        Self { events, thread, steps }
    }

    /// Who is told of each step, and who hears of it.
    pub fn steps(&mut self) -> &mut (Sender<Step>, Receiver<Step>) {
        &mut self.steps
    }

    pub fn events(&self) -> Sender<Event> {
        self.events.clone()
    }

    /// Shows what is left. Senders that others still hold are not waited for.
    pub fn finish(self) {
        let _ = self.events.send(Event::Finished);
        drop(self.events);
        let _ = self.thread.join();
    }
}

struct Screen {
    quiet: bool,
    verbose: bool,
    terminal: bool,
    bars: MultiProgress,
    /// What runs now, by name.
    running: BTreeMap<String, ProgressBar>,
    ended: Sender<Step>,
}

impl Screen {
    fn new(quiet: bool, verbose: bool, ended: Sender<Step>) -> Self {
        let terminal = std::io::stderr().is_terminal() && !quiet;
        let target = if terminal { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
        Self {
            quiet,
            verbose,
            terminal,
            bars: MultiProgress::with_draw_target(target),
            running: BTreeMap::new(),
            ended,
        }
    }

    fn show(mut self, events: &Receiver<Event>) {
        for event in events {
            if matches!(event, Event::Finished) {
                break;
            }
            self.one(event);
        }
        let _ = self.bars.clear();
    }

    fn one(&mut self, event: Event) {
        match event {
            Event::Found { .. } | Event::Finished => {}
            Event::Downloading { file, done, size } | Event::Uploading { file, done, size } => {
                self.advance(file, done, size);
            }
            Event::Uploaded { file } => self.end(&file),
            Event::Sending { done, size } => self.advance(SENDING.to_owned(), done, size),
            Event::Sent => self.end(SENDING),
            Event::Downloaded { file, size } => {
                self.end(&file);
                if size >= WORTH_A_LINE || self.verbose {
                    self.line(format!("  fetched   {file}   {}", self::bytes(size)));
                }
            }
            Event::Building { name } => self.spin(&name, "building"),
            Event::Packing { name, size } => self.spin(&name, &format!("packing {}", bytes(size))),
            Event::Log { name, line } => {
                if self.verbose {
                    self.line(format!("  {name} | {line}"));
                } else if let Some(bar) = self.running.get(&name) {
                    bar.set_message(terminal::line(&line.chars().take(60).collect::<String>()));
                }
            }
            Event::Progress { name, done, total, left } => self.progress(&name, done, total, left),
            Event::Built { name, size, took } => {
                self.end(&name);
                self.line(format!("  built     {name}   {}   {}", bytes(size), seconds(took)));
                // Nobody need hear it.
                let _ = self.ended.send(Step::Ended);
            }
            Event::Packed { name } => {
                self.end(&name);
                let _ = self.ended.send(Step::Ended);
            }
            Event::Warning(text) => {
                let text = format!("warning: {text}");
                let _ = self.bars.println(terminal::plain(&text));
                if !self.terminal {
                    terminal::say(text + "\n");
                }
            }
        }
    }

    fn line(&self, text: String) {
        if self.terminal {
            let _ = self.bars.println(terminal::plain(&text));
        } else if !self.quiet {
            terminal::say(text + "\n");
        }
    }

    fn advance(&mut self, file: String, done: u64, size: u64) {
        let bars = &self.bars;
        let bar = self.running.entry(file.clone()).or_insert_with(|| {
            let template =
                "  {wide_msg} {bytes:>10} of {total_bytes:>10}  {bytes_per_sec:>12}  {eta:>4} left";
            bars.add(ProgressBar::new(size).with_style(style(template)).with_message(terminal::line(&file)))
        });
        bar.set_position(done);
    }

    /// On a terminal always; elsewhere a line for each tenth of the way.
    fn progress(&mut self, name: &str, done: u64, total: u64, left: Option<Duration>) {
        let left = left.map_or(String::new(), |left| format!("   {} left", rough(left)));
        let text = format!("{done} of {total}{left}");
        if let Some(bar) = self.running.get(name) {
            bar.set_prefix(terminal::line(&format!("{name}   {text}")));
        } else if !self.terminal && total >= 10 && done * 10 / total != (done.max(1) - 1) * 10 / total {
            self.line(format!("  building  {name}   {text}"));
        }
    }

    fn spin(&mut self, name: &str, what: &str) {
        self.end(name);
        if self.terminal {
            let bar = ProgressBar::new_spinner().with_style(style("  {prefix}   {msg}   {elapsed}"));
            let bar = self.bars.add(bar.with_prefix(terminal::line(name)).with_message(what.to_owned()));
            bar.enable_steady_tick(Duration::from_millis(500));
            self.running.insert(name.to_owned(), bar);
        }
    }

    fn end(&mut self, name: &str) {
        if let Some(bar) = self.running.remove(name) {
            bar.finish_and_clear();
        }
    }
}

fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar())
}

/// `3.6 GB`: powers of 1000, as registries and `docker images` write them.
pub fn bytes(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["B", "kB", "MB", "GB", "TB"];
    let mut value = bytes as f64;
    let mut unit = 0;
    while value >= 999.5 && unit + 1 < UNITS.len() {
        value /= 1000.0;
        unit += 1;
    }
    let digits = usize::from(unit > 0 && value < 99.5);
    format!("{value:.digits$} {}", UNITS[unit])
}

/// `2 h 5 min`, `3 min`, `40 s`.
fn rough(time: Duration) -> String {
    match time.as_secs() {
        seconds @ 0..60 => format!("{seconds} s"),
        seconds @ 60..3600 => format!("{} min", seconds / 60),
        seconds => format!("{} h {} min", seconds / 3600, seconds / 60 % 60),
    }
}

fn seconds(took: Duration) -> String {
    let seconds = took.as_secs_f64();
    format!("{seconds:.*} s", if seconds < 1.0 { 2 } else { 1 })
}

/// `assemble.lock   231 debs · 74 wheels`.
pub fn lock_summary(lock: &Lock) -> String {
    let python = &lock.python;
    let wheels =
        python.packages.len() + python.tools.len() + python.collections.values().map(Vec::len).sum::<usize>();
    let base = if lock.base.is_empty() { Base::Archive } else { Base::Registry };
    format!("{}   {} debs · {wheels} wheels", crate::lock::file(base), lock.debian.package.len())
}

/// The lines after a build: how each step's layers were had, and why anything was built.
pub fn image_summary(
    lock: &Lock,
    mended: &[String],
    image: &Image,
    assembled: &Assembled,
    whys: &[Why],
    notes: &[String],
) -> String {
    let mut text = String::new();
    let state = if mended.is_empty() { "unchanged" } else { "mended" };
    let _ = writeln!(text, "  lock      {}   {state}", lock_summary(lock));
    for line in mended {
        let _ = writeln!(text, "              {line}");
    }
    for note in notes {
        let _ = writeln!(text, "  note      {note}");
    }
    for (step, had, layers, size, took) in groups(image, assembled) {
        let reasons: Vec<_> = whys.iter().filter(|why| why.step == step && had == Had::Built).collect();
        let reason = reasons.first().map_or(String::new(), |why| format!("   {}", why.reason));
        let plural = if layers == 1 { "layer " } else { "layers" };
        let took = if took > Duration::ZERO { seconds(took) } else { String::new() };
        let _ = writeln!(
            text,
            "  {:<11} {step:<22}{layers:>3} {plural} {:>8}   {took}{reason}",
            had.as_str(),
            bytes(size)
        );
    }
    text
}

/// What is not as a recipe or a manifest says, by the lock.
fn lock_notes(lock: &Lock) -> Vec<String> {
    let served = |name| format!("source `{name}` was served by another index when this was locked");
    let code = |code: &GpuCode| {
        let targets: Vec<_> = code.targets.iter().map(ToString::to_string).collect();
        format!("its `{}` is for {}", code.library, targets.join(" "))
    };
    let substituted = lock.python.substituted().into_iter().map(served);
    let displaced = lock.python.displaced.iter().map(ToString::to_string);
    substituted
        .chain(displaced)
        .chain(lock.python.notes.iter().cloned())
        .chain(lock.gpu.iter().map(code))
        .collect()
}

/// What an image has not, or has by chance, and what of its recipe decides nothing.
pub fn notes(lock: &Lock, whole: &Whole, assembled: &Assembled) -> Vec<String> {
    let mut notes = lock_notes(lock);
    for layer in &whole.image.layers {
        let builder = |node| &whole.image.graph.node(node).builder;
        let declared = match builder(layer.tree) {
            Builder::Amend(amend) => builder(amend.tree),
            other => other,
        };
        let Builder::UnpackDebs(debs) = declared else { continue };
        for (package, keys, command) in KEYS_MADE_AT_RANDOM {
            if debs.packages.iter().any(|deb| deb.package == package) {
                notes.push(format!("`{package}` is without its {keys}: `{command}` makes them"));
            }
        }
    }
    for Shadowed { layer, by, path, count } in &whole.shadowed {
        let more = if *count > 1 { format!(" and {} more", count - 1) } else { String::new() };
        notes.push(format!("`/{path}`{more} of `{layer}` cannot be seen: `{by}` counts"));
    }
    for (layer, path) in &whole.by_chance {
        notes.push(format!("`/{path}` of `{layer}` is made by chance: built again, it differs"));
    }
    for path in &whole.unused {
        notes.push(format!("the recipe makes an exception for `/{path}`, and there is nothing to except"));
    }
    if assembled.media_type.as_ref() == DOCKER_MANIFEST {
        notes.push("the manifest is in Docker's format: its digest is another than in OCI's".to_owned());
    }
    notes
}

/// The line after loading into an engine.
pub fn load_summary(names: &[Reference], loaded: Loaded) -> String {
    let names: Vec<_> = names.iter().map(ToString::to_string).collect();
    let (sent, spared) = (bytes(loaded.sent), bytes(loaded.spared));
    format!("  {:<11} {:<22}sent {sent}, spared {spared}\n", "loaded", names.join(", "))
}

/// Layers of one step that were had alike, in the order of the image.
fn groups<'a>(image: &'a Image, assembled: &Assembled) -> Vec<(&'a str, Had, usize, u64, Duration)> {
    let mut groups: Vec<(&str, Had, usize, u64, Duration)> = Vec::new();
    for (declared, layer) in image.layers.iter().zip(&assembled.layers) {
        match groups.iter_mut().find(|group| group.0 == declared.step && group.1 == layer.had) {
            Some(group) => {
                group.2 += 1;
                group.3 += layer.packed.size;
                group.4 += layer.took;
            }
            None => groups.push((&declared.step, layer.had, 1, layer.packed.size, layer.took)),
        }
    }
    groups
}

/// What a push came to: what was sent, and what was spared.
pub fn push_summary(pushed: &Pushed) -> String {
    let Pushed { reference, sent, mounted, present } = pushed;
    let mut spared = String::new();
    for (amount, how) in [(mounted, "mounted"), (present, "there already")] {
        if amount.blobs > 0 {
            let _ = write!(spared, ", {} {how}", bytes(amount.bytes));
        }
    }
    format!("  pushed    {reference}   sent {}{spared}\n", bytes(sent.bytes))
}

/// What a cache was given.
pub fn publish_summary(cache: &str, published: &Published) -> String {
    let Published { records, bytes: sent } = published;
    format!("  shared    {cache}   {records} results, sent {}\n", bytes(*sent))
}

#[cfg(test)]
mod tests {
    #[test]
    fn sizes_are_short() {
        let cases = [
            (0, "0 B"),
            (999, "999 B"),
            (1000, "1.0 kB"),
            (41_300, "41.3 kB"),
            (999_999, "1.0 MB"),
            (6_700_000_000, "6.7 GB"),
        ];
        for (bytes, text) in cases {
            assert_eq!(super::bytes(bytes), text);
        }
    }
}
