"""The faults that `mutants` tries: plausible mistakes, and tests that must notice them."""

from __future__ import annotations

from typing import NamedTuple


class Fault(NamedTuple):
    """One fault.

    Attributes:
        name: what is wrong, in a few words.
        file: the file to change, relative to the project.
        sound: a piece of the file's text that occurs once.
        faulty: its replacement.
        tests: test files or node ids; one of their tests must fail.
    """

    name: str
    file: str
    sound: str
    faulty: str
    tests: tuple[str, ...]


STEPS = "agcnn_jax/training/steps.py"
LAYERS = "agcnn_jax/models/layers.py"
CONVOLUTION = "agcnn_jax/models/convolution.py"
AGCNN = "agcnn_jax/models/agcnn.py"
REGIONS = "agcnn_jax/attention/regions.py"
RESAMPLE = "agcnn_jax/attention/resample.py"
STORED_CROPS = "agcnn_jax/attention/stored.py"
HEAT_MAP = "agcnn_jax/attention/heatmap.py"
AUGMENT = "agcnn_jax/data/augment.py"
PIPELINE = "agcnn_jax/data/pipeline.py"
SPLITS = "agcnn_jax/data/splits.py"
STORE = "agcnn_jax/data/store.py"
IMAGES = "agcnn_jax/data/images.py"
PUBLISH = "agcnn_jax/data_prep/prepare/publish.py"
SHARDS = "agcnn_jax/data_prep/prepare/shards.py"
TEXT = "agcnn_jax/data/text.py"
COHORT = "agcnn_jax/data_prep/phantom/cohort.py"
RECIPE = "agcnn_jax/run/recipe.py"
SCHEDULE = "agcnn_jax/training/schedule.py"
METRICS = "agcnn_jax/metrics/auc.py"
FIT = "agcnn_jax/training/fit.py"
INFLUENCE = "agcnn_jax/metrics/influence.py"
SHARES = "agcnn_jax/metrics/shares.py"
LOCALISATION = "agcnn_jax/metrics/localisation.py"
CLASS_MAPS = "agcnn_jax/attention/class_maps.py"
LINEAGE = "agcnn_jax/run/lineage.py"
SEEDS = "agcnn_jax/metrics/seeds.py"
TAKEOVER = "agcnn_jax/run/takeover.py"

TEST_STEP = ("tests/training/test_steps.py::test_eight_devices_do_what_one_does[global]",)
ACCUMULATION = "tests/training/test_accumulation.py"
MISSING_LABELS = "tests/training/test_missing_labels.py"
TEST_SEEDS = ("tests/metrics/test_seeds.py",)
TEST_TAKEOVER = ("tests/run/test_takeover.py",)
TEST_SGD = ("tests/training/test_steps.py::test_sgd_by_hand",)
TEST_ATTENTION = ("tests/attention",)
TEST_PIPELINE = ("tests/data/test_pipeline.py",)
TEST_SPLITS = ("tests/data/test_splits.py",)
TEST_RECORDS = ("tests/data/test_records.py",)
TEST_FROM_CSV = "tests/data_prep/test_from_csv.py::test_"
TEST_PUBLISH = "tests/data_prep/test_publish.py::test_"
TEST_SCHEDULE = ("tests/training/test_schedule.py",)
TEST_METRICS = ("tests/metrics/test_auc.py",)
TEST_INFLUENCE = ("tests/metrics/test_influence.py",)
TEST_SHARES = ("tests/metrics/test_shares.py",)
TEST_LOCALISATION = ("tests/metrics/test_localisation.py",)
TEST_CLASS_MAPS = ("tests/attention/test_class_maps.py",)
TEST_LINEAGE = ("tests/run/test_lineage.py",)
TEST_START = "tests/training/test_start.py::Test"
TEST_STOPPED = ("tests/training/test_stopped.py",)

