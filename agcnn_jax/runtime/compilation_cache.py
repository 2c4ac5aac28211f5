"""Keeps compiled programs between runs, in a folder that nobody else can write to."""

from __future__ import annotations

import hashlib
import os
import platform
import re
import stat
import sys
import warnings
from pathlib import Path

import jax

from agcnn_jax.runtime.paths import user_cache

_WRITABLE = stat.S_IWGRP | stat.S_IWOTH

_CPU_FIELDS = re.compile(
    r"^(vendor_id|cpu family|model|model name|stepping|flags|Features|CPU \w+)\s*:\s*(.*)$",
    re.MULTILINE,
)
"""The lines of /proc/cpuinfo that identify a kind of processor, on x86 and Arm."""


def keep_compilations() -> None:
    """Cache what XLA compiles in the user's cache folder, unless JAX has another one configured.

    A resumed run, its evaluation and other runs with the same configuration then need not compile
    again. Nothing is cached if there is no safe folder.
    """
    warnings.filterwarnings("ignore", message="Error (reading|writing) persistent compilation")
    if jax.config.values["jax_compilation_cache_dir"]:
        return
    folder = compilation_folder(jax.devices()[0].device_kind, processor())
    if folder is not None:
        jax.config.update("jax_compilation_cache_dir", str(folder))


def compilation_folder(device_kind: str, processor: str) -> Path | None:
    """Create the folder for programs compiled for one kind of device and processor.

    It lies in `$XDG_CACHE_HOME/agcnn_jax/compiled`, by default under `~/.cache`. Only its owner may
    write there, since the programs will be executed, and programs for one `processor` may use
    instructions that another lacks. Each version of Python has its own folder: from 3.14 on JAX
    compresses programs differently, and neither reads nor replaces what it cannot decompress (jax
    0.12). Returns None if it cannot be created or others may have written to it.
    """
    kind = "-".join(re.findall(r"[a-z0-9]+", device_kind.lower()))
    digest = hashlib.sha256(processor.encode()).hexdigest()[:12]
    try:
        compiled = user_cache() / "agcnn_jax" / "compiled"
        folder = compiled / f"{kind}-{digest}-{sys.implementation.cache_tag}"
        compiled.parent.parent.mkdir(parents=True, exist_ok=True)
        for place in (compiled.parent, compiled, folder):
            place.mkdir(mode=0o700, exist_ok=True)
        # The first also holds copies of datasets, which a group may share.
        safe = _is_ours(compiled.parent, stat.S_IWOTH) and all(
            _is_ours(place, _WRITABLE) for place in (compiled, folder)
        )
    except (OSError, RuntimeError):  # RuntimeError: the user has no home.
        return None
    return folder if safe else None


def processor() -> str:
    """Describe the kinds of this machine's processors and their instructions."""
    try:
        text = Path("/proc/cpuinfo").read_text(errors="replace")
    except OSError:
        text = platform.processor()
    return describe_processor(platform.machine(), text)


def describe_processor(machine: str, cpuinfo: str) -> str:
    """Extract what programs depend on from Linux's description; keep other descriptions whole.

    Ignores clock rates and the order of flags. Includes all kinds of cores.
    """
    fields = {
        f"{name}: {' '.join(sorted(value.split()))}" for name, value in _CPU_FIELDS.findall(cpuinfo)
    }
    return "\n".join([machine, *(sorted(fields) or [cpuinfo])])


def _is_ours(place: Path, forbidden: int) -> bool:
    """Return True for a folder, not a link, of this user with none of the given mode bits."""
    status = place.lstat()
    return (
        stat.S_ISDIR(status.st_mode)
        and status.st_uid == os.getuid()
        and not status.st_mode & forbidden
    )
