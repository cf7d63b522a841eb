#!/usr/bin/env python3
"""Does instruction tuning here take the steps of transformers and PEFT, and how fast, in how much memory?

  check-sft-training.py --model FOLDER | --gguf FILE [--program PATH] [--threads N] [--keep FOLDER]
                        [--types float32,bfloat16] [--targets qv,all] [--steps 20]                           losses
                        ... --speed [--length 512] [--rows 4] [--rounds 5] [--checkpoint]                    time and memory

Losses: PEFT makes LoRA of rank 8 (on q_proj and v_proj, and on all linear layers) and saves it; both sides go on from that file, over the same
rows in the same order, AdamW with weight decay, warm-up, a linear schedule, clipping, two accumulated micro-batches of four rows. The other side
pads them and is a plain loop: transformers' model and schedule, torch's optimizer. Rounding grows from step to step, so the other side runs a second
time with its other attention (eager instead of sdpa): in float32 the losses here must be as near as ten times what lies between those two.
bfloat16 rounds away small parts of an update, here and there in other places: all losses are compared with those of the other side in float32,
and those here must be no farther from them than its own in bfloat16.
Speed: steps of rows of --length tokens each, so that no side pads; a program and a Python process in turn, --rounds times, each alone. Of a
process the steps behind the second count; given are the median of its steps, the median and the range of the ratios of neighbours, and the most
memory that a process held (for Python also without what it holds once its libraries are loaded).
--gguf: the weights that transformers reads from the file, in float32. Rows are those of make-facts.py. Needs torch, transformers and peft.
Exit 0: the losses agree, or times were taken; 1: they do not; 2: cannot run.
"""
import argparse, json, os, pathlib, resource, statistics, subprocess, sys, tempfile, time, warnings

from peer_checks import REPOSITORY, run

os.environ["HF_HUB_OFFLINE"] = "1"
MICRO, ACCUMULATION, LR, DECAY, CLIP, WARMUP = 4, 2, 1e-3, 0.01, 1.0, 3
TARGETS = {"qv": ["q_proj", "v_proj"], "all": ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]}


def libraries():
    global torch, transformers, peft
    import peft, torch, transformers
    warnings.filterwarnings("ignore")
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()


def load(folder, dtype, attention="sdpa"):
    return transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=getattr(torch, dtype), attn_implementation=attention)


def from_gguf(file, folder):
    model = transformers.AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name, dtype=torch.float32)
    model.config.__dict__.pop("quantization_config", None)
    model.is_quantized, model.hf_quantizer, model.quantization_method = False, None, None
    model.save_pretrained(folder)
    transformers.AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name).save_pretrained(folder)


def make_adapter(model, targets, folder):
    torch.manual_seed(3)
    config = peft.LoraConfig(task_type="CAUSAL_LM", r=8, lora_alpha=16, lora_dropout=0.0, target_modules=targets)
    peft.get_peft_model(load(model, "float32"), config).save_pretrained(folder)


def recipe_of(spec):
    return f"""model: {{path: {spec['model']}}}
task: {{type: sft}}
data: {{train: {spec['data']}, max_length: 4096, shuffle: false, bucket: false, chat: {{loss_on: {spec['loss_on']}}}}}
adapter: {{init_from: {spec['adapter']}}}
train: {{dtype: {spec['dtype']}, max_steps: {spec['steps']}, epochs: 1000, batch_size: {spec['micro']}, accumulation: {spec['accumulation']}, lr: {LR},
  weight_decay: {DECAY}, clip_norm: {CLIP}, schedule: linear, warmup_steps: {WARMUP}, log_every: 1, threads: {spec['threads']},
  checkpoint_activations: {str(spec['checkpoint']).lower()}}}
output: {{dir: {spec['run']}, tensorboard: false, overwrite: true}}
"""


