"""Elementwise operators, reductions, and what moves or picks values."""
from math import erf, sqrt

import numpy as np

from row import (CHAIN, EXACT, FUNCTION, ROUNDED, SUM, at, away_from_zero, floats, i64, normal, row, uniform)

ROWS = []


def add(*args, **more):
    ROWS.append(row(*args, **more))


erf64 = np.vectorize(erf, otypes=[np.float64])


def sigmoid(x):
    return np.where(x >= 0, 1 / (1 + np.exp(-np.abs(x))), np.exp(-np.abs(x)) / (1 + np.exp(-np.abs(x))))


def erfc64(x):
    from math import erfc
    return np.vectorize(erfc, otypes=[np.float64])(x)


def tail_gelu(x):
    return np.where(np.isinf(x), np.where(x > 0, x, 0.0), 0.5 * x * erfc64(-x / sqrt(2)))


def tanh_gelu(x):
    inner = sqrt(2 / np.pi) * (x + 0.044715 * x ** 3)
    return x * sigmoid(2 * inner)


def softplus(x):
    return np.logaddexp(0.0, x)


def mish(x):
    u = np.exp(-np.abs(x))  # tanh(log(1 + e^x)) without cancellation
    grown = np.where(x >= 0, (1 + 2 * u) / (1 + 2 * u + 2 * u * u), (u * u + 2 * u) / (u * u + 2 * u + 2))
    return x * grown


S = (2, 3, 37)
WIDE = normal(*S, scale=4.0)
# name, versions, bound, inputs, reference, attributes
for op, versions, bound, x, reference, attributes in [
        ("Abs", (6, 13), EXACT, WIDE, np.abs, {}), ("Acos", 7, FUNCTION, uniform(-1, 1, *S), np.arccos, {}),
        ("Acosh", 9, FUNCTION, uniform(1, 40, *S), np.arccosh, {}), ("Asin", 7, FUNCTION, uniform(-1, 1, *S), np.arcsin, {}),
        ("Asinh", 9, FUNCTION, WIDE, np.arcsinh, {}), ("Atan", 7, FUNCTION, WIDE, np.arctan, {}),
        ("Atanh", 9, FUNCTION, uniform(-0.99, 0.99, *S), np.arctanh, {}), ("Ceil", (6, 13), EXACT, WIDE, np.ceil, {}),
        ("Celu", 12, FUNCTION, WIDE, lambda x: np.maximum(x, 0) + np.minimum(0, 1.5 * np.expm1(x / 1.5)), dict(alpha=1.5)),
        ("Cos", (7, 22), FUNCTION, normal(*S, scale=20), np.cos, {}), ("Cosh", 9, FUNCTION, WIDE, np.cosh, {}),
        ("Elu", (6, 22), FUNCTION, WIDE, lambda x: np.where(x < 0, 0.75 * np.expm1(x), x), dict(alpha=0.75)),
        ("Erf", (9, 13), FUNCTION, normal(*S, scale=1.5), erf64, {}), ("Exp", (6, 13), FUNCTION, normal(*S, scale=3), np.exp, {}),
        ("Floor", (6, 13), EXACT, WIDE, np.floor, {}), ("HardSigmoid", 6, ROUNDED, WIDE, lambda x: np.clip(x * 0.25 + 0.5, 0, 1),
            dict(alpha=0.25, beta=0.5)),
        ("HardSwish", 14, FUNCTION, WIDE, lambda x: x * np.clip(x / 6 + 0.5, 0, 1), {}),
        ("IsNaN", (9, 13, 20), EXACT, floats(0, np.nan, np.inf, -np.inf, 1), np.isnan, {}),
        ("IsInf", (10, 20), EXACT, floats(0, np.nan, np.inf, -np.inf, 1), np.isinf, {}),
        ("LeakyRelu", (6, 16), ROUNDED, WIDE, lambda x: np.where(x < 0, x * 0.125, x), dict(alpha=0.125)),
        ("Log", (6, 13), FUNCTION, uniform(0.01, 9, *S), np.log, {}), ("Neg", (6, 13), EXACT, WIDE, np.negative, {}),
        ("Reciprocal", (6, 13), ROUNDED, away_from_zero(*S), np.reciprocal, {}), ("Relu", (6, 14), EXACT, WIDE, lambda x: np.maximum(x,
            0), {}),
        ("Round", (11, 22), EXACT, np.concatenate([np.arange(-8, 8, 0.25)]), np.round, {}),
        ("Selu", 6, FUNCTION, WIDE, lambda x: 1.0507 * np.where(x > 0, x, 1.6733 * np.expm1(x)), dict(alpha=1.6733, gamma=1.0507)),
        ("Shrink", 9, EXACT, WIDE, lambda x: np.where(x < -1.5, x, np.where(x > 1.5, x, 0)), dict(lambd=1.5)),
        ("Sigmoid", (6, 13), FUNCTION, WIDE, sigmoid, {}), ("Sign", (9, 13), EXACT, WIDE, np.sign, {}),
        ("Sin", (7, 22), FUNCTION, normal(*S, scale=20), np.sin, {}), ("Sinh", 9, FUNCTION, normal(*S, scale=2), np.sinh, {}),
        ("Softplus", (6, 22), FUNCTION, WIDE, softplus, {}), ("Softsign", (6, 22), ROUNDED, WIDE, lambda x: x / (1 + np.abs(x)), {}),
        ("Sqrt", (6, 13), ROUNDED, uniform(0, 50, *S), np.sqrt, {}), ("Tan", (7, 22), FUNCTION, uniform(-1.5, 1.5, *S), np.tan, {}),
        ("Tanh", (6, 13), FUNCTION, WIDE, np.tanh, {}), ("ThresholdedRelu", 10, EXACT, WIDE, lambda x: np.where(x > 0.5, x, 0),
            dict(alpha=0.5)),
        ("Gelu", 20, FUNCTION, normal(*S, scale=2), tail_gelu, {}), ("Mish", 18, FUNCTION, WIDE, mish, {}),
        ("Swish", 24, FUNCTION, WIDE, lambda x: x * sigmoid(0.75 * x), dict(alpha=0.75))]:
    add(op, versions, [x], bound, reference=reference, attributes=attributes)
