"""The files of a split's lists."""

from __future__ import annotations

from pathlib import Path

from agcnn_jax.runtime.errors import UserError

# Words in the names of list files, such as chexnet_val_list.txt.gz.
LIST_WORDS = {"train": ("train",), "validation": ("val", "valid", "validation"), "test": ("test",)}


def find_lists(folder: Path) -> dict[str, Path]:
    """Return the list of each subset; `UserError` unless the folder has one of each."""
    if not folder.is_dir():
        raise UserError(f"config.data.lists {folder}: no such folder; check the path")
    found: dict[str, Path] = {}
    for subset, words in LIST_WORDS.items():
        matches = [
            path
            for path in sorted(folder.iterdir())
            if path.name.endswith((".txt", ".txt.gz"))
            and set(path.name.lower().split(".")[0].replace("-", "_").split("_")) & set(words)
        ]
        if len(matches) != 1:
            found_names = f" ({', '.join(path.name for path in matches)})" if matches else ""
            raise UserError(
                f"config.data.lists {folder}: {len(matches)} files named like {words[0]}_list.txt"
                f"{found_names}; there must be one for the {subset} subset"
            )
        found[subset] = matches[0]
    return found
