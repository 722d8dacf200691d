//! How long a cache is borne with: a tenth of what it costs to do without, and no longer.
//!
//! A cache that fails is left alone, so that a build does not wait again and again. What takes longer to
//! build is worth a longer wait, so that is asked for all the same; where that works, the cache is back.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::document::Document;
use super::trouble::Trouble;
use super::{Cache, failure, lock};
use crate::net::http::Patience;
use crate::registry::Access;
use crate::store::Packed;
use crate::{Error, Kind, Result};

/// What is spent on waiting, of what it costs to do without.
const SHARE: u32 = 10;
/// What takes as long as an hour and a half to build is not waited for any longer than this.
const LONGEST: Duration = Duration::from_secs(600);
/// Less is not worth another try.
const SHORTEST: Duration = Duration::from_secs(1);
/// Before the first try of those; it doubles from there.
const PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
/// How long is waited for what is published, whatever it costs.
const OFFERED: Duration = Duration::from_secs(10);
/// Blobs that do not come, one after the other, are no longer waited for after this.
const FRUITLESS: Duration = Duration::from_secs(60);

/// How fast a blob must come: at least so many bytes in each such time.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    pub bytes: u64,
    pub time: Duration,
}

impl Default for Pace {
    /// A cache that gives fewer bytes is too slow to wait for.
    fn default() -> Self {
        Self { bytes: 600_000, time: Duration::from_secs(30) }
    }
}

/// How long to bear with a cache for what costs next to nothing: a build that waits is worse than one
/// that builds.
pub fn patience() -> Patience {
    Patience {
        tries: 2,
        pause: Duration::from_millis(500),
        longest_pause: Duration::from_secs(5),
        stall: Duration::from_secs(10),
        crowd: Duration::from_secs(1),
    }
}

/// How long to wait for what costs so much to do without.
fn worth(cost: Duration) -> Duration {
    let worth = (cost / SHARE).min(LONGEST);
    if worth < SHORTEST { Duration::ZERO } else { worth }
}

impl Cache {
    /// What a request comes to: nothing where the cache is left alone. Only the first failure is an
    /// error, so that there is one warning. `cost` is what it costs to do without.
    pub(super) fn ask<T>(
        &self,
        cost: Duration,
        request: impl Fn() -> Result<Option<T>>,
    ) -> Result<Option<T>> {
        match self.persist(cost, worth(cost), request) {
            Err(error) if error.kind() == Kind::Network => self.give_up(cost, error),
            found => found.map(Option::flatten),
        }
    }

    /// As [`Cache::ask`], for what is published: a registry that is busy for a moment, with others that
    /// publish maybe, gets it all the same.
    pub(super) fn offer(&self, cost: Duration, request: impl Fn() -> Result<()>) -> Result<()> {
        match self.persist(cost, worth(cost).max(OFFERED), request) {
            Err(error) if error.kind() == Kind::Network => self.give_up(cost, error).map(|_: Option<()>| ()),
            done => done.map(|_| ()),
        }
    }

    /// As [`Cache::ask`], for a blob of a record: what is wrong with it is wrong with it alone, where the
    /// cache still answers.
    pub(super) fn ask_for<T>(
        &self,
        blob: Packed,
        of: &Document,
        cost: Duration,
        request: impl Fn() -> Result<Option<T>>,
    ) -> Result<Option<T>> {
        if lock(&self.unusable).contains_key(&(blob.digest, blob.size)) {
            return Ok(None);
        }
        let cost = cost.max(Duration::from_millis(of.record.milliseconds));
        let started = Instant::now();
        let error = match self.persist(cost, worth(cost), request) {
            Ok(Some(Some(found))) => return Ok(Some(found)),
            Ok(None) => return Ok(None),
            Ok(Some(None)) => None,
            Err(error) if error.kind() == Kind::Input => Some(error),
            Err(error) if error.kind() != Kind::Network => return Err(error),
            Err(error) if self.is_fruitless(started.elapsed()) || !self.answers(blob) => {
                return self.give_up(cost, error);
            }
            Err(error) => Some(error),
        };
        let trouble = if error.is_none() { Trouble::Gone } else { Trouble::Unreadable };
        lock(&self.unusable).insert((blob.digest, blob.size), trouble);
        let name = &of.record.name;
        match error {
            None => self.tell(Trouble::Gone, name, || {
                Error::new(Kind::Input, format!("it has the record of `{name}` and no longer its bytes"))
                    .detail(format!("the blob `{}` is gone", blob.digest))
                    .hint("what needs them is built; `--cache-to` puts them back")
            }),
            Some(error) => self.tell(Trouble::Unreadable, name, || {
                let unreadable =
                    Error::new(Kind::Input, format!("its blob `{}` of `{name}` cannot be used", blob.digest));
                let unreadable =
                    error.details().iter().fold(unreadable.detail(error.message()), Error::detail);
                unreadable
                    .hint("that blob alone is passed over: what needs it is built; `--cache-to` mends it")
            }),
        }
        Ok(None)
    }

    /// Asks until it works, or lasts, or the time to wait is over; nothing where the cache is
    /// left alone.
    fn persist<T>(
        &self,
        cost: Duration,
        most: Duration,
        request: impl Fn() -> Result<T>,
    ) -> Result<Option<T>> {
        let (started, mut pause) = (Instant::now(), PAUSE);
        loop {
            if self.is_given_up(cost) {
                return Ok(None);
            }
            let error = match request() {
                Err(error) if error.kind() == Kind::Network => error,
                done => return done.map(Some),
            };
            let left = most.saturating_sub(started.elapsed());
            if !error.passes() || left.is_zero() {
                return Err(error);
            }
            self.tell(Trouble::Waiting, "", || {
                error.detail(format!("it is waited for, up to {} s", most.as_secs()))
            });
            std::thread::sleep(pause.min(left));
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    fn is_given_up(&self, cost: Duration) -> bool {
        lock(&self.given_up).is_some_and(|level| worth(cost) <= level)
    }

    fn give_up<T>(&self, cost: Duration, error: Error) -> Result<Option<T>> {
        {
            let mut level = lock(&self.given_up);
            *level = (*level).max(Some(worth(cost)));
        }
        match self.said.swap(true, Ordering::Relaxed) {
            true => Ok(None),
            false => Err(error.detail("it is left alone in this run, but for what takes longer to build")),
        }
    }

    /// It has answered.
    pub(super) fn heard(&self) {
        *lock(&self.given_up) = None;
    }

    fn is_fruitless(&self, waited: Duration) -> bool {
        let mut fruitless = lock(&self.fruitless);
        *fruitless += waited;
        self.slow.load(Ordering::Relaxed) || *fruitless > FRUITLESS
    }

    /// Whether the cache answers when it is asked for a blob that it did not give.
    fn answers(&self, blob: Packed) -> bool {
        let remote = self.client.repository(&self.repository, Access::Pull).map_err(failure);
        remote.is_ok_and(|remote| remote.has_blob(blob.digest).is_ok())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_costs_more_is_worth_a_longer_wait() {
        let worth = |seconds| worth(Duration::from_secs(seconds)).as_secs();
        assert_eq!([0, 9, 10, 60, 3600, 100_000].map(worth), [0, 0, 1, 6, 360, 600]);
    }
}
