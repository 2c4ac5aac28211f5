"""Training from start to end, resumed, repeated and refused, as a user meets it."""

import collections
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import cv2
import jax
import numpy as np
import pytest
from etils import epath

from agcnn_jax.data_prep.chestxray14 import main as prepare
from agcnn_jax.data_prep.phantoms import generate
from agcnn_jax.run.checkpoints import StageCheckpoints
from agcnn_jax.run.lineage import Overlap
from agcnn_jax.run.run import open_run
from agcnn_jax.runtime.errors import UserError
from agcnn_jax.training.loop import describe_training
from tests.configs import demo
from tests.support.programs import ROOT, run
from tests.support.started import TINY

SMALL = (
    "--config=tests/configs/demo.py",
    "--config.input_size=56",
    "--config.batch_size=16",
    "--config.epochs=2",
    "--config.log_every=2",
    "--config.eval_batch_size=16",
)
# One device, so that a step is the same whatever the test runner's flags say.
ENVIRONMENT = {**os.environ, "XLA_FLAGS": "", "JAX_DISABLE_MOST_OPTIMIZATIONS": "1"}


def command(data_dir, workdir, *options):
    return ["train.py", *SMALL, f"--config.data.dir={data_dir}", f"--workdir={workdir}", *options]


def train(data_dir, workdir, *options, **settings):
    return run(*command(data_dir, workdir, *options), env=ENVIRONMENT, **settings)


def evaluate(workdir, *options, **settings):
    return run(
        "eval.py",
        "--config=tests/configs/demo.py",
        f"--workdir={workdir}",
        *options,
        env=ENVIRONMENT,
        **settings,
    )


def weights(workdir, stage):
    """All arrays of a stage's latest checkpoint."""
    folder = epath.Path(workdir) / "stages" / stage / "checkpoints"
    with StageCheckpoints(folder, read_only=True) as checkpoints:
        return checkpoints.restore_best(checkpoints.latest_step())[0]


def entries(workdir):
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


def steps_of(workdir):
    return [(e["stage"], e["step"], "val_auc_mean" in e) for e in entries(workdir)]


def files_of(folder):
    return {path.relative_to(folder) for path in folder.rglob("*")}


@pytest.fixture(scope="module")
def finished(data_dir, tmp_path_factory):
    """A run that was trained to the end without interruption."""
    workdir = tmp_path_factory.mktemp("finished") / "run"
    environment = {**ENVIRONMENT, "JAX_LOG_COMPILES": "1"}
    done = run(*command(data_dir, workdir, "--config.profile=2"), env=environment)
    (workdir / "stderr").write_text(done.stderr)
    (workdir / "stdout").write_text(done.stdout)
    return workdir


def one_line_error(done, *words):
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    lines = [line for line in done.stderr.splitlines() if line.strip()]
    assert len(lines) == 1, done.stderr
    for word in words:
        assert word in lines[0], lines[0]


def test_three_stages_are_chained_and_recorded(finished):
    for stage in ("1_global", "2_local", "3_fusion"):
        result = json.loads((finished / "stages" / stage / "result.json").read_text())
        scores = {
            e["step"]: (e["val_auc_mean"], e["val_auc_findings"])
            for e in entries(finished)
            if e["stage"] == stage and "val_auc_mean" in e
        }
        best = max(scores, key=lambda step: (scores[step], -step))
        assert result["best_step"] == best
        assert (result["best_val_auc_mean"], result["val_auc_findings"]) == scores[best]
        assert 1 <= result["val_auc_findings"] <= 14
    # A stage holds what it trained and nothing else.
    fusion = weights(finished, "3_fusion")
    assert set(fusion["variables"]["params"]) == {"fusion"}
    logged = [e for e in entries(finished) if "loss" in e]
    assert all(e["images_per_second"] > 0 and e["learning_rate"] > 0 for e in logged)
    assert json.loads((finished / "config.json").read_text())["input_size"] == 56
    assert list((finished / "events").rglob("events.out.tfevents*"))


EPOCH = re.compile(
    r"stage (\S+), epoch (\d+) of (\d+): loss (\S+), validation AUC (\S+), "
    r"best (\S+) in epoch (\d+), \S+ images/s(, .* left)?"
)


