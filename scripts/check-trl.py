#!/usr/bin/env python3
"""Are training examples of conversations the same here and in TRL: every id and every label?

  check-trl.py [--program PATH] [--seed N] [--count N] [--tokenizer NAME=FOLDER ...] [--keep FOLDER] [TEMPLATE ...]

Draws conversations by seed (several turns, system texts, Unicode, code, empty and long texts, white space, texts that look like the
template's own marks, tools) and lets `data preview --json` and TRL's SFTTrainer prepare them with the same tokenizer and template: all
templates for which TRL has one with marks of what the assistant says, with the marks and without. Without them TRL takes its own marked
one for `assistant`, which may write or mark turns otherwise: that is listed and no failure, and white space behind a turn is not compared. Learned are the assistant's turns,
completions, both together, or all; rows are whole, or cut at the end or the start. Prompts with completions and texts without a template too.
A tokenizer of bytes and some merges is trained here; FOLDER holds tokenizer.json and tokenizer_config.json of a further one.
Needs transformers, trl, datasets; uses no network. Exit 0: all equal; 1: a difference or a failure; 2: cannot run.
"""
import argparse, json, logging, os, pathlib, random, shutil, sys, tempfile, warnings

from peer_checks import REPOSITORY, run

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
try:
    import datasets, tokenizers, torch, transformers, trl
    from datasets.fingerprint import Hasher
except ImportError as problem:
    print("cannot run:", problem)
    sys.exit(2)

warnings.filterwarnings("ignore")
transformers.logging.set_verbosity_error()
logging.disable(logging.WARNING)
datasets.disable_progress_bars()
datasets.disable_caching()
torch.set_num_threads(1)
IGNORED = -100

WORDS = ("the a of rain river engine because under never 42 3.14 naïve Größe straße日本語 東京 大きさ مرحبا שלום привет नमस्ते ภาษาไทย 한국어 🙂 👩‍👩‍👧 🇩🇪 "
         "👍🏽 é ﬁ ½ ∑ → “quoted” don't it's I'll e-mail http://example.org/a?b=c&d=e x=1; foo_bar CamelCase <b> & ␀ \u200b \u00ad \ufeff").split(" ")
CODE = ["```python\ndef f(x):\n    return x ** 2  # squared\n```", "int main() {\n\treturn 0;\n}\n", "SELECT * FROM t WHERE a='b';",
        '{"k": [1, 2, {"n": null}]}', "$ ls -la | grep '^d'\r\n", "\\frac{a}{b} \\n \\u00e9"]
MARKS = ["<|im_end|>", "<|im_start|>assistant\n", "</s>", "[INST]", "<|endoftext|>", "<end_of_turn>", "<|eot_id|>", "{{ 7*7 }}", "{% generation %}",
         "<think>\nhm\n</think>\n\n", "<tool_call>"]
SPACES = ["", " ", "\n", "\t", "  \n\n ", "\u00a0", "\u2003x", "\x1f", "\u2028"]
TOOLS = [{"type": "function", "function": {"name": name, "description": text, "parameters": {"type": "object", "required": ["city"], "properties": {
    "city": {"type": "string", "description": "Name of the city, e.g. \"Köln\" & <Bonn>"}, "days": {"type": "integer", "description": "How many"}}}}}
         for name, text in (("get_weather", "Weather of a city"), ("get_time", "Time there"))]


