"""What the peers of `msplora bench peers` share: options, batches and the timing of steps."""
import argparse
import json
import os
import resource
import time

import torch
from torch import nn


def make_parser(description):
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in {
        "rank": 8, "levels": 3, "batch": 32, "seq": 128, "min-seq": 0, "pad-to": 0, "steps": 3, "warmup": 1, "threads": 0,
        "seed": 1,
    }.items():
        parser.add_argument("--" + name, type=int, default=default)
    parser.add_argument("--alpha", type=float, default=16.0)
    parser.add_argument("--dropout", type=float, default=0.1)
    parser.add_argument("--adapter-dropout", type=float, default=0.0)
    parser.add_argument("--target-modules", default="query,value")
    return parser


def prepare(args):
    torch.manual_seed(args.seed)
    # PyTorch's own choice may be half of the processors.
    torch.set_num_threads(args.threads if args.threads > 0 else len(os.sched_getaffinity(0)))


def lengths_of(args):
    shortest = args.min_seq if args.min_seq > 0 else args.seq
    steps = max(1, args.batch - 1)
    return [args.seq - (args.seq - shortest) * i // steps for i in range(args.batch)]


def make_batch(args, vocab):
    """Drawn tokens, padded behind, and 1 where there are some."""
    lengths = lengths_of(args)
    width = max(args.pad_to, max(lengths))
    ids = torch.full((args.batch, width), 1)
    mask = torch.zeros(args.batch, width, dtype=torch.long)
    for row, length in enumerate(lengths):
        ids[row, :length] = torch.randint(0, vocab, (length,))
        mask[row, :length] = 1
    return ids, mask


def run_steps(args, trained, loss_of_batch, mask, facts):
    """Prints one JSON object a step and one at the end."""
    optimizer = torch.optim.AdamW(trained, lr=1e-4, weight_decay=0.01)
    for step in range(args.warmup + args.steps):
        began = time.perf_counter()
        loss = loss_of_batch()
        loss.backward()
        nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        seconds = time.perf_counter() - began
        print(json.dumps({"step": step + 1, "counts": step >= args.warmup, "seconds": seconds, "loss": loss.item()}),
              flush=True)
    print(json.dumps({
        "tokens": int(mask.sum()), "padded_tokens": mask.numel(),
        "trainable_parameters": sum(p.numel() for p in trained),
        "peak_memory_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024, "threads": torch.get_num_threads(),
        **facts,
    }), flush=True)
