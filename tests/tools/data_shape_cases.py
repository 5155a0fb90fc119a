"""Seeded graphs whose shapes depend on data, as folders of backend test cases with ONNX Runtime's answers: data_shape_cases.py FOLDER"""
import os
import sys

import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto as T, helper as h, numpy_helper as nh

rng = np.random.default_rng(7)
value, node = h.make_tensor_value_info, h.make_node


def i64(*values):
    return np.array(values, np.int64)


def save(name, nodes, inputs, outputs, constants, feeds):
    graph = h.make_graph(nodes, name, inputs, outputs, [nh.from_array(v, k) for k, v in constants.items()])
    model = h.make_model(graph, opset_imports=[h.make_opsetid("", 17)], ir_version=8)
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    folder = os.path.join(sys.argv[1], "test_" + name)
    os.makedirs(folder)
    onnx.save(model, os.path.join(folder, "model.onnx"))
    for number, feed in enumerate(feeds):
        data = os.path.join(folder, f"test_data_set_{number}")
        os.makedirs(data)
        tensors = [("input", i, v.name, feed[v.name]) for i, v in enumerate(inputs)]
        tensors += [("output", i, v.name, np.asarray(r)) for i, (v, r) in enumerate(zip(outputs, session.run(None, feed)))]
        for kind, i, tensor, contents in tensors:
            with open(os.path.join(data, f"{kind}_{i}.pb"), "wb") as file:
                file.write(nh.from_array(contents, tensor).SerializeToString())


def suppression(number):
    """Boxes kept per batch and class; their count decides what is gathered and takes part in a sum."""
    batch, classes, boxes, centre = (int(rng.integers(*r)) for r in ((1, 4), (1, 5), (0, 60), (0, 2)))

    def feed():
        corners = rng.random((batch, boxes, 4)).astype(np.float32) * 10
        if centre:
            corners[..., 2:] *= 0.5
        ties = 1 if rng.random() < 0.5 else 6
        return dict(boxes=corners, scores=np.round(rng.random((batch, classes, boxes)), ties).astype(np.float32))

    constants = dict(most=i64(int(rng.integers(0, 20))), iou=np.array([rng.random() * 0.8], np.float32), least=np.array([rng.random() * 0.6], np.float32),
                     two=np.array(2, np.int64), zero=np.array(0, np.int64), one=i64(1))
    nodes = [
        node("NonMaxSuppression", ["boxes", "scores", "most", "iou", "least"][: 5 if rng.random() < 0.7 else 4], ["kept"], center_point_box=centre),
        node("Gather", ["kept", "two"], ["box"], axis=1), node("Gather", ["kept", "zero"], ["image"], axis=1),
        node("Unsqueeze", ["image", "one"], ["image2"]), node("Unsqueeze", ["box", "one"], ["box2"]),
        node("Concat", ["image2", "box2"], ["index"], axis=1), node("GatherND", ["boxes", "index"], ["picked"]),
        node("Shape", ["kept"], ["shape"]), node("Gather", ["shape", "zero"], ["count"]), node("Cast", ["count"], ["real"], to=T.FLOAT),
        node("ReduceSum", ["picked"], ["total"], keepdims=0), node("Add", ["total", "real"], ["y"])]
    save(f"suppression_{number}", nodes, [value("boxes", T.FLOAT, ["b", "n", 4]), value("scores", T.FLOAT, ["b", "c", "n"])],
         [value("kept", T.INT64, ["k", 3]), value("picked", T.FLOAT, ["k", 4]), value("y", T.FLOAT, [])], constants, [feed() for _ in range(3)])


