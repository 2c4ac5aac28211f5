import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agcnn_jax.run.config import check_config, flatten
from agcnn_jax.run.strategies import STRATEGIES
from agcnn_jax.run.takeover import stage_values
from configs import demo


def values(count=1, **changes):
    config = demo.get_config()
    config.update_from_flattened_dict(changes)
    check_config(config)
    return stage_values(flatten(config.to_dict()), count)


@pytest.mark.parametrize(
    "changes",
    [
        {"attention.tau": 0.1},
        {"attention.statistic": "l2"},
        {"local_input": "image"},
        {"strategy": "G_LF"},
        {"strategy": "G_L_F*"},
        {"batch_size": (8, 4, 2)},
        {"epochs": (10, 1, 1)},
        {"learning_rate": (0.15, 0.1, 0.1)},
        {"eval_batch_size": 2},
        {"log_every": 1},
    ],
)
def test_the_global_stage_does_not_depend_on_what_comes_after_it(changes):
    assert values(**changes) == values()


@pytest.mark.parametrize(
    "changes",
    [
        {"seed": 1},
        {"strategy": "GL_F"},
        {"strategy": "GLF"},
        {"batch_size": (4, 8, 32)},
        {"epochs": (9, 9, 3)},
        {"max_steps": 5},
        {"augment.flip": False},
        {"data.protocol": "random"},
        {"input_size": 64},
    ],
)
def test_the_global_stage_depends_on_what_it_is_trained_with(changes):
    assert values(**changes) != values()


@pytest.mark.parametrize(
    "changes", [{"attention.tau": 0.1}, {"local_input": "image"}, {"epochs": (10, 8, 3)}]
)
def test_the_local_stage_depends_on_what_it_reads(changes):
    assert values(2, **changes) != values(2)
    assert values(2, epochs=(10, 9, 2)) == values(2)


@given(st.sampled_from(sorted(STRATEGIES)), st.sampled_from(sorted(STRATEGIES)))
def test_stages_are_shared_exactly_as_long_as_strategies_agree(one, other):
    shared = 0
    for first, second in itertools.zip_longest(STRATEGIES[one], STRATEGIES[other]):
        if first != second:
            break
        shared += 1
    for count in range(1, min(len(STRATEGIES[one]), len(STRATEGIES[other])) + 1):
        # A strategy that is GLF alone reads no key of the cropper.
        same = values(count, strategy=one) == values(count, strategy=other)
        assert same == (count <= shared)
