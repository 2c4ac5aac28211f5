"""Convert PyTorch weights for training, or export a run's trained weights.

    agcnn-prepare torch_weights --weights FILE|HUB_NAME --backbone resnet50 --out DIR
    agcnn-prepare torch_weights --weights G.pkl L.pkl F.pkl --backbone densenet121 --out DIR
    agcnn-prepare torch_weights --export WORKDIR --branch all --out FILE.safetensors

Training starts from them with --config.init=DIR.
"""

from __future__ import annotations

import argparse
import signal
from pathlib import Path
from typing import NoReturn

from agcnn_jax.models.registry import BACKBONES
from agcnn_jax.runtime import errors
from agcnn_jax.runtime.errors import OneLineParser, UserError
from agcnn_jax.runtime.paths import expand


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """Parse the command line; raises `UserError` for invalid options."""
    parser = OneLineParser(about=__doc__)
    add = parser.add_argument
    add(
        "--weights",
        nargs="+",
        type=expand,
        metavar="FILE|HUB_NAME",
        help="a checkpoint file, a name on the Hugging Face hub (timm/resnet50.tv_in1k), or three "
        "files with the global, local and fusion branch of an AG-CNN",
    )
    add("--backbone", choices=tuple(BACKBONES), help="architecture of the weights")
    add("--revision", help="commit on the hub (default: the pinned one)")
    add(
        "--trained_on",
        metavar="imagenet|none|chestxray14|FILE",
        help="training data of --weights: chestxray14 for unknown images of it, a file with image "
        "names for known ones, none for random weights (default: what the weights themselves say)",
    )
    add(
        "--classes",
        metavar="NAME,NAME,...",
        help="names of the outputs of --weights in their order (default: those of the project that "
        "the number of outputs points to)",
    )
    add("--export", metavar="WORKDIR", help="export the trained weights of this run instead")
    branches = ("global", "local", "fusion", "all")
    add("--branch", choices=branches, help="branch to export (default: all)")
    add("--out", type=Path, required=True, help="new folder, or new file with --export")
    options = parser.parse_args(arguments)
    if (options.weights is None) == (options.export is None):
        raise UserError("give either --weights, to convert weights, or --export, to export them")
    if options.weights is not None:
        if options.backbone is None:
            raise UserError(f"--backbone is missing; use one of {', '.join(BACKBONES)}")
        if options.branch is not None:
            raise UserError("--branch belongs to --export; leave it out")
    else:
        for name in ("backbone", "revision", "trained_on", "classes"):
            if getattr(options, name) is not None:
                raise UserError(f"--{name} belongs to --weights; leave it out")
    return options


def main(arguments: list[str] | None = None) -> int:
    """Run the command; return the exit status."""
    options = parse_arguments(arguments)
    # Imported here, since the modules that an export needs take seconds to import.
    if options.export is not None:
        from agcnn_jax.interop.export import ALL, export_run

        branch = options.branch or ALL
        about = export_run(options.export, branch, options.out)
        print(f"{options.out}: {branch}, {about['backbone']}, {len(about['labels'])} outputs")
        return 0
    from agcnn_jax.interop.import_weights import import_weights, summary

    about = import_weights(
        options.weights,
        options.backbone,
        options.out,
        options.revision,
        options.trained_on,
        options.classes,
    )
    print(errors.as_installed(summary(about, options.out)))
    return 0


def run() -> NoReturn:
    """Run the command as a program."""
    # Clean up after SIGTERM as after Ctrl-C.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    errors.run(main)
