"""Films as Python holds them: read, predicted, shown."""

import csv
import dataclasses
import doctest
import io
import shutil

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage
from scipy.special import expit

import agcnn_jax
from agcnn_jax.data.labels import FINDINGS, LABELS
from agcnn_jax.inference.films import as_film
from agcnn_jax.inference.load import load_run
from agcnn_jax.inference.result import answers_of
from agcnn_jax.metrics.calibration import Line
from agcnn_jax.metrics.feature_distance import feature_distances
from agcnn_jax.metrics.operating_points import RULES
from agcnn_jax.models.agcnn import BRANCHES
from agcnn_jax.run.calibration import Calibration, Choice
from agcnn_jax.runtime.errors import UserError
from tests.programs import run

RAMP = np.arange(96 * 64, dtype=np.uint16).reshape(96, 64) * 10


@pytest.fixture(scope="module")
def model(workdir):
    return load_run(workdir)


@pytest.fixture(scope="module")
def raw(data_dir):
    """The folder of the phantoms as files."""
    return data_dir.parent / "raw/images"


def rows(workdir, name):
    with open(workdir / "eval/test" / name, newline="") as file:
        return {row["Image Index"]: row for row in csv.DictReader(file)}


def test_raw_films_have_the_probabilities_of_the_evaluation(workdir, model, raw):
    """Whatever the number of films, and for every branch."""
    expected = {branch: rows(workdir, f"predictions_{branch}.csv") for branch in BRANCHES}
    boxes = rows(workdir, "boxes.csv")
    names = list(boxes)[:37]
    results = model.predict([raw / name for name in names])
    assert [result.name for result in results] == names
    for result in [*results, model.predict(raw / names[0])]:
        for branch, answer in result.branches.items():
            row = expected[branch][result.name]
            for label, probability in answer.probability.items():
                assert probability == pytest.approx(float(row[f"prob_{label}"]), abs=1e-6)
        row = boxes[result.name]
        assert list(result.box) == [int(row[side]) for side in ("xmin", "ymin", "xmax", "ymax")]


def test_the_last_branch_answers(model, raw):
    result = model.predict(next(raw.iterdir()))
    assert tuple(result.branches) == BRANCHES and result.branch == "fusion"
    fusion = result.branches["fusion"]
    assert result.probability is fusion.probability and result.calibrated is fusion.calibrated
    assert result.decision is fusion.decision["youden"]
    assert tuple(result.probability) == LABELS and result.findings == FINDINGS


def test_distance_from_the_known_films(model, raw):
    """By the pooled features of the global branch; 1 is the threshold."""
    features = model.calibration.features
    film = np.asarray(Image.open(next(raw.iterdir())))
    results = model.predict([film, 255 - film])
    pooled = np.asarray(model.predict_batch(np.stack([film, 255 - film]))["pooled"])
    expected = feature_distances(features, pooled) / features.threshold
    np.testing.assert_allclose([one.distance for one in results], expected, rtol=1e-3)
    assert [one.unlike for one in results] == (expected > 1).tolist()
    (alone,) = dataclasses.replace(model, calibration=None).predict([film])
    assert alone.distance is None and alone.unlike is None


def test_a_path_an_image_and_an_array_are_the_same_film(model, raw):
    path = next(raw.iterdir())
    image = Image.open(path)
    same = [path, str(path), image, np.asarray(image), np.asarray(image.convert("RGB"))]
    first, *others = model.predict(same)
    for other in others:
        assert other.probability == first.probability
        np.testing.assert_array_equal(other.film, first.film)
    assert [other.name for other in others] == [path.name, "", "", ""]


def test_heat_map_and_box_are_in_pixels_of_the_film(model, raw):
    """The box is that of the heat map's largest region, in a film of another shape too."""
    film = np.asarray(Image.open(next(raw.iterdir())))
    wide = np.repeat(np.repeat(film, 3, axis=0), 5, axis=1)
    for result, pixel in zip(model.predict([film, wide]), ((1, 1), (5, 3)), strict=True):
        assert result.heat_map.shape == result.film.shape
        regions, _ = ndimage.label(result.heat_map > model.recipe.tau, np.ones((3, 3)))
        largest = np.argmax(np.bincount(regions.ravel())[1:])
        rows, columns = ndimage.find_objects(regions)[largest]
        found = [columns.start, rows.start, columns.stop, rows.stop]
        assert (np.abs(np.subtract(found, result.box)) <= [*pixel, *pixel]).all()
        assert not result.heat_map[: 3 * pixel[1]].any()


