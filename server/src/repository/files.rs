//! Which files there are: listed by name, not read.

use std::{
    path::{Path, PathBuf},
    time::{Duration, Instant, SystemTime},
};

use ignore::WalkBuilder;
use surmise_grammars::Language;

use super::secrets::is_secret;

/// Files that are listed at most, about 200 bytes of memory each.
const MAX_FILES: usize = 20_000;
/// Entries of folders that are looked at, files that nothing is copied from among them.
const MAX_ENTRIES: usize = 200_000;
/// Folders below a root that are entered one in another.
const MAX_DEPTH: usize = 24;
/// How long listing may take.
const MAX_TIME: Duration = Duration::from_secs(5);
/// Larger files are seldom written by hand.
const MAX_FILE_BYTES: u64 = 256 * 1024;
/// The list stands for so long, and for so many times what it took to make.
const STANDS_FOR: Duration = Duration::from_secs(10);
const STANDS_FOR_TIMES: u32 = 200;
/// Folders of what others wrote, or what tools made, whether or not Git ignores them.
const PASSED_OVER: [&str; 3] = ["node_modules", "target", "__pycache__"];
/// Ends of the names of files that tools made.
const GENERATED: [&str; 5] = [".min.js", ".min.css", "-lock.json", "-lock.yaml", ".lock"];

/// A file that something may be copied from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ListedFile {
    pub path: PathBuf,
    pub language: Language,
    pub modified: SystemTime,
}

/// How one learns that there are other files than before.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Watch {
    /// Nobody says so: one looks now and then.
    #[default]
    None,
    /// The editor would have said so.
    Unchanged,
    /// It has.
    Changed,
}

/// The files of some folders, as they were a moment ago.
#[derive(Debug, Default)]
pub struct FileList {
    pub(super) files: Vec<ListedFile>,
    roots: Vec<PathBuf>,
    /// When the list was made, and how long it took.
    made: Option<(Instant, Duration)>,
    /// Whether there are other files by now.
    is_stale: bool,
}

impl FileList {
    /// Lists the files of `roots` anew, if these are other folders than last time, or there may be other files in them.
    pub fn refresh(&mut self, roots: &[PathBuf], watch: Watch) {
        self.is_stale |= watch == Watch::Changed;
        let stands = self.made.is_some_and(|(at, took)| {
            let rest = took * STANDS_FOR_TIMES;
            match watch {
                Watch::None => at.elapsed() < STANDS_FOR.max(rest),
                Watch::Unchanged | Watch::Changed => !self.is_stale || at.elapsed() < rest,
            }
        });
        if stands && self.roots == roots {
            return;
        }
        let started = Instant::now();
        roots.clone_into(&mut self.roots);
        self.files = list(roots);
        self.made = Some((started, started.elapsed()));
        self.is_stale = false;
        tracing::debug!("listed {} files in {:?}", self.files.len(), started.elapsed());
    }
}

/// Source files below `roots` that Git does not ignore, are not hidden, and have no secrets in them as far as their names
/// tell. Links are not followed.
fn list(roots: &[PathBuf]) -> Vec<ListedFile> {
    let mut roots = roots.iter().filter(|root| is_project(root));
    let Some(mut walk) = roots.next().map(WalkBuilder::new) else {
        return Vec::new();
    };
    roots.for_each(|root| {
        walk.add(root);
    });
    walk.max_depth(Some(MAX_DEPTH))
        .max_filesize(Some(MAX_FILE_BYTES))
        // A folder is as good without `.git`.
        .require_git(false)
        .filter_entry(|entry| {
            let is_folder = entry.file_type().is_some_and(|it| it.is_dir());
            let is_passed_over = PASSED_OVER.iter().any(|name| entry.file_name() == *name);
            !(is_folder && is_passed_over && entry.depth() > 0)
        });
    let started = Instant::now();
    // Folders that may not be read are like folders that are not there.
    let entries = walk.build().filter_map(Result::ok).take(MAX_ENTRIES);
    let files = entries
        .take_while(|_| started.elapsed() < MAX_TIME)
        .filter_map(|entry| {
            let path = entry.path();
            let language = Language::from_path(path)?;
            let name = entry.file_name().to_string_lossy();
            let is_source = entry.file_type()?.is_file()
                && !is_secret(path)
                && !GENERATED.iter().any(|end| name.ends_with(end));
            let modified = entry.metadata().ok()?.modified().ok()?;
            is_source.then(|| ListedFile {
                path: entry.into_path(),
                language,
                modified,
            })
        });
    files.take(MAX_FILES).collect()
}

/// Whether a folder may be one of somebody's work: not a whole disk, and not everything that somebody has.
fn is_project(root: &Path) -> bool {
    let home = ["HOME", "USERPROFILE"].map(std::env::var_os);
    root.is_absolute()
        && root.parent().is_some()
        && !home.iter().flatten().any(|home| Path::new(home) == root)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn only_sources_that_are_ones_own_are_listed() {
        let root = std::env::temp_dir().join(format!("surmise-files-{}", std::process::id()));
        let write = |name: &str, text: &str| {
            let path = root.join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        write(".gitignore", "made/\n*.gen.rs\n");
        for name in [
            "a.rs",
            "deep/er/b.py",
            "made/c.rs",
            "d.gen.rs",
            ".hidden/e.rs",
            ".env",
            "secrets/f.py",
            "id_rsa.py",
            "node_modules/g.js",
            "h.min.js",
            "picture.png",
            "i.unknown",
        ] {
            write(name, "x = 1\n");
        }
        write("large.rs", &"x".repeat(MAX_FILE_BYTES as usize + 1));
        let mut files = FileList::default();
        let mut refresh = |watch| {
            files.refresh(std::slice::from_ref(&root), watch);
            let names = files
                .files
                .iter()
                .map(|it| it.path.strip_prefix(&root).unwrap().to_owned());
            let mut names: Vec<PathBuf> = names.collect();
            names.sort();
            names
        };
        let expected = ["a.rs", "deep/er/b.py"].map(PathBuf::from);
        assert_eq!(refresh(Watch::Unchanged), expected);
        write("new.rs", "x");
        assert_eq!(refresh(Watch::Unchanged), expected, "nobody said so");
        // It may be busy at first.
        while refresh(Watch::Changed) == expected {
            std::thread::sleep(Duration::from_millis(1));
        }
        fs::remove_dir_all(root).unwrap();
    }

    #[test]
    fn whole_disks_and_homes_are_no_projects() {
        assert!(!is_project(Path::new("/")) && !is_project(Path::new("relative")));
        assert!(std::env::home_dir().is_none_or(|home| !is_project(&home)));
    }
}
