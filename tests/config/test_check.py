"""Configs and the table of keys: valid and invalid configs from code, files and workdirs."""

import json
import math

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import pytest
from etils import epath
from hypothesis import given
from hypothesis import strategies as st
from ml_collections.config_dict import config_dict

from agcnn_jax.attention.heatmap import heat_map
from agcnn_jax.attention.regions import region_boxes_device
from agcnn_jax.config.check import check_config, check_overrides, load_config
from agcnn_jax.config.keys import KEYS, LARGEST_INPUT, flatten
from agcnn_jax.config.saved import check_unchanged, read_config, write_config
from agcnn_jax.configs import common, demo, densenet, resnet
from agcnn_jax.data.augment import Augmentation, augment
from agcnn_jax.evaluation.evaluate import read_run_config
from agcnn_jax.models.layers import global_pool
from agcnn_jax.runtime.errors import UserError
from tests.support.programs import run


def changed(**values):
    """The common config with some values changed, of any type: `**{"data.lists": ...}`."""
    config = common.get_config()
    for key, value in values.items():
        *sections, name = key.split(".")
        section = config[sections[0]] if sections else config
        with section.ignore_type():
            section[name] = value
    return config


class TestTable:
    @pytest.mark.parametrize("module", [common, demo, densenet, resnet])
    def test_configs_have_exactly_its_keys(self, module):
        config = module.get_config()
        before = flatten(config.to_dict())
        check_config(config)
        assert set(before) == set(KEYS)
        assert flatten(config.to_dict()) == before

    def test_every_choice_is_implemented(self):
        features, image = jnp.ones((1, 4, 4, 8)), jnp.ones((1, 64, 64))
        for statistic in KEYS["attention.statistic"].limits.choices:
            assert heat_map(features, 32, statistic).shape == (1, 32, 32)
        for pooling in KEYS["pooling"].limits.choices:
            assert global_pool(features, pooling).shape == (1, 8)
        for crop in KEYS["augment.crop"].limits.choices:
            made = augment(image, jnp.zeros(1, jnp.int32), 1, 0, 56, Augmentation(crop))
            assert made.shape == (1, 56, 56)

    def test_importing_it_imports_no_jax(self):
        run(
            "-c",
            "import sys\nimport agcnn_jax.config.keys, agcnn_jax.config.command_line\n"
            "assert 'jax' not in sys.modules",
        )

    def test_needs_name_keys(self):
        assert {need.key for row in KEYS.values() for need in row.needs} <= set(KEYS)

    def test_regions_are_found_up_to_the_largest_input(self):
        def trace(size):
            return jax.eval_shape(
                region_boxes_device, jax.ShapeDtypeStruct((1, size, size), jnp.bool_)
            )

        assert trace(LARGEST_INPUT).shape == (1, 4)
        with pytest.raises(ValueError, match="too large"):
            trace(LARGEST_INPUT + 1)


class TestKinds:
    @pytest.mark.parametrize(
        ("key", "value", "read"),
        [
            ("batch_size", 64, (64,)),
            ("batch_size", [64, 32, 32], (64, 32, 32)),
            ("batch_size", np.int64(64), (64,)),
            ("learning_rate", 1, (1.0,)),
            ("attention.tau", 0, 0.0),
            ("attention.tau", np.float32(0.5), 0.5),
            ("seed", np.int32(3), 3),
            ("data.dir", epath.Path("/data"), "/data"),
            ("augment.scale", [0, 1], None),
            ("augment.scale", [0.5, 1], (0.5, 1.0)),
            ("input_size", "224", None),
            ("input_size", 224.0, None),
            ("input_size", True, None),
            ("input_size", 1536, None),
            ("input_size", 31, None),
            ("attention.tau", None, None),
            ("attention.tau", "0.5", None),
            ("attention.tau", 1.0, None),
            ("attention.tau", math.nan, None),
            ("batch_size", "64", None),
            ("batch_size", (), None),
            ("batch_size", (1, 2), None),
            ("batch_size", (64, 64.0, 64), None),
            ("batch_size", (64, None, 64), None),
            ("epochs", 0, None),
            ("learning_rate", (0.1, math.inf, 0.1), None),
            ("weight_decay", math.inf, None),
            ("augment.flip", 1, None),
            ("data.allow_unlisted", "yes", None),
            ("data.lists", None, None),
            ("data.protocol", "Patient", None),
            ("backbone", ["resnet50"], None),
            ("seed", -1, None),
            ("seed", 2**31, None),
            ("mean", (), None),
            ("std", (0.1, 0.0, 0.1), None),
            ("peer_timeout", 0.5, None),
            ("peer_timeout", 10**30, None),
            ("eval_batch_size", 2**31, None),
            ("epochs", (1, 1, 2**31), None),
            ("warmup_epochs", 1e300, None),
        ],
    )
    def test_values(self, key, value, read):
        config = changed(**{key: value})
        if read is None:
            with pytest.raises(UserError, match=rf"^config\.{key} is .*; (it must|use)"):
                check_config(config)
            return
        check_config(config.lock())
        found = flatten(config.to_dict())[key]
        assert found == read
        assert repr(found) == repr(read)

    @given(
        key=st.sampled_from(sorted(KEYS)),
        value=st.recursive(
            st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
            lambda inner: (
                st.lists(inner, max_size=3)
                | st.lists(inner, max_size=3).map(tuple)
                | st.dictionaries(st.text("abc", min_size=1, max_size=3), inner, max_size=2)
            ),
            max_leaves=4,
        ),
    )
    def test_any_value_is_accepted_or_refused_by_name(self, key, value):
        config = changed(**{key: value})
        try:
            check_config(config)
        except UserError as error:
            assert key in str(error)
            return
        before = flatten(config.to_dict())
        # An accepted config survives a round trip through JSON.
        again = ml_collections.ConfigDict(json.loads(config.to_json()))
        check_config(again)
        assert flatten(again.to_dict()) == before

    def test_mean_and_std_need_the_same_channels(self):
        with pytest.raises(UserError, match=r"config\.mean has 1 channels and config\.std 3"):
            check_config(changed(mean=(0.5,)))

    def test_references_are_preserved(self):
        config = changed(batch_size=(32,))
        config.reference_batch_size = config.get_ref("batch_size")
        check_config(config)
        config.batch_size = (16,)
        assert config.reference_batch_size == (16,)


