#!/usr/bin/env python3
"""Are adapters and models that pass between msplora and Hugging Face's libraries the same function on both sides?

  check-peers.py [--program PATH] [--models FOLDER] [--keep FOLDER] [FAMILY ...]

For every tiny model in FOLDER (the golden cases of parity), with a classifier's head and, for decoders, as a language model:
  ours -> PEFT          the program trains LoRA, rsLoRA, DoRA, MSPLoRA and more; PEFT loads what it wrote
  ours -> transformers  the program merges them; transformers loads the model
  PEFT -> ours          PEFT draws adapters with patterns, DoRA, saved modules; the program reads what PEFT saved
  steps                 from such adapters both train on the same texts; the program's values beside PEFT's
Compared are logits, of language models the log-likelihoods of texts and all their beginnings: 1e-5 of the largest.
Of steps it is what they changed: 2e-4 of the largest change.
Needs torch, transformers and peft; uses no network. Exit 0: all agree; 1: a difference or a failure; 2: cannot run.
"""
import argparse, json, os, pathlib, shutil, sys, tempfile, warnings

from peer_checks import REPOSITORY, Tally, run

os.environ["HF_HUB_OFFLINE"] = "1"
try:
    import peft, torch, transformers
except ImportError as problem:
    print("cannot run:", problem)
    sys.exit(2)
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

transformers.logging.set_verbosity_error()
transformers.logging.disable_progress_bar()
warnings.filterwarnings("ignore")
torch.set_num_threads(1)
TOLERANCE, STEP_TOLERANCE = 1e-5, 2e-4
STEPS = ("lora", "output", "embeddings")  # adapters of PEFT that are trained on
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
GOOD, BAD = ["fine", "lovely", "bright", "superb"], ["awful", "dull", "broken", "poor"]
WORDS = SPECIAL + ["the", "film", "book", "song", "was", "seemed", "felt"] + GOOD + BAD
ENCODERS = {"bert", "roberta", "xlm-roberta", "electra", "distilbert", "albert", "deberta-v2", "modernbert"}

# What the program trains: name, settings of the recipe, whether the merged model is looked at too.
OURS = [
    ("lora", ["adapter.target_modules=[all-linear]", "adapter.rank=3"], True),
    ("rslora", ["adapter.use_rslora=true"], True),
    ("dora", ["adapter.use_dora=true", "adapter.target_modules=[all-linear]", "adapter.rank=2"], True),
    ("msplora", ["adapter.method=msplora"], True),
    ("patterns", ["adapter.rank_pattern={'0.*': 3}", "adapter.alpha_pattern={'LAYER.*': 5}"], False),
    ("pissa", ["adapter.init=pissa"], False),
    ("olora", ["adapter.init=olora"], False),
    ("biases", ["adapter.bias=all"], True),
    ("lorta", ["adapter.lorta.grouped_query=true"], True),
    ("words", ["adapter.modules_to_save=[WORDS]"], True),
    ("embeddings", ["adapter.target_modules=[QUERY,WORDS]", "adapter.use_rslora=true"], True),
    ("embeddings msplora", ["adapter.method=msplora", "adapter.target_modules=[QUERY,WORDS]"], True),
]
# What it says to a model that cannot have one of them; any other word is a failure.
REFUSED = {"biases": "has no biases", "lorta": "holds query, key and value in one matrix"}
# The same for language models: adapters on the output layer, tied or not.
OURS_OF_DECODERS = [
    ("output", ["adapter.target_modules=[QUERY,lm_head]"], True),
    ("output dora", ["adapter.target_modules=[lm_head]", "adapter.use_dora=true"], True),
    ("output embeddings", ["adapter.target_modules=[WORDS,lm_head]"], True),
    ("output msplora", ["adapter.method=msplora", "adapter.target_modules=[QUERY,lm_head]"], True),
]


def make_base(folder, source):
    """The golden model with a vocabulary of whole words, so that the program can read texts, and without dropout."""
    folder.mkdir(parents=True)
    shutil.copy(source / "model.safetensors", folder)
    config = json.loads((source / "config.json").read_text())
    if config["model_type"] == "gpt2":  # by default it has some
        config.update(embd_pdrop=0.0, attn_pdrop=0.0, resid_pdrop=0.0)
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "vocab.txt").write_text("".join(word + "\n" for word in WORDS))
    (folder / "tokenizer_config.json").write_text('{"tokenizer_class": "BertTokenizer", "do_lower_case": true}')


