//! Threads kept on cores of their own.
//!
//! The threads of a pool wait for each other at the end of every operation. If there are as many as cores, and the scheduler
//! puts two of them on one core for the sake of somebody else's work, each waits for the other; kept apart, only one of them
//! shares its core. Fewer threads than cores are left to the scheduler, which knows which cores are idle.

use std::thread::JoinHandle;
#[cfg(target_os = "linux")]
use std::{fs, os::unix::thread::JoinHandleExt};

/// Keeps the calling thread and `others` on cores of their own, if there is one for each and no more.
pub(super) fn keep_on_cores(others: &[JoinHandle<()>]) {
    #[cfg(target_os = "linux")]
    {
        let cores = cores();
        if others.is_empty() || cores.len() != others.len() + 1 {
            return;
        }
        // SAFETY: it only says which thread this is.
        let own = unsafe { libc::pthread_self() };
        let threads = std::iter::once(own).chain(others.iter().map(JoinHandle::as_pthread_t));
        for (thread, core) in threads.zip(&cores) {
            set_affinity(thread, core);
        }
    }
    #[cfg(not(target_os = "linux"))]
    let _ = others;
}

/// Cores that this process may run on.
pub(crate) fn n_cores() -> usize {
    let n_physical = num_cpus::get_physical();
    #[cfg(target_os = "linux")]
    // None, where the system does not tell.
    let n_physical = match cores().len() {
        0 => n_physical,
        n_allowed => n_physical.min(n_allowed),
    };
    n_physical.max(1)
}

/// The processors of each core that this process may run on.
#[cfg(target_os = "linux")]
fn cores() -> Vec<Vec<usize>> {
    let mut cores: Vec<(String, Vec<usize>)> = Vec::new();
    for processor in allowed_processors() {
        let file = format!("/sys/devices/system/cpu/cpu{processor}/topology/core_cpus_list");
        let core = fs::read_to_string(file).unwrap_or_else(|_| processor.to_string());
        match cores.iter_mut().find(|(name, _)| *name == core) {
            Some((_, processors)) => processors.push(processor),
            None => cores.push((core, vec![processor])),
        }
    }
    cores.into_iter().map(|(_, processors)| processors).collect()
}

/// Those of the process's first thread: the calling one may be kept on a core already.
#[cfg(target_os = "linux")]
fn allowed_processors() -> Vec<usize> {
    let size = size_of::<libc::cpu_set_t>();
    // SAFETY: a set of bits, all of which may be zero; the call writes no more than its size.
    let (set, outcome) = unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        let outcome = libc::sched_getaffinity(libc::getpid(), size, &raw mut set);
        (set, outcome)
    };
    // SAFETY: only reads a bit of the set.
    let is_allowed = |processor: &usize| outcome == 0 && unsafe { libc::CPU_ISSET(*processor, &set) };
    (0..8 * size).filter(is_allowed).collect()
}

/// A refusal changes nothing.
#[cfg(target_os = "linux")]
fn set_affinity(thread: libc::pthread_t, processors: &[usize]) {
    // SAFETY: a set of bits, all of which may be zero, and places in it, as they were read from such a set; the thread was not
    // joined.
    unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        for &processor in processors {
            libc::CPU_SET(processor, &mut set);
        }
        libc::pthread_setaffinity_np(thread, size_of::<libc::cpu_set_t>(), &raw const set);
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use std::{sync::mpsc::channel, thread};

    use super::*;

    fn processors_of_this_thread() -> Vec<usize> {
        let status = fs::read_to_string("/proc/thread-self/status").unwrap();
        let list = status
            .lines()
            .find_map(|line| line.strip_prefix("Cpus_allowed_list:"));
        let ranges = list.unwrap().trim().split(',');
        ranges
            .flat_map(|range| {
                let (first, last) = range.split_once('-').unwrap_or((range, range));
                first.parse::<usize>().unwrap()..last.parse::<usize>().unwrap() + 1
            })
            .collect()
    }

    /// Where `n_threads` run after they were settled, the settling one first.
    fn places(n_threads: usize) -> Vec<Vec<usize>> {
        let settling = thread::spawn(move || {
            let (settled, waiting): (Vec<_>, Vec<_>) = (1..n_threads).map(|_| channel::<()>()).unzip();
            let places: Vec<_> = waiting.iter().map(|_| channel()).collect();
            let others = waiting.into_iter().zip(&places).map(|(waiting, (place, _))| {
                let place = place.clone();
                thread::spawn(move || {
                    let _ = waiting.recv();
                    place.send(processors_of_this_thread()).unwrap();
                })
            });
            let others: Vec<_> = others.collect();
            keep_on_cores(&others);
            drop(settled);
            let found = places.iter().map(|(_, found)| found.recv().unwrap());
            let found: Vec<_> = std::iter::once(processors_of_this_thread())
                .chain(found)
                .collect();
            others.into_iter().for_each(|it| it.join().unwrap());
            found
        });
        settling.join().unwrap()
    }

    #[test]
    fn threads_have_cores_of_their_own_if_there_are_as_many() {
        let (cores, all) = (cores(), allowed_processors());
        assert_eq!(cores.concat().len(), all.len());
        assert!((1..=cores.len()).contains(&n_cores()));
        if cores.len() > 1 {
            assert_eq!(places(cores.len()), cores);
        }
        for n_threads in [1, cores.len() + 1] {
            assert!(places(n_threads).iter().all(|it| *it == all));
        }
    }
}
