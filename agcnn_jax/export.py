"""Export a trained model: a folder for the Hugging Face hub, JAX or ONNX, or a file for PyTorch.

    agcnn-export --workdir runs/resnet --out DIR [--format hub|stablehlo|onnx]
    agcnn-export --workdir runs/resnet --out FILE.safetensors --format torch

A folder holds the model, the config, thresholds, checksums and a model card: its weights, which
agcnn_jax.load reads (hub); one program for JAX alone (stablehlo); or one for ONNX's runtimes, which
agcnn_jax.load reads without JAX (onnx). A file holds the weights alone, under torchvision's names.
"""

from __future__ import annotations

if __name__ == "__main__":
    # Before the imports that take seconds.
    from agcnn_jax.runtime.interrupt import end_quietly

    end_quietly()

import argparse
import sys
from pathlib import Path
from typing import NoReturn

from agcnn_jax.runtime import errors
from agcnn_jax.runtime.errors import OneLineParser, UserError

BRANCHES = ("global", "local", "fusion", "all")
FOLDERS = ("hub", "stablehlo", "onnx")
"""`inference.formats.FORMATS`, known before JAX is imported."""


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """Parse the command line; raises `UserError` for invalid options."""
    parser = OneLineParser(about=__doc__)
    add = parser.add_argument
    add("--workdir", required=True, help="folder of the run, such as runs/resnet")
    add("--out", type=Path, required=True, help="new folder, or new file for --format torch")
    add("--format", choices=(*FOLDERS, "torch"), default="hub", help="default: hub")
    add("--license", help="of the weights, for the card, such as apache-2.0 (default: not stated)")
    add("--branch", choices=BRANCHES, help="branch of --format torch (default: all)")
    options = parser.parse_args(arguments)
    if options.format in FOLDERS and options.branch is not None:
        raise UserError("--branch belongs to --format torch; leave it out")
    if options.format == "torch" and options.license is not None:
        raise UserError("--license belongs to the card of a folder; leave it out")
    return options


def main(arguments: list[str] | None = None) -> int:
    """Run the command; return the exit status."""
    options = parse_arguments(arguments)
    # Imported here, since the modules that an export needs take seconds to import.
    if options.format == "torch":
        from agcnn_jax.interop.export import export_run

        branch = options.branch or "all"
        about = export_run(options.workdir, branch, options.out)
        print(f"{options.out}: {branch}, {about['backbone']}, {len(about['labels'])} outputs")
        return 0
    from agcnn_jax.inference.card import NOT_STATED
    from agcnn_jax.inference.export import export_model

    licence = options.license or NOT_STATED
    model = export_model(options.workdir, options.out, licence, options.format)
    thresholds = "with" if model.calibration is not None else "without"
    load = (
        "its load.py" if options.format == "stablehlo" else f"agcnn_jax.load({str(options.out)!r})"
    )
    print(
        f"{options.out}: {model.backbone}, {' '.join(model.branches)}, digest {model.digest}, "
        f"{thresholds} thresholds; load it with {load}, read its card in "
        f"{options.out / 'README.md'}"
    )
    images = sum(map(len, model.lineage.seen.values()))
    if images:
        print(
            f"{options.out / 'lineage.json'} names the {images:,} images that the weights have "
            f"seen, and their patients: look whether you may pass these names on"
        )
    return 0


def run() -> NoReturn:
    """Run the command as a program."""
    sys.argv[0] = "agcnn-export"
    errors.run(main)


if __name__ == "__main__":
    run()
