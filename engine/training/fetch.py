"""Downloads the packages that corpus.toml names, with each registry's ordinary client, and unpacks them.

One folder per package: RAW/<registry>/<package>/. Nothing is judged here; corpus.py checks licences and filters.
"""

import argparse
import concurrent.futures
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import tomllib
import zipfile
from pathlib import Path

HERE = Path(__file__).parent
CRATES_AT_ONCE = 40


def fetch_cargo(packages: list[str], folder: Path) -> None:
    """Vendors the crates and what they depend on, which is code as good as any, so many at a time.

    A batch that cannot be resolved together (a crate that is gone, two that link the same library) is halved.
    """

    def vendor(names: list[str]) -> None:
        project = folder.parent / "cargo-project"
        (project / "src").mkdir(parents=True, exist_ok=True)
        (project / "src" / "lib.rs").touch()
        (project / "Cargo.lock").unlink(missing_ok=True)
        dependencies = "".join(f'"{name}" = "*"\n' for name in names)
        manifest = f'[package]\nname = "corpus"\nversion = "0.0.0"\nedition = "2021"\n\n[dependencies]\n{dependencies}'
        (project / "Cargo.toml").write_text(manifest + "\n[workspace]\n")
        command = ["cargo", "vendor", "--quiet", "--no-delete", "--versioned-dirs", str(folder.resolve())]
        done = subprocess.run(command, cwd=project, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        if done.returncode == 0:
            return
        if len(names) == 1:
            print(f"left out {names[0]}: {done.stderr.strip().splitlines()[0]}", file=sys.stderr)
            return
        vendor(names[: len(names) // 2])
        vendor(names[len(names) // 2 :])

    for first in range(0, len(packages), CRATES_AT_ONCE):
        vendor(packages[first : first + CRATES_AT_ONCE])


def fetch_pip(packages: list[str], folder: Path) -> None:
    def one(name: str) -> None:
        target = folder / name
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:",
                   "--disable-pip-version-check", "--dest", str(target), name]
        subprocess.run(command, check=True)
        for wheel in target.glob("*.whl"):
            with zipfile.ZipFile(wheel) as archive:
                archive.extractall(target)
            wheel.unlink()

    each(one, packages)


def fetch_npm(packages: list[str], folder: Path) -> None:
    def one(name: str) -> None:
        target = folder / name.replace("/", "__")
        target.mkdir(parents=True, exist_ok=True)
        subprocess.run(["npm", "pack", "--silent", "--pack-destination", str(target), name], check=True,
                       stdout=subprocess.DEVNULL)
        for archive in target.glob("*.tgz"):
            unpack(archive, target)

    each(one, packages)


def fetch_apt(packages: list[str], folder: Path) -> None:
    """Needs `deb-src` lines in apt's configuration (its own, or another through APT_CONFIG)."""

    def one(name: str) -> None:
        target = folder / name
        target.mkdir(parents=True, exist_ok=True)
        subprocess.run(["apt-get", "source", "-qq", "--download-only", "--only-source", name], cwd=target, check=True,
                       stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        for archive in target.glob("*.tar.*"):
            if archive.suffix != ".asc":
                unpack(archive, target)

    each(one, packages)


def fetch_standard_library(packages: list[str], folder: Path) -> None:
    library = Path(sysconfig.get_paths()["stdlib"])
    ignore = shutil.ignore_patterns("site-packages", "test", "tests", "idlelib", "lib2to3", "__pycache__", "*.so")
    shutil.copytree(library, folder / packages[0] / "Lib", ignore=ignore, dirs_exist_ok=True)


FETCHERS = {
    "cargo": fetch_cargo,
    "pip": fetch_pip,
    "npm": fetch_npm,
    "apt": fetch_apt,
    "standard-library": fetch_standard_library,
}


def unpack(archive: Path, target: Path) -> None:
    with tarfile.open(archive) as tar:
        members = [m for m in tar if (m.isfile() or m.isdir()) and m.size < 1_000_000]
        tar.extractall(target, members=members, filter="data")
    archive.unlink()


def each(one, packages: list[str]) -> None:
    """Runs `one` for every package, four at a time; a package that fails is reported and left out."""
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        futures = {pool.submit(one, name): name for name in packages}
        for future in concurrent.futures.as_completed(futures):
            if error := future.exception():
                print(f"left out {futures[future]}: {error}", file=sys.stderr)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("raw", type=Path, help="folder to unpack into")
    parser.add_argument("--packages", type=Path, default=HERE / "corpus.toml")
    parser.add_argument("--registry", choices=FETCHERS, action="append", help="only these (repeatable)")
    args = parser.parse_args(arguments)
    with args.packages.open("rb") as file:
        listing = tomllib.load(file)
    for registry in args.registry or listing:
        folder = args.raw / registry
        folder.mkdir(parents=True, exist_ok=True)
        FETCHERS[registry](listing[registry]["packages"], folder)


if __name__ == "__main__":
    main()
