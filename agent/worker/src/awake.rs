//! Keeps the cores of a stage awake while a stream is decoded and the stage waits for its neighbours.
//!
//! A core that has nothing to do is put to sleep, a virtual one is given back to its host. Until it runs again tens of
//! microseconds pass, on a busy host milliseconds, and a single stream waits for that at every hop of every token. So a
//! thread that gives way to all others turns round on the core where this stage computes, and another one on the core that
//! carries its bytes: two at most, however many cores there are.
//!
//! ```text
//!  compute thread ── a step is done ──▶ rhythm (pure): how long to expect the next ──▶ two threads turn, or rest
//! ```
//!
//! It costs power, so it ends with the stream: a stage that has not seen a step for longer than its [`rhythm`] says takes no
//! time at all. Nor does it turn where time is scarce, because what it takes is counted against the whole process, or its
//! container: where others run on the core, which the [`delay`] of the compute thread tells, and where a [`quota`] limits how
//! much may be used.

mod delay;
mod quota;
mod rhythm;

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread::Thread;
use std::time::Instant;

use engine::scheduling::give_way_to_all;
use rustix::thread::{CpuSet, sched_getaffinity, sched_getcpu, sched_setaffinity};

use crate::config::WorkerConfig;
use crate::stage::executor::elapsed_us;
use delay::RunDelay;
use rhythm::{Moment, Rhythm};

/// Turns between two looks at the clock: one takes tens of nanoseconds, a look costs as much.
const TURNS: u32 = 64;

/// No core.
const NOWHERE: usize = usize::MAX;

/// The compute thread's end; see the module. Dropping it ends the threads.
#[derive(Debug)]
pub struct Awake {
    rhythm: Rhythm,
    /// Of the compute thread, which opens it; none before.
    delay: Option<RunDelay>,
    watch: Option<Arc<Watch>>,
}

/// The end of the thread that carries bytes.
#[derive(Clone, Debug)]
pub struct Carrier(Option<Arc<Watch>>);

#[derive(Debug)]
struct Watch {
    started: Instant,
    /// Microseconds from `started` until which cores are kept awake.
    until_us: AtomicU64,
    /// Where bytes were carried last.
    carrier: AtomicUsize,
    ended: AtomicBool,
    keepers: [Keeper; 2],
}

/// One thread that turns.
#[derive(Debug)]
struct Keeper {
    /// On which core; [`NOWHERE`]: it rests.
    core: AtomicUsize,
    /// It rests, or is about to, and wants to be told of the next step.
    rests: AtomicBool,
    thread: OnceLock<Thread>,
}

impl Awake {
    /// Cores sleep whenever they can.
    pub fn never() -> Self {
        Self {
            rhythm: Rhythm::default(),
            delay: None,
            watch: None,
        }
    }

    /// As the configuration says, where the stage has neighbours and no quota forbids it.
    pub fn for_stage(config: &WorkerConfig) -> Self {
        if !config.keep_awake || config.is_whole() {
            return Self::never();
        }
        let cores = sched_getaffinity(None).map_or(0, |cores| cores.count());
        if let Some(limit) = quota::least().filter(|limit| quota::binds(*limit, cores)) {
            tracing::info!(
                limit,
                cores,
                "cores are not kept awake: the CPU limit would be used up by it"
            );
            return Self::never();
        }
        Self::start().unwrap_or_else(|error| {
            tracing::warn!(%error, "cores are not kept awake: no thread can be started");
            Self::never()
        })
    }

    fn start() -> std::io::Result<Self> {
        let keeper = || Keeper {
            core: AtomicUsize::new(NOWHERE),
            rests: AtomicBool::new(false),
            thread: OnceLock::new(),
        };
        let watch = Arc::new(Watch {
            started: Instant::now(),
            until_us: AtomicU64::new(0),
            carrier: AtomicUsize::new(NOWHERE),
            ended: AtomicBool::new(false),
            keepers: [keeper(), keeper()],
        });
        // Dropped where a thread cannot be started: ends the other one.
        let awake = Self {
            rhythm: Rhythm::default(),
            delay: None,
            watch: Some(Arc::clone(&watch)),
        };
        for (index, keeper) in watch.keepers.iter().enumerate() {
            let own = Arc::clone(&watch);
            let run = move || own.keep(&own.keepers[index]);
            let thread = std::thread::Builder::new().name("awake".to_owned()).spawn(run)?;
            // Set once.
            let _ = keeper.thread.set(thread.thread().clone());
        }
        Ok(awake)
    }

