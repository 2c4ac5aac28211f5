"""The command that predicts films: rows, refused films, continuing, what is never written."""

import csv
import dataclasses
import json
import os
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
from etils import epath
from PIL import Image

pytest.importorskip("pydicom", reason="needs the extra dicom")

from agcnn_jax import export, predict
from agcnn_jax.data.labels import LABELS
from agcnn_jax.data.pipeline import read_batch
from agcnn_jax.data.records import open_records
from agcnn_jax.data.splits import make_split
from agcnn_jax.evaluation.files.predictions import read_predictions
from agcnn_jax.inference import load, pieces, stream
from agcnn_jax.inference.folder import overlay_name
from agcnn_jax.inference.inputs import find_films
from agcnn_jax.inference.load_jax import load_run
from agcnn_jax.interop import weights
from agcnn_jax.metrics.feature_distance import fit_features
from agcnn_jax.models.agcnn import BRANCHES
from agcnn_jax.run.calibration import read_calibration, write_calibration
from agcnn_jax.run.lineage import lineage_of_names
from agcnn_jax.run.stage_results import digests
from agcnn_jax.runtime.errors import Stopped, UserError
from tests.data.dicom_files import PATIENT, encoded, radiograph

FILES = ("predictions.csv", "predictions.jsonl", "errors.csv")
PIECE = ("--workdir=a", "--list=b")


@pytest.fixture(scope="module")
def run_dir(workdir, data_dir, tmp_path_factory):
    """The run, with features of all phantoms in its calibration."""
    copy = tmp_path_factory.mktemp("predict") / "run"
    shutil.copytree(workdir, copy)
    model = load_run(workdir)
    images = read_batch(open_records(data_dir).images_and_labels(), np.arange(160))["image"]
    pooled = np.concatenate(
        [np.asarray(model.predict_batch(images[i : i + 16])["pooled"]) for i in range(0, 160, 16)]
    )
    digest = digests(model.variables, model.variables["params"])
    directory = epath.Path(copy)
    known = read_calibration(directory, digest)
    features = fit_features(pooled, np.arange(160))
    write_calibration(directory, dataclasses.replace(known, features=features), digest)
    return copy


@pytest.fixture(scope="module")
def films(data_dir, tmp_path_factory):
    """A folder with 37 phantoms, one also as DICOM, and three files that cannot be predicted."""
    folder = tmp_path_factory.mktemp("films") / "films"
    folder.mkdir()
    records = open_records(data_dir)
    chosen = records.image_ids[make_split(records, "official", 0).test[:37]]
    names = sorted(data_dir.parent / "raw/images" / name for name in chosen)
    for path in names:
        shutil.copy(path, folder)
    gray = np.asarray(Image.open(names[3]))
    window = {"WindowCenter": 128, "WindowWidth": 256}
    (folder / "as_dicom.dcm").write_bytes(encoded(radiograph(gray, **window)))
    (folder / "computed.dcm").write_bytes(encoded(radiograph(gray, Modality="CT")))
    (folder / "00000001_zzz.png").write_bytes(b"\x89PNG\r\n\x1a\nbroken")
    noise = np.random.default_rng(0).integers(0, 256, (64, 96), np.uint8)
    Image.fromarray(noise).save(folder / "noise.tif")
    (folder / "labels.csv").write_text("film,label\n")
    return folder