def ours(program, spec):
    """{losses, seconds of the steps, peak bytes}"""
    recipe = pathlib.Path(spec["run"] + ".yaml")
    recipe.write_text(recipe_of(spec))
    peak, output = watched([str(program), "train", str(recipe)])
    lines = [json.loads(line) for line in open(pathlib.Path(spec["run"]) / "metrics.jsonl")]
    lines = [line for line in lines if line["kind"] == "train"]
    tokens = [b["tokens"] - a["tokens"] for a, b in zip([{"tokens": 0}] + lines, lines)]
    return {"losses": [line["loss"] for line in lines], "seconds": [n / line["tokens_per_second"] for n, line in zip(tokens, lines)], "peak": peak}


def rows_of(program, spec):
    """Ids and labels as the program prepares them (check-trl.py holds them to TRL)."""
    recipe = pathlib.Path(spec["run"] + "-rows.yaml")
    recipe.write_text(recipe_of(spec))
    done = run(program, "data", "preview", recipe, "--examples", "1000000", "--json")
    return [{"ids": one["ids"], "labels": one["labels"]} for one in json.loads(done.stdout)["examples"]]


def watched(command):
    """Runs a command alone: the most memory that it held in bytes, and what it wrote."""
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as errors:
        child = subprocess.Popen(command, stdout=out, stderr=errors)
        _, status, usage = os.wait4(child.pid, 0)
        out.seek(0), errors.seek(0)
        if status != 0:
            raise RuntimeError(" ".join(command) + "\n" + errors.read()[-2000:])
        return usage.ru_maxrss * 1024, out.read()


def theirs(spec, attention="sdpa"):
    spec = {**spec, "attention": attention}
    file = pathlib.Path(spec["run"] + "-peer.json")
    file.write_text(json.dumps(spec))
    peak, output = watched([sys.executable, __file__, "--peer", str(file)])
    return {**json.loads(output.splitlines()[-1]), "peak": peak}


def peer(spec):
    """A process of its own: the other side of the comparison."""
    torch.set_num_threads(spec["threads"])
    libraries_hold = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    model = peft.PeftModel.from_pretrained(load(spec["model"], spec["dtype"], spec["attention"]), spec["adapter"], is_trainable=True)
    model.train()
    if spec["checkpoint"]:
        model.enable_input_require_grads()
        model.gradient_checkpointing_enable({"use_reentrant": False})
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    assert all(parameter.dtype == torch.float32 for parameter in trained)
    optimizer = torch.optim.AdamW(trained, lr=LR, weight_decay=DECAY)
    schedule = transformers.get_linear_schedule_with_warmup(optimizer, WARMUP, spec["steps"])
    rows = json.loads(pathlib.Path(spec["rows"]).read_text())
    batches = micro_batches(rows, spec["micro"])
    losses, seconds, at = [], [], 0
    for _ in range(spec["steps"]):
        begin = time.perf_counter()
        step = []
        while len(step) < spec["accumulation"]:
            step.append(batches[at % len(batches)])
            at += 1
            if at % len(batches) == 0:
                break  # a step ends with its epoch
        targets = sum(int((labels[:, 1:] != -100).sum()) for _, _, labels in step)
        total = 0.0
        for ids, mask, labels in step:
            logits = model(input_ids=ids, attention_mask=mask, use_cache=False).logits[:, :-1].float()
            loss = torch.nn.functional.cross_entropy(logits.reshape(-1, logits.shape[-1]), labels[:, 1:].reshape(-1), reduction="sum") / targets
            loss.backward()
            total += loss.item()
        torch.nn.utils.clip_grad_norm_(trained, CLIP)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        losses.append(total)
        seconds.append(time.perf_counter() - begin)
    print(json.dumps({"losses": losses, "seconds": seconds, "libraries": libraries_hold}))


def micro_batches(rows, size):
    """Padded to their longest row."""
    batches = []
    for begin in range(0, len(rows), size):
        part = rows[begin:begin + size]
        longest = max(len(row["ids"]) for row in part)
        pad = lambda key, value: torch.tensor([row[key] + [value] * (longest - len(row[key])) for row in part])
        mask = torch.tensor([[1] * len(row["ids"]) + [0] * (longest - len(row["ids"])) for row in part])
        batches.append((pad("ids", 0), mask, pad("labels", -100)))
    return batches


