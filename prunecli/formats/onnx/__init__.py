"""ONNX models, as protobufs whose initializers are tensors; their numbers may be in other files."""
