"""Compiled programs kept between runs, where nobody else can put any."""

from __future__ import annotations

import hashlib
import os
import platform
import re
import stat
import warnings
from pathlib import Path

import jax

_WRITABLE = stat.S_IWGRP | stat.S_IWOTH

_CPU_FIELDS = re.compile(
    r"^(vendor_id|cpu family|model|model name|stepping|flags|Features|CPU \w+)\s*:\s*(.*)$",
    re.MULTILINE,
)
"""What Linux says of a processor's kind, on x86 and on Arm."""


def keep_compilations() -> None:
    """Keep what XLA compiles in the user's cache folder, unless JAX was told another place.

    A run that goes on, its evaluation and other runs of the same configuration need not compile
    again. Where nothing can be kept safely, they do.
    """
    warnings.filterwarnings("ignore", message="Error (reading|writing) persistent compilation")
    if jax.config.values["jax_compilation_cache_dir"]:
        return
    folder = compilation_folder(jax.devices()[0].device_kind, processor())
    if folder is not None:
        jax.config.update("jax_compilation_cache_dir", str(folder))


def compilation_folder(device_kind: str, processor: str) -> Path | None:
    """Make the folder for what is compiled for one kind of device and of processor.

    It lies in `$XDG_CACHE_HOME/agcnn_jax/compiled`, by default in `~/.cache`. Programs are code
    that will be run, so the folder is for its owner alone.

    Args:
        device_kind: as JAX calls it.
        processor: see `processor`; programs for one may use instructions that another lacks.

    Returns:
        The folder, or None if it cannot be made or others might have written there.
    """
    kind = "-".join(re.findall(r"[a-z0-9]+", device_kind.lower()))
    digest = hashlib.sha256(processor.encode()).hexdigest()[:12]
    try:
        cache = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser().absolute()
        compiled = cache / "agcnn_jax" / "compiled"
        folder = compiled / f"{kind}-{digest}"
        cache.mkdir(parents=True, exist_ok=True)
        for place in (compiled.parent, compiled, folder):
            place.mkdir(mode=0o700, exist_ok=True)
        # The first of these holds copies of datasets too, which a group may share.
        safe = _is_ours(compiled.parent, stat.S_IWOTH) and all(
            _is_ours(place, _WRITABLE) for place in (compiled, folder)
        )
    except (OSError, RuntimeError):
        # RuntimeError is raised where there is no home.
        return None
    return folder if safe else None


def processor() -> str:
    """Describe this machine's processors: what they are and which instructions they have."""
    try:
        said = Path("/proc/cpuinfo").read_text(errors="replace")
    except OSError:
        said = platform.processor()
    return describe_processor(platform.machine(), said)


def describe_processor(machine: str, cpuinfo: str) -> str:
    """Keep what programs depend on of Linux's description; keep any other description whole.

    Clock rates and the order of the flags do not matter; of different cores, all kinds do.
    """
    fields = {
        f"{name}: {' '.join(sorted(value.split()))}" for name, value in _CPU_FIELDS.findall(cpuinfo)
    }
    return "\n".join([machine, *(sorted(fields) or [cpuinfo])])


def _is_ours(place: Path, forbidden: int) -> bool:
    """Whether a path is this user's own folder, not a link, with none of the given mode bits."""
    status = place.lstat()
    return (
        stat.S_ISDIR(status.st_mode)
        and status.st_uid == os.getuid()
        and not status.st_mode & forbidden
    )
