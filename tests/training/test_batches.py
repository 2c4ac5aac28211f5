"""Batches that devices cannot share: the settings that the message offers are shared by them."""

import re
import types

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agcnn_jax.config.check import check_config
from agcnn_jax.config.strategies import STRATEGIES
from agcnn_jax.configs import common, densenet
from agcnn_jax.runtime.errors import UserError
from agcnn_jax.training.schedule import check_batches


def check(config, devices, images=100_000):
    check_config(config)
    experiment = types.SimpleNamespace(
        config=config,
        split=types.SimpleNamespace(train=np.arange(images)),
        mesh=types.SimpleNamespace(size=devices),
    )
    check_batches(experiment)


def refusal(config, devices, images=100_000):
    with pytest.raises(UserError) as raised:
        check(config, devices, images)
    return str(raised.value)


def apply(offer, config, devices):
    """Do what one of a message's offers says."""
    changed = config.copy_and_resolve_references()
    if match := re.search(r'batch_size="\(([\d,]+)\)"', offer):
        changed.batch_size = tuple(int(size) for size in match[1].split(",") if size)
    if match := re.search(r"--config\.eval_batch_size=(\d+)", offer):
        changed.eval_batch_size = int(match[1])
    if match := re.search(r"--config\.accumulate=(\d+)", offer):
        changed.accumulate = int(match[1])
    if match := re.match(r"(\d+) device", offer):
        devices = int(match[1])
    return changed, devices


def test_densenet_on_64_devices():
    config = densenet.get_config()
    message = refusal(config, 64)
    assert message == (
        "config.batch_size of stage 2_local is 32, which 64 devices cannot share evenly; use "
        '--config.batch_size="(64,64,64)" or 32 devices'
    )
    config.batch_size = (64, 64, 64)
    check(config, 64)
    check(densenet.get_config(), 32)


def test_with_micro_batches():
    config = densenet.get_config()
    config.accumulate = 4
    assert refusal(config, 16).endswith(
        "is 32, which 16 devices in 4 micro-batches each cannot share evenly; use "
        '--config.batch_size="(64,64,64)" or 8 devices'
    )


def test_batches_of_the_evaluation_too():
    assert refusal(common.get_config(), 48).endswith(
        'use --config.batch_size="(144,48,48)" --config.eval_batch_size=48 or 32 devices'
    )
    config = common.get_config()
    config.batch_size = (48,)
    assert refusal(config, 48) == (
        "config.eval_batch_size is 64, which 48 devices cannot share evenly; use "
        "--config.eval_batch_size=48 or 16 devices"
    )


def test_a_joint_stage_takes_the_smallest():
    config = common.get_config()
    config.strategy, config.batch_size = "GLF", (100, 48, 64)
    assert refusal(config, 32).endswith('use --config.batch_size="(96,64,64)" or 16 devices')


def test_too_few_images_for_a_batch_of_all_devices():
    config = common.get_config()
    config.batch_size = (16,)
    assert refusal(config, 32, images=20).endswith("cannot share evenly; use 16 devices")


@given(
    strategy=st.sampled_from(sorted(STRATEGIES)),
    batch_size=st.one_of(st.tuples(st.integers(1, 200)), st.tuples(*[st.integers(1, 200)] * 3)),
    eval_batch_size=st.integers(1, 100),
    accumulate=st.integers(1, 6),
    devices=st.integers(1, 70),
    images=st.integers(200, 1000),
)
def test_every_offer_works(strategy, batch_size, eval_batch_size, accumulate, devices, images):
    config = common.get_config()
    config.update(
        strategy=strategy,
        batch_size=batch_size,
        eval_batch_size=eval_batch_size,
        accumulate=accumulate,
    )
    try:
        check(config, devices, images)
    except UserError as error:
        offers = str(error).split("; use ")[1].split(" or ")
        for offer in offers:
            assert offer
            check(*apply(offer, config, devices), images)
