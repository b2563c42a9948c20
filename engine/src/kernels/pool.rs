//! Threads that spin between the operations of a step and sleep between requests.

use std::{
    cell::UnsafeCell,
    ops::Range,
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    thread::{self, JoinHandle, Thread},
};

use super::affinity::keep_on_cores;

/// Looks at the gate before a waiting thread goes to sleep: about 50 microseconds.
const SPINS_BEFORE_SLEEP: usize = 2_000;

/// Rows of elementwise work that are worth a task.
const MIN_PARALLEL_ROWS: usize = 8;

/// The gate's lowest bit: a job is open and threads may enter.
const OPEN: u64 = 1;
/// One thread inside the job.
const INSIDE_ONE: u64 = 2;
const INSIDE_MASK: u64 = 0xfffe;
/// One job later.
const JOB_ONE: u64 = 0x1_0000;

/// Runs the tasks of one job on several threads, the caller's among them. A clone has the same threads: models that run
/// in turns share them, where those of one would spin on the cores that the other needs.
#[derive(Debug, Clone)]
pub(crate) struct ThreadPool {
    crew: Arc<Crew>,
}

#[derive(Debug)]
struct Crew {
    shared: Arc<Shared>,
    workers: Vec<JoinHandle<()>>,
    /// Held while a job is open.
    turn: Mutex<()>,
}

#[derive(Debug)]
struct Shared {
    /// Job number, threads inside, open bit. Threads enter by compare-exchange, so one that wakes up late
    /// finds the gate shut and nobody has waited for it.
    gate: AtomicU64,
    job: UnsafeCell<Job>,
    next_task: AtomicUsize,
    stop: AtomicBool,
    panicked: AtomicBool,
    sleeping: Vec<AtomicBool>,
}

#[derive(Debug, Clone, Copy)]
struct Job {
    /// The caller's closure; valid while a thread is inside the gate.
    run: *const (dyn Fn(usize) + Sync),
    n_tasks: usize,
}

// SAFETY: `job` is written only while the gate is shut and nobody is inside, and read only from inside.
unsafe impl Sync for Shared {}
// SAFETY: the raw pointer is only followed from inside the gate, while the caller keeps the closure alive.
unsafe impl Send for Shared {}

impl ThreadPool {
    /// Starts `n_threads - 1` workers; the caller's thread is the other one.
    pub(crate) fn new(n_threads: usize) -> Self {
        let n_workers = n_threads.max(1) - 1;
        let shared = Arc::new(Shared {
            gate: AtomicU64::new(0),
            job: UnsafeCell::new(Job {
                run: &|_: usize| {},
                n_tasks: 0,
            }),
            next_task: AtomicUsize::new(0),
            stop: AtomicBool::new(false),
            panicked: AtomicBool::new(false),
            sleeping: (0..n_workers).map(|_| AtomicBool::new(false)).collect(),
        });
        let workers = (0..n_workers)
            .map_while(|worker_idx| {
                let shared = Arc::clone(&shared);
                let name = format!("surmise-cpu-{}", worker_idx + 1);
                // Fewer workers than asked for is slower, not wrong.
                thread::Builder::new()
                    .name(name)
                    .spawn(move || shared.work(worker_idx))
                    .ok()
            })
            .collect();
        let turn = Mutex::new(());
        Self {
            crew: Arc::new(Crew {
                shared,
                workers,
                turn,
            }),
        }
    }

    /// Threads that take part, the caller's included.
    pub(crate) fn n_threads(&self) -> usize {
        self.crew.workers.len() + 1
    }

    /// Keeps each thread, the calling one included, on a core of its own, if there are as many; see [`super::affinity`].
    pub(crate) fn keep_on_cores(&self) {
        keep_on_cores(&self.crew.workers);
    }

    /// Calls `run(task_idx)` for every task below `n_tasks`, each once, and returns when all are done.
    ///
    /// # Panics
    /// If a task panicked.
    pub(crate) fn run(&mut self, n_tasks: usize, run: &(dyn Fn(usize) + Sync)) {
        let Crew {
            shared,
            workers,
            turn,
        } = &*self.crew;
        if workers.is_empty() || n_tasks <= 1 {
            (0..n_tasks).for_each(run);
            return;
        }
        let _turn = turn.lock().unwrap_or_else(PoisonError::into_inner);
        // SAFETY: the lifetime is lifted only until this function has seen everybody leave the gate.
        let run: &'static (dyn Fn(usize) + Sync) = unsafe { std::mem::transmute(run) };
        // SAFETY: the gate is shut and empty: the last `run` saw to it, and our turn excludes another.
        unsafe { *shared.job.get() = Job { run, n_tasks } };
        shared.next_task.store(0, Ordering::Relaxed);
        let job = (shared.gate.load(Ordering::Relaxed) & !(JOB_ONE - 1)).wrapping_add(JOB_ONE);
        shared.gate.store(job | OPEN, Ordering::SeqCst);
        for (worker, sleeping) in workers.iter().zip(&shared.sleeping) {
            if sleeping.load(Ordering::SeqCst) {
                worker.thread().unpark();
            }
        }
        let own = catch_unwind(AssertUnwindSafe(|| shared.claim_tasks(run, n_tasks)));
        shared.gate.fetch_and(!OPEN, Ordering::AcqRel);
        let mut n_spins = 0;
        while shared.gate.load(Ordering::Acquire) & INSIDE_MASK != 0 {
            wait(&mut n_spins);
        }
        let worker_panicked = shared.panicked.swap(false, Ordering::Relaxed);
        if let Err(payload) = own {
            resume_unwind(payload);
        }
        assert!(!worker_panicked, "a task of the thread pool panicked");
    }

