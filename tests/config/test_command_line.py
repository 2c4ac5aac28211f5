"""Configs and overrides as the flags give them; SIGTERM at awkward moments."""

import re
import subprocess
import sys

import pytest
from absl import flags

import agcnn_jax
from agcnn_jax.config import command_line
from agcnn_jax.config.check import check_overrides
from agcnn_jax.runtime.errors import UserError
from tests.support.processes import environment, free_port
from tests.support.programs import ROOT, run

DEMO = f"--config={ROOT}/tests/configs/demo.py"


@pytest.fixture
def parse(monkeypatch):
    """Read a command line as `train.py` does, into flags of its own."""

    def read(*arguments):
        monkeypatch.setattr(command_line, "FLAGS", flags.FlagValues())
        monkeypatch.setattr(sys, "argv", ["train.py", *arguments])
        command_line.define_config_flags()
        command_line._parse(sys.argv)
        config, workdir, overrides = command_line.configured()
        check_overrides(overrides, config)
        return config, workdir, overrides

    return read


class TestConfigs:
    def test_overrides(self, parse):
        config, workdir, overrides = parse(
            DEMO,
            "--config.batch_size=64",
            "--config.epochs=(3,2,1)",
            "--config.attention.tau",
            "0",
            "--noconfig.augment.flip",
            "--config.init_normalisation=own",
            "--config.init=weights",
        )
        assert (config.batch_size, config.epochs) == ((64,), (3, 2, 1))
        assert (config.attention.tau, config.augment.flip) == (0.0, False)
        assert workdir == "runs/demo"
        assert set(overrides) == {
            "batch_size",
            "epochs",
            "attention.tau",
            "augment.flip",
            "init_normalisation",
            "init",
        }

    @pytest.mark.parametrize(
        ("option", "words"),
        [
            ("attention.tau=None", "config.attention.tau is None; it must be a number"),
            ("attention.tau=1", "config.attention.tau is 1.0; it must be a number, at least 0"),
            ("seed=1.5", "config.seed is 1.5; it must be a whole number"),
            ("seed=", "config.seed is ; it must be a whole number"),
            ("epochs=many", "config.epochs is ('many',); it must be whole numbers"),
            ("augment.flip=perhaps", "config.augment.flip is perhaps; it must be True or False"),
            ("batch_size=(1,2)", "config.batch_size is (1, 2)"),
            ("batch_size=1.5", "config.batch_size is (1.5,)"),
            ("input_size=1536", "config.input_size is 1536; it must be a whole number, at least"),
            ("backbone=vgg16", "config.backbone is 'vgg16'; use one of resnet50, densenet121"),
            ("peer_timeout=0", "config.peer_timeout is 0; it must be a whole number, at least 1"),
            ("learning_rat=1", "config.learning_rat is a key that nothing reads; did you mean"),
            ("data=elsewhere", "config.data is a section; set its keys: data.dir"),
            ("seed.deep=1", "config.seed.deep is a key that nothing reads"),
            ("data.lists=/nope", "--config.data.lists has no effect while config.data.protocol"),
            ("reference_batch_size=8", "set --config.learning_rate_scaling=linear|sqrt"),
        ],
    )
    def test_overrides_that_cannot_be_used(self, parse, option, words):
        with pytest.raises(UserError) as caught:
            parse(DEMO, f"--config.{option}")
        assert words in str(caught.value)

    @pytest.mark.parametrize(
        ("option", "words"),
        [
            ("batch_size=4", "no option --batch_size; did you mean --config.batch_size?"),
            ("tau=0.5", "no option --tau; did you mean --config.attention.tau?"),
            ("dir=x", "no option --dir; did you mean --config.data.dir?"),
            ("lerning_rate=1", "no option --lerning_rate; did you mean --config.learning_rate?"),
            ("wrokdir=x", "no option --wrokdir; did you mean --workdir?"),
            ("xyzzy", "there is no option --xyzzy (see --help)"),
        ],
    )
    def test_options_that_do_not_exist(self, parse, option, words):
        with pytest.raises(UserError) as caught:
            parse(DEMO, f"--{option}")
        assert words in str(caught.value)

    def test_the_version(self, parse, capsys):
        with pytest.raises(SystemExit):
            parse("--version")
        assert capsys.readouterr().out == f"agcnn-jax {agcnn_jax.__version__}\n"

    def test_a_config_file_may_be_loose_about_kinds(self, parse, tmp_path):
        path = tmp_path / "mine.py"
        path.write_text(
            "from configs import demo\n\n\ndef get_config():\n    config = demo.get_config()\n"
            "    config.batch_size = 16\n    config.weight_decay = 0\n    return config\n"
        )
        config, workdir, _ = parse(f"--config={path}")
        assert (config.batch_size, config.weight_decay) == ((16,), 0.0)
        assert workdir == "runs/mine"
        # Overrides are of the kind that the key has, whatever stood in the file.
        options = ("--config.batch_size=(8,8,16)", "--config.weight_decay=1e-5")
        config, _, _ = parse(f"--config={path}", *options)
        assert (config.batch_size, config.weight_decay) == ((8, 8, 16), 1e-5)

    @pytest.mark.parametrize("value", ["None", "'0.5'", "[0.5]"])
    def test_a_config_file_of_wrong_kinds(self, parse, tmp_path, value):
        path = tmp_path / "mine.py"
        path.write_text(
            "from agcnn_jax.configs import demo\n\n\n"
            "def get_config():\n    config = demo.get_config()\n"
            f"    config.attention.tau = {value}\n    return config\n"
        )
        with pytest.raises(UserError, match=rf"--config {path}: config\.attention\.tau is "):
            parse(f"--config={path}", "--config.attention.tau=0.5")

    def test_a_tilde_is_the_home_folder(self, parse, tmp_path, monkeypatch):
        monkeypatch.setenv("HOME", str(tmp_path))
        text = "from configs import demo\n\n\ndef get_config():\n    return demo.get_config()\n"
        (tmp_path / "mine.py").write_text(text)
        config, workdir, _ = parse(
            "--config=~/mine.py", "--config.data.dir=~/x", "--config.workdir=~/w"
        )
        assert (config.data.dir, workdir) == (f"{tmp_path}/x", f"{tmp_path}/w")

    def test_a_config_of_the_package_by_its_name(self, parse, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        config, workdir, _ = parse("--config=densenet", "--config.seed=3")
        assert (config.backbone, config.seed, workdir) == ("densenet121", 3, "runs/densenet")
        with pytest.raises(UserError, match=r"--config densnet: .*use common, demo, densenet"):
            parse("--config=densnet")

    def test_two_workdirs(self, parse):
        assert parse(DEMO, "--config.workdir=here")[1] == "here"
        with pytest.raises(UserError, match=r"--workdir and --config\.workdir"):
            parse(DEMO, "--config.workdir=here", "--workdir=there")


@pytest.mark.parametrize("program", ["train.py", "eval.py"])
def test_a_mistake_is_named_before_jax_starts(tmp_path, program):
    path = tmp_path / "mine.py"
    path.write_text("def get_config():\n    return {}\n")
    done = run("-X", "importtime", program, f"--config={path}", check=False)
    assert done.returncode == 2
    lines = [line for line in done.stderr.splitlines() if not line.startswith("import time:")]
    assert lines == [
        f"{program}: error: --config {path}: get_config returns a dict; it must return an "
        "ml_collections.ConfigDict, as agcnn_jax/configs/common.py does"
    ]
    assert not re.search(r"\| +(jax|tensorflow_datasets|orbax|grain)$", done.stderr, re.MULTILINE)


PROGRAM = """
import os, signal, time
from agcnn_jax.config import command_line

def main():
    try:
        signal.raise_signal(signal.SIGTERM)  # to this thread, unlike os.kill
        time.sleep(20)
    except Exception:
        pass

command_line.define_config_flags()
command_line.run(main, preemptible={preemptible})
"""


@pytest.mark.parametrize("preemptible", [True, False])
@pytest.mark.parametrize("joined", [False, True], ids=["alone", "joined"])
def test_sigterm_is_neither_lost_nor_mistaken(tmp_path, preemptible, joined):
    program = tmp_path / "program.py"
    program.write_text(PROGRAM.format(preemptible=preemptible))
    flags = ["--config=tests/configs/demo.py"]
    if joined:
        flags += [f"--coordinator_address=localhost:{free_port()}"]
        flags += ["--num_processes=1", "--process_id=0"]
    done = subprocess.run(
        [sys.executable, program, *flags],
        cwd=ROOT,
        env=environment(1, PYTHONPATH=str(ROOT)),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 75, done.stderr
    # JAX's own C++ may have something to say too.
    [line] = [line for line in done.stderr.splitlines() if line.startswith("program.py: ")]
    assert "stopped by SIGTERM" in line


@pytest.mark.parametrize("flag", ["--split=test", "--workdir=runs/demo", "--include_trained"])
def test_predictions_take_no_flag_without_effect(tmp_path, flag):
    files = [f"--predictions={tmp_path}/p.csv", f"--labels={tmp_path}/l.csv"]
    done = run("eval.py", *files, flag, check=False)
    assert done.returncode == 2
    name = flag.split("=")[0]
    assert done.stderr == f"eval.py: error: {name} has no effect with --predictions; leave it out\n"