def test_each_epoch_is_a_line_and_nothing_redraws_one(finished):
    stdout, stderr = (finished / "stdout").read_text(), (finished / "stderr").read_text()
    assert not re.search("[\r\x1b]", stdout + stderr)
    for stage in ("1_global", "2_local", "3_fusion"):
        assert stderr.count(f"stage {stage}: compiling\n") == 1
        lines = [line for line in stdout.splitlines() if line.startswith(f"stage {stage}, epoch ")]
        found = [EPOCH.fullmatch(line).groups() for line in lines]
        scores = {
            e["epoch"]: e["val_auc_mean"]
            for e in entries(finished)
            if e["stage"] == stage and "val_auc_mean" in e
        }
        assert [int(number) for _, number, *_ in found] == list(scores)
        for _, number, total, loss, score, best, in_epoch, left in found:
            until = {epoch: scores[epoch] for epoch in scores if epoch <= int(number)}
            assert int(total) == max(scores) and 0 < float(loss) < 2
            assert score == f"{scores[int(number)]:.4f}"
            assert best == f"{max(until.values()):.4f}"
            assert until[int(in_epoch)] == max(until.values())
            assert (left is None) == (number == total)


def test_a_first_film_and_the_findings_of_finished_stages_are_shown(finished):
    said = (finished / "stdout").read_text()
    assert said.count("first_look.png: heat map of validation film ") == 1
    assert cv2.imread(str(finished / "first_look.png")).shape == (448 + 28, 2 * 448, 3)
    assert said.index("first_look.png") < said.index("stage 1_global: best checkpoint")
    headings = [line.split()[3:] for line in said.splitlines() if line.startswith("AUC, valid")]
    assert headings == [["global"], ["global", "local"], ["global", "local", "fusion"]]
    # The table's means are the scores that chose the checkpoints.
    means = [line.split()[1:] for line in said.splitlines() if line.startswith("mean ")][-1]
    for stage, mean in zip(("1_global", "2_local", "3_fusion"), means, strict=True):
        result = json.loads((finished / "stages" / stage / "result.json").read_text())
        assert f"{result['best_val_auc_mean']:.3f}" == mean
        assert len(result["val_auc"][stage[2:]]) == 14


def test_steps_compile_once_per_stage(finished):
    """Over epochs, validation and the last partial batch."""
    log = (finished / "stderr").read_text()
    names = collections.Counter(re.findall(r"Finished XLA compilation of jit\((\w+)\)", log))
    compiled = {"train_step": 3, "attended_masks": 2}
    compiled |= {"predict_step": 1, "predict_global": 2, "predict_others": 2}
    steps = {name: names[name] for name in names if name in compiled}
    assert steps == compiled, names


def test_steps_are_traced(finished):
    for stage in ("1_global", "2_local", "3_fusion"):
        (trace,) = (finished / "profile" / stage).glob("plugins/profile/*/*.xplane.pb")
        names = re.findall(rb"jit_\w+", trace.read_bytes())
        assert {b"jit_train_step"} <= set(names)


def test_a_second_run_does_nothing_but_say_so(data_dir, finished):
    before = {path: path.stat().st_mtime_ns for path in finished.rglob("*") if path.is_file()}
    done = train(data_dir, finished)
    assert "nothing left to do" in done.stdout
    after = {path: path.stat().st_mtime_ns for path in finished.rglob("*") if path.is_file()}
    assert before == after


@pytest.mark.parametrize(
    ("stage", "how"),
    [
        ("1_global", signal.SIGKILL),
        pytest.param("2_local", signal.SIGINT, marks=pytest.mark.slow),
    ],
)
def test_a_stopped_run_ends_as_one_that_was_not(data_dir, finished, tmp_path, stage, how):
    workdir, options = tmp_path / "run", ("--config.checkpoint_every=2",)
    stop(data_dir, workdir, stage, how, *options)
    train(data_dir, workdir, *options)
    assert steps_of(workdir) == steps_of(finished)
    same_weights(workdir, finished)


