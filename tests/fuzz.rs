//! Every reader of foreign bytes, given bytes that are nearly right: mutations of the seeds in
//! `tests/fuzz/`. A reader may refuse them; it may not panic, hang, or take memory without a bound.
//!
//! A harness of our own: `cargo fuzz` needs a compiler that is not stable. Each input follows from its
//! reader's name, the run's seed and its number alone, so a number is all that a failure needs to be seen
//! again. A reader runs in a process of its own, which may have so much memory and no more.
//!
//! ```text
//! cargo test --test all fuzz::                               half a second each
//! ASSEMBLE_FUZZ_SECONDS=600 cargo test --test all fuzz:: -- --nocapture    as `.ci/long fuzz` does
//! ASSEMBLE_FUZZ=deb ASSEMBLE_FUZZ_SEED=7 …                   one reader, other inputs
//! ASSEMBLE_FUZZ=deb ASSEMBLE_FUZZ_NUMBER=1234 …              one input
//! ```

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crate::support::{self};
use assemble::fuzzing::{Input, TARGETS, Target};
use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use rand::{Rng, RngCore, SeedableRng};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// The address space that a reader has, in bytes: no input is larger than 64 KiB.
const MEMORY: u64 = 2 << 30;

/// One input must have been read by then.
const HANG: Duration = Duration::from_secs(20);

/// An input is not longer, in bytes.
const LONGEST: usize = 64 << 10;

/// Where numbers change what a reader does.
const NUMBERS: [u64; 14] =
    [0, 1, 2, 7, 8, 0x7f, 0xff, 0xfff, 0xffff, 0x7fff_ffff, 0xffff_ffff, 1 << 33, i64::MAX as u64, u64::MAX];

const WORDS: [&str; 36] = [
    "/",
    "..",
    "../..",
    ".",
    "\0",
    "\n",
    "\n\n",
    "\r\n",
    ",",
    ":",
    ";",
    "=",
    "\"",
    "'",
    "[",
    "]",
    "{",
    "}",
    "null",
    "-1",
    "18446744073709551615",
    "99999999999999999999",
    "0777777777777",
    ".wh.",
    ".wh..wh..opq",
    "sha256:",
    "\u{feff}",
    "é",
    "\u{1b}[2J",
    "&#x110000;",
    "<!--",
    "**",
    "\\",
    "(>= 1)",
    "|",
    "~",
];

#[test]
fn every_reader_bears_what_is_nearly_right() {
    let seconds = variable("ASSEMBLE_FUZZ_SECONDS").unwrap_or(0.5);
    let wanted = std::env::var("ASSEMBLE_FUZZ").ok();
    let targets: Vec<_> =
        TARGETS.iter().filter(|it| wanted.as_ref().is_none_or(|name| name == it.name)).collect();
    assert!(!targets.is_empty(), "there is no such reader");
    let (next, failures) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    std::thread::scope(|scope| {
        for _ in 0..cores {
            scope.spawn(|| {
                while let Some(target) = targets.get(next.fetch_add(1, Ordering::Relaxed)) {
                    match fuzz(target, seconds) {
                        Ok(line) => println!("{line}"),
                        Err(failure) => failures.lock().unwrap().push(failure),
                    }
                }
            });
        }
    });
    let failures = failures.into_inner().unwrap();
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

/// Each reader has seeds, and one of them is what it is for: else nothing behind the first check is
/// fuzzed.
#[test]
fn every_reader_has_seeds() {
    for target in TARGETS {
        let folder = tempfile::tempdir().unwrap();
        let read = |bytes: &Vec<u8>| (target.read)(&Input { bytes, folder: folder.path() });
        let refused = seeds(target.name).iter().filter(|bytes| !read(bytes)).count();
        assert!(refused < seeds(target.name).len(), "`{}` refuses all its seeds", target.name);
        println!("{}: {refused} of {} refused", target.name, seeds(target.name).len());
    }
    let folders = fs::read_dir(folder_of_seeds()).unwrap().count();
    assert_eq!(folders, TARGETS.len(), "a folder of seeds has no reader");
}

fn variable<T: std::str::FromStr>(name: &str) -> Option<T> {
    std::env::var(name).ok().map(|text| text.parse().unwrap_or_else(|_| panic!("`{name}` is no number")))
}

fn folder_of_seeds() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz")
}

