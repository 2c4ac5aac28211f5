"""Films as Python holds them: read, predicted, shown."""

import csv
import dataclasses
import doctest
import importlib
import io
import pickle
import random
import shutil
from concurrent.futures import ThreadPoolExecutor

import cv2
import jax
import numpy as np
import pytest
from PIL import Image
from scipy import ndimage
from scipy.special import expit

import agcnn_jax
from agcnn_jax.data import jpeg
from agcnn_jax.data.films import load_film
from agcnn_jax.data.labels import FINDINGS, LABELS
from agcnn_jax.inference.answers import branch_answers
from agcnn_jax.inference.films import as_film
from agcnn_jax.inference.load_jax import load_run
from agcnn_jax.metrics.calibration import Line
from agcnn_jax.metrics.feature_distance import feature_distances
from agcnn_jax.metrics.operating_points import RULES
from agcnn_jax.models.agcnn import BRANCHES
from agcnn_jax.run.calibration import Calibration, Choice
from agcnn_jax.runtime.errors import UserError
from tests.support.forks import said_in_a_fork
from tests.support.programs import run

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
        np.zeros((3, 40, 40), np.uint8),
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
    with pytest.raises(UserError, match=r"a\\nb: No such file"):
        as_film(tmp_path / "a\nb")
    with pytest.raises(UserError, match="an image: claims 0 x 40 pixels"):
        as_film(np.zeros((40, 0), np.uint8))


def test_images_and_paths_that_only_fail_when_read():
    buffer = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 256, (64, 64), np.uint8)
    Image.fromarray(noise).save(buffer, "PNG")
    with pytest.raises(UserError, match="an image: truncated; give another"):
        as_film(Image.open(io.BytesIO(buffer.getvalue()[:2000])))
    image = Image.open(buffer)
    image.close()
    with pytest.raises(UserError, match="an image cannot be decoded"):
        as_film(image)
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


def saved(folder, image, name, **options):
    image.save(folder / name, **options)
    return folder / name


def test_an_image_with_a_file_is_the_film_of_the_file(tmp_path):
    """Opened from a path or from memory, decoded or not, and closed without its pixels."""
    deep = np.random.default_rng(0).integers(0, 4096, (32, 64)).astype(np.uint16)
    gray = Image.fromarray((deep >> 4).astype(np.uint8))
    turned = Image.Exif()
    turned[274] = 5
    colour = cv2.imencode(".png", np.repeat(deep[..., None], 3, -1))[1].tobytes()
    (tmp_path / "12_in_16_colour.png").write_bytes(colour)
    paths = [
        saved(tmp_path, Image.fromarray(deep), "zero_is_white.tif", tiffinfo={262: 0}),
        saved(tmp_path, Image.fromarray(deep), "12_in_16.tif"),
        saved(tmp_path, gray, "turned.tif", exif=turned),
        saved(tmp_path, gray, "turned.jpg", exif=turned),
        saved(tmp_path, gray, "turned.png", exif=turned),
    ]
    for path in [*paths, tmp_path / "12_in_16_colour.png"]:
        film = as_film(path)[1]
        images = [Image.open(path), Image.open(path), Image.open(io.BytesIO(path.read_bytes()))]
        images[1].load()
        with Image.open(path) as closed:
            images.append(closed)
        if path in paths:  # of 16 bits in colour, decoded from memory, Pillow has lost 8
            images.append(Image.open(io.BytesIO(path.read_bytes())))
            images[-1].load()
        for image in images:
            np.testing.assert_array_equal(as_film(image)[1], film, err_msg=path.name)
        np.testing.assert_array_equal(as_film(images[2])[1], film)  # it can be read again


def test_a_page_of_several_is_refused_as_its_file_is(tmp_path):
    pages = [Image.fromarray(np.full((32, 32), level, np.uint8)) for level in (10, 20)]
    path = saved(tmp_path, pages[0], "a.tif", save_all=True, append_images=pages[1:])
    image, second = Image.open(path), Image.open(path)
    decoded = Image.open(io.BytesIO(path.read_bytes()))
    decoded.load()
    second.seek(1)
    for given in (path, image, second, decoded):
        with pytest.raises(UserError, match="several pages"):
            as_film(given)
    assert (as_film(second.copy())[1] == 20).all()


