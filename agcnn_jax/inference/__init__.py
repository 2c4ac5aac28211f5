"""Use of a trained model: on films, from the command line and from Python."""

ENGINES = ("openvino", "onnxruntime")
"""What computes an ONNX file; the first that is installed unless a user chooses."""

PRECISIONS = ("float32", "bfloat16")
"""In which an ONNX file is computed; the first unless a user chooses."""
