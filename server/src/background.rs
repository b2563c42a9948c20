//! Work that nobody waits for. Nobody may: where every core is busy, it may not come to run at all.

use std::{
    sync::{
        OnceLock,
        mpsc::{Receiver, SyncSender, sync_channel},
    },
    thread,
};

use thread_priority::ThreadPriority;
#[cfg(target_os = "linux")]
use thread_priority::{NormalThreadSchedulePolicy, ThreadSchedulePolicy};

type Job = Box<dyn FnOnce() + Send>;

/// Most jobs that wait. Each holds on to what it is about: documents and their trees.
const MAX_WAITING: usize = 32;

/// A thread of low priority that does one job after the other, so that none takes a core from an answer that somebody waits
/// for. It starts with the first, and sleeps when there is none.
#[derive(Debug)]
pub struct Background {
    name: &'static str,
    jobs: OnceLock<SyncSender<Job>>,
}

impl Background {
    /// A thread that will be called `name`.
    pub fn new(name: &'static str) -> Self {
        Self {
            name,
            jobs: OnceLock::new(),
        }
    }

    /// Does `job` some time soon. Where so many wait that the thread seems not to come to run, it is dropped instead, here.
    pub fn run(&self, job: impl FnOnce() + Send + 'static) {
        let jobs = self.jobs.get_or_init(|| {
            let (sender, jobs) = sync_channel(MAX_WAITING);
            if let Err(error) = thread::Builder::new()
                .name(self.name.to_owned())
                .spawn(|| work(jobs))
            {
                tracing::warn!("the thread `{}` does not start: {error}", self.name);
            }
            sender
        });
        // Fails if there are too many, or no thread.
        let _ = jobs.try_send(Box::new(job));
    }
}

fn work(jobs: Receiver<Job>) {
    lower_priority();
    for job in jobs {
        // One job that fails does not take the others with it; the panic was printed where it happened.
        let _ = std::panic::catch_unwind(std::panic::AssertUnwindSafe(job));
    }
}

/// Lets any other thread that wants to run have the core of this one: on Linux at once.
fn lower_priority() {
    #[cfg(target_os = "linux")]
    let outcome = thread_priority::set_thread_priority_and_policy(
        thread_priority::thread_native_id(),
        ThreadPriority::Min,
        ThreadSchedulePolicy::Normal(NormalThreadSchedulePolicy::Idle),
    );
    #[cfg(not(target_os = "linux"))]
    let outcome = ThreadPriority::Min.set_for_current();
    if let Err(error) = outcome {
        tracing::debug!("the priority of a thread is not as low as it could be: {error}");
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;

    use super::*;

    #[test]
    fn what_is_too_much_is_dropped() {
        let background = Background::new("test");
        let (go_on, wait) = channel::<()>();
        let (sender, done) = channel();
        background.run(move || wait.recv().unwrap());
        for idx in 0..3 * MAX_WAITING {
            let sender = sender.clone();
            background.run(move || sender.send(idx).unwrap());
        }
        drop(sender);
        go_on.send(()).unwrap();
        let n_done = done.iter().count();
        assert!((MAX_WAITING - 1..=MAX_WAITING + 1).contains(&n_done), "{n_done}");
    }

    #[test]
    fn jobs_are_done_in_order_by_one_thread_whatever_becomes_of_them() {
        let background = Background::new("test");
        let (sender, done) = channel();
        for idx in 0..4 {
            let sender = sender.clone();
            background.run(move || {
                assert_ne!(idx, 1, "a job that fails");
                sender.send((idx, thread::current().id())).unwrap();
            });
        }
        drop(sender);
        let done: Vec<_> = done.iter().collect();
        assert_eq!(done.iter().map(|it| it.0).collect::<Vec<_>>(), [0, 2, 3]);
        assert!(
            done.iter()
                .all(|it| it.1 == done[0].1 && it.1 != thread::current().id())
        );
    }
}
