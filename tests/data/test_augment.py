import jax
import jax.numpy as jnp
import numpy as np
import pytest

from agcnn_jax.attention.resample import crop_and_resize
from agcnn_jax.data.augment import (
    Augmentation,
    _place,
    _random_box,
    augment,
    augmented_views,
    centre_box,
    centre_crop,
    crop_window,
    ten_windows,
    window_views,
)

pytestmark = pytest.mark.usefixtures("quick_compilation")

STORED, INPUT = 64, 56
augment_jit = jax.jit(augment, static_argnames=("seed", "input_size", "augmentation"))


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(0).integers(0, 256, (6, STORED, STORED), np.uint8)


def run(images, records, step=0, seed=0, **settings):
    return np.asarray(
        augment_jit(
            images,
            np.asarray(records, np.int32),
            np.int32(step),
            seed,
            INPUT,
            Augmentation(**settings),
        )
    )


def test_centre_of_256_is_the_papers_224():
    assert centre_box(256) == (16, 16, 240, 240)


def test_centre_crop_takes_pixels_as_they_are(images):
    np.testing.assert_array_equal(centre_crop(images, INPUT), images[:, 4:60, 4:60])


def test_without_augmentation_training_sees_the_centre(images):
    out = run(images, range(6), crop="centre", flip=False)
    np.testing.assert_array_equal(out, images[:, 4:60, 4:60])


def test_a_crop_depends_only_on_seed_step_and_record(images):
    whole = run(images, [5, 1, 8, 3, 9, 2], step=7)
    part = run(images[[3, 0]], [3, 5], step=7)
    np.testing.assert_array_equal(part[0], whole[3])
    np.testing.assert_array_equal(part[1], whole[0])
    for other in ({"step": 8}, {"step": 7, "seed": 1}):
        changed = run(images, [5, 1, 8, 3, 9, 2], **other)
        assert all(not np.array_equal(a, b) for a, b in zip(whole, changed, strict=True))


def test_plain_random_crop_is_a_window_of_the_image(images):
    out = run(images, range(6), crop="random", flip=False)
    windows = np.lib.stride_tricks.sliding_window_view(images, (INPUT, INPUT), axis=(1, 2))
    places = []
    for crop, candidates in zip(out, windows, strict=True):
        match = (candidates == crop).all(axis=(2, 3))
        assert match.sum() == 1
        places.append(tuple(np.argwhere(match)[0]))
    assert len(set(places)) > 1


def test_plain_random_crops_are_uniform():
    keys = jax.random.split(jax.random.key(0), 8100)
    boxes = np.asarray(jax.vmap(lambda k: _place(k, STORED, INPUT, INPUT))(keys))
    left, top = boxes[:, :2].T
    counts = np.bincount(top * 9 + left, minlength=81)
    assert counts.shape == (81,)  # 9 x 9 places, each drawn 100 times on average
    assert counts.min() > 45
    assert counts.max() < 155


def test_half_the_images_are_mirrored(images):
    image = np.repeat(images[:1], 400, axis=0)
    out = run(image, range(400), crop="centre")
    straight = (out == image[:, 4:60, 4:60]).all(axis=(1, 2))
    mirrored = (out == image[:, 4:60, 4:60][:, :, ::-1]).all(axis=(1, 2))
    assert (straight ^ mirrored).all()
    assert 160 < mirrored.sum() < 240  # five standard deviations


def test_random_resized_boxes_keep_to_scale_and_ratio():
    settings = Augmentation(scale=(0.3, 0.6), ratio=(0.8, 1.25))
    keys = jax.random.split(jax.random.key(0), 2000)
    boxes = np.asarray(jax.vmap(lambda key: _random_box(key, 256, settings))(keys))
    width, height = boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]
    area = width * height / 256**2
    assert boxes.min() >= 0
    assert boxes.max() <= 256
    assert 0.29 < area.min() < 0.32
    assert 0.58 < area.max() < 0.61
    assert np.abs(area.mean() - 0.45) < 0.01  # uniform in area, as in RandomResizedCrop
    assert 0.78 < (width / height).min() < 0.85
    assert 1.18 < (width / height).max() < 1.28
    assert np.abs(np.log(width / height).mean()) < 0.02


def test_boxes_that_never_fit_fall_back_to_the_whole_image():
    settings = Augmentation(scale=(1.0, 1.0), ratio=(1.3, 1.4))
    box = _random_box(jax.random.key(0), 256, settings)
    np.testing.assert_array_equal(box, [0, 0, 256, 256])


@pytest.mark.parametrize("crop", ["centre", "random", "random_resized"])
@pytest.mark.parametrize("flip", [False, True])
def test_views_are_what_augment_shows(images, crop, flip):
    records, settings = np.arange(3, 9, dtype=np.int32), Augmentation(crop, flip=flip)
    windows, mirrored = map(np.asarray, augmented_views(records, 7, 0, STORED, settings))
    assert windows.dtype == np.int32
    assert mirrored.any() == flip
    shown = np.asarray(crop_and_resize(images, windows, INPUT))
    shown = np.where(mirrored[:, None, None], shown[:, :, ::-1], shown)
    made = run(images, records, step=7, crop=crop, flip=flip)
    np.testing.assert_allclose(shown, made, atol=255 * 1e-5)


def test_views_are_what_crop_window_shows(images):
    for window in ten_windows(STORED):
        windows, mirrored = map(np.asarray, window_views(6, window, STORED))
        xmin, ymin, xmax, ymax = windows[0]
        shown = images[:, ymin:ymax, xmin:xmax]
        shown = shown[:, :, ::-1] if mirrored[0] else shown
        np.testing.assert_array_equal(crop_window(images, window, INPUT), shown)
        assert (windows == windows[0]).all()
        assert (mirrored == mirrored[0]).all()


def test_windows_are_cropped_in_float64_too(images):
    window = ten_windows(STORED)[8]
    with jax.enable_x64(True):
        crops = jax.jit(crop_window, static_argnums=2)(images.astype(np.float64), window, INPUT)
    assert crops.dtype == np.float64
    np.testing.assert_array_equal(crops, crop_window(images, window, INPUT))


def test_unknown_crop():
    with pytest.raises(ValueError, match="spiral"):
        run(np.zeros((1, 8, 8), np.uint8), [0], crop="spiral")


def test_result_is_float32_gray_levels(images):
    out = run(images, range(6))
    assert out.dtype == jnp.float32
    assert out.min() >= 0
    assert out.max() <= 255.001