def test_an_evaluation_stores_the_features_of_validation_images(workdir, data_dir):
    model, records = load_run(workdir), open_records(data_dir)
    chosen = make_split(records, "official", 0).validation
    images = read_batch(records.images_and_labels(), chosen)["image"]
    pooled = np.asarray(model.predict_batch(images)["pooled"])
    expected = fit_features(pooled, records.patient_ids[chosen])
    found = model.calibration.features
    assert found.threshold == pytest.approx(expected.threshold, rel=1e-3)
    np.testing.assert_allclose(found.mean, expected.mean, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(found.variances, expected.variances, rtol=1e-3)


def call(run_dir, out, *arguments):
    given = ["--workdir", run_dir, "--out", out, "--batch_size", 8, "--workers", 2, *arguments]
    return predict.main([str(argument) for argument in given])


@pytest.fixture(scope="module")
def out(run_dir, films, tmp_path_factory):
    out = tmp_path_factory.mktemp("out") / "predictions"
    assert call(run_dir, out, films) == 2
    return out


def table(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def test_probabilities_are_those_of_the_evaluation(out, workdir):
    """In both files, for every branch, with boxes."""
    rows = {row["Image Index"]: row for row in table(out / "predictions.csv")}
    said = [json.loads(line) for line in (out / "predictions.jsonl").read_text().splitlines()]
    assert [one["path"] for one in said] == [row["path"] for row in rows.values()]
    said = {one["Image Index"]: one for one in said}
    compared = 0
    for branch in BRANCHES:
        prefix = "" if branch == "fusion" else f"{branch}_"
        for known in table(workdir / f"eval/test/predictions_{branch}.csv"):
            name = known["Image Index"]
            if name not in rows:
                continue
            for label in LABELS:
                expected = pytest.approx(float(known[f"prob_{label}"]), abs=1e-6)
                assert float(rows[name][f"{prefix}prob_{label}"]) == expected
                answer = said[name]["branches"][branch][label]
                assert answer["probability"] == expected
                for kind, cell in (("calibrated", float), ("positive", int)):
                    value = rows[name][f"{prefix}{kind}_{label}"]
                    assert (cell(value) if value else None) == pytest.approx(answer[kind])
            compared += 1
    assert compared == 3 * 37
    sides = ("xmin", "ymin", "xmax", "ymax")
    for known in table(workdir / "eval/test/boxes.csv"):
        if row := rows.get(known["Image Index"]):
            assert [row[side] for side in sides] == [known[side] for side in sides]
            assert said[known["Image Index"]]["box"] == [int(known[side]) for side in sides]


def test_a_dicom_film_has_the_answer_of_the_same_png(out, films):
    rows = {row["Image Index"]: row for row in table(out / "predictions.csv")}
    png = sorted(path.name for path in films.glob("0*.png") if "zzz" not in path.name)[3]
    for column in ("prob_Mass", "local_prob_Hernia", "xmin", "width"):
        assert float(rows["as_dicom.dcm"][column]) == pytest.approx(float(rows[png][column]))


def test_the_file_is_one_of_predictions(out):
    found = read_predictions(out / "predictions.csv", LABELS)
    assert found.labels == LABELS and len(found.image_ids) == 39


def test_refused_films_are_named_and_the_others_go_on(out, films, run_dir, capsys):
    errors = {row["Image Index"]: row["reason"] for row in table(out / "errors.csv")}
    assert errors == {
        "00000001_zzz.png": "truncated",
        "computed.dcm": "modality CT, not one of CR, DX, RG, SC",
    }
    expected = sorted(path.name for path in films.iterdir())
    names = [row["Image Index"] for row in table(out / "predictions.csv")]
    assert names == [name for name in expected if name not in (*errors, "labels.csv")]
    # A second call finds everything done, and exits alike.
    before = [(out / name).read_bytes() for name in FILES]
    assert call(run_dir, out, films) == 2
    assert [(out / name).read_bytes() for name in FILES] == before
    said = capsys.readouterr()
    assert "39 of 41 films predicted" in said.out
    assert "2 of 41 films were refused" in said.err
    assert "left out, since they are no films: 1" in said.err


def test_a_film_unlike_the_others_is_flagged(out):
    rows = table(out / "predictions.csv")
    flagged = [row["Image Index"] for row in rows if row["unlike"] == "1"]
    assert "noise.tif" in flagged and len(flagged) <= 4
    for row in rows:
        assert (float(row["distance"]) > 1) == (row["unlike"] == "1")


def test_nothing_of_a_dicom_header_is_written(out):
    for path in out.rglob("*"):
        text = path.read_bytes().lower()
        for word in (*PATIENT.lower().split("^"), "qx-4711"):
            assert word.encode() not in text, path


def test_an_interrupted_run_ends_with_the_same_files(out, run_dir, films, tmp_path, monkeypatch):
    resumed, write_rows, batches = tmp_path / "resumed", stream.write_rows, []

    def interrupted(*arguments):
        batches.append(arguments)
        write_rows(*arguments)
        if len(batches) == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr(stream, "write_rows", interrupted)
    monkeypatch.setattr("agcnn_jax.inference.folder._SAVE_SECONDS", 0)
    with pytest.raises(KeyboardInterrupt):
        call(run_dir, resumed, films)
    saved = json.loads((resumed / "progress.json").read_text())["films"]
    assert 10 < saved < 30
    assert (resumed / FILES[0]).stat().st_size > 0
    with open(resumed / FILES[1], "a") as file:
        file.write('{"torn')
    monkeypatch.undo()
    assert call(run_dir, resumed, films) == 2
    for name in FILES:
        assert (resumed / name).read_bytes() == (out / name).read_bytes()


def test_predictions_never_mix(out, run_dir, films, tmp_path):
    before = [(out / name).read_bytes() for name in FILES]
    with pytest.raises(UserError, match="with --rule youden, not sensitivity"):
        call(run_dir, out, films, "--rule=sensitivity_0.9")
    with pytest.raises(UserError, match="predictions of other films"):
        call(run_dir, out, films / "noise.tif")
    copy = tmp_path / "copy"
    shutil.copytree(out, copy)
    model = load_run(run_dir)
    other = dataclasses.replace(model, digest="0123456789abcdef")
    settings = stream.Settings("youden", overlays=False, batch_size=8, workers=2)
    with pytest.raises(UserError, match=f"with weights {model.digest}, not {other.digest}"):
        stream.predict_files(other, find_films([films], copy).films, copy, settings)
    (copy / "progress.json").write_text("{}")
    with pytest.raises(UserError, match="choose another --out"):
        call(run_dir, copy, films)
    (copy / "progress.json").unlink()
    with pytest.raises(UserError, match=r"holds a predictions.csv of something else"):
        call(run_dir, copy, films)
    assert [(out / name).read_bytes() for name in FILES] == before


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("a/00000001_000.png", "00000001_000_000007.jpeg"),
        ("1.2.840.10008", "1.2.840.10008_000007.jpeg"),
        ("-x y/../-o *?.DCM", "_o ___000007.jpeg".replace(" ", "_")),
        (".hidden.tiff", "_hidden_000007.jpeg"),
        ("胸部 1.jpg", "胸部_1_000007.jpeg"),
        ("a\nb\\c.png", "a_nb__c_000007.jpeg"),
        (os.fsdecode(b"\xff.png"), "_udcff_000007.jpeg"),
        ("é" * 120 + ".png", "é" * 100 + "_000007.jpeg"),
    ],
)
def test_the_name_of_a_picture(path, name):
    assert overlay_name(path, 7) == name
    assert len(os.fsencode(name)) <= 255


