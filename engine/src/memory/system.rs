//! How much memory this machine has, and how much of it a program may still take.

#[cfg(any(target_os = "linux", test))]
use std::path::Path;

/// Memory of this machine, or of the container that this process runs in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SystemMemory {
    /// All of it, in bytes.
    pub total_bytes: usize,
    /// What can be taken now without pushing other programs out, in bytes; what only caches files counts. Where the system
    /// does not say (macOS), all of it.
    pub available_bytes: usize,
}

impl SystemMemory {
    /// The memory as it is now; `None` where the system does not say (it does on Linux and macOS).
    pub fn now() -> Option<Self> {
        #[cfg(target_os = "linux")]
        return linux();
        #[cfg(target_os = "macos")]
        return macos();
        #[cfg(not(any(target_os = "linux", target_os = "macos")))]
        None
    }
}

#[cfg(target_os = "linux")]
fn linux() -> Option<SystemMemory> {
    let machine = parse_meminfo(&std::fs::read_to_string("/proc/meminfo").ok()?)?;
    let group = std::fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    // Version 2 has one line, `0::/path`.
    let group = group
        .lines()
        .find_map(|line| line.strip_prefix("0::"))
        .unwrap_or("/");
    Some(narrow(machine, Path::new("/sys/fs/cgroup"), group))
}

/// Reads the kibibytes of `/proc/meminfo`.
#[cfg(any(target_os = "linux", test))]
fn parse_meminfo(text: &str) -> Option<SystemMemory> {
    let bytes = |key: &str| {
        let line = text
            .lines()
            .find_map(|line| line.strip_prefix(key)?.strip_prefix(':'))?;
        let kibibytes: usize = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
        Some(kibibytes * 1024)
    };
    Some(SystemMemory {
        total_bytes: bytes("MemTotal")?,
        available_bytes: bytes("MemAvailable")?,
    })
}

/// What the control groups from `group` up to `root` leave of a machine's memory. Sources: the kernel's
/// `cgroup-v2.rst` and, for the one file of version 1 that is asked, `cgroup-v1/memory.rst`.
#[cfg(any(target_os = "linux", test))]
fn narrow(machine: SystemMemory, root: &Path, group: &str) -> SystemMemory {
    let number = |path: &Path| -> Option<usize> { std::fs::read_to_string(path).ok()?.trim().parse().ok() };
    let cached = |folder: &Path, key: &str| -> usize {
        let stat = std::fs::read_to_string(folder.join("memory.stat")).unwrap_or_default();
        let line = stat
            .lines()
            .find_map(|line| line.strip_prefix(key)?.strip_prefix(' '));
        line.and_then(|it| it.trim().parse().ok()).unwrap_or(0)
    };
    let mut memory = machine;
    let mut allow = |limit: usize, used: usize| {
        memory.total_bytes = memory.total_bytes.min(limit);
        memory.available_bytes = memory.available_bytes.min(limit.saturating_sub(used));
    };
    let lowest = root.join(group.trim_start_matches('/'));
    for folder in lowest.ancestors().take_while(|folder| folder.starts_with(root)) {
        // `max` where there is no limit.
        if let Some(limit) = number(&folder.join("memory.max"))
            && let Some(used) = number(&folder.join("memory.current"))
        {
            allow(limit, used.saturating_sub(cached(folder, "inactive_file")));
        }
    }
    let first_version = root.join("memory");
    if let Some(limit) = number(&first_version.join("memory.limit_in_bytes"))
        && let Some(used) = number(&first_version.join("memory.usage_in_bytes"))
    {
        allow(
            limit,
            used.saturating_sub(cached(&first_version, "total_inactive_file")),
        );
    }
    memory
}

#[cfg(target_os = "macos")]
fn macos() -> Option<SystemMemory> {
    let mut total: u64 = 0;
    let mut n_bytes = size_of::<u64>();
    // SAFETY: the name is a C string, and the two pointers are to a number and to its size, as sysctl(3) wants them.
    let failed = unsafe {
        libc::sysctlbyname(
            c"hw.memsize".as_ptr(),
            (&raw mut total).cast(),
            &raw mut n_bytes,
            std::ptr::null_mut(),
            0,
        )
    };
    let total_bytes = usize::try_from(total).ok().filter(|_| failed == 0)?;
    Some(SystemMemory {
        total_bytes,
        available_bytes: total_bytes,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tightest_limit_counts() {
        let meminfo = "MemTotal:       1000 kB\nMemFree:  1 kB\nMemAvailable:    800 kB\n";
        let machine = parse_meminfo(meminfo).unwrap();
        assert_eq!(
            (machine.total_bytes, machine.available_bytes),
            (1000 << 10, 800 << 10)
        );
        assert_eq!(parse_meminfo("MemTotal: 1000 kB\n"), None);

        let root = tempfile::tempdir().unwrap();
        let write = |path: &str, text: &str| {
            let path = root.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        };
        let narrowed = || {
            let memory = narrow(machine, root.path(), "/user/session");
            (memory.total_bytes, memory.available_bytes)
        };
        assert_eq!(narrowed(), (1000 << 10, 800 << 10));
        write("user/session/memory.max", "max\n");
        write("user/session/memory.current", "1\n");
        write("user/memory.max", "600000\n");
        write("user/memory.current", "500000\n");
        write("user/memory.stat", "file 300000\ninactive_file 200000\n");
        assert_eq!(narrowed(), (600_000, 300_000));
        write("memory/memory.limit_in_bytes", "400000\n");
        write("memory/memory.usage_in_bytes", "450000\n");
        assert_eq!(narrowed(), (400_000, 0));
    }
}
