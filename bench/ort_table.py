#!/usr/bin/env python3
"""The five models of the figure "resident pass over ONNX Runtime" and the geometric mean of their ratios.

  ort_table.py FOLDER --resnet light_resnet50.onnx [--torch-python PYTHON] [--threads 2] [--pairs 11]

FOLDER keeps the models that are made here: BERT base as torch.onnx writes it, the synthetic decoder, ResNet-50 with its ConstantOfShape weights as
initializers. PP-OCRv4 comes from the wheel rapidocr_onnxruntime of the Python that runs this; --resnet is onnx/backend/test/data/light/light_resnet50.onnx.
"""
import argparse
import importlib.util
import json
import math
import os
import subprocess
import sys

import numpy as np
import onnx
from onnx import numpy_helper

HERE = os.path.dirname(os.path.abspath(__file__))


def with_weights(path, out):
    """The light models' weights are one number each by ConstantOfShape: seeded values of the usual spread stand in for them."""
    model = onnx.load(path)
    known = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    random = np.random.default_rng(1)
    for node in [n for n in model.graph.node if n.op_type == "ConstantOfShape"]:
        shape = [int(d) for d in known[node.input[0]]]
        fan = max(1, int(np.prod(shape[1:], dtype=np.int64)))
        values = random.normal(0, (2 / fan) ** 0.5, shape) if len(shape) > 1 else random.uniform(0.5, 1.0, shape)
        model.graph.initializer.append(numpy_helper.from_array(values.astype(np.float32), node.output[0]))
        model.graph.node.remove(node)
    onnx.save(model, out)


def made(path, make):
    if not os.path.exists(path):
        make()
    return path


def models(args):
    spec = importlib.util.find_spec("rapidocr_onnxruntime")
    ocr = os.path.join(os.path.dirname(spec.origin), "models")
    bert, resnet, decoder = (os.path.join(args.folder, name) for name in ("bert.onnx", "resnet50.onnx", "decoder/model.onnx"))
    made(bert, lambda: subprocess.run([args.torch_python, os.path.join(HERE, "export_bert.py"), bert], check=True))
    made(resnet, lambda: with_weights(args.resnet, resnet))
    made(decoder, lambda: subprocess.run([args.forebay, "synth", "llama", "--params", "500M", "--dtype", "f32", "--seed", "1", "-o", os.path.dirname(decoder)],
                                         check=True))
    return [(os.path.join(ocr, "ch_PP-OCRv4_det_infer.onnx"), ["x=1x3x640x640"]), (os.path.join(ocr, "ch_PP-OCRv4_rec_infer.onnx"), ["x=1x3x48x320"]),
            (resnet, []), (bert, []), (decoder, [])]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder")
    parser.add_argument("--resnet", required=True)
    parser.add_argument("--torch-python", default=sys.executable)
    parser.add_argument("--forebay", default=os.path.join(HERE, "../build/release/tools/forebay"))
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--pairs", type=int, default=11)
    parser.add_argument("--passes", type=int, default=20)
    parser.add_argument("--cpu", action="store_true", help="as in ort_compare.py")
    args = parser.parse_args()
    os.makedirs(args.folder, exist_ok=True)
    ratios = []
    for model, shapes in models(args):
        command = [sys.executable, os.path.join(HERE, "ort_compare.py"), model, "--forebay", args.forebay, "--threads", str(args.threads), "--pairs",
                   str(args.pairs), "--passes", str(args.passes)] + ["--cpu"] * args.cpu + (["--shapes", *shapes] if shapes else [])
        result = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.splitlines()[-1])
        ratios.append(result["ratio"])
        print(f"{os.path.basename(os.path.dirname(model))}/{os.path.basename(model)}: {result['forebay_ms']:.1f} ms, ONNX Runtime "
              f"{result['onnxruntime_ms']:.1f} ms, ratio {result['ratio']:.3f} ({result['ratio_min']:.2f} to {result['ratio_max']:.2f})", flush=True)
    mean = math.exp(sum(map(math.log, ratios)) / len(ratios))
    print(f"geometric mean {mean:.3f} (goal <= 1.25)")
    return 0 if mean <= 1.25 else 1


if __name__ == "__main__":
    sys.exit(main())
