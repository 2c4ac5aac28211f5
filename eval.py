"""Print the AUC table of a trained run, or of a file of predictions.

python eval.py --config configs/demo.py
python eval.py --predictions P.csv --labels Data_Entry_2017_v2020.csv [--compare Q.csv]
"""

from absl import flags

from agcnn_jax.run import command_line
from agcnn_jax.runtime.errors import UserError

BESIDE = ("compare", "subset", "logits")
"""Flags that go with --predictions."""


def main() -> None:
    """Score a run, or a file of predictions."""
    predictions, labels = flags.FLAGS.predictions, flags.FLAGS.labels
    if predictions is None and labels is None:
        for name in BESIDE:
            if flags.FLAGS[name].present:
                raise UserError(f"--{name} goes with --predictions and --labels; leave it out")
        config, workdir, overrides = command_line.configured()
        from agcnn_jax.evaluation.evaluate import evaluate

        table = evaluate(config, workdir, overrides, flags.FLAGS.split, flags.FLAGS.include_trained)
        if table:
            print(table)
        return
    from agcnn_jax.evaluation.evaluate_predictions import evaluate_predictions
    from agcnn_jax.evaluation.table_text import as_text

    if not predictions or not labels:
        raise UserError("--predictions and --labels go together; give both CSV files")
    if flags.FLAGS.config is not None:
        raise UserError("--predictions and --config exclude each other; leave one out")
    command_line.refuse_flags_beside("predictions", "labels", *BESIDE)
    scored = evaluate_predictions(
        predictions,
        labels,
        compare_path=flags.FLAGS.compare,
        subset_path=flags.FLAGS.subset,
        logits=flags.FLAGS.logits,
    )
    print(as_text(scored))


if __name__ == "__main__":
    command_line.define_config_flags()
    flags.DEFINE_string("split", "test", "Subset to score: train, validation or test.")
    flags.DEFINE_bool("include_trained", False, "Also score images that the run was trained on.")
    flags.DEFINE_string("predictions", None, "CSV file of predictions to score instead of a run.")
    flags.DEFINE_string("labels", None, "Data_Entry CSV file with the labels of --predictions.")
    flags.DEFINE_string("compare", None, "CSV file of another model, to test the differences.")
    flags.DEFINE_string("subset", None, "List of the images of --predictions to score.")
    flags.DEFINE_bool("logits", False, "The CSV files hold logits, not probabilities.")
    command_line.run(main)
