#!/usr/bin/env python3
"""BERT base with random weights as torch.onnx writes it (needs PyTorch and transformers): export_bert.py OUT.onnx [LENGTH]"""
import sys

import torch
import transformers as hf


def main():
    length = int(sys.argv[2]) if len(sys.argv) > 2 else 128
    torch.manual_seed(1)
    model = hf.BertModel(hf.BertConfig(attn_implementation="eager")).eval()
    ids = torch.ones(1, length, dtype=torch.int64)
    names = ["input_ids", "attention_mask", "token_type_ids"]
    with torch.no_grad():
        torch.onnx.export(model, (ids, ids, ids * 0), sys.argv[1], opset_version=17, dynamo=False, input_names=names,
                          output_names=["last_hidden_state", "pooler_output"])


if __name__ == "__main__":
    main()