def make_data(work, rows):
    run(sys.executable, REPOSITORY / "scripts/make-facts.py", work / "facts", "--train", rows)
    return work / "facts" / "train.jsonl"


def compare_losses(arguments, work):
    data, failed, exact = make_data(work, 120), [], {}
    for name in arguments.targets:
        adapter = work / f"adapter-{name}"
        make_adapter(arguments.model, TARGETS[name], adapter)
        for dtype in arguments.types:
            spec = {"model": str(arguments.model), "adapter": str(adapter), "data": str(data), "dtype": dtype, "steps": arguments.steps, "micro": MICRO,
                    "accumulation": ACCUMULATION, "threads": arguments.threads, "run": str(work / f"run-{name}-{dtype}"), "loss_on": "assistant",
                    "checkpoint": False, "rows": str(work / "rows.json")}
            pathlib.Path(spec["rows"]).write_text(json.dumps(rows_of(arguments.program, spec)))
            mine, other = ours(arguments.program, spec)["losses"], theirs(spec)["losses"]
            if dtype == "float32":
                exact[name] = other
            elif name not in exact:
                exact[name] = theirs({**spec, "dtype": "float32"})["losses"]
            relative = lambda left: [abs(a - b) / b for a, b in zip(left, exact[name])]
            differences, rounding = relative(mine), relative(theirs(spec, "eager")["losses"] if dtype == "float32" else other)
            print(f"LoRA on {name}, {dtype}: largest difference {max(differences):.1e} of the loss, of the other side {max(rounding):.1e}")
            print(f"           here        there       here and there in float32  {'there, other attention' if dtype == 'float32' else 'there'} and in float32")
            for step, row in enumerate(zip(mine, other, differences, rounding), 1):
                print("  step {:2d}  {:.7f}  {:.7f}   {:.1e}                   {:.1e}".format(step, *row), flush=True)
            allowed = 10 * max(rounding) + 1e-6 if dtype == "float32" else max(rounding)
            if len(mine) != arguments.steps or len(other) != arguments.steps:
                failed.append(f"{name} {dtype}: {len(mine)} and {len(other)} steps")
            elif max(differences) > allowed:
                failed.append(f"{name} {dtype}: {max(differences):.1e}")
            elif not statistics.mean(mine[-5:]) < statistics.mean(mine[:5]):
                failed.append(f"{name} {dtype}: nothing was learned, from {mine[0]} to {mine[-1]}")
    for failure in failed:
        print("FAILED", failure)
    return 1 if failed else 0


