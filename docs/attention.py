"""Draw docs/attention.png, the README's picture, from a trained run.

python docs/attention.py [--config configs/demo.py] [--workdir runs/demo]
"""

from pathlib import Path

from etils import epath

from agcnn_jax.config import command_line
from agcnn_jax.evaluation.evaluate import load_trained, make_predictor, open_evaluated_run
from agcnn_jax.evaluation.figures.panels import films_figure
from agcnn_jax.evaluation.figures.style import encode
from agcnn_jax.evaluation.scoring.films import choose_examples, show_films

FILMS = 3


def main() -> None:
    """Score the test subset, choose films and draw them."""
    config, workdir, overrides = command_line.configured()
    directory = epath.Path(workdir).resolve()
    run = open_evaluated_run(config, directory, overrides)
    subject, indices = load_trained(run), run.split.test
    scored = make_predictor(run, subject)(indices, "test")
    examples = choose_examples(scored, catches=FILMS, misses=0)
    films = show_films(run, subject.variables, indices, scored, examples)
    if films is not None:
        picture = encode(films_figure(films, run.records.provenance), dpi=72)
        Path(__file__).with_suffix(".png").write_bytes(picture)


if __name__ == "__main__":
    command_line.define_config_flags()
    command_line.run(main)