@pytest.mark.slow
def test_pictures_and_a_run_without_calibration(workdir, films, tmp_path, capsys):
    bare, out = tmp_path / "run", tmp_path / "out"
    shutil.copytree(workdir, bare)
    (bare / "calibration.json").unlink()
    names = [str(films / "noise.tif"), str(films / "as_dicom.dcm")]
    assert call(bare, out, "--overlays", *names) == 0
    said = capsys.readouterr().err
    assert "no calibration" in said and "SYNTHETIC: the model was trained on synth" in said
    rows = table(out / "predictions.csv")
    assert [row["path"] for row in rows] == names  # the order given
    pictures = ["overlays/noise_000001.jpeg", "overlays/as_dicom_000002.jpeg"]
    assert [row["overlay"] for row in rows] == pictures
    for row in rows:
        assert row["unlike"] == row["distance"] == row["calibrated_Mass"] == ""
        assert row["positive_Mass"] == ""
        with Image.open(out / row["overlay"]) as picture:
            assert picture.width > 2 * picture.height > 400
            assert np.asarray(picture).std() > 20


@pytest.mark.slow
def test_an_exported_model_and_converted_weights(run_dir, films, out, tmp_path):
    assert export.main(["--workdir", str(run_dir), "--out", str(tmp_path / "model")]) in (None, 0)
    # In the same batches, so the same bytes.
    source = ["--batch_size=8", "--workers=2", str(films)]
    assert predict.main([f"--from={tmp_path}/model", f"--out={tmp_path}/a", *source]) == 2
    for name in FILES:
        assert (tmp_path / "a" / name).read_bytes() == (out / name).read_bytes()

    model = load_run(run_dir)
    alone = {kind: {"global": tree["global"]} for kind, tree in model.variables.items()}
    about = {
        "backbone": "resnet_small",
        "branches": ["global"],
        "channels": 1,
        "pooling": "avg",
        "classes": ["", *LABELS[1:]],
        "mean": [0.5],
        "std": [0.25],
        "lineage": lineage_of_names([]).to_json(),
    }
    weights.save_weights(tmp_path / "weights", alone, about)
    one = str(films / "noise.tif")
    assert predict.main([f"--weights={tmp_path}/weights", f"--out={tmp_path}/b", one]) == 0
    [row] = table(tmp_path / "b/predictions.csv")
    assert 0 < float(row["prob_Mass"]) < 1
    assert row["xmin"] == row["calibrated_Mass"] == row["unlike"] == ""
    assert not {"prob_", f"prob_{LABELS[0]}", "global_prob_Mass"} & set(row)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["film.png"], "no model given; give one of --workdir, --weights and --from"),
        (["--workdir=a", "--weights=b", "film.png"], "--workdir and --weights given; give one"),
        (["--workdir=a", "--batch_size=0", "film.png"], "--batch_size 0: must be 1 or more"),
        (["--workdir=a"], "no film given; name files or folders"),
        ([], "no model given"),
        (["--workdir=a", "--rule=best", "film.png"], "invalid choice"),
        (
            ["--workdir=a", "/nonexistent/film.png"],
            "nothing is trained in --workdir .*a; train first",
        ),
        (["--workdir=a", "--list=b"], "--list without --shard; give --shard I --shards N"),
        (["--workdir=a", "--list=b", "--shard=0"], "--list without --shards"),
        ([*PIECE, "--shard=0", "--shards=0"], "--shards 0: must be 1 or more"),
        ([*PIECE, "--shard=4", "--shards=4"], "--shard 4: none of the 4 pieces; give 0 to 3"),
        ([*PIECE, "--shard=-1", "--shards=4"], "--shard -1: none of the 4 pieces"),
        ([*PIECE, "--shard=auto", "--shards=4"], "neither SLURM_ARRAY_TASK_ID nor JOB_COMP"),
        ([*PIECE, "--shard=0", "--shards=1", "a.png"], "--list takes no films; leave a.png out"),
        (["--workdir=a", "--retry_errors", "a.png"], "--retry_errors belongs to a piece of a list"),
        (["--join=", "--workdir=b"], "--join needs no model; leave --workdir out"),
        (["--workdir=a", "--list=", "a.png"], "--list takes no films; leave a.png out"),
        (["--workdir=a", "--shards=0", "a.png"], "--shards belongs to a piece of a list"),
        (["--join=a", "--list=b"], "--list and --join given; give one"),
        (["--join=a", "--workdir=b"], "--join needs no model; leave --workdir out"),
        (["--join=/nonexistent"], "/nonexistent holds no pieces"),
        (["--write_list"], "no film given"),
        (["--write_list", "/nonexistent/a", "--out=/nonexistent/b"], "no such file or folder"),
        (["--write_list", "a.png", "--out=/dev/null"], "--out /dev/null exists"),
        (["--workdir=a", "--batchsize=4", "b"], "no option --batchsize; did you mean --batch_size"),
    ],
)
def test_mistakes_on_the_command_line(arguments, words):
    with pytest.raises(UserError, match=words):
        predict.main(arguments)


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({"SLURM_ARRAY_TASK_ID": "3"}, 3),
        ({"JOB_COMPLETION_INDEX": "0", "SLURM_ARRAY_TASK_ID": ""}, 0),
        ({"JOB_COMPLETION_INDEX": "2", "SLURM_ARRAY_TASK_ID": "2"}, 2),
        (
            {"SLURM_ARRAY_TASK_ID": "4"},
            "SLURM_ARRAY_TASK_ID 4: none of the 4 pieces; number from 0",
        ),
        ({"JOB_COMPLETION_INDEX": "x"}, "JOB_COMPLETION_INDEX x: none of the 4 pieces"),
        ({"JOB_COMPLETION_INDEX": "1", "SLURM_ARRAY_TASK_ID": "2"}, "differ; give a number"),
    ],
)
def test_the_number_of_a_piece_from_the_environment(environment, expected):
    if isinstance(expected, int):
        assert predict.shard_of("auto", 4, environment) == expected
    else:
        with pytest.raises(UserError, match=expected):
            predict.shard_of("auto", 4, environment)