class Draw:
    """Conversations by seed."""

    def __init__(self, seed):
        self.random = random.Random(seed)

    def text(self, may_be_empty=True):
        kind = self.random.random()
        if may_be_empty and kind < 0.06:
            return ""
        if kind < 0.12:
            return self.random.choice(SPACES) + self.words(3) + self.random.choice(SPACES)
        if kind < 0.20:
            return self.words(4) + "\n" + self.random.choice(CODE)
        if kind < 0.26:
            return self.words(2) + self.random.choice(MARKS) + self.words(2)
        if kind < 0.30:
            return self.words(900)
        if kind < 0.34:
            return "".join(chr(self.character()) for _ in range(12))
        return self.words(18)

    def words(self, most):
        between = lambda: self.random.choice([" "] * 12 + ["  ", "\n", ", ", ""])
        return "".join(self.random.choice(WORDS) + between() for _ in range(self.random.randint(1, most)))

    def character(self):
        while True:
            code = self.random.choice([self.random.randint(1, 0x7F), self.random.randint(0x80, 0x2FFF), self.random.randint(0x1F300, 0x1FAFF)])
            if not 0xD800 <= code < 0xE000:
                return code

    def messages(self, has_tools=False):
        messages = []
        if self.random.random() < 0.5:
            messages.append({"role": "system", "content": self.text()})
        for _ in range(self.random.randint(1, 5)):
            messages.append({"role": "user", "content": self.text()})
            if has_tools and self.random.random() < 0.5:
                calls = [{"type": "function", "function": {"name": self.random.choice(TOOLS)["function"]["name"],
                                                           "arguments": {"city": self.words(2), "days": self.random.randint(0, 9)}}}
                         for _ in range(self.random.randint(1, 2))]
                messages.append({"role": "assistant", "content": self.text(), "tool_calls": calls})
                messages += [{"role": "tool", "content": self.text()} for _ in calls]
            messages.append({"role": "assistant", "content": self.text()})
        return messages

    def conversations(self, count):
        return [{"messages": self.messages()} for _ in range(count)]

    def with_tools(self, count):
        return [{"messages": self.messages(has_tools=True), "tools": TOOLS} for _ in range(count)]

    def answered(self, count):
        rows = [self.messages() for _ in range(count)]
        return [{"prompt": row[:-1], "completion": row[-1:]} for row in rows]

    def prompts(self, count):
        return [{"prompt": self.text(False), "completion": self.random.choice(["", " ", "\n"]) + self.text(False)} for _ in range(count)]

    def texts(self, count):
        return [{"text": self.text(False)} for _ in range(count)]


def make_tokenizer(folder, draw):
    """Bytes and merges of drawn texts, with the marks of ChatML as special tokens."""
    core = tokenizers.Tokenizer(tokenizers.models.BPE())
    core.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(vocab_size=1200, special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>"], show_progress=False,
                                             initial_alphabet=sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet()))
    core.train_from_iterator([draw.text() for _ in range(400)], trainer)
    folder.mkdir(parents=True)
    core.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<|im_start|>",
                                                              "eos_token": "<|im_end|>", "pad_token": "<|endoftext|>"}))


def make_model(folder, tokenizer, template):
    """A folder with what the program needs to prepare data; it has no weights."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(tokenizer / name, folder)
    config = json.loads((folder / "tokenizer_config.json").read_text())
    config.pop("chat_template", None)
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    if template:
        (folder / "chat_template.jinja").write_text(template)
    size = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json")).get_vocab_size()
    transformers.LlamaConfig(vocab_size=size, hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1,
                             num_key_value_heads=1, max_position_embeddings=1 << 20).save_pretrained(folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "architectures": ["LlamaForCausalLM"]}))


def ours(program, model, rows, loss_on, cut):
    """{row: (ids, labels)}"""
    file, recipe = model / "rows.jsonl", model / "recipe.yaml"
    with open(file, "w", encoding="utf-8") as out:
        out.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    length, too_long = cut or (1 << 20, "cut")
    recipe.write_text(f"""model: {{path: {model}}}