@pytest.mark.parametrize("kind", ["bmp", "webp", "gif", "ppm"])
def test_an_image_of_another_format_is_its_pixels(tmp_path, kind):
    levels = np.random.default_rng(0).integers(0, 256, (32, 64), np.uint8)
    path = saved(tmp_path, Image.fromarray(levels), f"a.{kind}", lossless=True)
    np.testing.assert_array_equal(as_film(Image.open(path))[1], levels)
    with pytest.raises(UserError, match="not a PNG, JPEG, TIFF or DICOM file"):
        as_film(path)


@pytest.mark.parametrize("kind", ["gif", "png"])
def test_frames_are_refused(tmp_path, kind):
    frames = [Image.fromarray(np.full((32, 32), level, np.uint8)) for level in (10, 200)]
    path = saved(tmp_path, frames[0], f"a.{kind}", save_all=True, append_images=frames[1:])
    decoded = Image.open(io.BytesIO(path.read_bytes()))
    decoded.load()
    for image in (Image.open(path), decoded):
        with pytest.raises(UserError, match="several"):
            as_film(image)


@pytest.mark.parametrize("kind", ["png", "tif", "jpg"])
def test_a_changed_image_is_not_its_file(tmp_path, kind):
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 48), np.uint8))
    path = saved(tmp_path, noise, f"a.{kind}")

    def changed(change):
        image = Image.open(path)
        return change(image) or image

    for image in (
        changed(lambda image: image.putpixel((3, 5), 77)),
        changed(lambda image: image.thumbnail((20, 20))),
        changed(lambda image: image.crop((4, 4, 40, 44))),
        changed(lambda image: image.rotate(90, expand=True)),
    ):
        np.testing.assert_array_equal(as_film(image)[1], np.asarray(image))
    image = Image.open(path)
    image.load()
    Image.new("L", (9, 9)).save(path)  # another film under this name
    np.testing.assert_array_equal(as_film(image)[1], np.asarray(image))


def test_arrays_of_other_channels_are_refused_by_name(model):
    for channels in (2, 5, 13):
        for shape in ((96, 64, channels), (2, 96, 64, channels)):
            with pytest.raises(UserError, match=f"{channels} channels mean nothing here"):
                model.predict(np.zeros(shape, np.uint8))


@pytest.mark.parametrize("what", [None, object(), [[1, 2]], "tensor"])
def test_what_is_no_film_at_all(what):
    class Tensor:
        def __array__(self, *_, **__):
            raise RuntimeError("Can't call numpy() on Tensor that requires grad. Use detach().")

    reason = r"\(Can't call .* Use detach\(\)\.\)" if what == "tensor" else ""
    with pytest.raises(UserError, match=f"an image .*{reason}"):
        as_film(Tensor() if what == "tensor" else what)


def test_an_answer_that_is_no_number_is_an_error(model, raw):
    path = next(raw.iterdir())
    broken = jax.tree.map(np.array, model.variables)
    broken["params"]["fusion"]["head"]["bias"][3] = np.nan
    other = dataclasses.replace(model, variables=broken)
    with pytest.raises(UserError, match=f"{path.name}: the model's answer is no finite number"):
        other.predict(path)


def test_threads_get_their_own_answers(model, raw, tmp_path):
    """Of one model, which all of them are the first to use."""
    films = sorted(raw.iterdir())[:6]
    for number, path in enumerate(films[:3]):
        films.append(tmp_path / f"{number}.jpg")
        Image.open(path).save(films[-1])
    expected = {path: model.predict(path).probability for path in films}
    fresh = dataclasses.replace(model)
    chosen = random.Random(0).choices(films, k=40)
    with ThreadPoolExecutor(8) as threads:
        for path, result in zip(chosen, threads.map(fresh.predict, chosen), strict=True):
            assert result.name == path.name
            assert result.probability == pytest.approx(expected[path], abs=1e-6)


