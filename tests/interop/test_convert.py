import jax
import numpy as np
import pytest

from agcnn_jax.interop.convert import convert_branch, convert_fusion, torch_state
from agcnn_jax.interop.read import TensorFile
from agcnn_jax.interop.source_format import (
    CHESTXRAY14_FINDINGS,
    TORCHXRAYVISION_FINDINGS,
    recognise_source,
)
from agcnn_jax.models.registry import make_backbone
from agcnn_jax.runtime.errors import UserError


def tensor_file(state, other_entries=(), metadata=None):
    return TensorFile("file.pth", dict(state), other_entries, metadata or {}, "")


def numpy_state(network):
    return {key: tensor.numpy() for key, tensor in network.state_dict().items()}


@pytest.mark.parametrize("name", ["resnet50", "densenet121"])
def test_every_tensor_lands_where_it_came_from(networks, name):
    """The round trip returns every tensor bit for bit; only the counters are left out."""
    state = numpy_state(networks(name))
    backbone = make_backbone(name)
    converted = convert_branch(tensor_file(state), backbone, name)
    back = torch_state(converted.params, converted.batch_stats, backbone, 3)
    assert set(state) == set(back) | set(converted.left_out)
    assert converted.used == len(back)
    for key, array in back.items():
        np.testing.assert_array_equal(array, state[key])
    assert all(key.endswith("num_batches_tracked") for key in converted.left_out)
    variables = jax.eval_shape(
        lambda: backbone.init(jax.random.key(0), np.zeros((1, 64, 64, 3), np.float32), train=False)
    )
    for kind, tree in (("params", converted.params), ("batch_stats", converted.batch_stats)):
        ours = jax.tree.map(lambda leaf: leaf.shape, variables[kind])
        assert jax.tree.map(lambda leaf: leaf.shape, tree["backbone"]) == ours


def old_chexnet(state):
    """Rename as in CheXNet's file: DataParallel, `norm.1`, a sigmoid after the linear layer."""

    def rename(key):
        for part in ("norm", "conv"):
            for number in "12":
                key = (
                    key.replace(f"{part}{number}.", f"{part}.{number}.")
                    if ("denselayer" in key)
                    else key
                )
        return "module.densenet121." + key.replace("classifier.", "classifier.0.")

    return {rename(key): array for key, array in state.items() if "num_batches" not in key}


def test_chexnet(networks):
    state = numpy_state(networks("densenet121"))
    file = tensor_file(old_chexnet(state), ("epoch", "best_loss", "optimizer"))
    converted = convert_branch(file, make_backbone("densenet121"), "densenet121")
    plain = convert_branch(tensor_file(state), make_backbone("densenet121"), "densenet121")
    jax.tree.map(np.testing.assert_array_equal, converted.params, plain.params)
    assert set(converted.left_out) == {"epoch", "best_loss", "optimizer"}
    source = recognise_source(file, converted)
    assert (source.kind, source.classes) == ("CheXNet", CHESTXRAY14_FINDINGS)
    assert (source.pooling, source.mean) == ("avg", (0.485, 0.456, 0.406))


def test_torchxrayvision(networks):
    state = numpy_state(networks("densenet121", 1, 18))
    state["op_threshs"] = np.ones(18, np.float32)
    file = tensor_file(state)
    converted = convert_branch(file, make_backbone("densenet121"), "densenet121")
    assert converted.params["backbone"]["conv0"]["kernel"].shape == (7, 7, 1, 64)
    assert "op_threshs" in converted.left_out
    source = recognise_source(file, converted)
    assert source.classes == TORCHXRAYVISION_FINDINGS
    # A model of one data set has thresholds for the findings of that data set.
    state["op_threshs"][-4:] = np.nan
    trained = recognise_source(tensor_file(state), converted).classes
    assert trained == (*TORCHXRAYVISION_FINDINGS[:-4], "", "", "", "")
    gray = np.array([0.0, 127.5, 255.0])
    # torchxrayvision's normalize maps 8-bit gray levels to these.
    np.testing.assert_allclose((gray / 255 - source.mean) / source.std, [-1024, 0, 1024])


def test_imagenet(networks):
    file = tensor_file(numpy_state(networks("resnet50", 3, 1000)))
    converted = convert_branch(file, make_backbone("resnet50"), "resnet50")
    source = recognise_source(file, converted)
    assert (converted.classes, source.kind, source.classes) == (1000, "ImageNet", None)


def small(state):
    return convert_branch(tensor_file(state), make_backbone("resnet_small"), "resnet_small")