def stop(data_dir, workdir, stage, how, *options):
    """Start a run and stop it by a signal when a stage has saved its first step."""
    process = subprocess.Popen(
        [sys.executable, TINY, *command(data_dir, workdir, *options)],
        cwd=ROOT,
        env=ENVIRONMENT,
        stderr=subprocess.PIPE,
        text=True,
    )
    checkpoints = workdir / "stages" / stage / "checkpoints"
    while process.poll() is None and not list(checkpoints.glob("[0-9]*/state")):
        time.sleep(0.02)
    process.send_signal(how)
    _, stderr = process.communicate(timeout=300)
    if how == signal.SIGINT:
        assert process.returncode == 130
        assert "run the same command again" in stderr
        assert "Traceback" not in stderr
    assert not (workdir / "stages" / "3_fusion" / "result.json").exists()


def same_weights(workdir, finished):
    for name in ("1_global", "2_local", "3_fusion"):
        expected, resumed = weights(finished, name), weights(workdir, name)
        for (path, a), b in zip(
            jax.tree.leaves_with_path(expected), jax.tree.leaves(resumed), strict=True
        ):
            np.testing.assert_array_equal(a, b, err_msg=f"{name}{jax.tree_util.keystr(path)}")


@pytest.mark.slow
def test_a_run_that_crops_stored_images_resumes_and_is_evaluated(data_dir, tmp_path):
    """Its input has half the side of the stored images, so that large regions are shrunk."""
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    usual = ("--config.input_size=32", "--config.checkpoint_every=2")
    options = (*usual, "--config.attention.crop_from=stored")
    train(data_dir, whole, *options)
    stop(data_dir, stopped, "2_local", signal.SIGINT, *options)
    train(data_dir, stopped, *options)
    same_weights(stopped, whole)
    other = train(data_dir, whole, *usual, check=False)
    one_line_error(other, "attention.crop_from is 'input', there 'stored'")
    assert "fusion" in evaluate(whole).stdout
    boxes = whole / "eval" / "test" / "boxes.csv"
    rows = np.loadtxt(boxes, delimiter=",", skiprows=1, usecols=(1, 2, 3, 4))
    # Of the original files, whose centre crop is 4 to 60.
    assert rows.min() >= 4
    assert rows.max() <= 60


def test_evaluation_writes_what_it_prints(finished):
    done = evaluate(finished)
    assert "synthetic" in done.stdout.lower()
    folder = finished / "eval" / "test"
    scores = json.loads((folder / "auc.json").read_text())
    assert list(scores["branches"]) == ["global", "local", "fusion"]
    for branch in scores["branches"]:
        assert f"{scores['branches'][branch]['mean']:.3f}" in done.stdout
        header = (folder / f"predictions_{branch}.csv").read_text().split("\n")[0]
        assert header.startswith("Image Index,prob_Atelectasis,prob_Cardiomegaly")
    rows = np.loadtxt(folder / "boxes.csv", delimiter=",", skiprows=1, usecols=(1, 2, 3, 4))
    assert len(rows) == scores["images"]
    assert (rows[:, :2] >= 0).all()
    assert (rows[:, 2:] <= 64).all()
    assert (rows[:, 2:] > rows[:, :2]).all()
    for name in ("auc.csv", "auc.md", "roc.png", "report.html"):
        assert (folder / name).stat().st_size > 0
    localisation = json.loads((folder / "localisation.json").read_text())
    assert f"Annotated boxes: {localisation['boxes']}, in" in done.stdout
    assert {"localisation.csv", "localisation.md"} <= {path.name for path in folder.iterdir()}


def test_evaluation_of_a_run_under_way_scores_what_is_trained(finished, tmp_path):
    shutil.copytree(finished, tmp_path / "run")
    for stage in ("2_local", "3_fusion"):
        (tmp_path / "run/stages" / stage / "result.json").unlink()
    done = evaluate(tmp_path / "run", "--split=validation")
    scores = json.loads((tmp_path / "run/eval/validation/auc.json").read_text())
    assert list(scores["branches"]) == ["global"]
    assert "global" in done.stdout


