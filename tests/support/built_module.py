"""A kernel module built from source, for the guest's kernel, with Debian's headers of it.

The packages are unpacked, not installed: one Makefile names the other by its installed path.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

from vetrace_run import need

from tracer.host.cache import cache_folder
from tracer.host.package import Archive, PackageError, own_archive

_PARTS = re.compile(r"linux-(headers|kbuild)-")


def headers(release: str) -> Path:
    """Return the build folder of a kernel's headers, fetched once."""
    folder = cache_folder() / "headers" / release
    tree = folder / "usr" / "src" / f"linux-headers-{release}"
    if not (tree / ".config").is_file():
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        try:
            _unpack(Archive(), release, folder)
        except PackageError:
            archive = own_archive()
            archive.update()
            _unpack(archive, release, folder)
    makefile = tree / "Makefile"
    text = makefile.read_text()
    makefile.write_text(re.sub(r"^include .*?/usr/src/|^include /usr/src/",
                               f"include {folder}/usr/src/", text, flags=re.MULTILINE))  # fmt: skip
    return tree


def _unpack(archive: Archive, release: str, folder: Path) -> None:
    package = f"linux-headers-{release}"
    parts = [name for name in archive.depends(package) if _PARTS.match(name)]
    for file in archive.download([package, *parts], folder):
        subprocess.run(["dpkg-deb", "-x", file, folder], check=True)
        file.unlink()


def build(folder: Path, release: str) -> None:
    """Build the modules of a folder, which has a Makefile, for a kernel."""
    tree = headers(release)
    said = (tree / ".kernelvariables").read_text()
    compiler = re.search(r"gcc-\d+", said)
    assert compiler is not None, said
    need(shutil.which(compiler[0]) is not None, compiler[0])
    need(shutil.which("make") is not None, "make")
    done = subprocess.run(
        ["make", "-C", tree, f"M={folder}", "modules"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
