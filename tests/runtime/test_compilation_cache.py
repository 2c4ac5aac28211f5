"""Compiled programs are kept by processor, where nobody else can write."""

import os
import stat
import subprocess
import sys

import jax
import jax.numpy as jnp
import pytest
from jax.experimental.compilation_cache import compilation_cache

from agcnn_jax.runtime.compilation_cache import (
    compilation_folder,
    describe_processor,
    keep_compilations,
    processor,
)
from tests.support.programs import ROOT

CPUINFO = """processor\t: {number}
vendor_id\t: GenuineIntel
model\t\t: 85
model name\t: Xeon
cpu MHz\t\t: {clock}
flags\t\t: {flags}

"""


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """The user's cache folder."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_for_the_owner_alone(cache):
    umask = os.umask(0)
    try:
        folder = compilation_folder("NVIDIA H100 80GB HBM3", "x86")
    finally:
        os.umask(umask)
    assert folder.parent == cache / "agcnn_jax" / "compiled"
    assert folder.name.startswith("nvidia-h100-80gb-hbm3-")
    for place in (folder, folder.parent, folder.parent.parent):
        assert stat.S_IMODE(place.stat().st_mode) == 0o700
    assert compilation_folder("NVIDIA H100 80GB HBM3", "x86") == folder


def test_each_python_has_its_own(cache, monkeypatch):
    folder = compilation_folder("cpu", "x86")
    monkeypatch.setattr(sys.implementation, "cache_tag", "cpython-399")
    assert compilation_folder("cpu", "x86") not in (folder, None)


def test_in_the_home_by_default(tmp_path, monkeypatch):
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert compilation_folder("cpu", "x86").is_relative_to(tmp_path / ".cache/agcnn_jax")


@pytest.mark.parametrize("level", [0, 1])
@pytest.mark.parametrize("mode", [0o777, 0o770, 0o722])
def test_not_where_others_may_write(cache, level, mode):
    folder = compilation_folder("cpu", "x86")
    [folder, folder.parent][level].chmod(mode)
    assert compilation_folder("cpu", "x86") is None


@pytest.mark.parametrize("level", [0, 1])
def test_not_through_a_link(cache, tmp_path, level):
    folder = compilation_folder("cpu", "x86")
    place = [folder, folder.parent][level]
    place.rename(tmp_path / "elsewhere")
    place.symlink_to(tmp_path / "elsewhere")
    assert compilation_folder("cpu", "x86") is None


def test_not_in_a_folder_of_someone_else(cache, monkeypatch):
    assert compilation_folder("cpu", "x86") is not None
    ours = os.getuid()
    monkeypatch.setattr(os, "getuid", lambda: ours + 1)
    assert compilation_folder("cpu", "x86") is None


def test_nothing_is_kept_where_no_folder_can_be(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert compilation_folder("cpu", "x86") is None
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", "/dev/null")
    assert compilation_folder("cpu", "x86") is None


def test_one_folder_for_each_set_of_instructions(cache):
    def described(flags, clocks=(2000, 2100)):
        cores = (
            CPUINFO.format(number=number, clock=clock, flags=flags)
            for number, clock in enumerate(clocks)
        )
        return describe_processor("x86_64", "".join(cores))

    assert described("avx2 fma") == described("fma avx2", (1800, 3000))
    assert described("avx2 fma") != described("avx2 fma avx512f")
    assert "avx2" in described("avx2 fma")
    names = {compilation_folder("cpu", described(flags)) for flags in ("fma avx2", "avx2 fma")}
    assert names == {compilation_folder("cpu", described("avx2 fma"))}
    assert names != {compilation_folder("cpu", described("avx2 avx512f"))}
    arm = "Features\t: fp asimd\nCPU part\t: 0xd0c\n"
    assert describe_processor("aarch64", arm) != describe_processor(
        "aarch64", arm + "Features: sve"
    )
    assert describe_processor("arm64", "Apple M3") != describe_processor("arm64", "Apple M4")


def test_make_clean_removes_them(cache, tmp_path):
    folder = compilation_folder("cpu", "x86")
    (folder / "program").touch()
    copies = cache / "agcnn_jax" / "copies"
    copies.mkdir()
    subprocess.run(["make", "-f", ROOT / "Makefile", "clean"], cwd=tmp_path, check=True)
    assert not folder.parent.exists()
    assert copies.exists()


def test_this_machine_is_described():
    assert processor() == processor()
    assert len(processor()) > 20


class TestJax:
    @pytest.fixture(autouse=True)
    def settings(self):
        names = ("jax_compilation_cache_dir", "jax_persistent_cache_min_compile_time_secs")
        before = {name: jax.config.values[name] for name in names}
        yield
        for name, value in before.items():
            jax.config.update(name, value)
        compilation_cache.reset_cache()

    def test_writes_there(self, cache):
        jax.config.update("jax_compilation_cache_dir", None)
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
        keep_compilations()
        compilation_cache.reset_cache()
        jax.jit(lambda x: jnp.sin(x) * 3.25 + 0.125)(jnp.ones(7)).block_until_ready()
        [folder] = (cache / "agcnn_jax" / "compiled").iterdir()
        assert any("lambda" in path.name for path in folder.iterdir())

    def test_goes_where_it_was_told(self, cache, tmp_path):
        jax.config.update("jax_compilation_cache_dir", str(tmp_path / "told"))
        keep_compilations()
        assert jax.config.values["jax_compilation_cache_dir"] == str(tmp_path / "told")
        assert not cache.exists()
