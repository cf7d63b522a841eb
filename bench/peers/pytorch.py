#!/usr/bin/env python3
"""One training step of LoRA or MSPLoRA as plain, eager PyTorch does it, for comparison with `msplora bench step`.

The model has the shape of a RoBERTa encoder with a classification head, drawn weights and padded batches. The adapted
layer is written as PEFT and the released MSPLoRA code write theirs: one module pair and one dropout for each level, whose
outputs are added to that of the frozen layer. Nothing is fused or tuned; that is the point.

Prints one JSON object a step and one at the end. Needs PyTorch 1.13 or newer (Debian: python3-torch).
"""
import math

import torch
from torch import nn
from torch.nn import functional as F

from step import make_batch, make_parser, prepare, run_steps


class LevelLinear(nn.Module):
    """y = frozen(x) + sum over levels of scaling B(A(dropout(x)))."""

    def __init__(self, frozen, levels, dropout):
        super().__init__()
        self.frozen = frozen
        self.downs = nn.ModuleList([down for down, _, _ in levels])
        self.ups = nn.ModuleList([up for _, up, _ in levels])
        self.scalings = [scaling for _, _, scaling in levels]
        self.dropouts = nn.ModuleList([nn.Dropout(dropout) if dropout > 0 else nn.Identity() for _ in levels])

    def forward(self, x):
        y = self.frozen(x)
        for down, up, dropout, scaling in zip(self.downs, self.ups, self.dropouts, self.scalings):
            y = y + up(down(dropout(x.to(down.weight.dtype)))) * scaling
        return y


def make_pair(width_in, width_out, rank, alpha):
    down, up = nn.Linear(width_in, rank, bias=False), nn.Linear(rank, width_out, bias=False)
    nn.init.kaiming_uniform_(down.weight, a=math.sqrt(5))
    nn.init.zeros_(up.weight)
    return down, up, alpha / rank


class Sharing:
    """Level k of a module in layer l -> the pair that it uses. Levels: global, groups of layers, the layer itself."""

    def __init__(self, args):
        self.args = args
        self.pairs = {}

    def owner(self, level, count, layer):
        if level == count - 1 and count > 1:
            return layer
        if level == 0:
            return 0
        groups = 3
        group = layer * groups // self.args.layers
        return -(-group * self.args.layers // groups)  # the first layer of the group

    def levels(self, name, layer, width_in, width_out):
        if self.args.method == "lora":
            return [make_pair(width_in, width_out, self.args.rank, self.args.alpha)]
        result, rank = [], self.args.rank
        ranks = []
        while rank > 0 and len(ranks) < self.args.levels:
            ranks.append(rank)
            rank //= 2
        for level, rank in enumerate(ranks):
            owner = self.owner(level, len(ranks), layer)
            if self.args.sharing == "owner_only" and owner != layer:
                continue
            key = (name, level, owner)
            if key not in self.pairs:
                self.pairs[key] = make_pair(width_in, width_out, rank, self.args.alpha)
            result.append(self.pairs[key])
        return result


class Block(nn.Module):
    def __init__(self, args, sharing, layer):
        super().__init__()
        hidden, wide = args.hidden, args.ffn
        self.heads, self.p = args.heads, args.dropout

        def linear(name, width_in, width_out):
            frozen = nn.Linear(width_in, width_out)
            if name not in args.target_modules.split(","):
                return frozen
            return LevelLinear(frozen, sharing.levels(name, layer, width_in, width_out), args.adapter_dropout)

        self.query = linear("query", hidden, hidden)
        self.key = linear("key", hidden, hidden)
        self.value = linear("value", hidden, hidden)
        self.attention_output = linear("attention.output.dense", hidden, hidden)
        self.attention_norm = nn.LayerNorm(hidden, eps=1e-5)
        self.intermediate = linear("intermediate.dense", hidden, wide)
        self.output = linear("output.dense", wide, hidden)
        self.output_norm = nn.LayerNorm(hidden, eps=1e-5)

    def split(self, x):
        batch, length, width = x.shape
        return x.view(batch, length, self.heads, width // self.heads).permute(0, 2, 1, 3)

    def forward(self, x, mask):
        q, k, v = self.split(self.query(x)), self.split(self.key(x)), self.split(self.value(x))
        scores = torch.matmul(q, k.transpose(-1, -2)) / math.sqrt(q.shape[-1]) + mask
        weights = F.dropout(F.softmax(scores, dim=-1), self.p, self.training)
        context = torch.matmul(weights, v).permute(0, 2, 1, 3).reshape(x.shape)
        x = self.attention_norm(F.dropout(self.attention_output(context), self.p, self.training) + x)
        inner = F.gelu(self.intermediate(x))
        return self.output_norm(F.dropout(self.output(inner), self.p, self.training) + x)


class Classifier(nn.Module):
    def __init__(self, args):
        super().__init__()
        self.p = args.dropout
        self.words = nn.Embedding(args.vocab, args.hidden)
        self.positions = nn.Embedding(args.positions, args.hidden)
        self.norm = nn.LayerNorm(args.hidden, eps=1e-5)
        sharing = Sharing(args)
        self.blocks = nn.ModuleList([Block(args, sharing, layer) for layer in range(args.layers)])
        for name, parameter in self.named_parameters():
            parameter.requires_grad_(".downs." in name or ".ups." in name)
        self.dense = nn.Linear(args.hidden, args.hidden)
        self.out_proj = nn.Linear(args.hidden, 2)

    def forward(self, ids, mask):
        x = self.words(ids) + self.positions(torch.arange(ids.shape[1]) + 2)
        x = F.dropout(self.norm(x), self.p, self.training)
        additive = (1.0 - mask[:, None, None, :].to(x.dtype)) * torch.finfo(x.dtype).min
        for block in self.blocks:
            x = block(x, additive)
        x = torch.tanh(self.dense(F.dropout(x[:, 0], self.p, self.training)))
        return self.out_proj(F.dropout(x, self.p, self.training))


def parse():
    parser = make_parser(__doc__)
    for name, default in {"hidden": 768, "layers": 12, "heads": 12, "ffn": 3072, "vocab": 50265, "positions": 514}.items():
        parser.add_argument("--" + name, type=int, default=default)
    parser.add_argument("--method", choices=["lora", "msplora"], default="msplora")
    parser.add_argument("--sharing", choices=["published", "owner_only"], default="published")
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32",
                        help="bfloat16: autocast around the forward pass, weights in float32")
    return parser.parse_args()


def main():
    args = parse()
    prepare(args)
    model = Classifier(args).train()
    trained = [p for p in model.parameters() if p.requires_grad]
    ids, mask = make_batch(args, args.vocab)
    labels = torch.arange(args.batch) % 2

    def loss_of_batch():
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=args.dtype == "bfloat16"):
            logits = model(ids, mask)
        return F.cross_entropy(logits.float(), labels)

    run_steps(args, trained, loss_of_batch, mask, {"peer": "PyTorch " + torch.__version__})


if __name__ == "__main__":
    main()