def make_data(folder):
    rows = [(f"the {thing} {verb} {word}", label) for thing in ("film", "book", "song") for verb in ("was", "seemed", "felt")
            for label, words in (("good", GOOD), ("bad", BAD)) for word in words]
    (folder / "labelled.tsv").write_text("text\tlabel\n" + "".join(f"{t}\t{l}\n" for t, l in rows))
    (folder / "texts.tsv").write_text("text\n" + "".join(f"{t}\n" for t, _ in rows))
    whole = [rows[at][0] for at in (0, 21, 43, 70)]
    beginnings = [" ".join(text.split()[:n]) for text in whole for n in range(1, 5)]
    (folder / "lines.txt").write_text("".join(line + "\n" for line in beginnings))


def compare(ours, theirs):
    largest = max(theirs.abs().max().item(), 1e-30)
    difference = (ours.double() - theirs.double()).abs().max().item() if ours.shape == theirs.shape else float("inf")
    return difference / largest


class Case:
    """One model with one head."""

    def __init__(self, program, work, base, is_decoder):
        self.program, self.work, self.base, self.is_decoder = program, work, base, is_decoder
        self.ids = [[int(token) for token in line.split()]
                    for line in run(program, "tokenize", "--model", base, "--ids", work / "lines.txt").stdout.splitlines()]

    def train(self, folder, settings, adapter="{method: lora, rank: 4, alpha: 8}"):
        recipe = folder.parent / "recipe.yaml"
        task = "causal_lm" if self.is_decoder else "classification"
        data = self.work / ("texts.tsv" if self.is_decoder else "labelled.tsv")
        recipe.write_text(f"""model: {{path: {self.base}}}
task: {{type: {task}}}
data: {{train: {data}, max_length: 16}}
adapter: {adapter}
train: {{max_steps: 6, batch_size: 8, lr: 3.0e-2, seed: 3, threads: 1}}
output: {{dir: {folder}, tensorboard: false}}
""")
        options = [part for setting in settings for part in ("--set", setting)]
        return run(self.program, "train", recipe, *options, may_fail=True)

    def predict(self, model, adapter=None, task=None):
        out = self.work / "predictions.jsonl"
        more = ["--adapter", adapter] if adapter else []
        run(self.program, "predict", "--model", model, *more, "--logits", "--threads", 1, "--data", self.work / "lines.txt", "--output", out,
            "--output-format", "jsonl")
        rows = [json.loads(line) for line in open(out)]
        return torch.tensor([[row["log_likelihood"]] if self.is_decoder else list(row["logits"].values()) for row in rows])

    def load(self, path):
        kind = AutoModelForCausalLM if self.is_decoder else AutoModelForSequenceClassification
        more = {} if self.is_decoder else {"num_labels": 2, "ignore_mismatched_sizes": True}
        return kind.from_pretrained(path, attn_implementation="eager", dtype=torch.float32, **more)

    def theirs(self, model):
        model.eval()
        rows = []
        with torch.no_grad():
            for ids in self.ids:
                logits = model(input_ids=torch.tensor([ids])).logits[0].double()
                if not self.is_decoder:
                    rows.append(logits.reshape(-1))
                    continue
                log_probabilities = torch.log_softmax(logits[:-1], -1)
                rows.append(log_probabilities[torch.arange(len(ids) - 1), torch.tensor(ids[1:])].sum().reshape(1))
        return torch.stack(rows)


def second_layer(model):
    """Its number in module paths: ALBERT's layers share the modules of one."""
    return 0 if model.config.model_type == "albert" else 1


def words_of(model):
    """The name of the table of words."""
    table = model.get_input_embeddings()
    return next(name for name, module in model.named_modules() if module is table)


def query_of(model):
    """A name of the layer of queries, alone or with others."""
    modules = {path.split(".")[-1] for path, _ in model.named_modules()}
    return next(name for name in ("q_proj", "qkv_proj", "c_attn", "query", "q_lin", "query_proj", "Wqkv") if name in modules)


