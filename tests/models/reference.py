"""Reference runs for tests/models: inputs from a seed, outputs by ONNX Runtime, as .npy files and a manifest.

usage: reference.py MODEL OUTDIR [--shape NAME=1x3x..]... [--int NAME=LOW:HIGH]... [--value NAME=INT]... [--seed N] [--threads N] [--rounded]
MODEL is a path, or pkg:PACKAGE/relative/path inside an installed package. --rounded: bf16 graphs run as fp32 on the same rounded weights.
Manifest lines: "model PATH", "input NAME FILE", "output NAME FILE".
"""
import argparse
import importlib.util
import os
import sys

import numpy as np


def resolve(model):
    if not model.startswith("pkg:"):
        return model
    package, _, rest = model[4:].partition("/")
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        sys.exit(77)
    return os.path.join(list(spec.submodule_search_locations)[0], rest)


def as_fp32(path):
    import onnx
    from onnx import TensorProto, numpy_helper

    model = onnx.load(path)

    def convert(tensor):
        if tensor.data_type == TensorProto.BFLOAT16:
            values = numpy_helper.to_array(tensor).astype(np.float32)
            tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))

    def walk(graph):
        for tensor in graph.initializer:
            convert(tensor)
        for node in graph.node:
            for attribute in node.attribute:
                if attribute.type == onnx.AttributeProto.TENSOR:
                    convert(attribute.t)
                if attribute.type == onnx.AttributeProto.GRAPH:
                    walk(attribute.g)
                if node.op_type == "Cast" and attribute.name == "to" and attribute.i == TensorProto.BFLOAT16:
                    attribute.i = TensorProto.FLOAT
        for info in list(graph.input) + list(graph.output) + list(graph.value_info):
            if info.type.tensor_type.elem_type == TensorProto.BFLOAT16:
                info.type.tensor_type.elem_type = TensorProto.FLOAT

    walk(model.graph)
    return model.SerializeToString()


NUMPY = {
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
    "tensor(double)": np.float64,
    "tensor(int64)": np.int64,
    "tensor(int32)": np.int32,
    "tensor(uint8)": np.uint8,
    "tensor(bool)": np.bool_,
}


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("model")
    parser.add_argument("outdir")
    parser.add_argument("--shape", action="append", default=[])
    parser.add_argument("--int", action="append", default=[])
    parser.add_argument("--value", action="append", default=[])
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounded", action="store_true")
    args = parser.parse_args()
    try:
        import onnxruntime
    except ImportError:
        sys.exit(77)
    path = resolve(args.model)
    if not os.path.exists(path):
        sys.exit(77)
    os.makedirs(args.outdir, exist_ok=True)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = args.threads
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(as_fp32(path) if args.rounded else path, options, providers=["CPUExecutionProvider"])
    shapes = dict(s.split("=") for s in args.shape)
    ranges = dict(s.split("=") for s in args.int)
    values = dict(s.split("=") for s in args.value)
    random = np.random.default_rng(args.seed)
    feeds = {}
    lines = ["model " + path]
    for i, info in enumerate(session.get_inputs()):
        dtype = NUMPY[info.type]
        if info.name in shapes:
            shape = [int(d) for d in shapes[info.name].split("x")] if shapes[info.name] else []
        else:
            shape = [d if isinstance(d, int) else 1 for d in info.shape]
        if info.name in values:
            feed = np.full(shape, int(values[info.name]), dtype)
        elif np.issubdtype(dtype, np.integer):
            low, high = (int(v) for v in ranges.get(info.name, "0:2").split(":"))
            feed = random.integers(low, high, shape).astype(dtype)
        elif dtype == np.bool_:
            feed = random.integers(0, 2, shape).astype(dtype)
        else:
            feed = random.standard_normal(shape).astype(dtype)
        feeds[info.name] = feed
        name = f"input_{i}.npy"
        np.save(os.path.join(args.outdir, name), feed)
        lines.append(f"input {info.name} {name}")
    for i, (info, value) in enumerate(zip(session.get_outputs(), session.run(None, feeds))):
        name = f"output_{i}.npy"
        np.save(os.path.join(args.outdir, name), value)
        lines.append(f"output {info.name} {name}")
    with open(os.path.join(args.outdir, "manifest.txt"), "w", encoding="utf-8") as manifest:
        manifest.write("\n".join(lines) + "\n")


main()