def test_what_is_a_film():
    name, film = as_film(RAMP)
    assert name == "" and film.dtype == np.uint8
    # 61,430 needs 16 bits.
    np.testing.assert_array_equal(film, np.round(RAMP / 65535 * 255))
    np.testing.assert_array_equal(as_film(RAMP.astype(">u2"))[1], film)
    np.testing.assert_array_equal(as_film(Image.fromarray(RAMP))[1], film)
    colour = np.stack([film, film, film, np.zeros_like(film)], axis=-1)
    np.testing.assert_array_equal(as_film(colour)[1], film)
    np.testing.assert_array_equal(as_film(RAMP[..., None])[1], film)
    np.testing.assert_array_equal(as_film(Image.fromarray(film).convert("LA"))[1], film)


@pytest.mark.parametrize(
    "image",
    [
        RAMP.astype(np.float32),
        RAMP.astype(np.int16),
        RAMP > 3,
        RAMP[None, None],
        Image.fromarray(RAMP.astype(np.float32)),
        np.zeros((3, 9, 9), np.uint8),
        np.zeros((9, 9, 3), np.uint16),
    ],
    ids=["float", "signed", "bool", "4-D", "float image", "3 first", "deep colour"],
)
def test_arrays_that_do_not_say_what_is_white_are_refused(image):
    with pytest.raises(UserError, match=r"give uint8 or uint16 of shape \(H, W\)"):
        as_film(image)


def test_unreadable_films(tmp_path):
    (tmp_path / "notes.png").write_text("no film")
    for path, reason in (("notes.png", "not a PNG"), ("none.png", "No such file")):
        with pytest.raises(UserError, match=f"{path}: {reason}.*; give a PNG"):
            as_film(tmp_path / path)
    with pytest.raises(UserError, match="an image claims 0 x 9 pixels"):
        as_film(np.zeros((9, 0), np.uint8))


def test_images_and_paths_that_only_fail_when_read():
    buffer = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 256, (64, 64), np.uint8)
    Image.fromarray(noise).save(buffer, "PNG")
    with pytest.raises(UserError, match="an image cannot be decoded"):
        as_film(Image.open(io.BytesIO(buffer.getvalue()[:2000])))
    with pytest.raises(UserError, match="is no path"):
        as_film("a\0b.png")


@pytest.mark.parametrize(("name", "shape"), [("a.jpg", (64, 32)), ("a.png", (32, 64))])
def test_a_turned_image_is_the_film_of_its_file(tmp_path, name, shape):
    noise = np.random.default_rng(0).integers(0, 256, (32, 64), np.uint8)
    turned = Image.Exif()
    turned[274] = 6  # a quarter
    Image.fromarray(noise).save(tmp_path / name, exif=turned)
    film = as_film(Image.open(tmp_path / name))[1]
    assert film.shape == shape
    np.testing.assert_array_equal(film, as_film(tmp_path / name)[1])


@pytest.mark.parametrize("channels", [None, 1, 3, 4])
def test_a_tuple_and_an_array_of_films_are_a_list_of_films(model, channels):
    images = np.random.default_rng(0).integers(0, 256, (2, 64, 64), np.uint8)
    if channels:
        images = np.repeat(images[..., None], channels, axis=-1)
    expected = [one.probability for one in model.predict(list(images))]
    for several in (images, tuple(images)):
        assert [one.probability for one in model.predict(several)] == expected
    assert model.predict(images[:1])[0].name == "" and model.predict(images[:0]) == []
    assert model.predict(images[0]).film.shape == (64, 64)


def test_deep_films_are_scaled_one_by_one(model):
    """12 bits beside 16, in one array as apart."""
    both = np.stack([RAMP >> 4, RAMP])
    films = [one.film for one in model.predict(both)]
    np.testing.assert_array_equal(films, [as_film(one)[1] for one in both])
    assert films[0].max() > 200