def check_ours(case, name, work, tally):
    plain = case.load(case.base)
    words, unchanged, query = words_of(plain), case.theirs(plain), query_of(plain)
    for method, settings, is_merged in OURS + (OURS_OF_DECODERS if case.is_decoder else []):
        what = f"{name} {method}"
        folder = work / method.replace(" ", "-")
        meanings = {"WORDS": words.split(".")[-1], "QUERY": query, "LAYER": str(second_layer(plain))}
        for placeholder, meant in meanings.items():
            settings = [setting.replace(placeholder, meant) for setting in settings]
        done = case.train(folder, settings, **({"adapter": "{method: lorta, rank: 4}"} if method == "lorta" else {}))  # it has no such alpha
        if done.returncode != 0:
            if method in REFUSED and REFUSED[method] in done.stderr:
                tally.skipped.append(what)
            else:
                tally.fail(f"{what} -> train", done.stderr.strip())
            continue
        try:
            ours = case.predict(case.base, folder / "adapter")
            model = peft.PeftModel.from_pretrained(case.load(case.base), folder / "adapter")
            theirs = case.theirs(model)
            if compare(theirs, unchanged) < 1e-3:
                raise RuntimeError("the adapter changes nothing")
            tally.add(f"{what} -> PEFT", compare(ours, theirs), TOLERANCE)
            if is_merged:
                merged = work / f"{folder.name}-merged"
                run(case.program, "merge", "--model", case.base, "--adapter", folder / "adapter-native", "--output", merged)
                tally.add(f"{what} -> merged, transformers", compare(ours, case.theirs(case.load(merged))), TOLERANCE)
        except Exception as problem:
            tally.fail(what, problem)


def peft_configs(model, is_decoder):
    """Adapters as PEFT makes them: name, configuration."""
    task = "CAUSAL_LM" if is_decoder else "SEQ_CLS"
    linear = (torch.nn.Linear, transformers.pytorch_utils.Conv1D)
    head = ("lm_head", "score", "classifier", "pooler", "pre_classifier", "head")
    names = sorted({path.split(".")[-1] for path, module in model.named_modules()
                    if isinstance(module, linear) and not any(part in head for part in path.split("."))})
    norms = sorted({path.split(".")[-1] for path, module in model.named_modules() if "norm" in type(module).__name__.lower()})
    common = {"task_type": task, "target_modules": names, "init_lora_weights": False, "r": 4, "lora_alpha": 6}
    yield "lora", peft.LoraConfig(**common)
    yield "turned flag", peft.LoraConfig(**common, fan_in_fan_out=model.config.model_type != "gpt2")
    yield "rslora dora", peft.LoraConfig(**common, use_rslora=True, use_dora=True)
    yield "patterns", peft.LoraConfig(**common, rank_pattern={names[0]: 2, rf"{second_layer(model)}\..*{names[-1]}": 3}, alpha_pattern={names[-1]: 11})
    yield "saved norm", peft.LoraConfig(**common, modules_to_save=norms[-1:])
    if second_layer(model) == 1:
        yield "layers", peft.LoraConfig(**common, layers_to_transform=[1, 2])
    common["target_modules"] = [query_of(model), words_of(model).split(".")[-1]]
    yield "embeddings", peft.LoraConfig(**common, use_rslora=True)
    if is_decoder:
        common["target_modules"].append("lm_head")
        yield "output embeddings", peft.LoraConfig(**common)
        common["target_modules"] = [query_of(model), "lm_head"]
        yield "output", peft.LoraConfig(**common)
        yield "output dora", peft.LoraConfig(**common, use_rslora=True, use_dora=True)


def drawn(case, config, seed):
    """A model of PEFT with an adapter whose values are no start."""
    torch.manual_seed(seed)
    model = peft.get_peft_model(case.load(case.base), config)
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter) * (0.05 if "magnitude" not in key else 0.2))
    return model


def check_theirs(case, name, work, tally):
    for method, config in peft_configs(case.load(case.base), case.is_decoder):
        what = f"PEFT {method} -> {name}"
        folder = work / ("peft-" + method.replace(" ", "-"))
        try:
            model = drawn(case, config, 5)
            theirs = case.theirs(model)
            model.save_pretrained(folder)
            tally.add(what, compare(case.predict(case.base, folder), theirs), TOLERANCE)
        except Exception as problem:
            tally.fail(what, problem)