FAULTS = (
    # The training step (Eq. 2).
    Fault(
        "stages that draw alike",
        RECIPE,
        "seed=stage.seed(self.seed)",
        "seed=self.seed",
        ("tests/training/test_streams.py::test_no_stage_repeats_anothers_order",),
    ),
    Fault(
        "running statistics summed over devices",
        STEPS,
        "batch_stats = lax.pmean(batch_stats, BATCH_AXIS)",
        "batch_stats = lax.psum(batch_stats, BATCH_AXIS)",
        ("tests/training/test_batch_norm.py",),
    ),
    Fault(
        "loss summed over devices instead of averaged",
        STEPS,
        "lax.pmean(binary_cross_entropy",
        "lax.psum(binary_cross_entropy",
        TEST_STEP,
    ),
    Fault(
        "gradients averaged twice over devices",
        STEPS,
        "gradients = lax.psum(gradients, BATCH_AXIS)",
        "gradients = lax.pmean(gradients, BATCH_AXIS)",
        TEST_STEP,
    ),
    Fault(
        "loss summed over labels instead of averaged",
        STEPS,
        "labels.astype(logits.dtype)).mean()",
        "labels.astype(logits.dtype)).sum(axis=-1).mean()",
        ("tests/training/test_steps.py::test_binary_cross_entropy_by_hand",),
    ),
    Fault(
        "means over the known labels of each device are averaged",
        STEPS,
        "lax.psum(known_cross_entropy(logits, labels), BATCH_AXIS) / jnp.maximum(known, 1)",
        "lax.pmean(known_cross_entropy(logits, labels) / (labels != MISSING).sum(), BATCH_AXIS)",
        (f"{MISSING_LABELS}::test_a_step_is_by_hand_whatever_shares_the_batch[8-1]",),
    ),
    Fault(
        "known labels of a micro-batch alone divide its loss",
        STEPS,
        "/ jnp.maximum(known, 1)",
        "/ jnp.maximum(lax.psum((labels != MISSING).sum(), BATCH_AXIS), 1)",
        (f"{MISSING_LABELS}::test_a_step_is_by_hand_whatever_shares_the_batch[1-4]",),
    ),
    Fault(
        "the gradient of a missing label's logit may be NaN",
        STEPS,
        "jnp.where(known, logits, 0), jnp.where",
        "logits, jnp.where",
        (f"{MISSING_LABELS}::test_logits_of_missing_labels_change_no_bit",),
    ),
    Fault(
        "images without a known label train",
        SPLITS,
        "parts[0] = train = train[labelled]",
        "pass",
        (
            "tests/data/test_splits.py::test_images_without_a_known_label_leave_training_and_are_counted",
        ),
    ),
    Fault(
        "findings that few patients have select checkpoints",
        "agcnn_jax/training/prediction.py",
        "values[finding] for finding in chosen",
        "values[finding] for finding in values",
        ("tests/training/test_prediction.py::test_validation_scores_the_known_labels_alone",),
    ),
    Fault(
        "an unknown label makes a film ill",
        "agcnn_jax/training/first_look.py",
        "(labels == 1).any(axis=1)",
        "labels.any(axis=1)",
        ("tests/training/test_first_look.py::test_a_label_that_is_not_known_is_no_finding",),
    ),
    Fault(
        "accumulated gradients not divided",
        STEPS,
        "lambda gradient: gradient / accumulate",
        "lambda gradient: gradient",
        (f"{ACCUMULATION}::test_without_batch_norm_it_is_the_larger_batch[4]",),
    ),
    Fault(
        "weight decay after the momentum",
        SCHEDULE,
        "        optax.add_decayed_weights(weight_decay),\n        optax.trace(momentum),\n",
        "        optax.trace(momentum),\n        optax.add_decayed_weights(weight_decay),\n",
        TEST_SGD,
    ),
    Fault(
        "Nesterov's momentum",
        SCHEDULE,
        "optax.trace(momentum)",
        "optax.trace(momentum, nesterov=True)",
        TEST_SGD,
    ),
    Fault(
        "running statistics left behind",
        STEPS,
        'new_stats = select_branches(updated, stage.branches)["batch_stats"]',
        "new_stats = batch_stats",
        (
            "tests/training/test_batch_norm.py::test_the_first_layers_running_statistics_are_the_mean_of_the_devices",
        ),
    ),
    # Layers.
    Fault(
        "biased running variance",
        LAYERS,
        "var * (count / max(count - 1, 1))",
        "var",
        (
            "tests/models/test_layers.py::TestBatchNorm::test_normalises_by_the_batch_and_updates_unbiased",
        ),
    ),
    Fault(
        "running mean moved by the wrong weight",
        LAYERS,
        "running_mean.value += self.momentum",
        "running_mean.value += (1 - self.momentum)",
        (
            "tests/models/test_layers.py::TestBatchNorm::test_normalises_by_the_batch_and_updates_unbiased",
        ),
    ),
    Fault(
        "statistics of each device by itself",
        LAYERS,
        "mean, square = lax.pmean((mean, square), self.axis_name)",
        "pass",
        (
            "tests/models/test_layers.py::TestBatchNorm::test_mapped_over_devices_it_normalises_the_whole_batch",
        ),
    ),
    Fault(
        "epsilon outside the root",
        LAYERS,
        "scale * lax.rsqrt(var + self.epsilon)",
        "scale / (jnp.sqrt(var) + self.epsilon)",
        ("tests/models/test_layers.py::TestBatchNorm::test_inference_uses_the_running_statistics",),
    ),
    Fault(
        "max pooling padded with zeros",
        LAYERS,
        "constant_values=-jnp.inf",
        "constant_values=0",
        ("tests/models/test_layers.py::test_max_pool_is_the_window_maximum",),
    ),
    Fault(
        "the gradient of a tie to the last pixel",
        LAYERS,
        "jnp.where(first < second, second, first)",
        "jnp.where(first <= second, second, first)",
        (
            "tests/models/test_layers.py::test_max_pool_gives_the_gradient_of_a_tie_to_the_first_pixel",
        ),
    ),
    Fault(
        "a convolution padded by one pixel less",
        CONVOLUTION,
        "padding = [(size // 2, size // 2)] * 2",
        "padding = [(size // 2, size // 2 - 1)] * 2",
        ("tests/models/test_layers.py::test_convolution_is_the_sum_over_windows",),
    ),
    Fault(
        "the gradient of a product's weights left transposed",
        CONVOLUTION,
        "lax.dot_general(gradient_rows, rows, over_pixels).T",
        "lax.dot_general(gradient_rows, rows, over_pixels).reshape(rows.shape[1], -1)",
        ("tests/models/test_convolution.py::test_gradients_are_those_of_xla",),
    ),
    Fault(
        "known statistics given to the last channels",
        LAYERS,
        "jnp.concatenate([known[0], mean])",
        "jnp.concatenate([mean, known[0]])",
        (
            "tests/models/test_layers.py::TestBatchNorm::test_known_statistics_are_those_it_would_compute",
        ),
    ),
    # The model.
    Fault(
        "fusion reads the local features first",
        AGCNN,
        "jnp.concatenate([pooled_global, pooled_local], axis=-1)",
        "jnp.concatenate([pooled_local, pooled_global], axis=-1)",
        ("tests/models/test_agcnn.py::test_fusion_is_a_linear_layer_on_both_pooled_features",),
    ),
    Fault(
        "gray levels divided by 256",
        AGCNN,
        "images[..., None] / 255.0",
        "images[..., None] / 256.0",
        ("tests/models/test_agcnn.py::test_normalise_repeats_gray_levels_in_every_channel",),
    ),
    Fault(
        "the local branch with the global branch's weights",
        AGCNN,
        'model, variables, "local", local_images, "local" in train',
        'model, variables, "global", local_images, "local" in train',
        ("tests/models/test_agcnn.py::test_fusion_is_a_linear_layer_on_both_pooled_features",),
    ),
    Fault(
        "frozen branches update their statistics",
        AGCNN,
        'model, variables, "global", images, "global" in train',
        'model, variables, "global", images, bool(train)',
        ("tests/models/test_agcnn.py::test_only_trained_branches_update_their_statistics",),
    ),
    # Attention (Eq. 3 and 4).
    Fault("regions from tau on", HEAT_MAP, "heat > tau", "heat >= tau", TEST_ATTENTION),
    Fault(
        "a heat map scaled before it is resized",
        HEAT_MAP,
        "high = resized.max(axis=(1, 2), keepdims=True)",
        "high = response.max(axis=(1, 2), keepdims=True)",
        ("tests/attention/test_crop.py::TestHeatMap::test_scaled_after_resizing",),
    ),
    Fault(
        "a flat heat map's rounding enlarged",
        HEAT_MAP,
        "response = response - response.min(axis=(1, 2), keepdims=True)",
        "response = response + 0",
        ("tests/attention/test_crop.py::TestHeatMap",),
    ),
    Fault(
        "signed activations in the heat map",
        HEAT_MAP,
        "jnp.abs(jax.lax.stop_gradient(feature_map)",
        "(jax.lax.stop_gradient(feature_map)",
        TEST_ATTENTION,
    ),
    Fault(
        "pixel corners instead of half-pixel centres",
        RESAMPLE,
        "jnp.arange(target, dtype=jnp.float32)[:, None] + 0.5",
        "jnp.arange(target, dtype=jnp.float32)[:, None]",
        TEST_ATTENTION,
    ),
    Fault(
        "pixels outside of the box bleed in",
        RESAMPLE,
        "(pixel >= jnp.floor(start)) & (pixel < stop)",
        "pixel >= 0",
        TEST_ATTENTION,
    ),
    Fault(
        "components joined by edges only",
        REGIONS,
        "region, connectivity=8",
        "region, connectivity=4",
        TEST_ATTENTION,
    ),
    Fault(
        "the host takes what is around the regions for one",
        REGIONS,
        "    areas[0] = 0\n    largest",
        "    largest",
        ("tests/attention/test_regions.py",),
    ),
    # The model in ONNX.
    Fault(
        "runs of an ONNX mask touch where the square before said so",
        "agcnn_jax/portable/regions.py",
        'g.add("And", touching, g.add("Not", said))',
        'g.add("And", touching, said)',
        ("tests/portable/test_regions.py::test_masks",),
    ),
    Fault(
        "the last of equally large regions of an ONNX mask wins",
        "agcnn_jax/portable/regions.py",
        """g.add("Where", is_largest, numbers, count)
    label = _scatter(g, g.add("Expand", count, batch), image, first, "min")""",
        """g.add("Where", is_largest, numbers, zero)
    label = _scatter(g, g.add("Expand", zero, batch), image, first, "max")""",
        ("tests/portable/test_regions.py::test_masks",),
    ),
    Fault(
        "an ONNX threshold of 1 finds no region",
        "agcnn_jax/portable/attention.py",
        'return graph.add("Min", tau, graph.constant(BELOW_1))',
        "return tau",
        ("tests/portable/test_onnx_model.py::test_any_threshold_and_any_number_of_films",),
    ),
    Fault(
        "BatchNorm's means are lost where ONNX convolutions take it in",
        "agcnn_jax/portable/networks.py",
        'values["bias"] - values["mean"] * gain',
        'values["bias"]',
        ("tests/portable/test_onnx_model.py::test_densenet",),
    ),
    Fault(
        "crops in ONNX take in pixels around the box",
        "agcnn_jax/portable/attention.py",
        'g.add("Less", pixel, length)',
        'g.add("LessOrEqual", pixel, length)',
        ("tests/portable/test_attention.py::test_crops",),
    ),
    Fault(
        "distances in ONNX take the noise's variance for its deviation",
        "agcnn_jax/portable/onnx_model.py",
        "1 / np.sqrt(statistics.noise)",
        "1 / statistics.noise",
        ("tests/portable/test_onnx_model.py::test_calibration",),
    ),
    Fault(
        "predictions with regions from the host forget to centre them",
        "agcnn_jax/training/predict_step.py",
        "boxes = centred_boxes(boxes, recipe.input_size)",
        "pass",
        (
            "tests/training/test_prediction.py"
            "::test_with_the_host_in_between_predicts_what_one_program_does",
        ),
    ),
    Fault(
        "of equal components the last one",
        REGIONS,
        "larger = count > area",
        "larger = count >= area",
        TEST_ATTENTION,
    ),
    Fault(
        "boxes without their last pixel",
        REGIONS,
        "occupied.shape[0] - jnp.argmax(occupied[::-1])",
        "occupied.shape[0] - 1 - jnp.argmax(occupied[::-1])",
        TEST_ATTENTION,
    ),
    Fault(
        "an empty mask gives an empty box",
        REGIONS,
        "jnp.array([0, 0, width, height])).astype(jnp.int32)",
        "jnp.array([0, 0, 0, 0])).astype(jnp.int32)",
        TEST_ATTENTION,
    ),
    Fault(
        "a box of a mirrored input on the wrong side of the stored image",
        STORED_CROPS,
        "flip * (boxes[:, swap] * turn + shift)",
        "flip * boxes",
        ("tests/attention/test_stored.py::test_boxes_by_hand",),
    ),
    Fault(
        "stored boxes that shrink to whole pixels",
        STORED_CROPS,
        "corner + down * (down * upright * sides // size)",
        "corner + upright * sides // size",
        ("tests/attention/test_stored.py::test_boxes_by_hand",),
    ),
    Fault(
        "crops from the stored image that are not mirrored with the input",
        STORED_CROPS,
        "jnp.where(stored.mirrored[:, None, None], crops[:, :, ::-1], crops)",
        "crops",
        ("tests/training/test_inputs.py",),
    ),
    Fault(
        "a crop from a large store that is not antialiased on the host",
        "agcnn_jax/attention/crop.py",
        "if max(region.shape) <= size:",
        "if region.size:",
        ("tests/attention/test_stored.py::test_host_and_device_agree",),
    ),
    # Data.
    Fault(
        "the same crops at every step",
        AUGMENT,
        "jax.vmap(lambda record: jax.random.fold_in(key, record))(records)",
        "jax.random.split(key, len(records))",
        ("tests/data/test_augment.py::test_a_crop_depends_only_on_seed_step_and_record",),
    ),
    Fault(
        "one draw for all images of a batch",
        AUGMENT,
        "jax.vmap(jax.random.bernoulli)(flip_keys)",
        "jnp.tile(jax.random.bernoulli(flip_keys[0]), len(records))",
        ("tests/data/test_augment.py::test_half_the_images_are_mirrored",),
    ),
    Fault(
        "a random crop never touches the last row",
        AUGMENT,
        "jax.random.randint(y_key, (), 0, stored_size - height + 1)",
        "jax.random.randint(y_key, (), 0, jnp.maximum(stored_size - height, 1))",
        ("tests/data/test_augment.py::test_plain_random_crops_are_uniform",),
    ),
    Fault(
        "the same order in every epoch",
        PIPELINE,
        "dataset.batch(batch_size, drop_remainder=True, batch_fn=np.array).repeat()",
        "dataset.batch(batch_size, drop_remainder=True, batch_fn=np.array)"
        ".repeat(reseed_each_epoch=False)",
        TEST_PIPELINE,
    ),
    Fault(
        "processes read the same rows",
        PIPELINE,
        "return slice(process_index * share, (process_index + 1) * share)",
        "return slice(0, share)",
        TEST_PIPELINE,
    ),
    Fault(
        "the last images of a subset left out",
        PIPELINE,
        "padding = -len(indices) % batch_size",
        "indices, padding = indices[: len(indices) // batch_size * batch_size or None], 0",
        TEST_PIPELINE,
    ),
    Fault(
        "patients split as images",
        SPLITS,
        "members = _divide(records.patient_ids, fractions, seed)",
        "members = _divide(records.image_ids, fractions, seed)",
        TEST_SPLITS,
    ),
    Fault(
        "a split that does not heed its seed",
        SPLITS,
        "np.random.default_rng(seed).permutation",
        "np.random.default_rng(0).permutation",
        TEST_SPLITS,
    ),
    Fault(
        "lists cut short are accepted",
        SPLITS,
        "> MAX_UNLISTED * len(records)",
        "> len(records)",
        TEST_SPLITS,
    ),
    Fault(
        "edited lists of equal length count as the same",
        SPLITS,
        '"\\n".join(names.tolist())',
        "str(len(names))",
        TEST_SPLITS,
    ),
    # The dataset.
    Fault(
        "a table that was changed is read",
        STORE,
        "if found != digests[path.name]:",
        "if not digest:",
        TEST_RECORDS,
    ),
    Fault(
        "images of another dataset are read under this one's labels",
        IMAGES,
        "if image_id.decode() != self._image_ids[position]:",
        "if not image_id:",
        TEST_RECORDS,
    ),
    Fault(
        "images of one name in two folders are one",
        TEXT,
        'return (*name.replace("\\\\", "/").split("/")[:-1], stem(name))',
        "return (stem(name),)",
        ("tests/data/test_text.py::test_folders_tell_images_apart",),
    ),
    Fault(
        "a label that is not known is stored as negative",
        PUBLISH,
        "missing = any(context.rows[image_id].unknown for image_id in outcome.image_ids)",
        "missing = False",
        (TEST_FROM_CSV + "records_are_what_files_and_table_say",),
    ),
    Fault(
        "a box that is larger than its film is kept",
        SHARDS,
        "if not 0 <= value <= size:",
        "if not 0 <= value:",
        (TEST_FROM_CSV + "a_refusal_writes_nothing",),
    ),
    Fault(
        "which of two images of one name is kept depends on their files",
        PUBLISH,
        "key=lambda at: (content(at), files[at])",
        "key=lambda at: files[at]",
        (TEST_PUBLISH + "store_does_not_depend_on_the_order_of_files",),
    ),
    Fault(
        "records in the order of their files",
        PUBLISH,
        "    return Outcome([names",
        "    order.sort(key=files.__getitem__)\n    return Outcome([names",
        (TEST_PUBLISH + "store_does_not_depend_on_the_order_of_files",),
    ),
    Fault(
        "a fingerprint of the pixels alone",
        PUBLISH,
        "tables = [context.image_size, context.labels, columns.digests]",
        "tables = [context.image_size, context.labels]",
        (TEST_PUBLISH + "fingerprint_covers_every_column_and_pixel",),
    ),
    Fault(
        "cohorts of other prevalences share their random numbers",
        COHORT,
        "(FLOOR_STREAM << 32)",
        "0",
        ("tests/data_prep/test_phantoms.py::test_file_names_are_unique_in_a_collection",),
    ),
    # Schedule.
    Fault(
        "the learning rate drops an epoch late",
        SCHEDULE,
        "drop_step=round(config.drop_after * planned)",
        "drop_step=round(config.drop_after * planned) + steps_per_epoch",
        TEST_SCHEDULE,
    ),
    Fault(
        "a joint stage takes the largest batch",
        SCHEDULE,
        'batch_size = min(of_branches("batch_size"))',
        'batch_size = max(of_branches("batch_size"))',
        TEST_SCHEDULE,
    ),
    Fault(
        "a joint stage's rate scaled by its largest reference",
        SCHEDULE,
        'min(of_branches("reference_batch_size"))',
        'max(of_branches("reference_batch_size"))',
        TEST_SCHEDULE,
    ),
    # Statistics.
    Fault(
        "ties count as wins",
        METRICS,
        'np.searchsorted(sorted_scores, scores[positives], side="left")',
        'np.searchsorted(sorted_scores, scores[positives], side="right")',
        TEST_METRICS,
    ),
    Fault(
        "images vary instead of patients",
        "agcnn_jax/metrics/auc_table.py",
        "_, patient = np.unique(np.asarray(patient_ids), return_inverse=True)",
        "patient = np.arange(len(patient_ids))",
        ("tests/metrics/test_auc_table.py",),
    ),
    Fault(
        "a finding without a positive counts as 0",
        METRICS,
        "present = [value for value in values.values() if value is not None]",
        "present = [value or 0.0 for value in values.values()]",
        TEST_METRICS,
    ),
    Fault(
        "patients' variance without the correction for few",
        INFLUENCE,
        "values = values / (1 - np.minimum(weights, _LARGEST_WEIGHT)) ** power",
        "values = values * 1.0",
        TEST_INFLUENCE,
    ),
    Fault(
        "a difference as if branches were independent",
        INFLUENCE,
        "return Influence(self.values - other.values, self.weights, self.known)",
        "return Influence(np.hypot(self.values, other.values), self.weights, self.known)",
        ("tests/metrics/test_auc_table.py", "tests/metrics/test_influence.py"),
    ),
    Fault(
        "patients without a known label count as patients",
        INFLUENCE,
        "int(influence.known.any(axis=0).sum())",
        "influence.values.shape[-1]",
        ("tests/metrics/test_known_labels.py",),
    ),
    Fault(
        "an image whose label is missing counts as healthy",
        "agcnn_jax/evaluation/scoring/films.py",
        "scores[truth == 0, column]",
        "scores[truth != 1, column]",
        ("tests/evaluation/test_missing_labels.py",),
    ),
    Fault(
        "an AUC of few patients trusts its variance alone",
        "agcnn_jax/metrics/auc_interval.py",
        "(degrees * ratio + PRIOR_DEGREES) / total",
        "ratio",
        ("tests/metrics/test_auc_interval.py",),
    ),
    Fault(
        "p values of few patients by the normal distribution",
        "agcnn_jax/metrics/paired_test.py",
        "2 * stdtr(degrees, -abs(difference) / error)",
        "2 * stdtr(1e9, -abs(difference) / error)",
        ("tests/metrics/test_paired_test.py",),
    ),
    Fault(
        "probabilities are ranked though logits are known",
        "agcnn_jax/evaluation/scoring/scored.py",
        "return {**self.probabilities, **self.logits}",
        "return {**self.logits, **self.probabilities}",
        ("tests/evaluation/test_write.py::test_ranks_are_taken_on_logits",),
    ),
    # Calibration and thresholds.
    Fault(
        "false positives cost as much at any threshold",
        "agcnn_jax/metrics/calibration.py",
        "false * thresholds / (1 - thresholds)",
        "false * thresholds",
        ("tests/metrics/test_calibration.py",),
    ),
    Fault(
        "less than the sensitivity that was asked for",
        "agcnn_jax/metrics/operating_points.py",
        "true >= WANTED - 1e-9",
        "true >= WANTED - 0.1",
        ("tests/metrics/test_operating_points.py",),
    ),
    Fault(
        "thresholds of other weights",
        "agcnn_jax/run/calibration.py",
        'if about["weights"] != dict(weights):',
        "if False:",
        ("tests/run/test_calibration.py",),
    ),
    Fault(
        "films of MONOCHROME1 are not inverted",
        "agcnn_jax/data/dicom_display.py",
        "return 1 - shares if",
        "return shares if",
        ("tests/data/test_dicom.py",),
    ),
    Fault(
        "a window moved by half a level",
        "agcnn_jax/data/dicom_display.py",
        "(values - (centre - 0.5)) / (width - 1)",
        "(values - centre) / (width - 1)",
        ("tests/data/test_dicom.py",),
    ),
    Fault(
        "flags from images that the features were fitted to",
        "agcnn_jax/metrics/feature_distance.py",
        "feature_distances(_fit(features[rest]), features[held_out])",
        "feature_distances(_fit(features), features[held_out])",
        ("tests/metrics/test_feature_distance.py",),
    ),
    Fault(
        "predictions of two models in one folder",
        "agcnn_jax/inference/stream.py",
        '        "weights": model.digest,\n',
        '        "weights": "",\n',
        ("tests/inference/test_predict.py::test_predictions_never_mix",),
    ),
    Fault(
        "thresholds from scored images",
        "agcnn_jax/evaluation/scoring/prediction_files.py",
        "    if shared:\n",
        "    if False:\n",
        ("tests/evaluation/scoring/test_prediction_files.py::test_mistakes_in_validation",),
    ),
    # Localisation.
    Fault(
        "shares as if images of a patient were independent",
        SHARES,
        "observations / np.maximum(design_effect, 1)",
        "observations * np.ones_like(design_effect)",
        TEST_SHARES,
    ),
    Fault(
        "the intersection over the annotated box",
        LOCALISATION,
        "_intersections(annotated, found) / box_areas(found)",
        "_intersections(annotated, found) / box_areas(annotated)",
        TEST_LOCALISATION,
    ),
    Fault(
        "the mean box knows the patient's own boxes",
        "agcnn_jax/metrics/location_controls.py",
        "others = own.sum(axis=0) - own[patient]",
        "others = own.sum(axis=0) + 0 * own[patient]",
        TEST_LOCALISATION,
    ),
    Fault(
        "rows and columns of a peak exchanged",
        LOCALISATION,
        "[(columns + 0.5) / width, (rows + 0.5) / height]",
        "[(rows + 0.5) / height, (columns + 0.5) / width]",
        TEST_LOCALISATION,
    ),
    Fault(
        "evidence against a finding in its Grad-CAM++",
        CLASS_MAPS,
        "positive = jnp.maximum(weights.astype(jnp.float32), 0)",
        "positive = jnp.abs(weights.astype(jnp.float32))",
        TEST_CLASS_MAPS,
    ),
    Fault(
        "Grad-CAM++ of average pooling under maximum pooling",
        CLASS_MAPS,
        'if pooling == "avg":',
        "if True:",
        TEST_CLASS_MAPS,
    ),
    Fault(
        "class-specific maps of the label's column instead of the output's",
        "agcnn_jax/evaluation/scoring/localisation.py",
        "outputs = [columns[finding] for",
        "outputs = [records.labels.index(finding) for",
        ("tests/evaluation/scoring/test_localisation.py",),
    ),
    # Lineage.
    Fault(
        "patients of other images not counted",
        LINEAGE,
        "shared = ours & theirs",
        "shared = set()",
        TEST_LINEAGE,
    ),
    Fault(
        "not known counted as nothing",
        LINEAGE,
        "complete=not self.unlisted & {collection, ANY_COLLECTION}",
        "complete=True",
        TEST_LINEAGE,
    ),
    Fault(
        "films of a collection's part are taken for others",
        LINEAGE,
        "if part_of(other) == part_of(collection):",
        "if other == collection:",
        TEST_LINEAGE,
    ),
    Fault(
        "films with one base name are one film",
        LINEAGE,
        "match_names(_alone(names), _alone(seen)).keys()",
        "{name for name in _alone(names) if stem(name) in map(stem, _alone(seen))}",
        TEST_LINEAGE,
    ),
    Fault(
        "findings that are never the same are scored where asked for",
        "agcnn_jax/evaluation/scoring/matches.py",
        "if relate(outputs[output], theirs) == NEVER:",
        "if False:",
        ("tests/evaluation/scoring/test_matches.py",),
    ),
    Fault(
        "another collection's subset is scored, not all of it",
        "agcnn_jax/evaluation/evaluate.py",
        "if split == WHOLE or (split is None and is_external(records, workdir)):",
        "if split == WHOLE:",
        ("tests/evaluation/test_external.py::test_another_collection",),
    ),
    Fault(
        "digests of values alone",
        LINEAGE,
        'total.update(f"{jax.tree_util.keystr(path)} {array.dtype} {array.shape}\\n".encode())',
        "pass",
        TEST_LINEAGE,
    ),
    Fault(
        "exchanged weights let in",
        "agcnn_jax/interop/weights.py",
        'if digest(variables) != about["digest"]:',
        "if False:",
        ("tests/interop/test_weights.py",),
    ),
    Fault(
        "images that were trained on are scored",
        "agcnn_jax/evaluation/scoring/cohort.py",
        'if overlap.images and split != "train" and not include_trained:',
        "if False:",
        (TEST_START + "ScoringWhatWasTrainedOn::test_another_protocol",),
    ),
    Fault(
        "thresholds of one finding are chosen on another's labels",
        "agcnn_jax/evaluation/evaluate.py",
        "if maps and is_own(run.records, run.workdir):",
        "if False:",
        ("tests/evaluation/test_external.py::test_what_is_refused",),
    ),
    Fault(
        "pictures show probabilities of labels that are not known",
        "agcnn_jax/evaluation/scoring/films.py",
        "if labels[c] != MISSING",
        "if True",
        (
            "tests/evaluation/test_missing_labels.py"
            "::test_a_missing_label_is_neither_ill_nor_healthy",
        ),
    ),
    Fault(
        "outputs of converted weights in the data's order",
        "agcnn_jax/evaluation/scoring/scored.py",
        "outputs = [pair.output for pair in pairs]",
        "outputs = list(range(len(pairs)))",
        ("tests/evaluation/test_evaluate_weights.py::test_a_network_beside_pytorch",),
    ),
    Fault(
        "crops of a ten-crop evaluation that are not mirrored",
        AUGMENT,
        "return jnp.where(mirror, cropped[:, :, ::-1], cropped)",
        "return cropped",
        (
            "tests/training/test_prediction.py::test_ten_crops_are_averaged_on_one_and_on_many_devices",
        ),
    ),
    Fault(
        "what initial weights have seen is forgotten",
        "agcnn_jax/training/start.py",
        ").joined(inherited)",
        ")",
        (TEST_START + "StartingFromAnotherRun::test_whose_images_are_in_the_test_subset",),
    ),
    Fault(
        "initial weights may be replaced",
        "agcnn_jax/training/start.py",
        "if start.init != (started_from := lineage.read(workdir)[1]):",
        "if False:",
        (TEST_START + "StartingFromConvertedWeights::test_that_are_replaced",),
    ),
    Fault(
        "a stage that was trained from older weights counts",
        "agcnn_jax/run/stage_results.py",
        "if then != now:",
        "if False:",
        (TEST_START + "AStageThatIsTrainedAgain::test_the_middle_one",),
    ),
    Fault(
        "a stage of another run counts",
        "agcnn_jax/run/stage_results.py",
        'if saved.get("lineage") != lineage_digest:',
        "if False:",
        (TEST_START + "AStageOfAnotherRun::test_that_is_not_finished",),
    ),
    # Going on where a run stopped.
    Fault(
        "a resumed run leaves out a step",
        FIT,
        "for step in range(resumed + 1, total + 1):",
        "for step in range(resumed + 2, total + 1):",
        TEST_STOPPED,
    ),
    Fault(
        "a validation that was stopped is forgotten",
        FIT,
        "and not scored",
        "and False",
        TEST_STOPPED,
    ),
    Fault(
        "a resumed run repeats the batches from the start",
        "agcnn_jax/run/checkpoints.py",
        'batches.set_state(saved["batches"])',
        "pass",
        TEST_STOPPED,
    ),
    Fault(
        "the fusion stage runs the global branch again",
        STEPS,
        'pooled_global=part.get("pooled_global")',
        "pooled_global=None",
        ("tests/training/test_host_crop.py::test_the_fusion_stage_runs_each_frozen_backbone_once",),
    ),
    # Several seeds, and stages that runs share.
    Fault(
        "seeds that agree by luck make a mean certain",
        SEEDS,
        "max(spread, variance - shared)",
        "spread",
        TEST_SEEDS,
    ),
    Fault(
        "patients that all seeds share count once a seed",
        SEEDS,
        "total = between + shared",
        "total = between + shared / seeds",
        TEST_SEEDS,
    ),
    Fault(
        "a stage of another seed is taken over",
        TAKEOVER,
        'values: dict[str, Any] = {**read_values(config), "strategy"',
        'values: dict[str, Any] = {**read_values(config), "seed": 0, "strategy"',
        TEST_TAKEOVER,
    ),
    Fault(
        "a local stage of another tau is taken over",
        TAKEOVER,
        'used == {"global"}',
        '"global" in used',
        TEST_TAKEOVER,
    ),
    Fault(
        "a stage of a run with another start is taken over",
        TAKEOVER,
        "and lineage.read(donor)[1] == init",
        "",
        ("tests/experiments/test_runs.py::test_a_run_of_that_name_but_other_weights_is_no_donor",),
    ),
    Fault(
        "lesions of one size against all other images",
        "agcnn_jax/experiments/result.py",
        "kept = (labels == 0) | third",
        "labels, kept = third.astype(int), np.ones(len(labels), bool)",
        ("tests/experiments/test_result.py",),
    ),
    Fault(
        "rows compared across seeds",
        "agcnn_jax/experiments/summary.py",
        'if other := of_seed.get(result.values["seed"]):',
        "if other := others[0]:",
        ("tests/experiments/test_tables.py",),
    ),
    # Memory.
    Fault(
        "outputs in donated memory counted twice",
        FIT,
        'sum(memory.values()) - 2 * memory["alias"]',
        'sum(memory.values()) - memory["alias"]',
        ("tests/training/test_fit.py::test_memory_of_a_step_that_donates_its_state",),
    ),
    Fault(
        "predictions of two engines in one folder",
        "agcnn_jax/inference/stream.py",
        "        **model.computed_by,\n",
        "",
        ("tests/inference/test_onnx_predict.py::test_engines_and_precisions_do_not_mix",),
    ),
    Fault(
        "an ONNX file of another model is used",
        "agcnn_jax/inference/onnx_model.py",
        "if port is None or name not in wanted or not _fits(port, wanted[name]):",
        "if port is None:",
        ("tests/inference/test_onnx_model.py::test_a_foreign_file_is_refused_by_name",),
    ),
    Fault(
        "a step that a device cannot hold is run",
        FIT,
        'needed["peak"] > limit',
        'needed["temp"] > limit',
        ("tests/training/test_fit.py::test_a_step_that_fits",),
    ),
    Fault(
        "checksums of a model are not compared",
        "agcnn_jax/inference/model_files.py",
        "if digest != expected:",
        "if not digest:",
        ("tests/inference/test_export.py::test_a_changed_file_is_refused",),
    ),
    Fault(
        "a model card with the scores of other weights",
        "agcnn_jax/inference/export.py",
        'if scores.get("weights") == digests(model.variables, model.branches):',
        "if scores:",
        ("tests/inference/test_export.py::test_a_card_without_an_evaluation_of_these_weights",),
    ),
    Fault(
        "a model card with digests of other contents",
        "agcnn_jax/inference/card.py",
        "hashlib.sha256(content)",
        "hashlib.sha256(content[1:])",
        ("tests/inference/test_export_formats.py::test_the_card",),
    ),
    Fault(
        "an exported program measures distances along the components alone",
        "agcnn_jax/portable/stablehlo.py",
        "jnp.square(beside).sum(axis=1)",
        "0 * jnp.square(beside).sum(axis=1)",
        ("tests/portable/test_stablehlo.py::test_distances",),
    ),
    Fault(
        "an exported program without the run's precision",
        "agcnn_jax/portable/stablehlo.py",
        "jax.default_matmul_precision(matmul_precision)",
        "jax.default_matmul_precision(None)",
        ("tests/portable/test_stablehlo.py::test_precision_is_the_runs_whatever_the_readers",),
    ),
    Fault(
        "heat maps on films half a pixel off",
        "agcnn_jax/data/coordinates.py",
        "(np.arange(size) + 0.5) * (stored_size / size)",
        "np.arange(size) * (stored_size / size)",
        ("tests/data/test_coordinates.py::test_a_ramp_stays_a_ramp_on_the_film",),
    ),
    Fault(
        "a blank in No Finding is missing",
        "agcnn_jax/data/tables/label_table.py",
        "matrix[labelled & (column == BLANK), c] = 0",
        "matrix[labelled & (column == BLANK), c] = MISSING",
        ("tests/data/tables/test_label_table.py::test_chexpert",),
    ),
    Fault(
        "a label without a column is negative",
        "agcnn_jax/data/tables/label_table.py",
        "0 if self.listed else MISSING",
        "0",
        ("tests/evaluation/files/test_label_table.py::test_columns_of_labels",),
    ),
    Fault(
        "rows are named by the line below them",
        TEXT,
        "first = reader.line_num + 1",
        "first = reader.line_num + 2",
        ("tests/data/tables/test_label_table.py::test_mistakes",),
    ),
    Fault(
        "any column of numbers is a finding",
        "agcnn_jax/data/tables/values.py",
        "        if keys[cell] not in form:\n            return cell\n",
        "        form.setdefault(keys[cell], POSITIVE)\n",
        ("tests/data/tables/test_label_table.py::test_numbers_are_no_findings",),
    ),
    Fault(
        "a decision at the threshold is negative",
        "agcnn_jax/inference/answers.py",
        "x >= threshold",
        "x > threshold",
        ("tests/inference/test_films.py::test_answers_by_hand",),
    ),
    # The check before a training.
    Fault(
        "a host is compared with itself",
        "agcnn_jax/check/part.py",
        "[*seconds[:place], *seconds[place + 1 :]]",
        "list(seconds)",
        ("tests/check/test_part.py",),
    ),
    Fault(
        "a report shows the home folder",
        "agcnn_jax/check/part.py",
        'texts[home] = "~"',
        "texts[home] = home",
        ("tests/check/test_part.py",),
    ),
    Fault(
        "a loss that is infinite passes the check",
        "agcnn_jax/check/program.py",
        "if not math.isfinite(loss)]",
        "if math.isnan(loss)]",
        ("tests/check/test_program.py",),
    ),
    Fault(
        "a forecast leaves out checkpoints inside epochs",
        "agcnn_jax/check/forecast.py",
        "(plan.epochs + plan.between) * waits",
        "plan.epochs * waits",
        ("tests/check/test_forecast.py",),
    ),
)