def test_a_model_pickles_before_and_after_predictions(model, raw):
    path = next(raw.iterdir())
    expected = model.predict(path)
    for pickled in (pickle.dumps(dataclasses.replace(model)), pickle.dumps(model)):
        copy = pickle.loads(pickled)
        assert copy.predict(path).probability == expected.probability
    assert pickle.loads(pickle.dumps(expected)).probability == expected.probability


@pytest.mark.filterwarnings("ignore:.*fork")
def test_a_forked_process_gets_one_clear_error(model, workdir, raw, tmp_path):
    path = next(raw.iterdir())
    photograph = tmp_path / "a.jpg"
    Image.open(path).save(photograph)
    said = said_in_a_fork(
        lambda: model.predict(path),
        lambda: agcnn_jax.load(workdir),
        lambda: model.predict_batch(np.zeros((1, 64, 64), np.uint8)),
        lambda: importlib.reload(jpeg) and load_film(photograph),  # as if imported here
    )
    assert len(said) == 4 and all("spawn" in line for line in said)


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
    answer = branch_answers(logits, ("Mass", "Edema", "Hernia", ""), calibration)["global"]
    assert answer.logit == {"Mass": 0.5, "Edema": -1, "Hernia": 3}
    assert answer.probability["Mass"] == pytest.approx(expit(0.5))
    # 2 * 0.5 - 1 = 0; a score that equals the threshold is positive.
    assert answer.calibrated == {"Mass": 0.5, "Edema": None, "Hernia": None}
    called = {"Mass": True, "Edema": None, "Hernia": None}
    assert answer.decision["youden"] == called
    assert answer.decision["specificity_0.9"]["Mass"] is False
    assert answer.decision["sensitivity_0.9"]["Mass"] is None
    alone = branch_answers(logits, ("Mass", "Edema", "Hernia", ""), None)["global"]
    assert set(alone.calibrated.values()) == {None} and set(alone.decision) == set(RULES)


def test_the_picture(model, raw):
    result = model.predict(next(raw.iterdir()))
    figure = result.show()
    assert figure._repr_png_().startswith(b"\x89PNG")
    film, heat, bars, scale = figure.axes
    assert scale.get_xlim() == (0, 1)
    np.testing.assert_array_equal(heat.images[1].get_array(), result.heat_map)
    (box,) = film.patches
    assert [box.get_x() + 0.5, box.get_y() + 0.5] == list(result.box[:2])
    top = max(result.findings, key=lambda finding: result.probability[finding])
    assert bars.texts[0].get_text() == f"{top.replace('_', ' ')} {result.probability[top]:.3f}"
    assert bars.patches[0].get_width() == result.probability[top]
    assert f"{top} {result.probability[top]:.3f}" in repr(result)


def test_the_picture_has_a_key_and_says_what_to_beware_of(model, raw):
    result = model.predict(next(raw.iterdir()))
    assert model.lineage.synthetic and result.synthetic

    def words(figure):
        (key,) = figure.legends
        title = figure._suptitle
        return [text.get_text() for text in key.get_texts()], title and title.get_text()

    def called(value):
        decision = {"youden": dict.fromkeys(result.findings, value)}
        return {
            branch: dataclasses.replace(answer, decision=decision)
            for branch, answer in result.branches.items()
        }

    strange = dataclasses.replace(result, distance=1.01, branches=called(True))
    key, marks = words(strange.show())
    assert key == ["attended region", "called positive (Youden)", "called negative"]
    assert marks == (
        "SYNTHETIC: the model was trained on synthetic images\n"
        "UNLIKE the films that the model knows (distance 1)"
    )
    real = dataclasses.replace(
        result, distance=1.0, synthetic=False, input_box=None, branches=called(None)
    )
    assert words(real.show()) == (["no threshold chosen"], None)


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


@pytest.mark.slow
def test_a_tensor_of_pytorch():
    torch = pytest.importorskip("torch")
    assert as_film(torch.full((8, 9), 7, dtype=torch.uint8))[1].tolist() == [[7] * 9] * 8
    with pytest.raises(UserError, match=r"requires grad. Use tensor.detach\(\).numpy\(\) instead"):
        as_film(torch.ones(8, 9, requires_grad=True))
