"""The images that imported weights were trained on."""

import gzip

import numpy as np
import pytest

from agcnn_jax.data_prep import torch_weights
from agcnn_jax.interop import trained_on, weights
from agcnn_jax.interop.convert import Converted
from agcnn_jax.interop.read import TensorFile
from agcnn_jax.interop.source_format import recognise_source
from agcnn_jax.run.lineage import (
    CHESTXRAY14,
    NOTHING,
    UNKNOWN,
    Lineage,
    lineage_of_names,
)
from agcnn_jax.runtime.errors import UserError

SOME = Lineage(unlisted=frozenset({CHESTXRAY14}))
NAMES = ["00000013_005.png", "00000013_006.png", "00030805_000.png"]


def run(*arguments):
    return torch_weights.main([str(argument) for argument in arguments])


def with_classes(state, count):
    rng = np.random.default_rng(count)
    features = state["fc.weight"].shape[1]
    head = {"fc.weight": rng.random((count, features), np.float32)}
    return {**state, **head, "fc.bias": np.zeros(count, np.float32)}


@pytest.mark.parametrize(
    ("classes", "channels", "option", "expected", "words"),
    [
        (1000, 3, None, NOTHING, "ImageNet"),
        (14, 3, None, SOME, "unknown images of ChestX-ray14"),
        (18, 1, None, UNKNOWN, "not known"),
        (18, 1, "chestxray14", SOME, "unknown images of ChestX-ray14"),
        (18, 3, None, UNKNOWN, "not known"),
        (18, 3, "imagenet", NOTHING, "ImageNet"),
        (14, 3, "none", NOTHING, "nothing"),
        (1000, 3, "chestxray14", SOME, "unknown images of ChestX-ray14"),
        (
            14,
            3,
            "list.txt",
            lineage_of_names(NAMES),
            "3 image(s) of ChestX-ray14, listed in list.tx",
        ),
        (
            14,
            3,
            "paths.txt",
            lineage_of_names(NAMES),
            "3 image(s) of ChestX-ray14, listed in paths",
        ),
        (
            14,
            3,
            "list.gz",
            lineage_of_names(NAMES),
            "3 image(s) of ChestX-ray14, listed in list.gz",
        ),
    ],
)
def test_what_weights_have_been_trained_on(
    tmp_path, monkeypatch, small_state, capsys, classes, channels, option, expected, words
):
    from safetensors.numpy import save_file

    monkeypatch.chdir(tmp_path)
    text = "".join(f"{name} 0 1 0\n\n" for name in [*NAMES, NAMES[0]]).encode()
    (tmp_path / "list.txt").write_bytes(text)
    (tmp_path / "list.gz").write_bytes(gzip.compress(text))
    one, two, three = NAMES
    paths = f"\ufeffImage Index,fold\r\n/d/{one},0\r\nD:\\new x\\{two} 0\r\n{three[:-4]}\r\n"
    (tmp_path / "paths.txt").write_text(paths, newline="")
    state = with_classes(small_state, classes)
    state["conv1.weight"] = state["conv1.weight"][:, :channels].copy()
    save_file(state, tmp_path / "m.safetensors")
    options = [] if option is None else ["--trained_on", option]
    run("--weights", "m.safetensors", "--backbone", "resnet_small", "--out", "w", *options)
    assert weights.lineage(tmp_path / "w") == expected
    assert f"trained on: {words}" in capsys.readouterr().out
    overlap = weights.lineage(tmp_path / "w").overlap(CHESTXRAY14, [NAMES[0]], ["13"])
    assert overlap.complete == (expected.unlisted == frozenset())
    assert overlap.images == (expected == lineage_of_names(NAMES))


TAIL = "-densenet121-d121-tw-lr001-rot45-tr15-sc15-seed0-best"


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        (f"nih{TAIL}.pt", SOME),
        (f"nih{TAIL}.safetensors", SOME),
        (f"nih{TAIL}.state_dict.pth", SOME),
        ("nih-densenet121.pt", SOME),
        ("densenet121-res224-nih.pt", SOME),
        # Images of ChestX-ray14 among those of other collections.
        (f"nih-pc-chex-mimic_ch-google-openi-kaggle{TAIL}.pt", UNKNOWN),
        ("pc-nih-rsna-siim-vin-resnet50-test512-e400-state.pt", UNKNOWN),
        ("densenet121-res224-all.pt", UNKNOWN),
        *((f"{name}{TAIL}.pt", UNKNOWN)
          for name in ("pc", "chex", "mimic_nb", "mimic_ch", "rsna", "kaggle", "not-nih")),
        ("densenet121-res224-chex.pt", UNKNOWN),
        ("nih-densenet121-finetuned.pt", UNKNOWN),
        ("model.safetensors", UNKNOWN),
    ],
)  # fmt: skip
def test_torchxrayvision_says_in_its_name_what_it_saw(small_state, name, expected):
    """All its models have one input channel and 18 outputs."""
    state = with_classes(small_state, 18)
    state["conv1.weight"] = state["conv1.weight"][:, :1]
    file = TensorFile(name, state, (), {}, "")
    converted = Converted({}, {}, channels=1, classes=18, used=0, left_out={})
    recognised = recognise_source(file, converted).trained_on
    assert trained_on.determine(None, recognised, [f"/models/{name}"], [file]).lineage == expected


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("timm/resnet50.tv_in1k", "ImageNet"),
        ("timm/densenet121.ra_in1k", "ImageNet"),
        ("timm/resnetv2_50x1_bit.goog_in21k", "ImageNet"),
        ("someone/chest_in1k", "not known"),
        ("timm/resnet50.nih", "not known"),
    ],
)
def test_models_on_the_hub(name, expected):
    """The name tells if the outputs do not."""
    assert trained_on.determine(None, None, [name], []).words == expected


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "no such file; give imagenet, none, chestxray14 or a file"),
        (b"", "names no image"),
        (b" \n\n", "names no image"),
        (b"00000013_005.png\nImage Index\n", "'Image' is not an image name of ChestX-ray14"),
        (b"00000013_005.png,1\nscan_7.png,1\n", "'scan_7.png' is not an image name"),
        (b"\x1f\x8bxx", "gzip file is corrupt"),
    ],
)
def test_unusable_lists(tmp_path, file, content, message):
    if content is not None:
        (tmp_path / "names").write_bytes(content)
    before = sorted(tmp_path.iterdir())
    with pytest.raises(UserError, match=message):
        run("--weights", file, "--backbone", "resnet_small", "--trained_on", tmp_path / "names",
            "--out", tmp_path / "w")  # fmt: skip
    assert sorted(tmp_path.iterdir()) == before