def long_rows(program, spec, length, count, work):
    """Texts of exactly so many tokens: facts in a row, cut by the tokenizer's own hand."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(spec["model"])
    facts = [json.loads(line) for line in open(spec["data"])]
    words, rows, at = [message["content"] for row in facts for message in row["messages"]], [], 0
    while len(rows) < count:
        text = ""
        while len(tokenizer(text)["input_ids"]) < length - 1:
            text += words[at % len(words)] + " "
            at += 1
        ids = tokenizer(text)["input_ids"][:length - 1]
        text = tokenizer.decode(ids, clean_up_tokenization_spaces=False)
        if len(tokenizer(text)["input_ids"]) == length - 1:  # the end token comes behind it
            rows.append({"text": text})
    file = work / "long.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def processor():
    for line in open("/proc/cpuinfo"):
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return "unknown processor"


def compare_speed(arguments, work):
    data = make_data(work, 400)
    print(f"{processor()}, {arguments.threads} threads, {arguments.rows} rows of {arguments.length} tokens a step, torch {torch.__version__}, "
          f"transformers {transformers.__version__}, peft {peft.__version__}")
    for name in arguments.targets:
        adapter = work / f"adapter-{name}"
        make_adapter(arguments.model, TARGETS[name], adapter)
        for dtype in arguments.types:
            model = arguments.model
            spec = {"model": str(model), "adapter": str(adapter), "data": str(data), "dtype": dtype, "steps": 2 + arguments.timed, "micro": arguments.rows,
                    "accumulation": 1, "threads": arguments.threads, "run": str(work / f"speed-{name}-{dtype}"), "loss_on": "all",
                    "checkpoint": arguments.checkpoint, "rows": str(work / "rows.json")}
            spec["data"] = str(long_rows(arguments.program, spec, arguments.length, 2 * arguments.rows, work))
            rows = rows_of(arguments.program, spec)
            assert all(len(row["ids"]) == arguments.length for row in rows), [len(row["ids"]) for row in rows]
            pathlib.Path(spec["rows"]).write_text(json.dumps(rows))
            rounds = []
            for _ in range(arguments.rounds):
                a, b = ours(arguments.program, spec), theirs(spec)
                rounds.append((statistics.median(a["seconds"][2:]), statistics.median(b["seconds"][2:]), a["peak"], b["peak"], b["libraries"]))
            mine, other, my_peak, their_peak, libraries_hold = (list(column) for column in zip(*rounds))
            ratios = [b / a for a, b in zip(mine, other)]
            tokens = arguments.rows * arguments.length
            print(f"LoRA on {name}, {dtype}{', activations computed again' if arguments.checkpoint else ''}: here {statistics.median(mine):.3f} s a step "
                  f"({tokens / statistics.median(mine):.0f} tokens/s), there {statistics.median(other):.3f} s ({tokens / statistics.median(other):.0f}); "
                  f"{statistics.median(ratios):.2f} times as fast ({min(ratios):.2f} to {max(ratios):.2f} in {len(ratios)} rounds)\n"
                  f"  memory at most {max(my_peak) / 2**20:.0f} MiB here, {max(their_peak) / 2**20:.0f} MiB there: {100 * max(my_peak) / max(their_peak):.0f} % "
                  f"({100 * max(my_peak) / (max(their_peak) - min(libraries_hold)):.0f} % of theirs without the {min(libraries_hold) / 2**20:.0f} MiB of the libraries)",
                  flush=True)
    return 0


def some_of(known):
    """Names with commas between them, each of those that are known."""
    def parse(text):
        names = text.split(",")
        for name in names:
            if name not in known:
                raise argparse.ArgumentTypeError(f"no {name!r}; known are {', '.join(known)}")
        return names
    return parse


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=pathlib.Path, help="folder of a causal language model with a chat template")
    parser.add_argument("--gguf", type=pathlib.Path)
    parser.add_argument("--program", type=pathlib.Path, default=REPOSITORY / "build/release/bin/msplora")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--types", type=some_of(["float32", "bfloat16"]), default="float32,bfloat16")
    parser.add_argument("--keep", type=pathlib.Path, help="leave what was written in this folder")
    parser.add_argument("--speed", action="store_true")
    parser.add_argument("--targets", type=some_of(TARGETS), default="qv,all")
    parser.add_argument("--length", type=int, default=512)
    parser.add_argument("--rows", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--timed", type=int, default=3, help="steps of a round that count")
    parser.add_argument("--checkpoint", action="store_true", help="both sides compute activations again")
    parser.add_argument("--peer", type=pathlib.Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    try:
        libraries()
    except ImportError as problem:
        print("cannot run:", problem)
        return 2
    if arguments.peer:
        peer(json.loads(arguments.peer.read_text()))
        return 0
    if not (arguments.model or arguments.gguf):
        parser.error("--model or --gguf")
    with tempfile.TemporaryDirectory(prefix="msplora-sft-") as scratch:
        work = arguments.keep or pathlib.Path(scratch)
        work.mkdir(parents=True, exist_ok=True)
        if arguments.gguf:
            arguments.model = work / "model"
            from_gguf(arguments.gguf, arguments.model)
        return compare_speed(arguments, work) if arguments.speed else compare_losses(arguments, work)


if __name__ == "__main__":
    sys.exit(main())
