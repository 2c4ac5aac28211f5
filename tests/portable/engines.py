"""ONNX models in the runtimes that read them."""

import numpy as np
import onnx
import onnxruntime

from agcnn_jax.inference.onnx_engines import import_openvino

ENGINES = ("onnxruntime", "openvino")


def compiled(engine, content, precision="f32"):
    """Compile the bytes of a model; return a function of inputs by name that returns outputs."""
    names = [output.name for output in onnx.load_from_string(content).graph.output]
    if engine == "onnxruntime":
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        session = onnxruntime.InferenceSession(content, options, ["CPUExecutionProvider"])
        return lambda **inputs: dict(zip(names, session.run(None, inputs), strict=True))
    core = import_openvino().Core()
    # Some processors would compute in bfloat16 otherwise.
    settings = {"INFERENCE_PRECISION_HINT": precision, "INFERENCE_NUM_THREADS": 1}
    model = core.compile_model(core.read_model(content), "CPU", settings)

    def run(**inputs):
        outputs = model(inputs)
        return {name: np.array(outputs[name]) for name in names}

    return run