add("Gelu", 20, [normal(*S, scale=2)], FUNCTION, reference=tanh_gelu, name="tanh", approximate="tanh")
add("Clip", 6, [WIDE], EXACT, reference=lambda x: np.clip(x, -1.5, 2.0), name="attributes", min=-1.5, max=2.0)
add("Clip", (11, 13), [WIDE, np.float64(-1.5) + np.zeros(()), np.float64(2.0) + np.zeros(())], EXACT, reference=np.clip)

A, B = normal(2, 3, 37), normal(3, 1)
for op, versions, bound, inputs, reference, attributes in [
        ("Add", (7, 14), ROUNDED, [A, B], np.add, {}), ("Sub", (7, 14), ROUNDED, [A, B], np.subtract, {}), ("Mul", (7, 14), ROUNDED, [A,
            B], np.multiply, {}),
        ("Div", (7, 14), ROUNDED, [A, away_from_zero(3, 1)], np.divide, {}), ("Pow", (7, 13), FUNCTION, [uniform(0.1, 4, 2, 3, 37), B],
            np.power, {}),
        ("Mod", (10, 13), EXACT, [normal(2, 3, 37, scale=8), away_from_zero(3, 1, least=0.5)], np.fmod, dict(fmod=1)),
        ("PRelu", 6, ROUNDED, [normal(2, 3, 37), normal(3)], lambda x, s: np.where(x < 0, x * s[:, None], x), {}),
        ("PRelu", (7, 16), ROUNDED, [A, B], lambda x, s: np.where(x < 0, x * s, x), {})]:
    add(op, versions, inputs, bound, reference=reference, attributes=attributes)
CHOICES = floats(-2, -1, 0, 1, 2, 3)
for op, versions, reference in [("Equal", (7, 11, 13), np.equal), ("Greater", (7, 9, 13), np.greater), ("Less", (7, 9, 13), np.less),
                                ("GreaterOrEqual", (12, 16), np.greater_equal), ("LessOrEqual", (12, 16), np.less_equal)]:
    add(op, versions, [CHOICES, CHOICES[:, None]], EXACT, reference=reference)
three = [normal(2, 3, 37), normal(3, 1), normal(37)]
for op, versions, bound, reference in [("Max", (8, 13), EXACT, lambda *x: np.maximum(np.maximum(x[0], x[1]), x[2])),
                                       ("Min", (8, 13), EXACT, lambda *x: np.minimum(np.minimum(x[0], x[1]), x[2])),
                                       ("Sum", (8, 13), SUM, lambda *x: x[0] + x[1] + x[2]), ("Mean", (8, 13), SUM,
                                           lambda *x: (x[0] + x[1] + x[2]) / 3)]:
    add(op, versions, three, bound, reference=reference)
