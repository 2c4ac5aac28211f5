"""Draw docs/attention.png, the README's picture, from a trained run.

python docs/attention.py [--config configs/demo.py] [--workdir runs/demo]
"""

from pathlib import Path

from etils import epath

from agcnn_jax.config import command_line
from agcnn_jax.evaluation.asked_config import read_run_config
from agcnn_jax.evaluation.evaluate import open_evaluated_run, scored_images
from agcnn_jax.evaluation.figures.panels import films_figure
from agcnn_jax.evaluation.figures.style import encode
from agcnn_jax.evaluation.scoring.films import choose_examples, show_films
from agcnn_jax.models.agcnn import BRANCHES
from agcnn_jax.run.stage_results import finished_variables
from agcnn_jax.runtime.devices import replicate
from agcnn_jax.training.predict_step import make_predict_step
from agcnn_jax.training.prediction import predict

FILMS = 3


def main() -> None:
    """Score the test subset, choose films and draw them."""
    config, workdir, overrides = command_line.configured()
    directory = epath.Path(workdir).resolve()
    run_config = read_run_config(config, directory, overrides)
    run = open_evaluated_run(run_config, directory, overrides)
    loaded, _ = finished_variables(directory, run_config.strategy, run.identity)
    variables = replicate(run.mesh, loaded)
    indices = run.split.test
    prediction = predict(
        make_predict_step(run.recipe, run.mesh, BRANCHES),
        variables,
        run,
        indices,
        "test",
    )
    scored = scored_images(run, run.records.labels, indices, prediction)
    films = show_films(
        run, variables, indices, scored, choose_examples(scored, catches=FILMS, misses=0)
    )
    if films is not None:
        picture = encode(films_figure(films, run.records.provenance), dpi=72)
        Path(__file__).with_suffix(".png").write_bytes(picture)


if __name__ == "__main__":
    command_line.define_config_flags()
    command_line.run(main)
