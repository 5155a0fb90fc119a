"""Every float operator of the registry in f32, f16 and bf16 against an fp64 reference and against ONNX Runtime: single-node cases
in the form that tests/runtime/kernels_onnx_cases.py writes, each followed by how far the outputs may be from what is wanted.

usage: precision_cases.py OUT.bin [--seed N] [--only TEXT] [--list]
The rows are in precision_rows*.py. For a row, values are drawn, rounded to the type, and the operator is evaluated in fp64 on the
rounded values: by the row's own function, else by onnx's ReferenceEvaluator. Where ONNX Runtime has a kernel it runs the same
values: f32 as f32, f16 as f16, bf16 as an fp32 graph on the rounded values.
"""
import argparse
import dataclasses
import os
import struct
import sys
import zlib

try:
    import ml_dtypes
    import numpy as np
    import onnx
    import onnxruntime
    from onnx import TensorProto, helper, numpy_helper
    from onnx.reference import ReferenceEvaluator
except ImportError:
    sys.exit(77)

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "../runtime"))
import kernels_onnx_cases as flat
import precision_rows
import precision_rows_neural
import precision_rows_special

TYPES = {"f32": (TensorProto.FLOAT, np.float32), "f16": (TensorProto.FLOAT16, np.float16), "bf16": (TensorProto.BFLOAT16,
    ml_dtypes.bfloat16)}
# Against ONNX Runtime, of the output's largest value.
SHARES = {"f32": 1e-4, "f16": 1e-2, "bf16": 3e-2}
CODES = {"e": 0, "s": 1, "r": 2}


def proto(name, array):
    if isinstance(array, onnx.TensorProto):
        array.name = name
        return array
    return numpy_helper.from_array(np.ascontiguousarray(array) if array.ndim else np.array(array), name)


def drawn(row, rng, numpy_type):
    """The inputs in the type, and as fp64. What is no fp64 array stays as it is: indices, masks, codes, f32 parameters."""
    typed, wide = [], []
    for one in row.inputs:
        value = one(rng) if callable(one) else one
        value = np.array(value) if isinstance(value, np.generic) else value
        if isinstance(value, np.ndarray) and value.dtype == np.float64:
            with np.errstate(over="ignore"):
                value = np.asarray(value.astype(numpy_type))
            wide.append(np.asarray(value.astype(np.float64)))
        else:
            wide.append(value)
        typed.append(value)
    return typed, wide


def node_of(row, version, typed, onnx_type):
    attributes = {k: v(onnx_type) if callable(v) else v for k, v in row.attributes.items()}
    names = ["" if value is None else f"i{i}" for i, value in enumerate(typed)]
    outputs = [f"o{i}" if wanted else "" for i, wanted in enumerate(row.outputs)]
    return helper.make_node(row.op, names, outputs, name="node", domain=row.domain, **attributes)


def model_of(row, version, values, onnx_type, known=True):
    node = node_of(row, version, values, onnx_type)
    tensors = {n: proto(n, v) for n, v in zip(node.input, values) if n}
    outputs = [helper.make_tensor_value_info(o, TensorProto.UNDEFINED, None) for o in node.output if o]
    for info in outputs:
        info.ClearField("type")
    domains = [helper.make_opsetid("", version if not row.domain else 21)] + ([helper.make_opsetid(row.domain, 1)] if row.domain else [])
    graph = helper.make_graph([node], "g", [helper.make_tensor_value_info(n, t.data_type, t.dims) for n,
        t in tensors.items() if n not in row.weights],
                              outputs, [t for n, t in tensors.items() if n in row.weights])
    model = helper.make_model(graph, opset_imports=domains, ir_version=10)
    return model, {n: v for n, v in zip(node.input, values) if n and n not in row.weights}


def reference(row, version, wide):
    if row.reference is not None:
        made = row.reference(*wide)
        return list(made) if isinstance(made, (list, tuple)) else [made]
    if row.same_as is not None:  # another version's name for the same meaning
        version, attributes = row.same_as
        row = dataclasses.replace(row, attributes={**row.attributes, **attributes})
    model, feeds = model_of(row, version, wide, TensorProto.DOUBLE)
    feeds = {n: numpy_helper.to_array(v) if isinstance(v, onnx.TensorProto) else v for n, v in feeds.items()}
    return ReferenceEvaluator(model).run(None, feeds)