class TestMistakes:
    """Each ends in one line, with status 2, and leaves nothing behind."""

    @pytest.mark.parametrize(
        ("options", "words"),
        [
            (["--config.backbone=vgg16"], ["config.backbone", "vgg16", "resnet50"]),
            (["--config.learning_rat=1"], ["learning_rat"]),
            (["--config.epochs=many"], ["many"]),
            (["--config.attention.tau=1.5"], ["config.attention.tau", "1.5"]),
            (["--config.batch_size=16"], ["config.batch_size", "(16, 16)"]),
            (["--config.batch_size=(5000,5000)"], ["5000", "training subset"]),
            (["--config.strategy=F_L_G"], ["config.strategy", "G_L_F"]),
            (["--config.data.dir=no/such/folder"], ["no/such/folder", "chestxray14.py"]),
            (["--config.data.protocol=lists"], ["lists"]),
            (["--config.init=nowhere"], ["config.init", "nowhere"]),
            (["--workdri=x"], ["workdri"]),
            (["surplus"], ["surplus"]),
            (["--config=configs/none.py"], ["given twice", "configs/none.py"]),
            (["--config.seed=-1"], ["config.seed", "-1"]),
            (["--config.epochs=(1.5,2)"], ["config.epochs", "whole"]),
            (["--config.std=('a',)"], ["config.std", "numbers"]),
        ],
        ids=lambda value: value[0] if isinstance(value, list) else None,
    )
    def test_train(self, data_dir, tmp_path, options, words):
        workdir = tmp_path / "run"
        done = train(data_dir, workdir, *options, check=False)
        one_line_error(done, "train.py: error:", *words)
        assert not workdir.exists()

    def test_batch_that_devices_cannot_share(self, data_dir, tmp_path):
        environment = {**os.environ, "XLA_FLAGS": "--xla_force_host_platform_device_count=3"}
        done = run(*command(data_dir, tmp_path / "run"), env=environment, check=False)
        one_line_error(done, "config.batch_size", "16", "3 devices")

    def test_no_config(self):
        one_line_error(run("train.py", check=False), "--config")

    @pytest.mark.parametrize("program", ["train.py", "eval.py"])
    def test_config_that_is_not_there(self, program):
        done = run(program, "--config=configs/none.py", check=False)
        one_line_error(done, "configs/none.py", "no such file")

    @pytest.mark.parametrize(
        ("name", "content"),
        [
            ("config.json", "[]"),
            ("config.json", '{"backbone": "resnet_small"}'),
            ("data.json", "{}"),
            ("stages/1_global/result.json", "{}"),
            ("stages/1_global/result.json", "[1"),
            ("stages/1_global/result.json", '{"best_step": 1, "best_val_auc_mean": 0.5}'),
            (
                "stages/1_global/result.json",
                '{"best_step": 99, "best_val_auc_mean": 0.5, "val_auc_findings": 3}',
            ),
        ],
    )
    def test_damaged_files_of_a_run(self, finished, tmp_path, name, content):
        copy = tmp_path / "run"
        shutil.copytree(finished, copy)
        (copy / name).write_text(content)
        before = files_of(copy)
        one_line_error(evaluate(copy, check=False), str(copy))
        assert files_of(copy) == before

    def test_checkpoints_that_are_gone(self, data_dir, finished, tmp_path):
        copy = tmp_path / "run"
        shutil.copytree(finished, copy)
        shutil.rmtree(copy / "stages/1_global/checkpoints")
        before = files_of(copy)
        for done in (train(data_dir, copy, check=False), evaluate(copy, check=False)):
            one_line_error(done, "1_global", "delete")
        assert files_of(copy) == before
        # What the message says works.
        shutil.rmtree(copy / "stages/1_global")
        train(data_dir, copy)

    def test_damaged_metrics_lines_are_dropped(self, data_dir, finished, tmp_path):
        copy = tmp_path / "run"
        shutil.copytree(finished, copy)
        shutil.rmtree(copy / "stages/3_fusion")
        expected = steps_of(copy)
        with open(copy / "metrics.jsonl", "ab") as file:
            file.write(b'[1]\n{"a": 1}\n\xff\n{"stage": "3_fu')
        train(data_dir, copy)
        assert steps_of(copy) == expected

    def test_workdir_of_another_config(self, data_dir, finished):
        before = files_of(finished)
        done = train(data_dir, finished, "--config.seed=1", check=False)
        one_line_error(done, "another config", "seed")
        assert files_of(finished) == before

    def test_workdir_that_cannot_be_made(self, data_dir, tmp_path):
        (tmp_path / "file").write_text("")
        done = train(data_dir, tmp_path / "file" / "run", check=False)
        one_line_error(done, "--workdir")

    def test_evaluating_with_another_backbone(self, finished):
        done = run("eval.py", "--config=configs/densenet.py", f"--workdir={finished}", check=False)
        one_line_error(done, "densenet121", "resnet_small")

    def test_evaluating_nothing(self, tmp_path):
        done = evaluate(tmp_path / "none", check=False)
        one_line_error(done, "nothing is trained", "train.py")

    def test_evaluating_on_data_that_changed(self, finished, tmp_path):
        copy = tmp_path / "run"
        shutil.copytree(finished, copy)
        data = json.loads((copy / "data.json").read_text())
        (copy / "data.json").write_text(json.dumps({**data, "fingerprint": "0" * 64}))
        before = files_of(copy)
        one_line_error(evaluate(copy, check=False), "other data", "--config.data.dir")
        assert files_of(copy) == before

    def test_evaluating_an_unknown_split(self, finished):
        one_line_error(evaluate(finished, "--split=tset", check=False), "tset", "validation")

    def test_a_checkpoint_of_another_backbone(self, data_dir, finished, tmp_path):
        done = train(
            data_dir,
            tmp_path / "run",
            f"--config.init={finished}/stages/1_global",
            "--config.backbone=densenet121",
            check=False,
        )
        one_line_error(done, "another backbone", "resnet_small")
        assert not (tmp_path / "run").exists()

    def test_a_torn_checkpoint_of_a_finished_stage(self, data_dir, finished, tmp_path):
        copy = tmp_path / "run"
        shutil.copytree(finished, copy)
        step = json.loads((copy / "stages/1_global/result.json").read_text())["best_step"]
        shutil.rmtree(copy / f"stages/1_global/checkpoints/{step}/state")
        one_line_error(evaluate(copy, check=False), "1_global")

    @pytest.mark.parametrize("missing", ["--predictions", "--labels"])
    def test_predictions_without_labels(self, tmp_path, missing):
        given = {"--predictions": "--labels", "--labels": "--predictions"}[missing]
        one_line_error(run("eval.py", f"{given}={tmp_path}/x.csv", check=False), missing)