class TestKeys:
    def test_no_data_section(self):
        config = common.get_config()
        del config.data
        with pytest.raises(UserError, match=r"my\.py: the config has no data\.dir"):
            check_config(config, "my.py")

    @pytest.mark.parametrize("data", [None, "data/chestxray14", ("data",)])
    def test_a_section_that_is_none(self, data):
        with pytest.raises(UserError, match=r"config\.data is a section.*data\.dir"):
            check_config(changed(data=data))

    @pytest.mark.parametrize("key", sorted(KEYS))
    def test_missing(self, key):
        config = common.get_config()
        *sections, name = key.split(".")
        del (config[sections[0]] if sections else config)[name]
        with pytest.raises(UserError, match=rf"the config has no {key};"):
            check_config(config)

    @pytest.mark.parametrize(
        ("key", "near"),
        [
            ("learning_rat", "learning_rate"),
            ("lists", r"data\.lists"),
            ("tau", r"attention\.tau"),
            ("data.split_sed", r"data\.split_seed"),
            ("zzz", "train.py --help"),
        ],
    )
    def test_unknown_keys(self, key, near):
        with pytest.raises(UserError, match=rf"config\.{key} is a key that nothing reads.*{near}"):
            check_config(changed(**{key: 1}))

    def test_unknown_sections(self):
        with pytest.raises(UserError, match=r"config\.model\.depth is a key that nothing reads"):
            check_config(changed(model=ml_collections.ConfigDict({"depth": 50})))
        with pytest.raises(UserError, match=r"config\.model is a key that nothing reads"):
            check_config(changed(model=ml_collections.ConfigDict()))


class TestUnreadKeys:
    @pytest.mark.parametrize(
        ("key", "read", "unread"),
        [
            ("data.lists", {"data.protocol": "lists"}, {"data.protocol": "official"}),
            ("data.split_seed", {"data.protocol": "official"}, {"data.protocol": "lists"}),
            ("data.allow_unlisted", {"data.protocol": "lists"}, {"data.protocol": "patient"}),
            ("augment.scale", {}, {"augment.crop": "random"}),
            ("augment.ratio", {}, {"augment.crop": "centre"}),
            ("attention.tau", {}, {"local_input": "image"}),
            ("attention.tau", {"local_input": "centred"}, {"local_input": "image"}),
            ("attention.statistic", {}, {"local_input": "image"}),
            ("attention.cropper", {}, {"local_input": "image"}),
            ("attention.crop_from", {"local_input": "centred"}, {"local_input": "image"}),
            ("attention.cropper", {"strategy": "GL_F"}, {"strategy": "GLF"}),
            (
                "reference_batch_size",
                {"learning_rate_scaling": "sqrt"},
                {"learning_rate_scaling": "none"},
            ),
            ("init_normalisation", {"init": "weights"}, {"init": "random"}),
            ("drop_factor", {}, {"drop_after": 1.0}),
            ("drop_factor", {}, {"learning_rate_decay": "cosine"}),
            ("drop_after", {}, {"learning_rate_decay": "cosine"}),
        ],
    )
    def test_refused_with_the_key_they_depend_on(self, key, read, unread):
        check_overrides({key: None, "seed": 1}, changed(**read))
        check_overrides({"seed": 1}, changed(**unread))
        [other] = unread
        words = rf"--config\.{key} has no effect while config\.{other} is"
        with pytest.raises(UserError, match=words):
            check_overrides({key: None}, changed(**unread))