def test_answers_by_hand():
    thresholds = dict(zip(RULES, (0.5, 0.6, None), strict=True))
    choices = {"Mass": Choice(Line(slope=2.0, intercept=-1.0), thresholds)}
    choices["Edema"] = Choice(None, dict.fromkeys(RULES))
    calibration = Calibration(9, 9, True, {"global": choices})
    logits = {"global": np.float32([0.5, -1, 3, 7])}
    answer = answers_of(logits, ("Mass", "Edema", "Hernia", ""), calibration)["global"]
    assert answer.logit == {"Mass": 0.5, "Edema": -1, "Hernia": 3}
    assert answer.probability["Mass"] == pytest.approx(expit(0.5))
    # 2 * 0.5 - 1 = 0; a score that equals the threshold is positive.
    assert answer.calibrated == {"Mass": 0.5, "Edema": None, "Hernia": None}
    called = {"Mass": True, "Edema": None, "Hernia": None}
    assert answer.decision["youden"] == called
    assert answer.decision["specificity_0.9"]["Mass"] is False
    assert answer.decision["sensitivity_0.9"]["Mass"] is None
    alone = answers_of(logits, ("Mass", "Edema", "Hernia", ""), None)["global"]
    assert set(alone.calibrated.values()) == {None} and set(alone.decision) == set(RULES)


def test_the_picture(model, raw):
    result = model.predict(next(raw.iterdir()))
    figure = result.show()
    assert figure._repr_png_().startswith(b"\x89PNG")
    film, heat, bars = figure.axes
    np.testing.assert_array_equal(heat.images[1].get_array(), result.heat_map)
    (box,) = film.patches
    assert [box.get_x() + 0.5, box.get_y() + 0.5] == list(result.box[:2])
    top = max(result.findings, key=lambda finding: result.probability[finding])
    assert bars.texts[0].get_text() == f"{top.replace('_', ' ')} {result.probability[top]:.3f}"
    assert bars.patches[0].get_width() == result.probability[top]
    assert f"{top} {result.probability[top]:.3f}" in repr(result)


@pytest.mark.filterwarnings("error")
def test_a_picture_of_a_film_whose_name_the_font_lacks(model, raw):
    result = dataclasses.replace(model.predict(next(raw.iterdir())), name="胸部\tx.png")
    figure = result.show()
    assert figure.axes[0].get_title(loc="left") == "□□□x.png"
    assert figure._repr_png_().startswith(b"\x89PNG")


def test_the_example_runs(workdir, raw, tmp_path, monkeypatch):
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs/demo").symlink_to(workdir)
    shutil.copy(next(raw.iterdir()), tmp_path / "film.png")
    monkeypatch.chdir(tmp_path)
    finder = doctest.DocTestFinder()
    (example,) = (test for test in finder.find(agcnn_jax) if test.name == "agcnn_jax.load")
    assert doctest.DocTestRunner().run(example) == (0, 7)
    assert (tmp_path / "nodule.png").read_bytes().startswith(b"\x89PNG")


def test_what_holds_no_model(tmp_path):
    with pytest.raises(UserError, match="holds no model; give a run's workdir"):
        agcnn_jax.load(tmp_path)


def test_the_package_alone_imports_nothing_slow():
    run("-c", "import agcnn_jax, sys; assert not {'jax', 'numpy'} & set(sys.modules)")


def test_what_is_no_array_says_why():
    """As a tensor of PyTorch that requires grad, or lies on a GPU."""

    class Tensor:
        def __array__(self, *arguments, **options):
            raise RuntimeError("Can't call numpy() on Tensor that requires grad. Use detach().")

    with pytest.raises(UserError, match=r"an image is no array \(Can't call .* Use detach\(\)\."):
        as_film(Tensor())


@pytest.mark.slow
def test_a_tensor_of_pytorch():
    torch = pytest.importorskip("torch")
    assert as_film(torch.full((8, 9), 7, dtype=torch.uint8))[1].tolist() == [[7] * 9] * 8
    with pytest.raises(UserError, match=r"requires grad. Use tensor.detach\(\).numpy\(\) instead"):
        as_film(torch.ones(8, 9, requires_grad=True))
