"""The folder of an evaluation's results, replaced as a whole."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import shutil
import tempfile
import unicodedata
from collections.abc import Iterator
from pathlib import Path

from etils import epath

from agcnn_jax.config.saved import same
from agcnn_jax.data.splits import WHOLE
from agcnn_jax.evaluation.auc.files import SCORES
from agcnn_jax.run.run import Run
from agcnn_jax.runtime.errors import UserError
from agcnn_jax.runtime.storage import advice, exists, is_remote, read_json, reported


def results_directory(run: Run, split: str, external: bool = False) -> epath.Path:
    """Choose a folder for an evaluation's results that holds no scores of other images.

    `eval/<split>` is for the split that the run was trained with. Any other split goes to
    `eval/<split>_<protocol>`, followed by the first 8 digits of the store's fingerprint if the data
    set differs too. If that folder holds the results of other images still, as with two lists or
    seeds of one protocol, the first 8 digits of these images' digest follow. Ten crops of each
    image have folders of their own.

    An `external` collection has its name in the folder's, as in `eval/external_st_mary_1f2e3d4c`,
    with 8 digits of its hash and the fingerprint's; a subset of it, and its protocol, follow.
    """
    workdir, data = run.workdir, run.data_summary
    trained = read_json(workdir / "data.json")
    crops = "_ten_crops" if run.config.eval.crops == "ten" else ""
    if same(data, trained) and not external:
        return workdir / "eval" / f"{split}{crops}"
    name = f"{split}_{run.split.protocol}{crops}"
    if data["fingerprint"] != trained.get("fingerprint"):
        name += f"_{data['fingerprint'][:8]}"
    if external:
        collection = run.records.collection
        plain = unicodedata.normalize("NFKD", collection).encode("ascii", "ignore").decode()
        slug = re.sub(r"[^a-z0-9]+", "_", plain.lower()).strip("_")[:40] or "collection"
        unique = hashlib.sha256(f"{collection}\n{data['fingerprint']}".encode()).hexdigest()[:8]
        subset = "" if split == WHOLE else f"_{split}_{run.split.protocol}"
        name = f"external_{slug}_{unique}{subset}{crops}"
    scores, digest = workdir / "eval" / name / SCORES, run.split.digests[split]
    if exists(scores) and read_json(scores, "delete it").get("images_digest") != digest:
        name += f"_{digest[:8]}"
    return workdir / "eval" / name


def replace_directory(
    directory: str | os.PathLike[str],
) -> contextlib.AbstractContextManager[Path]:
    """Yield a new local folder whose files replace those of `directory` if the block succeeds.

    On a disk, an interrupted block leaves the old folder untouched. Folders of an object store
    cannot be renamed, so there the old `SCORES` is deleted first and the new one written last:
    where it exists, all other files belong to the same evaluation.

    Raises:
        UserError: if `directory` cannot be written.
    """
    return (_replace_remote if is_remote(directory) else _replace_local)(directory)


@contextlib.contextmanager
def _replace_remote(directory: str | os.PathLike[str]) -> Iterator[Path]:
    remote = epath.Path(directory)
    with tempfile.TemporaryDirectory(prefix="agcnn-eval-") as temporary:
        yield Path(temporary)
        with reported(remote, "written"):
            (remote / SCORES).unlink(missing_ok=True)
            new = {path.name: path for path in Path(temporary).iterdir()}
            for old in list(remote.iterdir()) if remote.exists() else []:
                if old.name not in new:
                    old.unlink()
            for name in sorted(new, key=lambda name: name == SCORES):
                (remote / name).write_bytes(new[name].read_bytes())


@contextlib.contextmanager
def _replace_local(path: str | os.PathLike[str]) -> Iterator[Path]:
    directory = Path(path).resolve()  # a link keeps pointing at the results
    new = directory.with_name(f".{directory.name}.new")
    old = directory.with_name(f".{directory.name}.old")
    try:
        directory.parent.mkdir(parents=True, exist_ok=True)
        if old.exists() and not directory.exists():
            old.rename(directory)  # an earlier process was killed between the renames below
        for leftover in (new, old):
            if leftover.exists():
                shutil.rmtree(leftover)
        new.mkdir()
        try:
            yield new
            if directory.exists():
                directory.rename(old)
            new.rename(directory)
        except BaseException:
            if old.exists() and not directory.exists():
                old.rename(directory)
            shutil.rmtree(new, ignore_errors=True)
            raise
        shutil.rmtree(old, ignore_errors=True)
    except OSError as error:
        raise UserError(
            f"{directory}: the results cannot be written: {error.strerror or error}; "
            f"{advice(directory, error)}"
        ) from error