CONFIG_FILE = "import ml_collections\nfrom agcnn_jax.configs import common\n\n\ndef get_config():\n"


class TestFiles:
    def load(self, tmp_path, body, *arguments, head=CONFIG_FILE):
        path = tmp_path / "mine.py"
        path.write_text(head + body)
        return load_config(str(path), *arguments)

    @pytest.mark.parametrize(
        ("body", "words"),
        [
            ("    return {'seed': 1}", "get_config returns a dict"),
            ("    pass", "get_config returns nothing"),
            ("    return ml_collections.FrozenConfigDict()", "returns a FrozenConfigDict"),
            ("    return 1 / 0", "line 6: ZeroDivisionError: division by zero"),
            ("    raise OSError('no disk')", "line 6: OSError: no disk"),
            ("    return common.get_config(2)", "line 6: TypeError"),
            ("    return open('/no/such/file')", "line 6: FileNotFoundError"),
            ("    return (", "SyntaxError"),
            ("    pass\ndel get_config", "has no function get_config"),
            ("    pass\nimport no_such_module", "line 7: ModuleNotFoundError"),
            (
                "    raise ModuleNotFoundError('No module', name='configs')",
                "line 6: ModuleNotFoundError: No module; import from agcnn_jax.configs",
            ),
            ("    return ml_collections.ConfigDict()", "the config has no seed"),
            (
                "    config = common.get_config()\n    with config.ignore_type():\n"
                "        config.seed = ml_collections.config_dict.required_placeholder(int)\n"
                "    return config",
                "use placeholder instead",
            ),
            (
                "    config = common.get_config()\n    config.input_size = '224'\n"
                "    return config",
                "config.input_size",
            ),
        ],
    )
    def test_mistakes_are_one_line(self, tmp_path, body, words):
        with pytest.raises(UserError) as caught:
            self.load(tmp_path, body)
        assert f"--config {tmp_path}/mine.py" in str(caught.value)
        assert words in str(caught.value)

    def test_one_number_serves_all_branches(self, tmp_path):
        body = "    config = common.get_config()\n    config.batch_size = 64\n    return config"
        assert self.load(tmp_path, body).batch_size == (64,)

    def test_argument(self, tmp_path):
        head = "from agcnn_jax.configs import common\ndef get_config(seed):\n"
        body = "    config = common.get_config()\n    config.seed = int(seed)\n    return config"
        assert self.load(tmp_path, body, "5", head=head).seed == 5

    def test_a_placeholder_may_be_empty_at_first(self, tmp_path):
        body = (
            "    config = common.get_config()\n    with config.ignore_type():\n"
            "        config.seed = ml_collections.config_dict.placeholder(int)\n    return config"
        )
        config = self.load(tmp_path, body)
        with pytest.raises(UserError, match=r"config\.seed is None"):
            check_config(config)
        config.seed = 3
        check_config(config)

    def test_a_frozen_section_can_be_overridden(self, tmp_path):
        body = (
            "    config = common.get_config()\n"
            "    config.attention = ml_collections.FrozenConfigDict(config.attention)\n"
            "    return config"
        )
        config = self.load(tmp_path, body)
        config.attention.tau = 0.5
        check_config(config)
        assert config.attention.tau == 0.5

    def test_a_dataclass_in_the_file(self, tmp_path):
        head = (
            "from __future__ import annotations\nimport dataclasses\n"
            "from agcnn_jax.configs import common\n"
            "@dataclasses.dataclass\nclass Size:\n    side: int = 96\n"
            "def get_config():\n"
        )
        body = (
            "    config = common.get_config()\n    config.input_size = Size().side\n"
            "    return config"
        )
        assert self.load(tmp_path, body, head=head).input_size == 96


# What a run knows of its data.
DATA = {
    "provenance": "here",
    "synthetic": False,
    "fingerprint": "1",
    "protocol": "patient",
} | dict.fromkeys(("images", "train", "validation", "test", "shared_patients"), 1)


