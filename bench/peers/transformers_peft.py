#!/usr/bin/env python3
"""One training step of LoRA as transformers and PEFT do it, for comparison with `msplora bench step`.

The model is that of --config, with drawn weights and the head of --task. Attention is transformers' default (scaled_dot_product_attention). bfloat16 means frozen weights and
activations of that type, and factors in float32, as PEFT keeps them; with --autocast all weights are float32 and
products bfloat16.

Prints one JSON object a step and one at the end. Needs torch, transformers and peft.
"""
import json

import peft
import torch
import transformers
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from step import make_batch, make_parser, prepare, run_steps

TASKS = {"causal_lm": (AutoModelForCausalLM, "CAUSAL_LM"),
         "sequence_classification": (AutoModelForSequenceClassification, "SEQ_CLS")}
DROPOUTS = ("hidden_dropout_prob", "attention_probs_dropout_prob", "attention_dropout", "embedding_dropout",
            "mlp_dropout", "resid_pdrop", "embd_pdrop", "attn_pdrop", "dropout", "seq_classif_dropout")


def parse():
    parser = make_parser(__doc__)
    parser.add_argument("--config", required=True, help="config.json, its text")
    parser.add_argument("--task", choices=TASKS, required=True)
    parser.add_argument("--method", choices=["lora"], default="lora")
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument("--autocast", action="store_true", help="bfloat16 by autocast")
    return parser.parse_args()


def make_model(args):
    raw = json.loads(args.config)
    config = CONFIG_MAPPING[raw["model_type"]].from_dict(raw)
    for name in DROPOUTS:
        if hasattr(config, name):
            setattr(config, name, args.dropout)
    factory, task_type = TASKS[args.task]
    # Without a type, that of config.json is taken, which may be another than the one that is asked for.
    weights = torch.bfloat16 if args.dtype == "bfloat16" and not args.autocast else torch.float32
    model = factory.from_config(config, dtype=weights)
    lora = LoraConfig(r=args.rank, lora_alpha=args.alpha, lora_dropout=args.adapter_dropout,
                      target_modules=args.target_modules.split(","), task_type=task_type)
    return get_peft_model(model, lora).train(), config.vocab_size


def main():
    args = parse()
    prepare(args)
    model, vocab = make_model(args)
    trained = [p for p in model.parameters() if p.requires_grad]
    ids, mask = make_batch(args, vocab)
    labels = ids.masked_fill(mask == 0, -100) if args.task == "causal_lm" else torch.arange(args.batch) % 2

    def loss_of_batch():
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=args.autocast and args.dtype == "bfloat16"):
            return model(input_ids=ids, attention_mask=mask, labels=labels).loss

    run_steps(args, trained, loss_of_batch, mask,
              {"peer": f"transformers {transformers.__version__}, PEFT {peft.__version__}, PyTorch {torch.__version__}"})


if __name__ == "__main__":
    main()