    /// Calls `run` with the range of each of `n_rows` rows of `width` numbers: on this thread if they are few.
    pub(crate) fn run_rows(&mut self, n_rows: usize, width: usize, run: &(dyn Fn(Range<usize>) + Sync)) {
        if n_rows < MIN_PARALLEL_ROWS {
            (0..n_rows).for_each(|row| run(row * width..(row + 1) * width));
            return;
        }
        let n_tasks = n_rows.div_ceil(MIN_PARALLEL_ROWS);
        self.run(n_tasks, &|task_idx| {
            for row in n_rows * task_idx / n_tasks..n_rows * (task_idx + 1) / n_tasks {
                run(row * width..(row + 1) * width);
            }
        });
    }
}

impl Drop for Crew {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::SeqCst);
        self.workers
            .iter()
            .map(JoinHandle::thread)
            .for_each(Thread::unpark);
        for worker in self.workers.drain(..) {
            // A worker's panic was reported by `run`.
            let _ = worker.join();
        }
    }
}

impl Shared {
    fn work(&self, worker_idx: usize) {
        let mut last_job = 0;
        let mut n_spins = 0;
        while !self.stop.load(Ordering::Relaxed) {
            let gate = self.gate.load(Ordering::Acquire);
            let job_number = gate & !(JOB_ONE - 1);
            if gate & OPEN == 0 || job_number == last_job {
                n_spins += 1;
                if n_spins < SPINS_BEFORE_SLEEP {
                    std::hint::spin_loop();
                } else {
                    self.sleep(worker_idx, last_job);
                    n_spins = 0;
                }
                continue;
            }
            if self
                .gate
                .compare_exchange(gate, gate + INSIDE_ONE, Ordering::AcqRel, Ordering::Relaxed)
                .is_err()
            {
                continue;
            }
            last_job = job_number;
            n_spins = 0;
            // SAFETY: we are inside the gate, so the job was fully written and is not changed.
            let job = unsafe { *self.job.get() };
            // SAFETY: the caller keeps the closure alive until everybody has left the gate.
            let run = unsafe { &*job.run };
            if catch_unwind(AssertUnwindSafe(|| self.claim_tasks(run, job.n_tasks))).is_err() {
                self.panicked.store(true, Ordering::Relaxed);
            }
            self.gate.fetch_sub(INSIDE_ONE, Ordering::AcqRel);
        }
    }

    /// Sleeps until a job newer than `last_job` opens, or the pool is dropped.
    fn sleep(&self, worker_idx: usize, last_job: u64) {
        let sleeping = &self.sleeping[worker_idx];
        sleeping.store(true, Ordering::SeqCst);
        // The opener stores the gate before it looks at `sleeping`, and we the other way round: one of us
        // sees the other.
        let gate = self.gate.load(Ordering::SeqCst);
        let nothing_new = gate & OPEN == 0 || gate & !(JOB_ONE - 1) == last_job;
        if nothing_new && !self.stop.load(Ordering::SeqCst) {
            thread::park();
        }
        sleeping.store(false, Ordering::SeqCst);
    }

    fn claim_tasks(&self, run: &(dyn Fn(usize) + Sync), n_tasks: usize) {
        loop {
            let task_idx = self.next_task.fetch_add(1, Ordering::Relaxed);
            if task_idx >= n_tasks {
                return;
            }
            run(task_idx);
        }
    }
}

/// Spins; after a while gives the core away, for the thread waited for may need it.
fn wait(n_spins: &mut usize) {
    *n_spins += 1;
    if *n_spins < SPINS_BEFORE_SLEEP {
        std::hint::spin_loop();
    } else {
        thread::yield_now();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_task_runs_once() {
        let mut pool = ThreadPool::new(3);
        for n_tasks in (0..200).chain([10_000]) {
            let counts: Vec<AtomicUsize> = (0..n_tasks).map(|_| AtomicUsize::new(0)).collect();
            pool.run(n_tasks, &|task_idx| {
                counts[task_idx].fetch_add(1, Ordering::Relaxed);
            });
            assert!(
                counts.iter().all(|count| count.load(Ordering::Relaxed) == 1),
                "{n_tasks} tasks"
            );
        }
    }

    #[test]
    fn clones_take_turns() {
        let pool = ThreadPool::new(2);
        let n_run = AtomicUsize::new(0);
        thread::scope(|scope| {
            for mut pool in [pool.clone(), pool.clone(), pool] {
                let n_run = &n_run;
                scope.spawn(move || {
                    for _ in 0..100 {
                        pool.run(16, &|_| {
                            n_run.fetch_add(1, Ordering::Relaxed);
                        });
                    }
                });
            }
        });
        assert_eq!(n_run.into_inner(), 3 * 100 * 16);
    }

    #[test]
    fn sleeping_workers_wake_up() {
        let mut pool = ThreadPool::new(2);
        for _ in 0..20 {
            thread::sleep(std::time::Duration::from_millis(2));
            let n_run = AtomicUsize::new(0);
            pool.run(64, &|_| {
                n_run.fetch_add(1, Ordering::Relaxed);
            });
            assert_eq!(n_run.into_inner(), 64);
        }
    }

    #[test]
    fn a_panic_in_a_task_reaches_the_caller_and_the_pool_lives_on() {
        let mut pool = ThreadPool::new(2);
        let result = catch_unwind(AssertUnwindSafe(|| {
            pool.run(100, &|task_idx| assert!(task_idx < 50, "task {task_idx}"));
        }));
        assert!(result.is_err());
        let n_run = AtomicUsize::new(0);
        pool.run(10, &|_| {
            n_run.fetch_add(1, Ordering::Relaxed);
        });
        assert_eq!(n_run.into_inner(), 10);
    }
}
