"""Debian's packages: downloaded by name with apt and unpacked, never installed.

Nothing here needs root. apt is asked with the machine's own package lists first; where these are
absent or too old, with lists of vetrace's own in the cache folder.

Ref: apt-get(8), apt-cache(8), apt.conf(5) (Dir::State, Dir::Cache).
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import os
import re
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from tracer.errors import TracerError
from tracer.host.cache import cache_folder

FLAVOURS = {
    "cloud": "linux-image-cloud-amd64",
    "full": "linux-image-amd64",
    "rt": "linux-image-rt-amd64",
}
"""The metapackage of each flavour of Debian's kernels, which depends on the newest of them."""

METAPACKAGE = FLAVOURS["cloud"]
"""That of the default guest's flavour, which has the drivers that clouds need alone."""

CURRENT = "current"
"""Links to the package of the default guest's kernel, as the name of another kind of guest does."""

_PARTS = re.compile(r"linux-(image|binary|modules)-")
"""Since Debian 14 an image package has nothing in it but dependencies on these."""
_DEPENDS = re.compile(r"^\s*Depends: (\S+)$", re.MULTILINE)
_ERRORS = ("E: ", "dpkg-deb: ", "tar: ")
_PR_SET_PDEATHSIG = 1

Progress = Callable[[str], None]


class PackageError(TracerError):
    """A package cannot be had: apt is absent, does not know it, or cannot download it."""


@dataclass(frozen=True, slots=True)
class Archive:
    """Name the package lists that apt is to use, by the options that say so."""

    options: tuple[str, ...] = ()

    def depends(self, package: str) -> list[str]:
        """Return the names of what a package depends on; none when the lists do not know it."""
        try:
            text = run_program(["apt-cache", *self.options, "depends", "--no-recommends", package])
        except PackageError:
            return []
        return _DEPENDS.findall(text)

    def download(self, packages: Sequence[str], folder: Path) -> list[Path]:
        """Download packages into a folder; return their files. Raises PackageError."""
        # apt drops root's rights for a download, and may then not write here.
        options = ("-o", "APT::Sandbox::User=root") if os.geteuid() == 0 else ()
        run_program(["apt-get", "-q", *options, *self.options, "download", *packages], folder)
        return sorted(folder.glob("*.deb"))

    def update(self) -> None:
        """Fetch the lists anew. Raises PackageError."""
        run_program(["apt-get", "-q", *self.options, "update"])