def step_values(folder):
    return {key: value.double() for key, value in load_file(folder / "adapter_model.safetensors").items() if "base_layer" not in key}


def check_steps(case, name, work, tally):
    """Steps of plain gradient descent on all texts at once, ours beside PEFT's."""
    steps, rate = 3, 0.3
    texts = [line for line in (case.work / "texts.tsv").read_text().splitlines()[1:]]
    (work / "all.txt").write_text("".join(text + "\n" for text in texts))
    ids = [[int(token) for token in line.split()]
           for line in run(case.program, "tokenize", "--model", case.base, "--ids", work / "all.txt").stdout.splitlines()]
    for method, config in peft_configs(case.load(case.base), True):
        if not method.startswith(STEPS):
            continue
        what = f"{name} {method}, {steps} steps"
        folder = work / ("steps-" + method.replace(" ", "-"))
        try:
            model = drawn(case, config, 6)
            model.save_pretrained(folder / "start")
            done = case.train(folder / "run", [f"train.max_steps={steps}", f"train.lr={rate}", "train.batch_size=1000", "train.optimizer=sgd",
                                               "train.schedule=constant", "train.clip_norm=0", "train.weight_decay=0"],
                              adapter=f"{{init_from: {folder / 'start'}}}")
            if done.returncode != 0:
                raise RuntimeError(done.stderr.strip())
            trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
            for _ in range(steps):
                total = sum(len(row) - 1 for row in ids)
                for row in ids:
                    logits = model(input_ids=torch.tensor([row])).logits[0, :-1]
                    (torch.nn.functional.cross_entropy(logits, torch.tensor(row[1:]), reduction="sum") / total).backward()
                with torch.no_grad():
                    for parameter in trained:
                        parameter -= rate * parameter.grad
                        parameter.grad = None
            model.save_pretrained(folder / "theirs")
            start, ours, theirs = (step_values(folder / part) for part in ("start", "run/adapter", "theirs"))
            worst = 0.0
            for key, value in theirs.items():
                largest = (value - start[key]).abs().max().item()
                worst = max(worst, (ours[key] - value).abs().max().item() / max(largest, 1e-12))
            tally.add(what, worst, STEP_TOLERANCE, of="of the largest change")
        except Exception as problem:
            tally.fail(what, problem)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--program", type=pathlib.Path, default=REPOSITORY / "build/release/bin/msplora")
    parser.add_argument("--models", type=pathlib.Path, default=REPOSITORY / "tests/golden/parity")
    parser.add_argument("--keep", type=pathlib.Path, help="leave what was written in this folder")
    parser.add_argument("families", nargs="*", help="begin of a model's name; all without one")
    arguments = parser.parse_args()
    work = arguments.keep or pathlib.Path(tempfile.mkdtemp(prefix="msplora-peers-"))
    work.mkdir(parents=True, exist_ok=True)
    tally = Tally()
    make_data(work)
    for source in sorted(path.parent for path in arguments.models.glob("*/config.json")):
        if arguments.families and not any(source.name.startswith(family) for family in arguments.families):
            continue
        kind = json.loads((source / "config.json").read_text())["model_type"]
        base = work / source.name / "base"
        make_base(base, source)
        for is_decoder in (False, True):
            if is_decoder and (kind in ENCODERS or "cls" in source.name):
                continue
            name = f"{source.name} {'lm' if is_decoder else 'cls'}"
            case = Case(arguments.program, work, base, is_decoder)
            folder = work / source.name / ("lm" if is_decoder else "cls")
            folder.mkdir()
            done = case.train(folder / "first", ["train.max_steps=1"])
            if done.returncode != 0 and "model_type" in done.stderr:
                tally.skipped.append(name)
                continue
            check_ours(case, name, folder, tally)
            check_theirs(case, name, folder, tally)
            if is_decoder:
                check_steps(case, name, folder, tally)
    if not arguments.keep:
        shutil.rmtree(work)
    for failure in tally.failed:
        print("FAILED", failure)
    print(f"{tally.compared} compared, {len(tally.failed)} failed, worst {tally.worst:.1e}; skipped: {', '.join(tally.skipped) or 'none'}")
    return 1 if tally.failed or not tally.compared else 0


if __name__ == "__main__":
    sys.exit(main())