def chain(number):
    """NonZero, Unique, Range, Compress, Tile, Slice, ConstantOfShape and Expand, each fed by sizes that the ones before decide."""
    rows, columns = int(rng.integers(1, 9)), int(rng.integers(1, 9))

    def feed():
        x = np.where(rng.random((rows, columns)) < rng.random(), 0, rng.integers(-3, 4, (rows, columns))).astype(np.float32)
        return dict(x=x, k=i64(int(rng.integers(1, rows + 1))), times=i64(int(rng.integers(0, 4)), 1))

    nodes = [
        node("NonZero", ["x"], ["found"]), node("Transpose", ["found"], ["places"], perm=[1, 0]), node("GatherND", ["x", "places"], ["values"]),
        node("Unique", ["values"], ["u", "first", "inverse", "counts"], sorted=int(rng.integers(0, 2))),
        node("Shape", ["u"], ["shape"]), node("Gather", ["shape", "zero"], ["n"]), node("Range", ["zero", "n", "unit"], ["steps"]),
        node("Cast", ["steps"], ["real"], to=T.FLOAT), node("Mul", ["u", "real"], ["scaled"]), node("Greater", ["x", "nought"], ["positive"]),
        node("Cast", ["positive"], ["mask"], to=T.FLOAT), node("ReduceMax", ["mask"], ["any"], axes=[1], keepdims=0),
        node("Cast", ["any"], ["chosen"], to=T.BOOL), node("Compress", ["x", "chosen"], ["rows"], axis=0), node("Tile", ["rows", "times"], ["tiled"]),
        node("Slice", ["x", "begin", "k"], ["head"]), node("Concat", ["tiled", "head"], ["both"], axis=0), node("Shape", ["both"], ["both_shape"]),
        node("ConstantOfShape", ["both_shape"], ["zeros"]), node("Add", ["both", "zeros"], ["y"]), node("Unsqueeze", ["n", "begin"], ["n1"]),
        node("Unsqueeze", ["scaled", "one"], ["column"]), node("Concat", ["n1", "k"], ["wanted"], axis=0), node("Expand", ["column", "wanted"], ["wide"])]
    constants = dict(zero=np.array(0, np.int64), unit=np.array(1, np.int64), nought=np.array(0, np.float32), begin=i64(0), one=i64(1))
    save(f"chain_{number}", nodes, [value("x", T.FLOAT, ["r", "c"]), value("k", T.INT64, [1]), value("times", T.INT64, [2])],
         [value("found", T.INT64, [2, "n"]), value("inverse", T.INT64, ["n"]), value("counts", T.INT64, ["u"]), value("y", T.FLOAT, ["q", "c"]),
          value("wide", T.FLOAT, ["u", "k"])], constants, [feed() for _ in range(3)])


def loop(number):
    """A Loop that data ends, with a branch that grows or shrinks what is carried, and a Loop inside whose trip count is the iteration."""
    inner = h.make_graph(
        [node("Identity", ["on2"], ["on2_out"]), node("Concat", ["a2", "v"], ["a2_out"], axis=0), node("ReduceSum", ["a2_out"], ["sum2"], keepdims=0)], "inner",
        [value("j", T.INT64, []), value("on2", T.BOOL, []), value("a2", T.FLOAT, None)],
        [value("on2_out", T.BOOL, []), value("a2_out", T.FLOAT, None), value("sum2", T.FLOAT, [])])
    grow = h.make_graph([node("Concat", ["acc", "v"], ["longer"], axis=0)], "grow", [], [value("longer", T.FLOAT, None)])
    shrink = h.make_graph([node("Slice", ["acc", "begin", "end", "begin"], ["shorter"])], "shrink", [], [value("shorter", T.FLOAT, None)])
    body = h.make_graph(
        [node("Gather", ["x", "i"], ["row"], axis=0), node("Unsqueeze", ["row", "begin"], ["v"]), node("ReduceSum", ["row"], ["sum"], keepdims=0),
         node("Greater", ["sum", "nought"], ["positive"]), node("If", ["positive"], ["acc_out"], then_branch=grow, else_branch=shrink),
         node("Loop", ["i", "", "v"], ["grown", "sums"], body=inner), node("ReduceMax", ["grown"], ["most"], keepdims=0),
         node("Less", ["sum", "limit"], ["on_out"])], "body",
        [value("i", T.INT64, []), value("on", T.BOOL, []), value("acc", T.FLOAT, None)],
        [value("on_out", T.BOOL, []), value("acc_out", T.FLOAT, None), value("most", T.FLOAT, []), value("row", T.FLOAT, ["w"])])
    rows, columns = int(rng.integers(1, 8)), int(rng.integers(1, 5))
    nodes = [node("Shape", ["x"], ["shape"]), node("Gather", ["shape", "zero"], ["n"]), node("Loop", ["n", "", "start"], ["y", "all", "rows"], body=body)]
    constants = dict(zero=np.array(0, np.int64), nought=np.array(0, np.float32), limit=np.array(3.5, np.float32), begin=i64(0), end=i64(1))
    feeds = [dict(x=rng.integers(-4, 5, (rows, columns)).astype(np.float32),
                  start=rng.integers(-4, 5, (int(rng.integers(1, 3)), columns)).astype(np.float32)) for _ in range(3)]
    save(f"loop_{number}", nodes, [value("x", T.FLOAT, ["r", "c"]), value("start", T.FLOAT, ["p", "c"])],
         [value("y", T.FLOAT, ["q", "c"]), value("all", T.FLOAT, ["n"]), value("rows", T.FLOAT, ["n", "c"])], constants, feeds)


for case in range(25):
    for family in (suppression, chain, loop):
        family(case)