@pytest.fixture
def a_model(monkeypatch):
    """Stands for any model, where no film is predicted."""
    lineage = SimpleNamespace(synthetic=False)
    model = SimpleNamespace(lineage=lineage, calibration=None, computed_by={})
    monkeypatch.setattr(load, "load_exported", lambda *_: model)


def test_how_a_piece_ends(a_model, monkeypatch, capsys):
    """With 0 once it is complete, 75 if a store failed, 2 for what running again would repeat."""
    given = ["--from=m", "--list=l", "--shard=1", "--shards=3", "--out=o"]
    limit = "decoding: 16 cores busy, device 31 % busy"
    done = stream.Summary(films=8, refused=2, unlike=0, new=8, seconds=2, rate=4, limit=limit)
    monkeypatch.setattr(pieces, "predict_piece", lambda *_: done)
    assert predict.main(given) == 0
    said = capsys.readouterr()
    assert "2 of 8 films were refused; --retry_errors predicts them again" in said.err
    first, last = said.out.splitlines()
    assert first.startswith("piece 1 of 3 is complete, 6 of 8 films predicted, 4.0 films/s: ")
    assert last == limit
    for cause, expected in ((ConnectionResetError(), Stopped), (PermissionError(), UserError)):

        def failing(*_, cause=cause):
            raise UserError("gs://b/o cannot be written: why") from cause

        for module, name, arguments in (
            (pieces, "predict_piece", given),
            (pieces, "join", ["--join=gs://b/o"]),
            (load, "load_exported", given),
        ):
            with monkeypatch.context() as patch:
                patch.setattr(module, name, failing)
                with pytest.raises(expected, match="gs://b/o cannot be written"):
                    predict.main(arguments)