/// Sorted by name, so that a number always means the same input.
fn seeds(name: &str) -> Vec<Vec<u8>> {
    let entries = fs::read_dir(folder_of_seeds().join(name)).into_iter().flatten();
    let mut paths: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    paths.iter().map(|path| fs::read(path).unwrap()).collect()
}

/// Runs one reader in a process of its own; a line that counts.
fn fuzz(target: &Target, seconds: f64) -> Result<String, String> {
    let folder = tempfile::tempdir().unwrap();
    let seed: u64 = variable("ASSEMBLE_FUZZ_SEED").unwrap_or(0);
    let child = support::child(one_reader, folder.path());
    let log = folder.path().join("log");
    let mut child = Command::new(&child[0])
        .args(&child[1..])
        .env("ASSEMBLE_FUZZ", target.name)
        .env("ASSEMBLE_FUZZ_SEED", seed.to_string())
        .env("ASSEMBLE_FUZZ_SECONDS", seconds.to_string())
        .stdin(Stdio::null())
        .stdout(fs::File::create(&log).unwrap())
        .stderr(fs::File::options().append(true).open(&log).unwrap())
        .spawn()
        .unwrap();
    let how = watch(&mut child, folder.path());
    let (number, end) =
        (number(folder.path()), fs::read_to_string(folder.path().join("end")).unwrap_or_default());
    match how {
        None => Ok(format!("{:<14}{number:>10} inputs, {end}", target.name)),
        Some(how) => {
            let kept =
                Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("fuzz-{}-{seed}-{number}", target.name));
            fs::write(&kept, Mutator::new(target.name, seed).input(number)).unwrap();
            let log = fs::read(&log).unwrap_or_default();
            let said = String::from_utf8_lossy(&log[log.len().saturating_sub(3000)..]).into_owned();
            Err(format!(
                "`{}` {how} at the input {number} of the seed {seed}, `{}`:\n{said}",
                target.name,
                kept.display()
            ))
        }
    }
}