task: {{type: sft}}
data: {{train: {file}, max_length: {length}, chat: {{loss_on: {loss_on}, too_long: {too_long}}}}}
train: {{threads: 1}}
output: {{dir: {model / 'run'}}}
""")
    done = run(program, "data", "preview", recipe, "--examples", len(rows), "--json", may_fail=True)
    if done.returncode != 0 and "nothing is learned of its" in done.stderr:
        return {}
    if done.returncode != 0:
        raise RuntimeError(done.stderr.strip())
    examples = json.loads(done.stdout)["examples"]
    return {int(example["where"].rsplit(":", 1)[1]) - 1: (example["ids"], example["labels"]) for example in examples}


class Unique(Hasher):
    """Fingerprints are for the cache of datasets; some trainers cannot be pickled for them."""
    count = 0

    @classmethod
    def hash(cls, value):
        cls.count += 1
        return f"{cls.count:016x}"


datasets.fingerprint.Hasher = Unique


def theirs(model, rows, arguments, cut):
    tokenizer = transformers.AutoTokenizer.from_pretrained(model)
    if cut:
        arguments = {**arguments, "max_length": cut[0], "truncation_mode": "keep_end" if cut[1] == "cut_start" else "keep_start"}
    config = trl.SFTConfig(output_dir=str(model / "trl"), use_cpu=True, report_to=[], bf16=False, **{"max_length": None, **arguments})
    tiny = transformers.LlamaForCausalLM(transformers.LlamaConfig.from_pretrained(model))
    trainer = trl.SFTTrainer(model=tiny, args=config, train_dataset=datasets.Dataset.from_list([{**row, "row": i} for i, row in enumerate(rows)]),
                             processing_class=tokenizer)
    # A row that teaches nothing behind its first token is left out here.
    return {row["row"]: (row["input_ids"], row["labels"]) for row in trainer.train_dataset if any(label != IGNORED for label in row["labels"][1:])}


def without_white_space(rows, tokenizer):
    """Labels without the white space that a run of them ends with."""
    result = {}
    for row, (ids, labels) in rows.items():
        labels = list(labels)
        for at in range(len(labels) - 1, -1, -1):
            ends = at + 1 == len(labels) or labels[at + 1] == IGNORED
            if ends and labels[at] != IGNORED and not tokenizer.decode([labels[at]]).strip():
                labels[at] = IGNORED
        result[row] = (ids, labels)
    return result


def difference(mine, other, tokenizer):
    """The first place where they differ, in words; None where they are equal."""
    if mine.keys() != other.keys():
        return f"rows here only {sorted(mine.keys() - other.keys())[:5]}, there only {sorted(other.keys() - mine.keys())[:5]}"
    for row in sorted(mine):
        for name, a, b in zip(("ids", "labels"), mine[row], other[row]):
            if a == b:
                continue
            at = next((i for i, (x, y) in enumerate(zip(a, b)) if x != y), min(len(a), len(b)))
            around = tokenizer.decode(mine[row][0][max(0, at - 4):at + 5])
            return f"row {row}: {name} differ from {at} on: {a[at:at + 3]} here, {b[at:at + 3]} there, near {around!r} ({sum(mine[r] != other[r] for r in mine)} rows)"
    return None


def forms(rows):
    """The rows as drawn, without system texts, and with texts as lists of parts: some templates know no system text, or only parts."""
    yield rows
    if "text" in rows[0] or isinstance(rows[0].get("prompt"), str):
        return
    plain = [{key: [message for message in value if message["role"] != "system"] if key != "tools" else value for key, value in row.items()}
             for row in rows]
    yield plain
    parts = lambda message: {**message, "content": [{"type": "text", "text": message["content"]}]}
    yield [{key: [parts(message) for message in value] if key != "tools" else value for key, value in row.items()} for row in plain]


def prepared(mine, other):
    """What both make of the rows; of one that refuses, the first line of what it says."""
    sides, problems = [], []
    for side in (mine, other):
        try:
            sides.append(side())
        except Exception as problem:
            sides.append(None)
            problems.append((str(problem) or repr(problem)).strip().splitlines()[0][:200])
    return sides, problems


MODES = [("assistant", {"assistant_only_loss": True}), ("all", {})]
ANSWER_MODES = [("completion", {}), ("assistant", {"assistant_only_loss": True}), ("all", {"completion_only_loss": False})]
CUTS = [None, (160, "cut"), (160, "cut_start")]


def cases(draw, count, template, has_marks):
    """What is compared: name, rows, what is learned here, TRL's arguments, where rows are cut."""
    if not template:
        for name, rows in (("prompts", draw.prompts(count)), ("texts", draw.texts(count))):
            for cut in CUTS:
                yield name, rows, "auto", {}, cut
        yield "prompts", draw.prompts(count), "all", {"completion_only_loss": False}, None
        return
    conversations, answered = draw.conversations(count), draw.answered(count // 4)
    for loss_on, arguments in MODES:
        for cut in CUTS if has_marks else CUTS[:1]:
            yield "conversations", conversations, loss_on, arguments, cut
    for loss_on, arguments in ANSWER_MODES:
        yield "answers", answered, loss_on, arguments, None
    if "tools" in template:
        tools = draw.with_tools(count // 4)
        for loss_on, arguments in MODES:
            yield "tools", tools, loss_on, arguments, None


def find_templates(chosen):
    """{name: text} of TRL's templates with marks and their counterparts without."""
    folder = pathlib.Path(trl.__file__).parent / "chat_templates"
    found = {"none": ""}
    for marked in sorted(folder.glob("*_training.jinja")):
        plain = marked.with_name(marked.name.replace("_training", ""))
        for file in (plain, marked):
            if file.exists():
                found[file.stem] = file.read_text()
    return {name: text for name, text in found.items() if not chosen or name in chosen}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--program", type=pathlib.Path, default=REPOSITORY / "build/release/bin/msplora")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--count", type=int, default=200, help="conversations for each comparison (default 200)")
    parser.add_argument("--tokenizer", action="append", default=[], metavar="NAME=FOLDER")
    parser.add_argument("--keep", type=pathlib.Path, help="leave what was written in this folder")
    parser.add_argument("templates", nargs="*", help="names of TRL's templates, or `none`; all without one")
    arguments = parser.parse_args()
    work = arguments.keep or pathlib.Path(tempfile.mkdtemp(prefix="msplora-trl-"))
    work.mkdir(parents=True, exist_ok=True)
    make_tokenizer(work / "tokenizer", Draw(arguments.seed))
    chosen = {"drawn": work / "tokenizer"} | dict(one.split("=", 1) for one in arguments.tokenizer)
    compared, rows_compared, failures, refused = 0, 0, [], {}

    def note(why, label):
        refused.setdefault(why, []).append(label)
        print(f"{label:70s} {why}", flush=True)

    for tokenizer_name, tokenizer_folder in chosen.items():
        for name, template in find_templates(arguments.templates).items():
            model = work / tokenizer_name / name
            make_model(model, pathlib.Path(tokenizer_folder), template)
            tokenizer = transformers.AutoTokenizer.from_pretrained(model)
            has_marks = "endgeneration" in template
            for what, rows, loss_on, trl_arguments, cut in cases(Draw(arguments.seed), arguments.count, template, has_marks):
                label = f"{tokenizer_name} {name} {what} {loss_on}" + (f" {cut[1]} {cut[0]}" if cut else "")
                for form in forms(rows):
                    sides, problems = prepared(lambda: ours(arguments.program, model, form, loss_on, cut),
                                               lambda: theirs(model, form, trl_arguments, cut))
                    if len(problems) < 2:
                        break
                if problems:
                    which = "both refuse" if len(problems) == 2 else "refused here" if sides[0] is None else "refused by TRL"
                    note(f"{which}: {problems[0].split(': ')[-1]}", label)
                    continue
                if template and loss_on == "assistant" and not has_marks:
                    sides = [without_white_space(side, tokenizer) for side in sides]
                    if difference(*sides, tokenizer):
                        note("other marks in TRL's own version of the template", label)
                        continue
                found = difference(*sides, tokenizer)
                compared += 1
                rows_compared += len(sides[0])
                print(f"{label:70s} {found or 'equal'}", flush=True)
                if found:
                    failures.append(f"{label}: {found}")
    if not arguments.keep:
        shutil.rmtree(work)
    print()
    for problem, labels in refused.items():
        print(f"{problem}\n    {', '.join(labels)}")
    for failure in failures:
        print("FAILED", failure)
    print(f"{compared} comparisons, {rows_compared} rows, {len(failures)} differ")
    return 1 if failures or not compared else 0


if __name__ == "__main__":
    sys.exit(main())
