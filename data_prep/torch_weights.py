"""PyTorch weights in, for training to start from, and trained weights out.

In:  python data_prep/torch_weights.py --weights FILE|HUB_NAME --backbone resnet50 --out DIR
     python data_prep/torch_weights.py --weights GLOBAL.pkl LOCAL.pkl FUSION.pkl \
         --backbone densenet121 --out DIR
     python train.py --config configs/resnet.py --config.init=DIR
Out: python data_prep/torch_weights.py --export WORKDIR --branch all --out FILE.safetensors
"""

from __future__ import annotations

import argparse
import signal
from pathlib import Path

from agcnn_jax.models.registry import BACKBONES
from agcnn_jax.runtime.errors import OneLineParser, UserError, run


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """Return the command line's options; mistakes raise `UserError`."""
    parser = OneLineParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add(
        "--weights",
        nargs="+",
        metavar="FILE|HUB_NAME",
        help="a checkpoint file or a name on the Hugging Face hub (timm/resnet50.tv_in1k); three "
        "files for an AG-CNN's global, local and fusion branch",
    )
    add("--backbone", choices=tuple(BACKBONES), help="what the weights are of")
    add("--revision", help="commit of a name on the hub; default: the pinned one")
    add(
        "--trained_on",
        metavar="imagenet|none|chestxray14|FILE",
        help="what --weights have been trained on: chestxray14 for some of its images that no list "
        "names, or a file with the names of those images; none for random weights; default: as "
        "far as the weights tell",
    )
    add("--export", metavar="WORKDIR", help="write this run's trained weights instead")
    add(
        "--branch",
        choices=("global", "local", "fusion", "all"),
        help="of --export; default: all",
    )
    add("--out", type=Path, required=True, help="new folder, or new file of --export")
    options = parser.parse_args(arguments)
    if (options.weights is None) == (options.export is None):
        raise UserError("give either --weights, to bring weights in, or --export, to write them")
    if options.weights is not None:
        if options.backbone is None:
            raise UserError(f"--backbone is missing; use one of {', '.join(BACKBONES)}")
        if options.branch is not None:
            raise UserError("--branch belongs to --export; leave it out")
    else:
        for name in ("backbone", "revision", "trained_on"):
            if getattr(options, name) is not None:
                raise UserError(f"--{name} belongs to --weights; leave it out")
    return options


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    options = parse_arguments(arguments)
    # Imported late: the training code that an export needs takes seconds to import.
    if options.export is not None:
        from agcnn_jax.interop.export import ALL, export_run

        branch = options.branch or ALL
        about = export_run(options.export, branch, options.out)
        print(f"{options.out}: {branch}, {about['backbone']}, {len(about['labels'])} outputs")
        return 0
    from agcnn_jax.interop.import_weights import import_weights, report

    about = import_weights(
        options.weights, options.backbone, options.out, options.revision, options.trained_on
    )
    print(report(about, options.out))
    return 0


if __name__ == "__main__":
    # A terminated run tidies up like an interrupted one.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    run(main)
