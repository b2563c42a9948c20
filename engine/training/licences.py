"""Says which licence a package, or a file in it, stands under, and whether it is a permissive one."""

import fnmatch
import json
import re
import tomllib
from collections.abc import Callable
from pathlib import Path

PERMISSIVE = {
    "0bsd", "apache", "apache-2.0", "apache-2", "apache 2.0", "artistic-2.0", "blueoak-1.0.0", "bsd", "bsd-2-clause",
    "bsd-3-clause", "bsd-4-clause", "bsl-1.0", "cc0-1.0", "curl", "expat", "isc", "libpng", "libpng-2.0", "mit", "mit-0", "mit-cmu", "ncsa", "openssl",
    "postgresql", "psf-2.0", "python-2.0", "unicode-3.0", "unicode-dfs-2016", "unlicense", "vim", "zlib",
    "apache software license", "apache license 2.0", "apache license, version 2.0", "apache license version 2.0",
    "mit license", "bsd license", "bsd 3-clause", "bsd-3", "bsd-2", "3-clause bsd license", "isc license", "public-domain",
    "isc license (iscl)", "python software foundation license", "the unlicense (unlicense)", "boost-1.0", "boost", "x11",
    "asl-2.0", "apache-2.0-with-llvm-exception", "mit-style", "new bsd license", "modified bsd", "bsd-like", "bsd-2-clauses", "bsd-3-clauses",
}
COPYLEFT_IN_TEXT = re.compile(
    r"GNU (Lesser |Library |Affero )?General Public|SPDX-License-Identifier: *\S*[AL]?GPL|Mozilla Public License|"
    r"Eclipse Public License|Creative Commons|All rights reserved\. *(Confidential|Proprietary)", re.I)

FileLicence = Callable[[str], str]


def is_permissive(expression: str) -> bool:
    """`A OR B` needs one permissive side, `A AND B` both; anything unknown is not permissive."""
    expression = expression.strip().lower()
    if expression in PERMISSIVE:
        return True
    # Debian's comma binds least: `A or B, and C` needs C.
    for separator, enough in ((r",\s+and\s+", all), (r"\s+or\s+|/", any), (r"\s+and\s+", all)):
        parts = split_outside_parentheses(expression, separator)
        if len(parts) > 1:
            return enough(map(is_permissive, parts))
    if expression.startswith("(") and expression.endswith(")"):
        return is_permissive(expression[1:-1])
    return expression.split(" with ")[0] in PERMISSIVE


def split_outside_parentheses(expression: str, separator: str) -> list[str]:
    masked, inner = expression, re.compile(r"\([^()]*\)")
    while inner.search(masked):
        masked = inner.sub(lambda match: "_" * len(match.group()), masked)
    borders = [border for match in re.finditer(separator, masked) for border in match.span()]
    return [expression[begin:end] for begin, end in zip([0, *borders[1::2]], [*borders[::2], len(expression)])]


def of_package(registry: str, root: Path) -> tuple[str, FileLicence | None]:
    """The licence as the package states it, and for Debian sources a function from path to licence."""
    if registry == "cargo":
        return cargo_licence(root), None
    if registry == "pip":
        return pip_licence(root), None
    if registry == "npm":
        return npm_licence(root), None
    if registry == "standard-library":
        return "PSF-2.0", None
    return debian_licence(root)


def cargo_licence(root: Path) -> str:
    manifest = tomllib.loads((root / "Cargo.toml").read_text())
    licence = manifest.get("package", {}).get("license", "")
    return licence if isinstance(licence, str) else ""


def npm_licence(root: Path) -> str:
    manifest = next(root.glob("*/package.json"), None)
    licence = json.loads(manifest.read_text()).get("license", "") if manifest else ""
    return licence if isinstance(licence, str) else ""


def pip_licence(root: Path) -> str:
    metadata = next(root.glob("*.dist-info/METADATA"), None)
    if metadata is None:
        return ""
    head = metadata.read_text(errors="replace").split("\n\n")[0]
    fields = re.findall(r"^(License-Expression|License): *(.+)$", head, re.M)
    expression = next((value.strip() for name, value in fields if name == "License-Expression"), None)
    if expression is not None:
        return expression
    classifiers = re.findall(r"^Classifier: License ::(?: OSI Approved ::)? *(.+)$", head, re.M)
    for candidate in [value.strip() for _, value in fields] + [" and ".join(classifiers)]:
        if is_permissive(candidate):
            return candidate
    return " / ".join(value for _, value in fields) or " and ".join(classifiers)


def debian_licence(root: Path) -> tuple[str, FileLicence | None]:
    """Reads debian/copyright in its machine-readable form: the last `Files` paragraph that matches a path counts."""
    copyright_file = root / "debian" / "copyright"
    if not copyright_file.exists():
        return "", None
    rules: list[tuple[list[str], str]] = []
    for paragraph in copyright_file.read_text(errors="replace").split("\n\n"):
        files = re.search(r"^Files: *((?:.*)(?:\n[ \t]+.*)*)", paragraph, re.M)
        licence = re.search(r"^License: *(.+)$", paragraph, re.M)
        if files and licence:
            rules.append((files.group(1).split(), licence.group(1).strip()))

    def of_file(path: str) -> str:
        licence = ""
        for patterns, name in rules:
            if any(fnmatch.fnmatchcase(path, pattern) for pattern in patterns):
                licence = name
        return licence

    return of_file("*"), of_file