def own_archive() -> Archive:
    """Return an archive whose lists are in the cache folder, from the machine's own sources."""
    folder = cache_folder() / "apt"
    for part in ("lists/partial", "cache/archives/partial"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    return Archive(
        ("-o", f"Dir::State::lists={folder}/lists/", "-o", f"Dir::Cache={folder}/cache/")
    )


def kernels_folder() -> Path:
    """Return the folder of the unpacked kernel packages, one folder each."""
    return cache_folder() / "kernel"


def image_in(folder: Path) -> Path | None:
    """Return the kernel image in an unpacked package, or None.

    It is ``boot/vmlinuz-RELEASE``, or ``vmlinuz`` in the folder of the modules.
    """
    for pattern in ("boot/vmlinuz-*", "usr/lib/modules/*/vmlinuz", "lib/modules/*/vmlinuz"):
        for image in sorted(folder.glob(pattern), reverse=True):
            return image
    return None


def unpacked_kernels() -> list[Path]:
    """Return the image of each unpacked package, by the packages' names."""
    try:
        folders = sorted(kernels_folder().iterdir())
    except OSError:
        return []
    # A draft is no package yet, and a link to one is no other.
    images = [
        image_in(folder)
        for folder in folders
        if not folder.is_symlink() and not folder.name.startswith(".")
    ]
    return [image for image in images if image is not None]


def newest_kernel(
    metapackage: str = METAPACKAGE,
    progress: Progress = lambda _: None,
    archives: Sequence[Archive] = (),
) -> str:
    """Return the kernel package that a metapackage depends on. Raises PackageError.

    Without ``archives`` the machine's own are asked.
    """
    for archive in archives or _archives(progress):
        for name in archive.depends(metapackage):
            if name.startswith("linux-image-"):
                return name
    raise PackageError(f"apt knows no package {metapackage} of which a kernel could be taken")


def fetch_kernel(
    package: str, progress: Progress = lambda _: None, archives: Sequence[Archive] = ()
) -> Path:
    """Download and unpack a kernel package and its parts, once; return its image.

    Without ``archives`` it is from the machine's own. Another process that does the same is waited
    for. Raises PackageError.
    """
    folder = kernels_folder() / package
    with only_one(progress):
        if (image := image_in(folder)) is not None:
            return image
        failure = PackageError(f"apt cannot download {package}")
        for archive in archives or _archives(progress):
            progress(f"downloading {package}")
            draft = Path(tempfile.mkdtemp(prefix=".draft.", dir=kernels_folder()))
            try:
                _unpack(archive, package, draft)
                shutil.rmtree(folder, ignore_errors=True)
                draft.chmod(0o755)
                draft.rename(folder)
                break
            except PackageError as error:
                failure = error
            finally:
                shutil.rmtree(draft, ignore_errors=True)
        else:
            raise failure
    image = image_in(folder)
    assert image is not None  # _unpack has seen to it
    return image


def kept_kernel(name: str) -> Path | None:
    """Return the image that :func:`make_default` has given a name, None where there is none."""
    image = image_in(kernels_folder() / name)
    return None if image is None else image.resolve()


def make_default(package: str, kind: str = CURRENT) -> None:
    """Let the default guest of a kind run the kernel of an unpacked package.

    A flavour is kept by its name in the same way.
    """
    link = kernels_folder() / f".draft.link.{os.getpid()}"
    link.symlink_to(package)
    link.rename(kernels_folder() / kind)


def _unpack(archive: Archive, package: str, folder: Path) -> None:
    parts = [name for name in archive.depends(package) if _PARTS.match(name)]
    for file in archive.download([package, *parts], folder):
        run_program(["dpkg-deb", "-x", str(file), str(folder)])
        file.unlink()
    shutil.rmtree(folder / "usr/share", ignore_errors=True)
    if image_in(folder) is None:
        names = " ".join([package, *parts])
        raise PackageError(f"there is no kernel image in {names}")


def _archives(progress: Progress) -> Iterator[Archive]:
    # The second is asked only when the first does not do.
    yield Archive()
    archive = own_archive()
    progress("fetching package lists")
    archive.update()
    yield archive


@contextlib.contextmanager
def only_one(progress: Progress) -> Iterator[None]:
    """Wait for another process that fetches, and let none fetch in the block."""
    kernels_folder().mkdir(parents=True, exist_ok=True)
    with (kernels_folder() / ".lock").open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            progress("waiting for another process that fetches a kernel")
            fcntl.flock(lock, fcntl.LOCK_EX)
        # A killed process left these: the lock says that nobody is at work on them.
        for left in kernels_folder().glob(".draft.*"):
            if left.is_dir() and not left.is_symlink():
                shutil.rmtree(left, ignore_errors=True)
        yield


def install(packages: Sequence[str]) -> None:
    """Install packages with apt, as root or by sudo without a password. Raises PackageError."""
    rights: tuple[str, ...] = ()
    if os.geteuid() != 0:
        rights = ("sudo", "-n")
        try:
            run_program([*rights, "true"])
        except PackageError as error:
            raise PackageError("it needs root, or sudo without a password") from error
    apt = (*rights, "env", "DEBIAN_FRONTEND=noninteractive", "apt-get", "-q", "-y",
           "-o", "DPkg::Lock::Timeout=300")  # fmt: skip
    command = [*apt, "install", "--no-install-recommends", *packages]
    # A run that was interrupted inside dpkg leaves packages that must be configured first.
    run_program([*rights, "dpkg", "--configure", "-a"])
    try:
        run_program(command)
    except PackageError:
        # Package lists that are absent or old are the usual reason for a first failure.
        run_program([*apt, "update"])
        run_program(command)


def run_program(command: Sequence[str], folder: Path | None = None) -> str:
    """Return what a program printed; it ends when vetrace does. Raises PackageError."""
    parent = os.getpid()
    libc = ctypes.CDLL(None)

    def end_with_parent() -> None:
        libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:
            os._exit(1)

    try:
        done = subprocess.run(
            command,
            cwd=folder,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
            env={**os.environ, "LC_ALL": "C.UTF-8", "DEBIAN_FRONTEND": "noninteractive"},
            preexec_fn=end_with_parent,
        )
    except OSError as error:
        raise PackageError(f"{command[0]} cannot be run: {error.strerror}") from error
    if done.returncode != 0:
        raise PackageError(f"{command[0]} failed: {_last_words(done.stderr + done.stdout)}")
    return done.stdout


def _last_words(output: str) -> str:
    # The line that says most: the first of the errors that these programs print, else the last of
    # all. dpkg-deb has tar unpack, and tells only that it failed.
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    errors = (line.partition(": ")[2] for line in lines if line.startswith(_ERRORS))
    return next(errors, lines[-1] if lines else "no reason given")
