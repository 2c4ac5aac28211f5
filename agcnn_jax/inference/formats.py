"""The formats of an exported folder: the files that hold the model, and how to run them."""

from __future__ import annotations

from agcnn_jax.inference.jax_model import JaxModel
from agcnn_jax.inference.model_files import PROGRAM, WEIGHTS, to_safetensors

FORMATS = ("hub", "stablehlo", "onnx")
"""For this package and the Hugging Face hub; for JAX alone; for ONNX's runtimes."""

_HUB = """
```python
import agcnn_jax

model = agcnn_jax.load("FOLDER")  # or hf://OWNER/NAME@REVISION
result = model.predict("film.png")
print(result.probability, result.box)
result.show().savefig("seen.png")
```
"""

_FILM = """
Films are gray, with 0 black, and resized as a whole by Pillow's bilinear filter, which \
antialiases; other filters give other answers. One of 8 bits:

```python
import numpy as np
from PIL import Image

film = Image.open("film.png").convert("L")
images = np.asarray(film.resize(({size}, {size}), Image.Resampling.BILINEAR))[None]
```
"""

_STABLEHLO = """
With JAX, NumPy and flatbuffers, without the program that trained it:

```python
from load import load  # load.py of this folder

predict = load()
answer = predict(images)  # uint8 [B, {size}, {size}]
print(answer["probabilities"], answer.get("boxes"))
```

`help(load)` names the outputs. `model.stablehlo` is one program for CPUs, NVIDIA GPUs and TPUs, \
and any B; `weights.npz` holds its weights. It is compiled once for each B. Images that lie on \
several devices are computed where they lie:

```python
import jax

mesh = jax.sharding.Mesh(jax.devices(), ("B",))
rows = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("B"))
answer = predict(jax.device_put(images, rows))  # B a multiple of the devices
```

On x86 CPUs it is faster with the options that the training used: \
`load(compiler_options={{"xla_cpu_experimental_ynn_fusion_type": "LIBRARY_FUSION_TYPE_REDUCE"}})`, \
which jax 0.10 to 0.12 know.

**Which JAX reads it**: written by jax {jax}. JAX promises that versions up to six months newer \
and three weeks older read a program. Tried: what jax 0.10.2 wrote, jax 0.9 to 0.12 read, and 0.8 \
did not; what 0.12 wrote, 0.11 read, and 0.10 did not. Export it again from the run before this \
window ends.
"""

_ONNX = """
`model.onnx` is the whole model, from films to probabilities and boxes, for ONNX's runtimes \
(opset {opset}, IR {ir}), computed in float32{instead}:

```python
import numpy as np
import onnxruntime

session = onnxruntime.InferenceSession("model.onnx")  # images: uint8 [B, {size}, {size}]
names = [output.name for output in session.get_outputs()]
answer = dict(zip(names, session.run(None, {inputs})))
print(answer["probability_{branch}"], answer.get("boxes"))
```

Outputs, for each branch: its logits under its name, `probability_<branch>` and, where thresholds \
were chosen, `calibrated_<branch>`, float32 `[B, C]` in the order of `labels` in `config.json`; \
`pooled`, the features of the global branch; `distance` from the films of the training, 1 where \
one in a hundred of them is farther, if known; `boxes`, int32 `[B, 4]` as `xmin, ymin, xmax, ymax` \
in pixels of the model's input, half-open, if a local branch reads crops; `heat_maps`, float32 in \
0..1. Probabilities that could not be calibrated are NaN.

Left to itself, OpenVINO computes in bfloat16 where the processor can, and boxes move. For \
float32:

```python
import openvino

settings = {{"INFERENCE_PRECISION_HINT": "f32"}}
compiled = openvino.compile_model("model.onnx", "CPU", settings)
answer = compiled({inputs})
print(answer["probability_{branch}"])
```

It takes an input that is missing or of another dtype without a word; onnxruntime refuses it. Both \
need one film or more.

`agcnn-predict --from FOLDER` and `agcnn_jax.load("FOLDER")` run it through OpenVINO or \
onnxruntime, without JAX: with thresholds, overlays and tables.

**Which runtimes read it**: those that know opset {opset}, which is of 2023; tested with \
onnxruntime 1.32 and OpenVINO 2026.4.
"""


def model_files(model: JaxModel, form: str) -> dict[str, bytes]:
    """Make the files that hold a model in one of `FORMATS`, by name.

    Raises:
        UserError: for a float64 run in a format that has no float64; where a package is missing.
    """
    if form == "hub":
        return {WEIGHTS: to_safetensors(model.variables)}
    if form == "stablehlo":
        from agcnn_jax.portable.stablehlo import stablehlo_files

        return stablehlo_files(
            *(model.variables, model.recipe, model.image_size),
            model.calibration.features if model.calibration else None,
            model.config["matmul_precision"],
        )
    from agcnn_jax.portable.onnx_model import onnx_model

    content = onnx_model(
        *(model.variables, model.recipe, model.image_size, model.branches, model.labels),
        model.calibration,
        model.digest,
    )
    return {PROGRAM: content}


def how_to_use(model: JaxModel, form: str) -> str:
    """Write how to run a model in one of `FORMATS`, and with which versions: Markdown."""
    if form == "hub":
        return _HUB.strip()
    if form == "stablehlo":
        import jax

        text = _FILM + _STABLEHLO
        return text.strip().format(size=model.image_size, jax=jax.__version__)
    from agcnn_jax.portable.graph import IR_VERSION, OPSET
    from agcnn_jax.training.predict_step import reads_crops

    inputs = '{"images": images}'
    if reads_crops(model.recipe, model.branches):
        tau = f"np.array({model.recipe.tau!r}, np.float32)"
        inputs = f'{{"images": images, "tau": {tau}}}'
    instead = ""
    if model.config["dtype"] == "bfloat16":
        instead = " where the run computed in bfloat16, so that its answers differ from the run's"
    text = _FILM + _ONNX
    return text.strip().format(
        opset=OPSET,
        ir=IR_VERSION,
        size=model.image_size,
        instead=instead,
        inputs=inputs,
        branch=model.branches[-1],
    )