def test_unknown_scaling_is_an_error(small_state):
    state = {**small_state, "conv1.weight": small_state["conv1.weight"][:, :1]}
    with pytest.raises(UserError, match=r"1 input channel.*14 outputs"):
        recognise_source(tensor_file(state), small(state))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.pop("layer2.0.bn2.running_var"), "missing: layer2.0.bn2.running_var"),
        (lambda s: s.pop("fc.bias"), "missing: fc.bias"),
        (lambda s: s.update({"layer9.weight": np.ones(2)}), "extra: layer9.weight"),
        (
            lambda s: s.update({"bn1.bias": np.ones(5, np.float32)}),
            r"misshapen: bn1.bias is \[5\] instead of \[8\]",
        ),
        (
            lambda s: s.update({"fc.weight": s["fc.weight"][:, :9]}),
            r"fc.weight is \[14, 9\] instead of \[14, \d{2}\]",
        ),
        (lambda s: s.update({"bn1.bias": np.ones(8, np.int64)}), "bn1.bias is int64"),
        (lambda s: s.update({"bn1.bias": s["bn1.bias"] * np.nan}), "bn1.bias.*not finite"),
        (lambda s: s.update({"module.bn1.bias": s["bn1.bias"]}), "'module.bn1.bias' is a second"),
        (lambda s: s.update({"conv1.weight": np.ones(3)}), "conv1.weight.*not a kernel"),
        (lambda s: s.pop("conv1.weight"), "no resnet_small.*'conv1.weight'"),
    ],
)
def test_a_wrong_tensor_is_named(small_state, change, message):
    state = dict(small_state)
    change(state)
    with pytest.raises(UserError, match=message):
        small(state)


def test_wrong_backbone(small_state):
    with pytest.raises(UserError, match=r"no densenet121.*features\.conv0\.weight.*--backbone"):
        convert_branch(tensor_file(small_state), make_backbone("densenet121"), "densenet121")
    with pytest.raises(UserError, match=r"not the tensors of a resnet50.*and \d+ more"):
        convert_branch(tensor_file(small_state), make_backbone("resnet50"), "resnet50")


def test_fusion():
    weight = np.arange(12, dtype=np.float32).reshape(2, 6)
    state = {"module.fc.weight": weight, "module.fc.bias": np.ones(2, np.float32)}
    head = convert_fusion(tensor_file(state), 3, 2)["head"]
    np.testing.assert_array_equal(head["kernel"], weight.T)
    with pytest.raises(UserError, match=r"fc.weight is \[2, 6\] instead of \[2, 8\]"):
        convert_fusion(tensor_file(state), 4, 2)


@pytest.mark.parametrize(
    "prefix",
    [
        *("_orig_mod.", "module._orig_mod.", "_orig_mod.module.", "model.", "net.", "backbone."),
        *("encoder.", "model.backbone.", "module.model.net.", "chexnet.", "a.b.c.", "student.0."),
    ],
)
def test_any_prefix_that_all_names_share(small_state, prefix):
    plain = small(small_state)
    counter = {f"{prefix}bn1.num_batches_tracked": np.int64(7)}
    converted = small({f"{prefix}{key}": array for key, array in small_state.items()} | counter)
    jax.tree.map(np.testing.assert_array_equal, converted[:2], plain[:2])
    assert list(converted.left_out) == list(counter)


@pytest.mark.parametrize(
    "name",
    ["criterion.pos_weight", "loss_fn.pos_weight", "pos_weight", "val_auroc.thresholds",
     "class_weights", "train_loss.weight", "n_averaged"],
)  # fmt: skip
@pytest.mark.parametrize("prefix", ["", "model.", "chexnet."])
def test_what_a_trainer_keeps_is_left_out_by_name(small_state, name, prefix):
    state = {f"{prefix}{key}": array for key, array in small_state.items()}
    converted = small({name: np.ones(14, np.float32), **state})
    jax.tree.map(np.testing.assert_array_equal, converted[:2], small(small_state)[:2])
    assert converted.left_out == {name: "of the trainer, not a weight of the network"}


def test_two_networks_in_one_file_are_refused(small_state):
    """Neither is the one that is meant, as with a teacher beside its student."""
    both = {f"{n}.{key}": array for n in ("student", "teacher") for key, array in
            small_state.items()}  # fmt: skip
    with pytest.raises(UserError, match=r"no tensor 'conv1.weight' but student\."):
        small(both)
    ema = {f"model.{key}": array for key, array in small_state.items()}
    ema |= {f"net.{key}": array for key, array in small_state.items()}
    with pytest.raises(UserError, match="is a second tensor for"):
        small(ema)
