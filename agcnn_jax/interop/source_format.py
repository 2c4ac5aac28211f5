"""The format of a checkpoint's source: its classes, pooling and normalisation.

Files rarely state these. The number of input channels and outputs identifies the project that
published them, and the project's documentation gives the rest.
"""

from __future__ import annotations

import re
from typing import NamedTuple

import numpy as np

from agcnn_jax.interop.convert import THRESHOLDS, Converted
from agcnn_jax.interop.read import TensorFile
from agcnn_jax.runtime.errors import UserError

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
IMAGENET_CLASSES = 1000

CHESTXRAY14_FINDINGS = (
    *("Atelectasis", "Cardiomegaly", "Effusion", "Infiltration", "Mass", "Nodule", "Pneumonia"),
    *("Pneumothorax", "Consolidation", "Edema", "Emphysema", "Fibrosis", "Pleural_Thickening"),
    "Hernia",
)
"""Outputs of CheXNet and of the PyTorch AG-CNN port, in order."""

TORCHXRAYVISION_FINDINGS = (
    *("Atelectasis", "Consolidation", "Infiltration", "Pneumothorax", "Edema", "Emphysema"),
    *("Fibrosis", "Effusion", "Pneumonia", "Pleural_Thickening", "Cardiomegaly", "Nodule", "Mass"),
    *("Hernia", "Lung Lesion", "Fracture", "Lung Opacity", "Enlarged Cardiomediastinum"),
)
"""Outputs of torchxrayvision's models, in order."""

# torchxrayvision maps gray / 255 to -1024..1024: (x - 0.5) * 2048.
TORCHXRAYVISION_MEAN, TORCHXRAYVISION_STD = (0.5,), (1 / 2048,)

_TORCHXRAYVISION_NIH = re.compile(
    r"(?:nih-densenet121(?:-d121-tw-lr001-rot45-tr15-sc15-seed\d+-best)?|densenet121-res224-nih)"
    r"(?:\.\w+)*"
)
"""The names of torchxrayvision's one model that saw ChestX-ray14 alone: of its file, and of its
`weights`. The others begin or end with the sets that they saw (pc, chex, mimic_ch, kaggle ...)."""


class SourceFormat(NamedTuple):
    """The input that weights expect, and the meaning of their outputs.

    Attributes:
        kind: a name for messages.
        classes: names of the outputs, "" for one that was not trained; None if unknown.
        pooling: `avg` or `max`, between the last feature map and the linear layer.
        mean: subtracted from gray levels in 0..1, one number a channel.
        std: of each channel, by which the difference is divided.
        trained_on: a key of `trained_on.KNOWN`; None if unknown, or if the file holds a lineage.
    """

    kind: str
    classes: tuple[str, ...] | None
    pooling: str
    mean: tuple[float, ...]
    std: tuple[float, ...]
    trained_on: str | None = None


def recognise_source(file: TensorFile, converted: Converted) -> SourceFormat:
    """Recognise the source of a file from its content; its name tells only what it was trained on.

    Raises:
        UserError: if the scaling of the input is unknown.
    """
    if file.metadata:
        return _own_export(file)
    if converted.channels == 1 and converted.classes == len(TORCHXRAYVISION_FINDINGS):
        # Those without a threshold, NaN, were never trained.
        thresholds = file.tensors.get(THRESHOLDS, np.zeros(len(TORCHXRAYVISION_FINDINGS)))
        outputs = zip(TORCHXRAYVISION_FINDINGS, thresholds, strict=True)
        return SourceFormat(
            "torchxrayvision",
            tuple("" if np.isnan(threshold) else name for name, threshold in outputs),
            "avg",
            TORCHXRAYVISION_MEAN,
            TORCHXRAYVISION_STD,
            # All its models have these outputs, whatever they saw.
            "chestxray14" if _TORCHXRAYVISION_NIH.fullmatch(file.name) else None,
        )
    if converted.channels != len(IMAGENET_MEAN):
        raise UserError(
            f"--weights {file.name}: {converted.channels} input channels and {converted.classes} "
            f"outputs; the scaling of its input is known for 3 channels, and for torchxrayvision's "
            f"1 channel with {len(TORCHXRAYVISION_FINDINGS)} outputs"
        )
    classes: tuple[str, ...] | None = None
    trained_on: str | None = None
    if converted.classes == IMAGENET_CLASSES:
        kind, trained_on = "ImageNet", "imagenet"
    elif converted.classes == len(CHESTXRAY14_FINDINGS):
        wrapped = any("densenet121." in key for key in file.tensors)
        kind = "CheXNet" if wrapped else "ChestX-ray14"
        classes, trained_on = CHESTXRAY14_FINDINGS, "chestxray14"
    else:
        kind = "unknown, assuming ImageNet's normalisation"
    return SourceFormat(kind, classes, "avg", IMAGENET_MEAN, IMAGENET_STD, trained_on)


def _own_export(file: TensorFile) -> SourceFormat:
    saved = file.metadata
    try:
        return SourceFormat(
            f"agcnn_jax, {saved['branch']} branch",
            tuple(saved["labels"]),
            saved["pooling"],
            tuple(saved["mean"]),
            tuple(saved["std"]),
        )
    except (KeyError, TypeError) as error:
        raise UserError(f"--weights {file.name}: its metadata lack {error}") from error
