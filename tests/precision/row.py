"""A row of the precision tables: an operator, its versions, attributes and inputs, and how far its results may be from fp64.

Bounds are (measure, ulps, why). Measure "e": in units in the last place of the wanted element; "s": of the output's largest
element. What is computed in f32 from first to last and rounded once is within half a unit; f32 has 2^13 (f16) or 2^16 (bf16) steps
to such a unit, so 0.51 leaves an f32 error of some 80 steps. f32 itself is held to 80 of its units, or to the bits where exact.
"""
import dataclasses
from typing import Any, Callable

import numpy as np

EXACT = ("e", 0.0, "moves, selects or compares: no arithmetic")
ROUNDED = ("e", 0.501, "one operation in f32, correctly rounded, then rounded to the type: half a unit and the second rounding")
FUNCTION = ("e", 0.51, "a function in f32 to some tens of its steps, rounded once")
SUM = ("s", 0.51, "sums of at most a few thousand terms in f32, rounded once; cancellation is measured by the output's scale")
CHAIN = ("s", 0.55, "several sums one after the other in f32, rounded once")


@dataclasses.dataclass
class Row:
    op: str
    versions: tuple
    inputs: list
    bound: tuple
    outputs: tuple = (True,)
    reference: Callable = None
    attributes: dict = dataclasses.field(default_factory=dict)
    domain: str = ""
    name: str = ""
    runtime: bool = True
    weights: tuple = ()  # inputs that ONNX Runtime wants as initializers
    types: tuple = ("f32", "f16", "bf16")
    wide_output: bool = False
    same_as: Any = None  # (version, attributes) that the reference evaluator knows

    @property
    def title(self):
        return (self.domain + "." if self.domain else "") + self.op + (" " + self.name if self.name else "")


def row(op, versions, inputs, bound, **more):
    domain, _, op = op.rpartition(".")
    fields = {f.name for f in dataclasses.fields(Row)}
    known = {k: more.pop(k) for k in list(more) if k in fields}
    if isinstance(known.get("outputs"), int):
        known["outputs"] = (True,) * known["outputs"]
    known["attributes"] = {**known.get("attributes", {}), **more}
    return Row(op, (versions,) if isinstance(versions, int) else versions, inputs, bound, domain=domain, **known)


def normal(*shape, scale=1.0, around=0.0):
    return lambda rng: np.asarray(rng.standard_normal(shape) * scale + around, np.float64)


def uniform(low, high, *shape):
    return lambda rng: np.asarray(rng.uniform(low, high, shape), np.float64)


def away_from_zero(*shape, least=0.1):
    def draw(rng):
        x = rng.standard_normal(shape)
        return np.asarray(np.where(x < 0, x - least, x + least), np.float64)
    return draw


def floats(*values):
    return np.array(values, np.float64)


def i64(*values):
    return np.array(values, np.int64)


def at(value):
    return np.array(value, np.int64)