/// How a child failed.
fn watch(child: &mut Child, folder: &Path) -> Option<String> {
    let (mut last, mut since) = (0, Instant::now());
    loop {
        if let Some(status) = child.try_wait().unwrap() {
            return (!status.success()).then(|| format!("failed ({status})"));
        }
        let now = number(folder);
        if now != last {
            (last, since) = (now, Instant::now());
        }
        if since.elapsed() > HANG {
            child.kill().unwrap();
            child.wait().unwrap();
            return Some(format!("read for more than {} s", HANG.as_secs()));
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Which input is being read.
fn number(folder: &Path) -> u64 {
    let bytes = fs::read(folder.join("number")).unwrap_or_default();
    bytes.try_into().map_or(0, u64::from_le_bytes)
}

/// The child. Run by itself it does nothing.
#[test]
fn one_reader() {
    let Some(folder) = support::folder_of_child() else { return };
    let name = std::env::var("ASSEMBLE_FUZZ").unwrap();
    let target = TARGETS.iter().find(|target| target.name == name).unwrap();
    let limit = Rlimit { current: Some(MEMORY), maximum: getrlimit(Resource::As).maximum };
    setrlimit(Resource::As, limit).unwrap();
    let until = Instant::now() + Duration::from_secs_f64(variable("ASSEMBLE_FUZZ_SECONDS").unwrap());
    let mut mutator = Mutator::new(target.name, variable("ASSEMBLE_FUZZ_SEED").unwrap());
    let place = fs::File::create(folder.join("number")).unwrap();
    // Readers of files have theirs in memory, where there is such a place.
    let memory = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir_in(&folder)).unwrap();
    let scratch = memory.path();
    let mut accepted = 0_u64;
    let mut read = |number: u64| {
        place.write_all_at(&number.to_le_bytes(), 0).unwrap();
        let bytes = mutator.input(number);
        accepted += u64::from((target.read)(&Input { bytes: &bytes, folder: scratch }));
    };
    match variable("ASSEMBLE_FUZZ_NUMBER") {
        Some(number) => read(number),
        None => (0..).take_while(|_| Instant::now() < until).for_each(read),
    }
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")?.strip_suffix("kB")).unwrap();
    fs::write(
        folder.join("end"),
        format!("{accepted} accepted, at most {} MB", peak.trim().parse::<u64>().unwrap() / 1000),
    )
    .unwrap();
}

/// Makes inputs of seeds.
struct Mutator {
    seeds: Vec<Vec<u8>>,
    seed: u64,
}

impl Mutator {
    fn new(name: &str, seed: u64) -> Self {
        Self { seeds: seeds(name), seed }
    }

    /// The first inputs are the seeds themselves.
    fn input(&mut self, number: u64) -> Vec<u8> {
        if let Some(seed) = usize::try_from(number).ok().and_then(|number| self.seeds.get(number)) {
            return seed.clone();
        }
        let mut random = StdRng::seed_from_u64(self.seed.rotate_left(32) ^ number);
        let mut bytes = self.seeds.choose(&mut random).cloned().unwrap_or_default();
        for _ in 0..=random.gen_range(0..6_u32) {
            self.mutate(&mut bytes, &mut random);
        }
        bytes.truncate(LONGEST);
        // Else no reader of tars would look behind a header that was changed.
        if random.gen_bool(0.8) {
            mend_checksums(&mut bytes);
        }
        bytes
    }

    fn mutate(&self, bytes: &mut Vec<u8>, random: &mut StdRng) {
        let at = random.gen_range(0..=bytes.len());
        let end = (at + random.gen_range(1..=64)).min(bytes.len());
        match random.gen_range(0..12) {
            0 if at < bytes.len() => bytes[at] ^= 1 << random.gen_range(0..8),
            1 if at < bytes.len() => bytes[at] = random.r#gen(),
            2 => drop(bytes.drain(at..end)),
            3 => {
                let piece = bytes[at..end].to_vec();
                let times = random.gen_range(1..8);
                bytes.splice(at..at, piece.repeat(times));
            }
            4 => drop(bytes.splice(at..at, WORDS.choose(random).unwrap().bytes())),
            5 => {
                let word = WORDS.choose(random).unwrap().as_bytes();
                let end = (at + word.len()).min(bytes.len());
                bytes.splice(at..end, word.iter().copied());
            }
            6 => put_number(bytes, at, random),
            7 => change_digits(bytes, at, random),
            8 => bytes.truncate(at),
            9 => {
                // A piece of another seed, from its beginning or not.
                let other = self.seeds.choose(random).unwrap();
                let from = random.gen_range(0..=other.len());
                let to = random.gen_range(from..=other.len());
                bytes.splice(at..end, other[from..to].iter().copied());
            }
            10 => {
                // One block of a tar over, before or after another.
                let (from, to) = (at / 512 * 512, random.gen_range(0..=bytes.len() / 512) * 512);
                let block = bytes[from..(from + 512).min(bytes.len())].to_vec();
                bytes.splice(to..to, block);
            }
            _ => {
                let mut noise = vec![0; random.gen_range(1..32)];
                random.fill_bytes(&mut noise);
                bytes.splice(at..at, noise);
            }
        }
    }
}

/// A number in one of the sizes and orders that headers have.
fn put_number(bytes: &mut Vec<u8>, at: usize, random: &mut StdRng) {
    let number = NUMBERS.choose(random).unwrap().wrapping_sub(random.gen_range(0..2));
    let size = *[1, 2, 4, 8].choose(random).unwrap();
    let number = match random.r#gen() {
        true => number.to_le_bytes()[..size].to_vec(),
        false => number.to_be_bytes()[8 - size..].to_vec(),
    };
    let end = (at + size).min(bytes.len());
    bytes.splice(at..end, number);
}

/// The next run of digits becomes another number of as many digits, or more.
fn change_digits(bytes: &mut Vec<u8>, at: usize, random: &mut StdRng) {
    let Some(start) = bytes[at..].iter().position(u8::is_ascii_digit).map(|start| at + start) else { return };
    let length = bytes[start..].iter().position(|byte| !byte.is_ascii_digit()).unwrap_or(bytes.len() - start);
    let digits = match random.gen_range(0..4) {
        0 => "0".repeat(length),
        1 => "7".repeat(length),
        2 => "9".repeat(length),
        _ => NUMBERS.choose(random).unwrap().to_string(),
    };
    bytes.splice(start..start + length, digits.bytes());
}

/// Writes the checksum that a header of a tar should have into whatever begins like one (POSIX ustar).
fn mend_checksums(bytes: &mut [u8]) {
    // In a `.deb` and in an archive of archives they begin anywhere.
    let magics: Vec<_> =
        bytes.windows(5).enumerate().filter(|(_, five)| five == b"ustar").map(|(at, _)| at).collect();
    for magic in magics {
        let Some(start) = magic.checked_sub(257) else { continue };
        let Some(header) = bytes.get_mut(start..start + 512) else { continue };
        header[148..156].fill(b' ');
        let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
        header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    }
}