def by_runtime(row, version, typed, kind):
    """What ONNX Runtime gives, or why it gives nothing."""
    if not row.runtime:
        return None
    onnx_type = TYPES["f32" if kind == "bf16" else kind][0]
    values = [v.astype(np.float32) if kind == "bf16" and isinstance(v, np.ndarray) and v.dtype == ml_dtypes.bfloat16 else v for v in typed]
    try:
        model, feeds = model_of(row, version, values, onnx_type)
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4
        options.intra_op_num_threads = 1
        session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        return session.run(None, feeds)
    except Exception:  # no kernel of this type
        return None


def record(row, version, kind, typed, wants, mode, bound, against):
    node = node_of(row, version, typed, TYPES[kind][0])
    blob = flat.text(f"{row.title} opset {version} {kind} against {against}") + flat.text(row.domain) + flat.text(row.op) + struct.pack("<i", version)
    blob += struct.pack("<I", len(node.attribute)) + b"".join(flat.pack_attribute(a) for a in node.attribute)
    blob += struct.pack("<I", len(typed)) + b"".join(flat.pack_tensor(None if v is None else proto("", v)) for v in typed)
    own = TYPES[kind][1]
    blob += struct.pack("<I", len(wants))
    kinds = []
    for want in wants:
        want = None if want is None else np.asarray(want)
        floating = want is not None and (want.dtype.kind == "f" or want.dtype == ml_dtypes.bfloat16)
        blob += flat.pack_tensor(None if want is None else proto("", want.astype(np.float64) if floating else want))
        # A float output has the type of the case, or is f32 where the row says so.
        kinds.append(flat.DTYPES[TensorProto.FLOAT if row.wide_output else TYPES[kind][0]] if floating else 0)
    return blob + struct.pack(f"<{len(kinds)}B", *kinds) + struct.pack("<Bd", CODES[mode], bound)


def spread(row, made):
    made = iter(made)
    return [next(made) if wanted else None for wanted in row.outputs]


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("out")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", default="")
    parser.add_argument("--list", action="store_true")
    args = parser.parse_args()
    rows = precision_rows.ROWS + precision_rows_neural.ROWS + precision_rows_special.ROWS
    count = shared = 0
    np.seterr(all="ignore")
    with open(args.out, "wb") as f:
        for row in rows:
            if args.only not in row.title:
                continue
            for version in row.versions:
                for kind in row.types:
                    # One set of values for f32 and f16, so that what jumps (rounding, comparing) jumps at the same places.
                    rng = np.random.default_rng(zlib.crc32(row.title.encode()) ^ args.seed)
                    onnx_type, numpy_type = TYPES[kind]
                    typed, wide = drawn(row, rng, np.float16 if kind == "f32" else numpy_type)
                    if kind == "f32":
                        typed = [v.astype(np.float32) if isinstance(v, np.ndarray) and v.dtype == np.float16 else v for v in typed]
                    try:
                        wants = spread(row, reference(row, version, wide))
                    except Exception as error:
                        sys.exit(f"{row.title} opset {version}: no reference: {type(error).__name__} {error}")
                    bound = ("s", 80.0) if kind == "f32" and row.bound[1] > 0 else row.bound[:2]
                    f.write(record(row, version, kind, typed, wants, *bound, "fp64"))
                    count += 1
                    run = by_runtime(row, version, typed, kind)
                    if run is not None:
                        f.write(record(row, version, kind, typed, spread(row, run), "r", SHARES[kind], "ONNX Runtime"))
                        shared += 1
                    if args.list:
                        print(row.title, version, kind, "also by ONNX Runtime" if run is not None else "")
    print(f"seed {args.seed}: {count} cases against fp64, {shared} against ONNX Runtime")


if __name__ == "__main__":
    main()