def test_a_join_tells_of_refused_films(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(pieces, "join", lambda _: pieces.Joined(5, 0, 1))
    assert predict.main([f"--join={tmp_path}"]) == 0
    assert "5 of 5 films predicted, 1 unlike the training films: " in capsys.readouterr().out
    monkeypatch.setattr(pieces, "join", lambda _: pieces.Joined(5, 2, 0))
    assert predict.main([f"--join={tmp_path}"]) == 2
    assert f"2 of 5 films were refused; {tmp_path}/errors.csv" in capsys.readouterr().err


def test_the_films_of_folders_are_listed_once(films, tmp_path, capsys):
    out = tmp_path / "list.txt"
    assert predict.main(["--write_list", str(films), f"{films}/noise.tif", f"--out={out}"]) == 0
    assert out.read_text().splitlines() == find_films([str(films)], tmp_path).films
    said = capsys.readouterr()
    assert said.out == f"41 films: {out}\n"
    assert "left out, since they are no films: 1" in said.err
    with pytest.raises(UserError, match="exists, and pieces may depend on it"):
        predict.main(["--write_list", str(films), f"--out={out}"])


def test_plain_predictions_go_to_a_disk(a_model):
    with pytest.raises(UserError, match="--out gs://b/o: predictions are written to a disk"):
        predict.main(["--from=m", "a.png", "--out=gs://b/o"])


def test_a_missing_film(run_dir):
    with pytest.raises(UserError, match="no such file or folder"):
        predict.main([f"--workdir={run_dir}", "/nonexistent/film.png"])