add("Where", (9, 16), [np.array([[True], [False], [True]]), A, B], EXACT, reference=np.where)

# Reductions: long rows, a middle axis, all axes.
REDUCE = {
    "ReduceL1": (SUM, lambda x, a, k: np.abs(x).sum(a, keepdims=k)), "ReduceL2": (SUM, lambda x, a, k: np.sqrt((x * x).sum(a, keepdims=k))),
    "ReduceLogSum": (FUNCTION, lambda x, a, k: np.log(x.sum(a, keepdims=k))), "ReduceLogSumExp": (FUNCTION, lambda x, a,
        k: np.log(np.exp(x).sum(a, keepdims=k))),
    "ReduceMax": (EXACT, lambda x, a, k: x.max(a, keepdims=k)), "ReduceMin": (EXACT, lambda x, a, k: x.min(a, keepdims=k)),
    "ReduceMean": (SUM, lambda x, a, k: x.mean(a, keepdims=k)), "ReduceProd": (FUNCTION, lambda x, a, k: x.prod(a, keepdims=k)),
    "ReduceSum": (SUM, lambda x, a, k: x.sum(a, keepdims=k)), "ReduceSumSquare": (SUM, lambda x, a, k: (x * x).sum(a, keepdims=k))}
for op, (bound, reference) in REDUCE.items():
    old, new = ((11,), (13,)) if op == "ReduceSum" else ((11, 13), (18,))
    for name, shape, axes, keep in [("last", (3, 1003), (-1,), 1), ("middle", (3, 50, 7), (1,), 0), ("all", (2, 9, 8), (0, 1, 2), 1)]:
        x = uniform(0.8, 1.25, *shape) if op == "ReduceProd" else uniform(0.5, 2, *shape) if "Log" in op else normal(*shape)
        if op == "ReduceProd" and shape[-1] == 1003:
            x = uniform(0.99, 1.01, *shape)
        values = lambda x, *_, r=reference, a=axes, k=keep: r(x, a, bool(k))
        add(op, old, [x], bound, reference=values, name=name, axes=list(axes), keepdims=keep)
        add(op, new, [x, i64(*axes)], bound, reference=values, name=name, keepdims=keep)
for op in ("ArgMax", "ArgMin"):
    pick = np.argmax if op == "ArgMax" else np.argmin
    add(op, (7, 11, 12, 13), [normal(4, 50, 3)], EXACT, reference=lambda x, p=pick: p(x, 1)[:, None], axis=-2)
    add(op, (12, 13), [floats(1, 3, 3, 0, 0)], EXACT, reference=lambda x, o=op: np.array([2 if o == "ArgMax" else 4]),
        name="last of equals", axis=0, select_last_index=1)
add("CumSum", (11, 14), [normal(3, 300), at(-1)], SUM, reference=lambda x, a: np.cumsum(x, 1))
add("CumSum", (11, 14), [normal(3, 300), at(-1)], SUM, name="reverse exclusive", reverse=1, exclusive=1,
    reference=lambda x, a: np.cumsum(x[:, ::-1], 1)[:, ::-1] - x)
add("CumProd", 26, [uniform(0.9, 1.1, 3, 60), at(-1)], FUNCTION, reference=lambda x, a: np.cumprod(x, 1), runtime=False)


def top(x, k, axis, largest=True):
    order = np.argsort(-x if largest else x, axis, kind="stable")
    chosen = np.take(order, np.arange(k), axis)
    return np.take_along_axis(x, chosen, axis), chosen


add("TopK", 7, [normal(4, 40)], EXACT, outputs=2, reference=lambda x: top(x, 5, 1), k=5, axis=1)
add("TopK", (10, 11, 24), [normal(4, 40, 2), i64(7)], EXACT, outputs=2, reference=lambda x, k: top(x, 7, 1), axis=-2)
add("TopK", (11, 24), [normal(4, 40), i64(40)], EXACT, outputs=2, reference=lambda x, k: top(x, 40, 1, False), name="smallest", largest=0)