    /// For the thread that carries bytes.
    pub fn carrier(&self) -> Carrier {
        Carrier(self.watch.clone())
    }

    /// The calling thread has computed a step, and waits for the next one.
    pub fn computed(&mut self) {
        let Some(watch) = &self.watch else { return };
        if self.delay.is_none() {
            self.delay = RunDelay::of_this_thread();
        }
        let Some(delayed_us) = self.delay.as_ref().and_then(RunDelay::total_us) else {
            tracing::warn!("cores are not kept awake: the kernel does not tell whether others use them");
            watch.end();
            self.watch = None;
            return;
        };
        let now_us = elapsed_us(watch.started);
        let Some(expected_us) = self.rhythm.step(Moment { now_us, delayed_us }) else {
            watch.until_us.store(0, Ordering::SeqCst);
            return;
        };
        watch.until_us.store(now_us + expected_us, Ordering::SeqCst);
        let carrier = watch.carrier.load(Ordering::Relaxed);
        for (keeper, core) in watch.keepers.iter().zip(distinct(sched_getcpu(), carrier)) {
            keeper.core.store(core, Ordering::SeqCst);
            if core != NOWHERE && keeper.rests.swap(false, Ordering::SeqCst) {
                keeper.wake();
            }
        }
    }
}

impl Drop for Awake {
    fn drop(&mut self) {
        if let Some(watch) = &self.watch {
            watch.end();
        }
    }
}

impl Carrier {
    /// The calling thread carries a step.
    pub fn here(&self) {
        if let Some(watch) = &self.0 {
            watch.carrier.store(sched_getcpu(), Ordering::Relaxed);
        }
    }
}

/// The cores to keep awake: one thread each, none where both are the same.
fn distinct(computing: usize, carrying: usize) -> [usize; 2] {
    [computing, if carrying == computing { NOWHERE } else { carrying }]
}

impl Watch {
    fn end(&self) {
        self.ended.store(true, Ordering::SeqCst);
        self.keepers.iter().for_each(Keeper::wake);
    }

    fn keep(&self, keeper: &Keeper) {
        if let Err(error) = give_way_to_all() {
            // At its usual priority it would take time from those who compute.
            tracing::warn!(%error, "a core is not kept awake");
            return;
        }
        let mut at = NOWHERE;
        while !self.ended.load(Ordering::SeqCst) {
            let core = self.wanted(keeper);
            if core == NOWHERE {
                self.rest(keeper);
                continue;
            }
            if core != at && !stand_on(core) {
                // Not ours any more; the next step says where it is computed now.
                keeper.core.store(NOWHERE, Ordering::SeqCst);
                continue;
            }
            at = core;
            for _ in 0..TURNS {
                std::hint::spin_loop();
            }
        }
    }

    /// Where to turn now.
    fn wanted(&self, keeper: &Keeper) -> usize {
        if elapsed_us(self.started) >= self.until_us.load(Ordering::SeqCst) {
            return NOWHERE;
        }
        keeper.core.load(Ordering::SeqCst)
    }

    /// Returns at the next step that wants it, or now and then before. Whoever stores what is wanted looks at `rests`
    /// afterwards, and we store `rests` before we look at what is wanted: one of both sees the other.
    fn rest(&self, keeper: &Keeper) {
        keeper.rests.store(true, Ordering::SeqCst);
        if self.wanted(keeper) == NOWHERE && !self.ended.load(Ordering::SeqCst) {
            std::thread::park();
        }
        keeper.rests.store(false, Ordering::SeqCst);
    }
}

impl Keeper {
    fn wake(&self) {
        if let Some(thread) = self.thread.get() {
            thread.unpark();
        }
    }
}

/// Whether the calling thread may run on this core, which it does from here on.
fn stand_on(core: usize) -> bool {
    if core >= CpuSet::MAX_CPU {
        return false;
    }
    let mut cores = CpuSet::new();
    cores.set(core);
    sched_setaffinity(None, &cores).is_ok()
}

#[cfg(test)]
mod tests;