@pytest.mark.slow
def test_starting_from_another_runs_weights(data_dir, finished, tmp_path):
    done = train(
        data_dir,
        tmp_path / "run",
        f"--config.init={finished}/stages/1_global",
        "--config.max_steps=1",
        "--config.learning_rate=1e-9",
    )
    assert "complete" in done.stdout
    started = weights(tmp_path / "run", "2_local")["variables"]["params"]["local"]["backbone"]
    result = json.loads((finished / "stages/1_global/result.json").read_text())
    with StageCheckpoints(
        epath.Path(finished) / "stages/1_global/checkpoints", read_only=True
    ) as checkpoints:
        best, _ = checkpoints.restore_best()
    assert checkpoints.best_step() == result["best_step"]
    for a, b in zip(
        jax.tree.leaves(best["variables"]["params"]["global"]["backbone"]),
        jax.tree.leaves(started),
        strict=True,
    ):
        np.testing.assert_allclose(a, b, atol=1e-6)


def test_a_test_list_cut_short_is_counted_and_refused(tmp_path, capsys):
    raw, data = tmp_path / "raw", tmp_path / "data"
    generate(raw, 20, 64, seed=0, workers=1)
    kept, *cut = (raw / "test_list.txt").read_text().split()
    (raw / "test_list.txt").write_text(f"{kept}\nabsent.png\n")
    prepare(["--raw_dir", str(raw), "--data_dir", str(data), "--image_size=64", "--workers=1"])
    counted = "without an image 1, images in neither list"
    assert f"{counted} {len(cut)}, " in capsys.readouterr().out
    config = demo.get_config()
    config.data.dir = str(data)
    with pytest.raises(UserError, match=f"leave out {len(cut)} of .*allow_unlisted=True"):
        open_run(config, epath.Path(tmp_path))
    config.data.allow_unlisted = True
    experiment = open_run(config, epath.Path(tmp_path))
    assert len(experiment.split.test) == 1
    printed = describe_training(experiment, SimpleNamespace(tested=Overlap(0, 0, True)))
    assert (
        "protocol official; its lists name 1 images that are not in the dataset, and leave out "
        f"{len(cut)} that are\n"
    ) in printed