# What moves: bits as they are.
X = normal(2, 3, 4, 6)
MOVES = [
    ("Concat", (6, 11, 13), [normal(2, 3, 5), normal(2, 4, 5)], dict(axis=-2), lambda a, b: np.concatenate([a, b], 1)),
    ("CenterCropPad", 18, [normal(5, 9), i64(7, 4)], {}, None), ("Compress", (9, 11), [normal(4, 5), np.array([True, False, True])],
        dict(axis=1), None),
    ("DepthToSpace", (6, 11, 13), [normal(1, 8, 2, 3)], dict(blocksize=2), None), ("SpaceToDepth", (6, 13), [normal(1, 2, 4, 6)],
        dict(blocksize=2), None),
    ("Dropout", (7, 12, 13), [X], {}, lambda x: x), ("Expand", (8, 13), [normal(3, 1), i64(2, 1, 4)], {}, None),
    ("EyeLike", (9, 22), [normal(4, 6)], dict(k=-1), lambda x: np.eye(4, 6, -1)), ("Flatten", (6, 13, 24), [X], dict(axis=2), None),
    ("Gather", (6, 11, 13), [normal(5, 4, 3), np.array([[0, -1], [2, 4]], np.int64)], dict(axis=0), None),
    ("GatherElements", (11, 13), [normal(5, 4), np.array([[0, -1, 2, 4], [1, 1, -5, 0]], np.int64)], dict(axis=0), None),
    ("GatherND", (11, 12, 13), [normal(5, 4, 3), np.array([[0, 1], [4, 3]], np.int64)], {}, None), ("Identity", (6, 13, 16), [X], {}, None),
    ("OneHot", (9, 11), [i64(0, 3, -1), at(4), floats(0.25, 3.5)], dict(axis=-1), None),
    ("Pad", 6, [normal(3, 4)], dict(mode="constant", pads=[1, 0, 2, 3], value=1.5), lambda x: np.pad(x, [(1, 2), (0, 3)],
        constant_values=1.5)),
    ("Pad", (11, 13, 18, 19, 21), [normal(3, 4), i64(1, 0, 2, 3), np.zeros(()) + 1.5], {}, lambda x, *_: np.pad(x, [(1, 2), (0, 3)],
        constant_values=1.5)),
    ("Pad", (11, 21), [normal(3, 4), i64(1, 2, 2, 3)], dict(mode="reflect"), lambda x, *_: np.pad(x, [(1, 2), (2, 3)], mode="reflect")),
    ("Reshape", (6, 13, 14), [X, i64(0, -1, 6)], {}, lambda x, s: x.reshape(2, -1, 6)),
    ("ReverseSequence", 10, [normal(4, 3), i64(1, 4, 2)], dict(time_axis=0, batch_axis=1), None),
    ("Scatter", 9, [normal(4, 3), np.array([[0, 3, 1]], np.int64), normal(1, 3)], dict(axis=0), lambda x, i, u: scattered(x, i, u)),
    ("ScatterElements", (11, 13, 16, 18), [normal(4, 3), np.array([[0, -1, 1]], np.int64), normal(1, 3)], dict(axis=0), lambda x, i,
        u: scattered(x, i, u)),
    ("ScatterND", (11, 13, 16, 18), [normal(4, 3), np.array([[0], [-1]], np.int64), normal(2, 3)], {}, lambda x, i, u: rows_scattered(x,
        u)),
    ("Shape", (6, 15), [X], {}, lambda x: i64(*x.shape)), ("Size", (6, 13), [X], {}, lambda x: at(x.size)),
    ("Slice", 6, [normal(5, 6)], dict(starts=[1, -4], ends=[100, -1], axes=[0, 1]), lambda x: x[1:, -4:-1]),
    ("Slice", (10, 11, 13), [normal(5, 6), i64(-1, 1), i64(-100, 5), i64(0, -1), i64(-2, 3)], {}, lambda x, *_: x[::-2, 1:5:3]),
    ("Split", (6, 11), [normal(6, 4)], dict(axis=0, split=[1, 2, 3]), lambda x: np.split(x, [1, 3])),
    ("Split", (13, 18), [normal(6, 4), i64(1, 2, 3)], dict(axis=-2), lambda x, s: np.split(x, [1, 3])),
    ("Squeeze", 6, [normal(1, 3, 1)], dict(axes=[0]), lambda x: x[0]), ("Squeeze", (13, 21), [normal(1, 3, 1), i64(-1)], {}, lambda x,
        a: x[..., 0]),
    ("Unsqueeze", 6, [normal(3, 2)], dict(axes=[0, 3]), lambda x: x[None, :, :, None]),
    ("Unsqueeze", (13, 21), [normal(3, 2), i64(-1, 0)], {}, lambda x, a: x[None, :, :, None]),
    ("Tile", (6, 13), [normal(2, 3), i64(2, 3)], {}, lambda x, r: np.tile(x, (2, 3))), ("Transpose", (6, 13, 21), [X], dict(perm=[3, 1, 0,
        2]), None),
    ("Trilu", 14, [normal(2, 5, 5), at(-1)], dict(upper=0), lambda x, k: np.tril(x, -1)),
    ("NonZero", (9, 13), [floats(0, 1, -2, 0, np.nan)], {}, lambda x: np.stack(np.nonzero(x))),
    ("TensorScatter", 24, [normal(2, 5, 3), normal(2, 2, 3), i64(1, 3)], dict(axis=1), None),
    ("Upsample", 7, [normal(1, 2, 3, 3)], dict(mode="nearest", scales=[1.0, 1.0, 2.0, 3.0]), lambda x: x.repeat(2, 2).repeat(3, 3)),
    ("Upsample", 9, [normal(1, 2, 3, 3), np.array([1, 1, 2, 3], np.float32)], dict(mode="nearest"), lambda x, s: x.repeat(2, 2).repeat(3,
        3)),
    ("MaxUnpool", (9, 11), [floats(5, 6, 7, 8).reshape(1, 1, 2, 2), i64(5, 7, 13, 15).reshape(1, 1, 2, 2)], dict(kernel_shape=[2, 2],
        strides=[2, 2]), None),
]


