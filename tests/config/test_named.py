"""Configs by their names, and by the paths of files."""

import pytest

from agcnn_jax.config.check import load_config
from agcnn_jax.config.named import FOLDER, config_names, config_path
from agcnn_jax.runtime.errors import UserError
from tests.support.programs import ROOT


def test_the_files_of_a_checkout_are_the_configs_of_the_package():
    files = {path.stem: path for path in (ROOT / "configs").glob("*.py")}
    del files["__init__"]
    assert sorted(files) == config_names()
    for name, path in files.items():
        assert load_config(str(path)).to_dict() == load_config(config_path(name)).to_dict()


def test_a_name_is_a_config_of_the_package_and_a_path_a_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "resnet").mkdir()
    for place in ("resnet.py", "resnet/demo.py"):
        (tmp_path / place).touch()
    assert config_path("resnet") == str(FOLDER / "resnet.py")
    assert config_path("resnet.py") == "resnet.py"
    assert config_path("resnet/demo.py") == "resnet/demo.py"


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("vgg", "there is no config of that name; use common, demo, densenet, "),
        ("__init__", "there is no config of that name"),
        ("vgg.py", "no such file; give another path, or one of the names common, demo, "),
        ("configs/demo", "no such file"),
    ],
)
def test_what_is_not_there_is_named_beside_what_is(tmp_path, monkeypatch, given, words):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError) as caught:
        config_path(given)
    assert str(caught.value).startswith(f"--config {given}: {words}")
    assert "\n" not in str(caught.value)