class TestSaved:
    def keep(self, workdir, config, data=None):
        check_config(config)
        saved = read_config(epath.Path(workdir))
        if saved is None:
            write_config(config, epath.Path(workdir), data or DATA)
        else:
            check_unchanged(config, data or DATA, saved, epath.Path(workdir))

    def test_round_trip(self, tmp_path):
        self.keep(tmp_path, changed(batch_size=64, **{"attention.tau": 0}))
        expected = changed(batch_size=(64,), **{"attention.tau": 0.0})
        assert read_config(epath.Path(tmp_path)).to_dict() == expected.to_dict()

    @pytest.mark.parametrize(
        ("edit", "words"),
        [
            ({"input_size": "224"}, ["config.input_size is '224'"]),
            ({"data": None}, ["config.data is a section"]),
            ({"attention": None}, ["attention"]),
            ({"attention": {"tau": 0.5}}, ["no attention.statistic"]),
            ({"old_key": 1}, ["config.old_key is a key that nothing reads"]),
            ({"epochs": {"global": 1}}, ["config.epochs"]),
            ({"learning_rate": None}, ["config.learning_rate is None"]),
            ({"weight_decay": 10**400}, ["config.weight_decay is 1000"]),
            ({"mean": [0.5]}, ["config.mean has 1 channels"]),
        ],
    )
    def test_an_edited_config_is_refused(self, tmp_path, edit, words):
        self.keep(tmp_path, common.get_config())
        path = tmp_path / "config.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **edit}))
        for act in (
            lambda: self.keep(tmp_path, common.get_config()),
            lambda: read_run_config(common.get_config(), epath.Path(tmp_path), {}),
        ):
            with pytest.raises(UserError) as caught:
                act()
            for word in (str(path), "--workdir", *words):
                assert word in str(caught.value)

    @pytest.mark.parametrize("text", ["", "[1]", "{", '"config"'])
    def test_invalid_json(self, tmp_path, text):
        (tmp_path / "config.json").write_text(text)
        with pytest.raises(UserError, match=r"config\.json.*--workdir"):
            read_config(epath.Path(tmp_path))

    @pytest.mark.parametrize(
        "values",
        [
            {"data.dir": "elsewhere"},
            {"log_every": 3, "checkpoint_every": 7, "profile": 2, "remat": True},
            {"peer_timeout": 9, "eval_batch_size": 8, "workdir": "there"},
            {"reference_batch_size": (1, 2, 3)},
            {"data.lists": "folder"},
            {"data.allow_unlisted": True},
        ],
    )
    def test_keys_without_influence_on_results_may_change(self, tmp_path, values):
        self.keep(tmp_path, common.get_config())
        self.keep(tmp_path, changed(**values))

    @pytest.mark.parametrize(
        ("values", "word"),
        [
            ({"seed": 1}, "seed is 1, there 0"),
            ({"data.protocol": "patient"}, "data.protocol is 'patient', there 'random'"),
            ({"batch_norm": "device"}, "batch_norm"),
            ({"learning_rate_scaling": "linear"}, "learning_rate_scaling"),
            ({"augment.scale": (0.5, 1.0)}, "augment.scale"),
        ],
    )
    def test_other_keys_may_not_change(self, tmp_path, values, word):
        self.keep(tmp_path, common.get_config())
        with pytest.raises(UserError, match="another config") as caught:
            self.keep(tmp_path, changed(**values))
        assert word in str(caught.value)

    def test_unread_keys_are_not_compared(self, tmp_path):
        self.keep(tmp_path, changed(**{"augment.crop": "centre"}))
        self.keep(tmp_path, changed(**{"augment.crop": "centre", "augment.scale": (0.5, 1.0)}))


class TestEvaluation:
    """The keys that an evaluation may change."""

    def asked(self, tmp_path, trained, **values):
        write_config(changed(**trained), epath.Path(tmp_path), {})
        overrides = values
        return read_run_config(changed(**values), epath.Path(tmp_path), overrides)

    def test_the_images_to_score_may_change(self, tmp_path):
        config = self.asked(
            tmp_path, {"seed": 3}, **{"data.protocol": "lists", "data.lists": "folder"}
        )
        assert (config.data.protocol, config.data.lists, config.seed) == ("lists", "folder", 3)

    def test_equal_values_are_no_change(self, tmp_path):
        assert self.asked(tmp_path, {"seed": 3}, seed=3, log_every=20).seed == 3

    @pytest.mark.parametrize(
        ("values", "words"),
        [
            ({"seed": 1}, "made with another config: seed is 1, there 0"),
            ({"matmul_precision": "highest"}, "another config: matmul_precision"),
            ({"log_every": 1}, r"--config\.log_every has no effect on an evaluation"),
            ({"data.lists": "/nope"}, r"config\.data\.lists has no effect.*protocol is 'random'"),
        ],
    )
    def test_other_keys_may_not_change(self, tmp_path, values, words):
        with pytest.raises(UserError, match=words):
            self.asked(tmp_path, {}, **values)

    def test_the_saved_config_decides_which_keys_are_read(self, tmp_path):
        """The config file has another protocol than the run."""
        config = self.asked(tmp_path, {"data.protocol": "lists"}, **{"data.lists": "there"})
        assert config.data.lists == "there"


def test_required_placeholders():
    config = changed(seed=config_dict.required_placeholder(int))
    with pytest.raises(UserError, match="required_placeholder has no value"):
        check_config(config)