def scattered(x, i, u):
    y = x.copy()
    np.put_along_axis(y, i % x.shape[0], u, 0)
    return y


def rows_scattered(x, u):
    y = x.copy()
    y[0], y[-1] = u
    return y


for op, versions, inputs, attributes, reference in MOVES:
    mode = attributes.get("mode", "")
    add(op, versions, inputs, EXACT, reference=reference, attributes=attributes, outputs=3 if op == "Split" else 1,
        name=mode if op == "Pad" else "")
# Values that are their own sort order: equal ones must not meet.
add("Unique", 11, [floats(3, 1, 1, 2, 3)], EXACT, outputs=4, reference=lambda x: [floats(1, 2, 3), i64(1, 3, 0), i64(2, 0, 0, 1, 2),
    i64(2, 1, 2)])

BF16, F16, F32, F64 = 16, 10, 1, 11
add("Cast", (9, 13, 19, 21), [WIDE], EXACT, reference=lambda x: x.astype(np.float32), to=F32, wide_output=True)
add("Cast", (9, 13), [normal(*S, scale=300)], EXACT, reference=lambda x: np.trunc(x).astype(np.int32), name="to i32", to=6)
add("Cast", (9, 13), [floats(0, 0.25, -3, np.nan)], EXACT, reference=lambda x: x != 0, name="to bool", to=9, types=("f32", "f16", "bf16"))
add("Cast", (13, 21), [np.arange(-4000, 4000, 7, np.int64)], ROUNDED, reference=lambda x: x.astype(np.float64), name="from i64",
    to=lambda t: t)
add("Cast", (13, 21), [lambda rng: rng.standard_normal(200).astype(np.float32) * 9], ROUNDED, reference=lambda x: x.astype(np.float64),
    name="from f32", to=lambda t: t)
add("CastLike", (15, 19), [lambda rng: rng.standard_normal(200).astype(np.float32) * 9, floats(1)], ROUNDED, reference=lambda x,
    _: x.astype(np.float64))
add("Range", 11, [np.zeros(()) + 1.5, np.zeros(()) + 9.0, np.zeros(()) + 0.75], FUNCTION, reference=lambda a, b, d: np.arange(a, b, d))
for op, cosines in [("HannWindow", (0.5, 0.5, 0.0)), ("HammingWindow", (25 / 46, 21 / 46, 0.0)), ("BlackmanWindow", (0.42, 0.5, 0.08))]:
    n = np.arange(12) * 2 * np.pi / 12
    add(op, 17, [at(12)], CHAIN, reference=lambda size, c=cosines, n=n: c[0] - c[1] * np.cos(n) + c[2] * np.cos(2 * n),
        output_datatype=lambda t: t)
add("MelWeightMatrix", 17, [at(8), at(32), at(8000), np.array(0, np.float32), np.array(4000, np.float32)], CHAIN,
    output_datatype=lambda t: t)
add("ConstantOfShape", (9, 20, 21), [i64(2, 3)], EXACT, types=("f32",), reference=lambda s: np.zeros((2, 3)))
