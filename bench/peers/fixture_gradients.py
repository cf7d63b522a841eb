#!/usr/bin/env python3
"""How exact the gradients of a RoBERTa parity case are: the same model in plain PyTorch, in float32 and in float64.

Some fixture gradients (queries of late layers, whose attention is almost uniform) are small differences of large numbers. This
script tells how many of a case's gradients plain PyTorch reproduces within a tolerance, and how many a float64
evaluation does: no float32 implementation can be expected to do better than the latter.

    fixture_gradients.py FOLDER CASE [TOLERANCE]      # e.g. .../roberta-L12 msplora-r8x3

Needs PyTorch 1.13 or newer (Debian: python3-torch) and nothing else.
"""
import json
import math
import pathlib
import struct
import sys

import torch
from torch.nn import functional as F

DTYPES = {"F32": torch.float32, "I64": torch.int64}


def read_safetensors(path):
    raw = path.read_bytes()
    length = struct.unpack("<Q", raw[:8])[0]
    tensors = {}
    for name, entry in json.loads(raw[8 : 8 + length]).items():
        if name == "__metadata__":
            continue
        begin, end = (8 + length + offset for offset in entry["data_offsets"])
        flat = torch.frombuffer(bytearray(raw[begin:end]), dtype=DTYPES[entry["dtype"]])
        tensors[name] = flat.reshape(entry["shape"])
    return tensors


class Case:
    def __init__(self, folder, name, dtype):
        self.config = json.loads((folder / "config.json").read_text())
        self.case = json.loads((folder / f"{name}.json").read_text())
        self.tensors = read_safetensors(folder / f"{name}.safetensors")
        as_dtype = lambda t: t.to(dtype) if t.is_floating_point() else t
        self.weights = {k: as_dtype(v) for k, v in read_safetensors(folder / "model.safetensors").items()}
        self.trained = {
            k[len("init.") :]: v.to(dtype).clone().requires_grad_(True)
            for k, v in self.tensors.items() if k.startswith("init.")
        }
        self.dtype = dtype
        self.ranks = self.case.get("ranks") or [self.case["rank"]]

    def norm(self, x, name):
        return F.layer_norm(x, x.shape[-1:], self.weights[name + ".weight"], self.weights[name + ".bias"],
                            self.config["layer_norm_eps"])

    def owner(self, level, layer):
        layers = self.config["num_hidden_layers"]
        if level == len(self.ranks) - 1:
            return layer
        return 0 if level == 0 else -(-(layer * 3 // layers) * layers // 3)

    def factor(self, which, path, level):
        names = [f"{path}.lora_{which}.{level}.weight", f"{path}.lora_{which}.weight"]
        return next(self.trained[name] for name in names if name in self.trained)

    def linear(self, x, path, layer):
        y = F.linear(x, self.weights[path + ".weight"], self.weights[path + ".bias"])
        if path.rsplit(".", 1)[1] not in self.case["target_modules"]:
            return y
        for level, rank in enumerate(self.ranks):
            owner = self.owner(level, layer)
            if self.case.get("owner_only") and owner != layer:
                continue
            shared = path.replace(f"layer.{layer}.", f"layer.{owner}.")
            down, up = self.factor("A", shared, level), self.factor("B", shared, level)
            y = y + F.linear(F.linear(x, down), up) * (self.case["alpha"] / rank)
        return y

    def block(self, x, bias, layer):
        path = f"roberta.encoder.layer.{layer}."
        heads = self.config["num_attention_heads"]
        split = lambda t: t.view(*t.shape[:2], heads, -1).permute(0, 2, 1, 3)
        q, k, v = (split(self.linear(x, path + "attention.self." + name, layer)) for name in ("query", "key", "value"))
        scores = torch.matmul(q, k.transpose(-1, -2)) / math.sqrt(q.shape[-1]) + bias
        mixed = torch.matmul(F.softmax(scores, -1), v).permute(0, 2, 1, 3).reshape(x.shape)
        x = self.norm(self.linear(mixed, path + "attention.output.dense", layer) + x, path + "attention.output.LayerNorm")
        inner = F.gelu(self.linear(x, path + "intermediate.dense", layer))
        return self.norm(self.linear(inner, path + "output.dense", layer) + x, path + "output.LayerNorm")

    def gradients(self):
        ids, mask = self.tensors["input_ids"], self.tensors["attention_mask"]
        pad = self.config["pad_token_id"]
        real = (ids != pad).long()
        positions = torch.cumsum(real, 1) * real + pad
        table = lambda name: self.weights[f"roberta.embeddings.{name}_embeddings.weight"]
        x = table("word")[ids] + table("token_type")[torch.zeros_like(ids)] + table("position")[positions]
        x = self.norm(x, "roberta.embeddings.LayerNorm")
        bias = (1.0 - mask[:, None, None, :].to(self.dtype)) * torch.finfo(self.dtype).min
        for layer in range(self.config["num_hidden_layers"]):
            x = self.block(x, bias, layer)
        head = lambda x, name: F.linear(x, self.trained[f"classifier.{name}.weight"], self.trained[f"classifier.{name}.bias"])
        F.cross_entropy(head(torch.tanh(head(x[:, 0], "dense")), "out_proj"), self.tensors["labels"]).backward()
        return {name: tensor.grad.double() for name, tensor in self.trained.items()}


def main():
    folder, name = pathlib.Path(sys.argv[1]), sys.argv[2]
    tolerance = float(sys.argv[3]) if len(sys.argv) > 3 else 1e-5
    single, double = Case(folder, name, torch.float32).gradients(), Case(folder, name, torch.float64).gradients()
    stored = read_safetensors(folder / f"{name}.safetensors")
    error = lambda got, expected: ((got - expected).abs().max() / expected.abs().max()).item()
    misses = {"float32": 0, "float64": 0}
    for key in sorted(single):
        fixture = stored["grad." + key].double()
        of_single, of_double = error(single[key], fixture), error(double[key], fixture)
        misses["float32"] += of_single >= tolerance
        misses["float64"] += of_double >= tolerance
        if max(of_single, of_double) >= tolerance:
            print(f"{key}: float32 {of_single:.1e}, float64 {of_double:.1e}")
    print(f"of {len(single)} gradients, further than {tolerance:g} from the fixture: "
          f"{misses['float32']} in float32, {misses['float64']} in float64")


if __name__ == "__main__":
    main()
