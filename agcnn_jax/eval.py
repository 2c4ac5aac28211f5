"""Print the AUC table of a trained run, of converted weights, or of a file of predictions.

    agcnn-eval --config demo
    agcnn-eval --config demo --config.data.dir=OTHER [--map OURS=THEIRS ...]
    agcnn-eval --weights DIR --config densenet --config.data.dir=DATA --out OUT
    agcnn-eval --predictions P.csv --labels LABELS.csv [--compare Q.csv] [--out OUT]

Writes tables, figures and report.html beside the run, or to OUT.
"""

from typing import NoReturn

from absl import flags

from agcnn_jax.config import command_line
from agcnn_jax.runtime.errors import UserError

BESIDE = ("compare", "subset", "validation", "logits")
"""Flags that go with --predictions."""


def main() -> None:
    """Score a run, converted weights, or a file of predictions."""
    predictions, labels = flags.FLAGS.predictions, flags.FLAGS.labels
    if predictions is None and labels is None:
        for name in BESIDE:
            if flags.FLAGS[name].present:
                raise UserError(f"--{name} goes with --predictions and --labels; leave it out")
        table = score_model()
        if table:
            print(table)
        return
    from agcnn_jax.evaluation.evaluate_predictions import evaluate_predictions
    from agcnn_jax.evaluation.files.table import as_text

    if not predictions or not labels:
        raise UserError("--predictions and --labels go together; give both CSV files")
    if flags.FLAGS.config is not None:
        raise UserError("--predictions and --config exclude each other; leave one out")
    command_line.check_flags_beside("predictions", "labels", "out", *BESIDE)
    scored = evaluate_predictions(
        predictions,
        labels,
        compare_path=flags.FLAGS.compare,
        subset_path=flags.FLAGS.subset,
        validation_path=flags.FLAGS.validation,
        logits=flags.FLAGS.logits,
        out=flags.FLAGS.out,
    )
    print(as_text(scored))


def score_model() -> str:
    """Score a run or converted weights; return the table, which only the primary process has."""
    given = flags.FLAGS
    if (given.weights is None) != (given.out is None):
        raise UserError(
            "--weights and --out go together; give the folder of the weights, and a new folder for "
            "the results"
        )
    if given.weights is not None and given.workdir is not None:
        raise UserError("--weights and --workdir exclude each other; leave one out")
    config, workdir, overrides = command_line.configured()
    if given.weights is None:
        from agcnn_jax.evaluation.evaluate import evaluate

        return evaluate(
            config, workdir, overrides, given.split, given.include_trained, given.map or ()
        )
    from agcnn_jax.evaluation.evaluate_weights import evaluate_weights

    return evaluate_weights(
        config,
        given.weights,
        overrides,
        given.out,
        given.split or "test",
        given.include_trained,
        given.map or (),
    )


def run() -> NoReturn:
    """Run the command as a program."""
    command_line.define_config_flags()
    flags.DEFINE_string(
        "split",
        None,
        "Subset to score: train, validation, test or all; by default test, or all elsewhere.",
    )
    flags.DEFINE_multi_string(
        "map", None, "Finding of the run to score against another label: 'OURS=THEIRS'"
    )
    flags.DEFINE_bool(
        "include_trained",
        False,
        "Also score images that the run was trained on, or may have been.",
    )
    flags.DEFINE_string("weights", None, "Folder of converted weights to score instead of a run.")
    flags.DEFINE_string("out", None, "New folder for the results of --weights or --predictions.")
    flags.DEFINE_string("predictions", None, "CSV file of predictions to score instead of a run.")
    flags.DEFINE_string("labels", None, "Data_Entry CSV file with the labels of --predictions.")
    flags.DEFINE_string("compare", None, "CSV file of another model, to test the differences.")
    flags.DEFINE_string("subset", None, "List of the images of --predictions to score.")
    flags.DEFINE_string("validation", None, "CSV file of other images, to choose thresholds.")
    flags.DEFINE_bool("logits", False, "The CSV files hold logits, not probabilities.")
    command_line.run(main, about=__doc__)


if __name__ == "__main__":
    run()
