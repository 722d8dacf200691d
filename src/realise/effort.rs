//! Long builds: how many jobs the machine bears, how long they take, and how far they are.

use std::path::Path;
use std::time::{Duration, Instant};

use assemble_layers::Builder;

use super::limits;

/// What one of the builders needs that work at once, in bytes: what is packed and unpacked goes through
/// buffers, and a package's files through memory.
const BUILDER: u64 = 512 << 20;

/// How many jobs of `memory` bytes each this process may run, with `most` for all of them: as many as it
/// has cores, as long as the memory that is free now suffices, both by the limits of its container; at
/// least one.
pub fn jobs(memory: u64, most: u64) -> u64 {
    let free = limits::memory(Path::new("/")).unwrap_or(u64::MAX).min(most);
    limits::cores().min(free / memory.max(1)).max(1)
}

/// How many builders may work at once, where nobody says it.
pub fn builders() -> usize {
    usize::try_from(jobs(BUILDER, u64::MAX)).unwrap_or(1)
}

/// How long a step takes, roughly, of which nothing is known but its kind.
pub fn expected<Input>(builder: &Builder<Input>) -> Duration {
    Duration::from_secs(match builder {
        // Whoever says how many compilers may run has much to compile.
        Builder::Run(run) if run.effort.jobs.is_some() => 3600,
        Builder::Run(_) | Builder::UnpackDebs(_) | Builder::Git(_) => 60,
        Builder::Fetch(_)
        | Builder::ImageLayer(_)
        | Builder::Files(_)
        | Builder::UnpackWheels(_)
        | Builder::UnpackArchive(_)
        | Builder::Amend(_) => 5,
    })
}

/// Reads ninja's own counter, `[12/345] …`, and reckons from it.
#[derive(Default)]
pub struct Counter {
    /// When a count began, and where: one that goes back is another ninja's.
    first: Option<(Instant, u64, u64)>,
    last: u64,
}

impl Counter {
    /// How many of how many are done, and how long the others may take, if the line says it.
    pub fn read(&mut self, line: &str) -> Option<(u64, u64, Option<Duration>)> {
        let (done, total) = count(line)?;
        self.at(done, total, Instant::now())
    }

    fn at(&mut self, done: u64, total: u64, now: Instant) -> Option<(u64, u64, Option<Duration>)> {
        let known = self.first.filter(|(_, _, known)| *known == total && done >= self.last);
        let (started, from, _) = *self.first.insert(known.unwrap_or((now, done, total)));
        self.last = done;
        let steps = u32::try_from(done - from).ok().filter(|steps| *steps > 0);
        let left = steps.zip(u32::try_from(total - done).ok());
        Some((done, total, left.map(|(steps, left)| now.duration_since(started) / steps * left)))
    }
}

/// `Receiving objects:  33% (1/3)`, as git says it on a terminal: how many of how many.
pub fn received(line: &str) -> Option<(u64, u64)> {
    let (_, rest) = line.strip_prefix("Receiving objects:")?.split_once('(')?;
    let (done, total) = rest.split_once(')')?.0.split_once('/')?;
    Some((done.parse().ok()?, total.parse().ok()?))
}

/// Whether a line of git's only says how far it is.
pub fn is_percentage(line: &str) -> bool {
    line.contains("% (")
}

fn count(line: &str) -> Option<(u64, u64)> {
    let (count, _) = line.trim_start().strip_prefix('[')?.split_once(']')?;
    let (done, total) = count.split_once('/')?;
    let (done, total) = (done.trim().parse().ok()?, total.trim().parse().ok()?);
    (done <= total).then_some((done, total))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ninjas_counter_is_read() {
        assert_eq!(count("[12/345] Building CXX object a.o"), Some((12, 345)));
        assert_eq!(count("  [1/2]"), Some((1, 2)));
        for other in ["12/345", "[12]", "[a/b] c", "[ 12%] Building", "[3/2] x", "[1/99999999999999999999] x"]
        {
            assert_eq!(count(other), None, "{other}");
        }
    }

    #[test]
    fn the_time_left_is_reckoned_from_the_pace() {
        let (mut counter, start) = (Counter::default(), Instant::now());
        let seconds = |seconds| start + Duration::from_secs(seconds);
        assert_eq!(counter.at(10, 110, start), Some((10, 110, None)));
        assert_eq!(counter.at(30, 110, seconds(40)), Some((30, 110, Some(Duration::from_secs(160)))));
        // CMake's own little projects count as well, before and after.
        assert_eq!(counter.at(1, 2, seconds(41)), Some((1, 2, None)));
        assert_eq!(counter.at(2, 2, seconds(42)), Some((2, 2, Some(Duration::ZERO))));
        assert_eq!(counter.at(1, 2, seconds(50)), Some((1, 2, None)));
    }

    #[test]
    fn gits_progress_is_read() {
        assert_eq!(received("Receiving objects:  33% (5/15), 3.49 KiB"), Some((5, 15)));
        assert_eq!(received("remote: Counting objects:  33% (5/15)"), None);
        assert!(is_percentage("remote: Counting objects:  33% (5/15)") && !is_percentage("fatal: 50% of x"));
    }

    #[test]
    fn there_is_always_one_job() {
        assert_eq!((jobs(u64::MAX, u64::MAX), jobs(1 << 20, 3 << 19), jobs(1, 0)), (1, 1, 1));
        assert!(jobs(1, u64::MAX) >= 1 && jobs(0, u64::MAX) >= 1 && builders() >= 1);
    }
}
