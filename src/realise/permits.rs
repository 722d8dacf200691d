//! Who may work now, and what is urgent.

use std::cmp::Reverse;
use std::collections::BTreeSet;
use std::sync::{Condvar, Mutex};

use assemble_layers::{Builder, Graph};

use super::lock;

/// Lets as many threads work at once as there are permits, the most urgent first.
pub struct Permits {
    state: Mutex<State>,
    changed: Condvar,
}

struct State {
    free: usize,
    /// Who waits: the urgency, and of the equally urgent who came first.
    waiting: BTreeSet<(usize, Reverse<u64>)>,
    next: u64,
}

/// Given back when it is dropped.
pub struct Permit<'a>(&'a Permits);

impl Permits {
    pub fn new(count: usize) -> Self {
        let state = State { free: count.max(1), waiting: BTreeSet::new(), next: 0 };
        Self { state: Mutex::new(state), changed: Condvar::new() }
    }

    /// Waits until a permit is free and nobody more urgent waits for it.
    pub fn acquire(&self, urgency: usize) -> Permit<'_> {
        let mut state = lock(&self.state);
        let mine = (urgency, Reverse(state.next));
        state.next += 1;
        state.waiting.insert(mine);
        while state.free == 0 || state.waiting.last() != Some(&mine) {
            state = self.changed.wait(state).unwrap_or_else(std::sync::PoisonError::into_inner);
        }
        state.waiting.remove(&mine);
        state.free -= 1;
        // The next may find another permit free.
        self.changed.notify_all();
        Permit(self)
    }
}

impl Drop for Permit<'_> {
    fn drop(&mut self) {
        lock(&self.0.state).free += 1;
        self.0.changed.notify_all();
    }
}

/// How long, roughly and in seconds, the longest chain takes that begins with each derivation: who
/// starts the longest first ends first. A step in the sandbox takes long, and cannot use many cores.
pub fn urgencies(graph: &Graph) -> Vec<usize> {
    let nodes: Vec<_> = graph.nodes().collect();
    let mut urgencies: Vec<usize> = vec![0; nodes.len()];
    // Inputs stand before what needs them.
    for (id, node) in nodes.into_iter().rev() {
        urgencies[id.index()] += match node.builder {
            Builder::UnpackDebs(_) | Builder::Run(_) => 10,
            _ => 1,
        };
        for input in node.builder.inputs() {
            urgencies[input.index()] = urgencies[input.index()].max(urgencies[id.index()]);
        }
    }
    urgencies
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;

    use super::*;

    #[test]
    fn the_most_urgent_is_next() {
        let permits = Permits::new(1);
        let busy = permits.acquire(0);
        let (done, order) = channel();
        std::thread::scope(|scope| {
            for urgency in [1, 3, 2] {
                let (permits, done) = (&permits, done.clone());
                scope.spawn(move || {
                    let _permit = permits.acquire(urgency);
                    done.send(urgency).unwrap();
                });
            }
            while lock(&permits.state).waiting.len() < 3 {
                std::thread::yield_now();
            }
            drop(busy);
        });
        assert_eq!(order.try_iter().collect::<Vec<_>>(), [3, 2, 1]);
    }
}
