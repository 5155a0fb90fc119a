"""Prints every tensor of ONNX models as the onnx package sees it: file, name, type, shape and SHA-256 of its bytes.

Usage: onnx_oracle.py FOLDER COUNT: the models of the package's own test data (at most COUNT of them), and a few made here into FOLDER
with each way of storing data that the package has. Lines: M<TAB>path, then T<TAB>name<TAB>type<TAB>dims<TAB>digest in file order.
"""
import glob
import hashlib
import os
import sys

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

KINDS = {1: "f32", 2: "u8", 3: "i8", 4: "u16", 5: "i16", 6: "i32", 7: "i64", 9: "bool", 10: "f16", 11: "f64", 12: "u32", 13: "u64", 16: "bf16",
         17: "f8e4m3fn", 18: "f8e4m3fnuz", 19: "f8e5m2", 20: "f8e5m2fnuz"}


def tensors(graph):
    for tensor in graph.initializer:
        yield tensor
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.TENSOR:
                yield attribute.t
            elif attribute.type == onnx.AttributeProto.GRAPH:
                yield from tensors(attribute.g)


def report(path):
    model = onnx.load(path)
    print(f"M\t{path}")
    for tensor in tensors(model.graph):
        kind = KINDS.get(tensor.data_type)
        if kind is None:
            print(f"T\t{tensor.name}\tother\t\t")
            continue
        data = numpy_helper.to_array(tensor).tobytes()
        print(f"T\t{tensor.name}\t{kind}\t{','.join(map(str, tensor.dims))}\t{hashlib.sha256(data).hexdigest()}")


def make(folder):
    rng = np.random.default_rng(1)
    weights = []
    for i, kind in enumerate(["float32", "float16", "float64", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64", "bool"]):
        array = (rng.random((7, 300)) * 2 if kind == "bool" else rng.random((7, 300)) * 100).astype(kind)
        weights.append(numpy_helper.from_array(array, f"raw_{kind}"))
        weights.append(helper.make_tensor(f"typed_{kind}", helper.np_dtype_to_tensor_dtype(np.dtype(kind)), array.shape, array.flatten()))
    weights.append(helper.make_tensor("typed_bf16", TensorProto.BFLOAT16, (50,), rng.standard_normal(50)))
    for name in ("FLOAT8E4M3FN", "FLOAT8E5M2", "FLOAT8E4M3FNUZ", "FLOAT8E5M2FNUZ"):
        weights.append(helper.make_tensor("typed_" + name, getattr(TensorProto, name), (40,), rng.standard_normal(40)))
    graph = helper.make_graph([helper.make_node("Identity", ["raw_float32"], ["y"])], "g", [],
                              [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)], weights)
    model = helper.make_model(graph)
    model.ir_version = 10
    onnx.save(model, os.path.join(folder, "inline.onnx"))
    onnx.save(model, os.path.join(folder, "one_file.onnx"), save_as_external_data=True, all_tensors_to_one_file=True, location="data.bin", size_threshold=0)
    model = onnx.load(os.path.join(folder, "inline.onnx"))
    onnx.save(model, os.path.join(folder, "many_files.onnx"), save_as_external_data=True, all_tensors_to_one_file=False, size_threshold=0)
    return [os.path.join(folder, name) for name in ("inline.onnx", "one_file.onnx", "many_files.onnx")]


def main():
    folder, count = sys.argv[1], int(sys.argv[2])
    data = os.path.join(os.path.dirname(onnx.__file__), "backend", "test", "data")
    found = sorted(glob.glob(os.path.join(data, "*", "*", "model.onnx")))
    step = max(1, len(found) // count)
    for path in make(folder) + found[::step]:
        report(path)


main()
