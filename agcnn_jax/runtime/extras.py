"""The optional packages of `pyproject.toml`, as messages name them."""

from __future__ import annotations

_PACKAGES = {
    "cuda": "jax[cuda]",
    "tpu": "jax[tpu]",
    "gcs": "gcsfs and etils[epath-gcs]",
    "s3": "s3fs and etils[epath-s3]",
    "dicom": "python-gdcm",
    "parity": "torch",
}


def packages_of(extra: str) -> str:
    """Name the packages of an extra, and the command that installs them.

    It names the packages themselves, because whoever has no checkout gets them by these names.
    """
    return f"{_PACKAGES[extra]} (in a checkout: make install EXTRA={extra})"
