#!/usr/bin/env python3
"""Does llama.cpp load the GGUF files that msplora writes, and compute what they should?

  check-llamacpp.py [--program PATH] [--cases FOLDER] [--keep FOLDER] [--tokenizer FOLDER] [--model FILE.gguf] [FAMILY ...]

For every family that llama.cpp has, a tiny random model drawn by transformers, on which the program trains LoRA, rsLoRA, LoRA with unequal ranks
and MSPLoRA, also of the output layer and of the table of words: `export --format gguf` on top of the base's file, `merge --format gguf` in f32, f16,
bf16 and q8_0, and llama.cpp's ids of some texts. What llama.cpp cannot apply must be refused.
The yardstick is transformers on what `merge` writes as a directory. With --cases, a folder of the golden cases of GGUF, also what PEFT trained there.
With --model, a real model of any types, its values written out as F32 by `merge`: ids, log-probabilities and greedy texts of the program and of
llama.cpp on that file, and of transformers on the directory that `merge` makes; no family is looked at then but those that are named.
llama.cpp reads GELU from a table of binary16 values. So that this hides nothing else, transformers is given the same table where it is compared with
llama.cpp. Bounds in float32 are 2e-5 of the largest logit, 3e-4 where there is the table.
For files of f16, bf16 and q8_0 ggml rounds what enters a product to the type of the weight, which moves logits of these models by up to 2e-2, 1e-1 and
4e-1 from those in float32. So transformers rounds weights and inputs alike there: then bf16 and q8_0 agree to 2e-7 at most positions, and the
others hold an input between two values that fell to the other side. Of f16, whose values lie eight times as dense, most positions hold one.
Needs llama-cpp-python (llama.cpp as a library), numpy, safetensors, torch and transformers; uses no network. --tokenizer: a folder with a
byte-level tokenizer.json of 320 tokens (default: one of the cases). Exit 0: all agree; 1: not; 2: cannot run.
"""
import argparse, ctypes, json, os, pathlib, shutil, sys, tempfile

from peer_checks import REPOSITORY, Tally, run

os.environ["HF_HUB_OFFLINE"] = "1"
try:
    import llama_cpp, numpy, torch, transformers
    from safetensors.numpy import load_file
except ImportError as problem:
    print("cannot run:", problem)
    sys.exit(2)

transformers.logging.set_verbosity_error()
transformers.logging.disable_progress_bar()
torch.set_num_threads(1)
TEXTS = ["the book on the table", "more than one of them, 12345!", "  where  do   spaces go?\n\nhere", "Grüße, 中文 \U0001F600"]
SHAPE = dict(vocab_size=320, hidden_size=32, intermediate_size=64, num_hidden_layers=3, num_attention_heads=4, num_key_value_heads=2,
             max_position_embeddings=256, bos_token_id=0, eos_token_id=0, pad_token_id=None)
FAMILIES = {
    "llama": ("LlamaConfig", dict(head_dim=8, rope_parameters=dict(rope_type="llama3", rope_theta=10000.0, factor=8.0, low_freq_factor=1.0,
                                                                   high_freq_factor=4.0, original_max_position_embeddings=8192))),
    "mistral": ("MistralConfig", dict(head_dim=8, sliding_window=64)),
    "qwen2": ("Qwen2Config", dict(rope_parameters=dict(rope_type="linear", rope_theta=10000.0, factor=2.0))),
    "qwen2-yarn": ("Qwen2Config", dict(max_position_embeddings=4096, rope_parameters=dict(
        rope_type="yarn", rope_theta=10000.0, factor=4.0, original_max_position_embeddings=1024))),
    "qwen3": ("Qwen3Config", dict(head_dim=16, tie_word_embeddings=True)),
    "smollm3": ("SmolLM3Config", dict(num_hidden_layers=5)),
    "olmo2": ("Olmo2Config", {}),
    "olmo2-tied": ("Olmo2Config", dict(tie_word_embeddings=True)),
    "gemma2": ("Gemma2Config", dict(head_dim=8, query_pre_attn_scalar=8, sliding_window=8)),
    "gemma3": ("Gemma3TextConfig", dict(head_dim=8, query_pre_attn_scalar=8, sliding_window=8, num_hidden_layers=7)),
    "phi3": ("Phi3Config", dict(num_key_value_heads=2)),
    "phi3-long": ("Phi3Config", dict(max_position_embeddings=4096, original_max_position_embeddings=1024, rope_parameters=dict(
        rope_type="longrope", rope_theta=10000.0, short_factor=[1.0, 1.1, 1.2, 1.3], long_factor=[1.0, 2.0, 3.0, 4.0]))),
    "gpt2": ("GPT2Config", dict(n_embd=32, n_layer=3, n_head=4, n_positions=256)),
}
EXACT = 2e-5
# With GELU from a table of binary16 values, inputs that differ in their last bit may fall on both sides of a border: with the same table, float32
# and float64 are as far from each other as llama.cpp is from either.
EXACT_WITH_TABLE = 3e-4
# Half of all positions, and the farthest. In 60 texts of each family at most 4e-4 and 4e-3, 1e-7 and 1e-2, 2e-7 and 5e-2 lay between them. One weight
# off by 2^-8 moves the half of bf16 to 8e-6, exact inputs that of f16 to 8e-4.
ROUNDED = {"f16": (6e-4, 6e-3), "bf16": (2e-6, 2e-2), "q8_0": (2e-6, 1e-1)}


def bound(name):
    return EXACT_WITH_TABLE if name.startswith(("gpt2", "gemma")) else EXACT


ADAPTERS = {
    "lora": ["adapter.target_modules=[all-linear]"],
    "rslora": ["adapter.use_rslora=true"],
    "ranks": ["adapter.rank_pattern={'0.*': 2}", "adapter.alpha_pattern={'1.*': 5}"],
    "msplora": ["adapter.method=msplora"],
    "output": ["adapter.target_modules=[QUERY,lm_head]"],
    "words": ["adapter.target_modules=[QUERY,WORDS]", "adapter.rank=3"],
}


def named(family, settings):
    query = "c_attn" if family == "gpt2" else "qkv_proj" if family.startswith("phi3") else "q_proj"
    words = "wte" if family == "gpt2" else "embed_tokens"
    return [setting.replace("QUERY", query).replace("WORDS", words) for setting in settings]


def refused(base, name, form):
    """What must not be written: llama.cpp knows adapted tensors by their names, and the output layer of a tied model has that of the table of words,
    but OLMo 2's. A merged model has both, for which Gemma 2's have no place."""
    config = transformers.AutoConfig.from_pretrained(base)
    if name not in ("output", "words") or not config.tie_word_embeddings or config.model_type == "olmo2":
        return False
    return form == "adapter" or config.model_type == "gemma2"


class GgmlGelu(torch.nn.Module):
    """GELU by tanh as ggml has it: a table of binary16 values between -10 and 10."""

    def forward(self, x):
        table = torch.nn.functional.gelu(x.half().float(), approximate="tanh").half().float()
        return torch.where(x <= -10, torch.zeros_like(x), torch.where(x >= 10, x, table))


class LlamaCpp:
    """A model of llama.cpp, one thread, with a cache in float32."""

    def __init__(self, base, adapter=None, context=64):
        self.said = []
        self.log = llama_cpp.llama_log_callback(
            lambda level, text, _: self.said.append(text.decode(errors="replace").strip()) if level == 4 else None)
        llama_cpp.llama_log_set(self.log, ctypes.c_void_p(0))
        llama_cpp.llama_backend_init()
        options = llama_cpp.llama_model_default_params()
        options.n_gpu_layers, options.use_mmap = 0, False
        self.model = llama_cpp.llama_model_load_from_file(str(base).encode(), options)
        if not self.model:
            raise RuntimeError("llama.cpp refuses the model: " + " | ".join(self.said))
        settings = llama_cpp.llama_context_default_params()
        settings.n_ctx = settings.n_batch = settings.n_ubatch = context
        settings.n_threads = settings.n_threads_batch = 1
        settings.type_k = settings.type_v = settings.flash_attn_type = 0
        self.context = llama_cpp.llama_init_from_model(self.model, settings)
        self.vocabulary = llama_cpp.llama_model_get_vocab(self.model)
        if adapter:
            loaded = llama_cpp.llama_adapter_lora_init(self.model, str(adapter).encode())
            if not loaded:
                raise RuntimeError("llama.cpp refuses the adapter: " + " | ".join(self.said))
            self.adapters, self.scales = (llama_cpp.llama_adapter_lora_p_ctypes * 1)(loaded), (ctypes.c_float * 1)(1.0)
            llama_cpp.llama_set_adapters_lora(self.context, self.adapters, 1, self.scales)

    def tokens(self, text):
        raw, room = text.encode(), (llama_cpp.llama_token * 4096)()
        count = llama_cpp.llama_tokenize(self.vocabulary, raw, len(raw), room, 4096, True, True)
        return list(room[:count])

    def logits(self, ids):
        """Of every position of a new text."""
        llama_cpp.llama_memory_clear(llama_cpp.llama_get_memory(self.context), True)
        size = llama_cpp.llama_vocab_n_tokens(self.vocabulary)
        batch = llama_cpp.llama_batch_init(len(ids), 0, 1)
        for i, token in enumerate(ids):
            batch.token[i], batch.pos[i], batch.n_seq_id[i], batch.logits[i] = int(token), i, 1, 1
            batch.seq_id[i][0] = 0
        batch.n_tokens = len(ids)
        if llama_cpp.llama_decode(self.context, batch):
            raise RuntimeError("llama.cpp does not decode: " + " | ".join(self.said))
        rows = [numpy.ctypeslib.as_array(llama_cpp.llama_get_logits_ith(self.context, i), (size,)).copy() for i in range(len(ids))]
        llama_cpp.llama_batch_free(batch)
        return numpy.array(rows)

    def close(self):
        llama_cpp.llama_free(self.context)
        llama_cpp.llama_model_free(self.model)


def rounded(values, kind):
    """As ggml stores them, or hands them to a product: in q8_0 with a scale in binary16 for every 32 of a row."""
    if kind != "q8_0":
        return values.to({"f16": torch.float16, "bf16": torch.bfloat16}[kind]).float()
    blocks = values.reshape(-1, 32)
    largest = blocks.abs().amax(-1, keepdim=True)
    steps = torch.round(blocks * torch.where(largest > 0, 127.0 / largest, torch.zeros_like(largest)))
    return (steps * (largest / 127.0).half().float()).reshape(values.shape)


def rounded_model(folder, kind):
    """transformers in float32, with weights and inputs of products as in a file of that type."""
    model = transformers_model(folder)
    turned = transformers.pytorch_utils.Conv1D
    for module in model.modules():
        if isinstance(module, (torch.nn.Linear, turned)):
            module.register_forward_pre_hook(lambda _, inputs: (rounded(inputs[0].contiguous(), kind),))
    turned_names = {f"{name}.weight" for name, module in model.named_modules() if isinstance(module, turned)}
    with torch.no_grad():
        for name, weight in model.named_parameters():  # tied ones once
            if weight.dim() > 1 and not name.endswith("wpe.weight"):  # positions are float32 in every file
                weight.copy_(rounded(weight.T.contiguous(), kind).T if name in turned_names else rounded(weight, kind))
    return model


def compare_rounded(tally, what, model, folder, kind):
    yardstick, draws = rounded_model(folder, kind), torch.Generator().manual_seed(1)
    positions = []
    for _ in range(10):
        ids = torch.randint(1, SHAPE["vocab_size"], (40,), generator=draws).tolist()
        expected = transformers_logits(yardstick, ids)
        positions.append(numpy.abs(model.logits(ids) - expected).max(-1) / numpy.abs(expected).max())
    half, farthest = ROUNDED[kind]
    tally.add(f"{what}, half of all positions", float(numpy.median(positions)), half, "of the largest logit")
    tally.add(f"{what}, farthest", float(numpy.max(positions)), farthest, "of the largest logit")


def compare(tally, what, ours, expected, tolerance):
    tally.add(what, float(numpy.abs(ours - expected).max() / numpy.abs(expected).max()), tolerance, "of the largest logit")


def draw(family, folder, tokenizer):
    """A random model whose attention is far from uniform."""
    name, more = FAMILIES[family]
    shape = {**SHAPE, **more}
    if family == "gpt2":
        shape = {**more, "vocab_size": 320, "bos_token_id": 0, "eos_token_id": 0}
    config = getattr(transformers, name)(**shape)
    torch.manual_seed(7)
    model = transformers.AutoModelForCausalLM.from_config(config, attn_implementation="eager", dtype=torch.float32)
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            scale = 0.25 if parameter.dim() > 1 else 0.1
            parameter.copy_(torch.randn_like(parameter) * scale + (1.0 if "norm" in key or "ln_" in key else 0.0) *
                            (0.0 if family.startswith("gemma") or key.endswith("bias") else 1.0))
    model.save_pretrained(folder)
    for file in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(tokenizer / file, folder)


def transformers_model(folder, has_table=True):
    """has_table: with ggml's GELU."""
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager", dtype=torch.float32).eval()
    for module in model.modules():
        for name in ("act", "act_fn"):
            if has_table and "GELU" in type(getattr(module, name, None)).__name__:
                setattr(module, name, GgmlGelu())
    return model


def transformers_logits(model, ids):
    with torch.no_grad():
        return model(input_ids=torch.tensor([ids])).logits[0].double().numpy()


def check_family(family, work, program, tokenizer, tally):
    base = work / "base"
    draw(family, base, tokenizer)
    (work / "texts.tsv").write_text("text\n" + "".join(f"the {a} of the {b}\n" for a in ("end", "top", "rest") for b in ("day", "tree", "road")))
    # What the program trained in no step is the base: its file for adapters to lie on.
    for name, settings in {"nothing": ["train.lr=1.0e-12"], **ADAPTERS}.items():
        what = f"{family} {name}"
        try:
            recipe = work / "recipe.yaml"
            recipe.write_text(f"""model: {{path: {base}}}
task: {{type: causal_lm}}
data: {{train: {work / "texts.tsv"}, max_length: 16}}
adapter: {{method: lora, rank: 4, alpha: 8}}
train: {{max_steps: 6, batch_size: 3, lr: 3.0e-2, seed: 3, threads: 1}}
output: {{dir: {work / name}, tensorboard: false}}
""")
            run(program, "train", recipe, *[part for setting in named(family, settings) for part in ("--set", setting)])
            arguments = ["--model", base, "--adapter", work / name / "adapter-native"]
            run(program, "merge", *arguments, "--output", work / f"{name}-hf")
            yardstick = transformers_model(work / f"{name}-hf")
            commands = {"merged": ["merge", *arguments, "--format", "gguf", "--type", "f32", "--output", work / f"{name}.gguf"],
                        "adapter": ["export", *arguments, "--format", "gguf", "--output", work / f"{name}-adapter.gguf"]}
            for form, command in commands.items():
                if name == "nothing" and form == "adapter":
                    continue
                if refused(base, name, form):
                    check_refused(tally, f"{what} {form}", run(program, *command, may_fail=True))
                    continue
                run(program, *command)
                model = LlamaCpp(*([command[-1]] if form == "merged" else [work / "nothing.gguf", command[-1]]))
                ids = model.tokens(TEXTS[0] + " " + TEXTS[1])[:40]
                compare(tally, f"{what} {form}, f32", model.logits(ids), transformers_logits(yardstick, ids), bound(family))
                model.close()
            if name == "nothing":
                check_tokens(family, base, work / "nothing.gguf", tally)
            if name != "lora":
                continue
            for kind in ROUNDED:
                run(program, "merge", *arguments, "--format", "gguf", "--type", kind, "--output", work / f"{kind}.gguf")
                model = LlamaCpp(work / f"{kind}.gguf")
                compare_rounded(tally, f"{what} merged, {kind}", model, work / f"{name}-hf", kind)
                model.close()
        except Exception as problem:
            tally.fail(what, problem)


def check_refused(tally, what, done):
    """llama.cpp would end the process where it is given such a file."""
    tally.compared += 1
    if done.returncode == 0:
        tally.fail(what, "written, though llama.cpp has no place for it")
    elif "error: GGUF: " not in done.stderr:
        tally.fail(what, done.stderr)
    else:
        print(f"{what:52s} refused, as it must be", flush=True)


def check_tokens(family, base, path, tally):
    # The file's own way: the class of a family may cut texts with that family's pattern, whatever the file says.
    tokenizer, model = transformers.PreTrainedTokenizerFast(tokenizer_file=str(base / "tokenizer.json")), LlamaCpp(path)
    for text in TEXTS:
        own = tokenizer(text)["input_ids"]
        if model.tokens(text) != own:
            tally.fail(f"{family} tokens", f"{text!r}: llama.cpp {model.tokens(text)}, transformers {own}")
        tally.compared += 1
    model.close()


def check_cases(cases, work, program, tally):
    for folder in sorted(path for path in (cases / "tiny").iterdir() if (path / "hf").is_dir()):
        expected = load_file(folder / "expected.safetensors")
        ids = [int(token) for token in expected["ids"]]
        for adapter in sorted(folder.glob("lora*/")):
            what = f"{folder.name} {adapter.name} of PEFT"
            try:
                arguments = ["--model", folder / "hf", "--adapter", adapter]
                directory = work / f"{folder.name}-{adapter.name}"
                run(program, "merge", *arguments, "--output", directory)
                compare(tally, f"{what}, merged, transformers", transformers_logits(transformers_model(directory, has_table=False), ids),
                          expected[adapter.name], EXACT)
                wanted = transformers_logits(transformers_model(directory), ids)
                run(program, "export", *arguments, "--format", "gguf", "--output", work / "adapter.gguf", "--overwrite")
                model = LlamaCpp(folder / "f32.gguf", work / "adapter.gguf")
                compare(tally, f"{what}, adapter", model.logits(ids), wanted, bound(folder.name))
                model.close()
                for base in ("hf", "f32.gguf"):
                    done = run(program, "merge", "--model", folder / base, "--adapter", adapter, "--format", "gguf", "--output", work / "merged.gguf",
                               "--overwrite", may_fail=True)
                    if done.returncode != 0 and "GGUF has no form for the pattern" in done.stderr:
                        print(f"{what}, merged into {base}: refused for its tokenizer", flush=True)
                        continue
                    if done.returncode != 0:
                        raise RuntimeError(done.stderr)
                    model = LlamaCpp(work / "merged.gguf")
                    compare(tally, f"{what}, merged into {base}", model.logits(ids), wanted, bound(folder.name))
                    model.close()
            except Exception as problem:
                tally.fail(what, problem)


def real_texts():
    """Of about 32, 200 and 700 tokens."""
    words = (REPOSITORY / "docs/generation.md").read_text().split()
    return [" ".join(words[:count]) for count in (16, 110, 400)]


def log_probabilities(logits, ids):
    rows = logits[:-1].astype(numpy.float64)
    largest = rows.max(-1, keepdims=True)
    return rows[numpy.arange(len(ids) - 1), ids[1:]] - (numpy.log(numpy.exp(rows - largest).sum(-1)) + largest[:, 0])


def check_model(path, work, program, tally, new_tokens=32):
    """Ids, log-probabilities of texts and of the greedy tokens behind them."""
    base, directory, texts, name = work / "f32.gguf", work / "hf", real_texts(), path.stem
    run(program, "merge", "--model", path, "--format", "gguf", "--type", "f32", "--output", base)
    run(program, "merge", "--model", path, "--save-dtype", "float32", "--output", directory)
    (work / "texts.txt").write_text("".join(text + "\n" for text in texts))
    (work / "prompts.jsonl").write_text("".join(json.dumps({"prompt": text}) + "\n" for text in texts))
    ids = [[int(token) for token in line.split()] for line in run(program, "tokenize", "--model", base, "--ids", work / "texts.txt").stdout.splitlines()]
    run(program, "predict", "--model", base, "--logits", "--threads", 1, "--data", work / "texts.txt", "--output", work / "texts.jsonl")
    likelihoods = [json.loads(line)["log_likelihood"] for line in open(work / "texts.jsonl")]
    run(program, "generate", "--model", base, "--prompts", work / "prompts.jsonl", "--greedy", "--logprobs", "--threads", 1, "--max-new-tokens",
        new_tokens, "--output", work / "written.jsonl")
    written = [json.loads(line) for line in open(work / "written.jsonl")]
    # Ours is compared with exact GELU, llama.cpp with its own.
    exact, tabled = transformers_model(directory, has_table=False), transformers_model(directory)
    model = LlamaCpp(base, context=1024)
    for text, own, likelihood, row in zip(texts, ids, likelihoods, written):
        what = f"{name}, {len(own)} tokens"
        if model.tokens(text) != own:
            tally.fail(f"{what}: ids", f"llama.cpp {model.tokens(text)}, ours {own}")
            continue
        count, whole = len(own), own + row["tokens"]
        theirs, expected = model.logits(whole), transformers_logits(exact, whole)
        compare(tally, f"{what}: llama.cpp, transformers with its GELU", theirs, transformers_logits(tabled, whole), 1e-4)
        sums = {kind: log_probabilities(logits[:count], own).sum() for kind, logits in (("llama.cpp", theirs), ("transformers", expected))}
        ours = numpy.array(row["logprobs"])
        steps = {kind: log_probabilities(logits, whole)[count - 1:] for kind, logits in (("llama.cpp", theirs), ("transformers", expected))}
        for kind, tolerance in (("transformers", 1e-4), ("llama.cpp", 2e-2)):
            tally.add(f"{what}: log-likelihood {likelihood:.4f}, {kind}", abs(likelihood - sums[kind]) / count, tolerance, "a token")
            tally.add(f"{what}: {len(ours)} greedy tokens, {kind}", numpy.abs(ours - steps[kind]).max(), tolerance, "the worst")
            gaps = [(logits := (theirs if kind == "llama.cpp" else expected)[count - 1 + i]).max() - logits[token]
                    for i, token in enumerate(row["tokens"])]
            tally.add(f"{what}: greedy tokens of ours below {kind}'s", max(gaps), 2 * tolerance, "logit")
        print(f"    {row['text'][:160]!r}")
    model.close()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--program", type=pathlib.Path, default=REPOSITORY / "build/release/bin/msplora")
    parser.add_argument("--cases", type=pathlib.Path)
    parser.add_argument("--tokenizer", type=pathlib.Path)
    parser.add_argument("--model", type=pathlib.Path, help="a real model")
    parser.add_argument("--keep", type=pathlib.Path, help="leave what was written in this folder")
    parser.add_argument("families", nargs="*", help="all without one: " + ", ".join(FAMILIES))
    arguments = parser.parse_args()
    tokenizer = arguments.tokenizer or (arguments.cases / "tiny/gpt2/hf" if arguments.cases else None)
    families = arguments.families or ([] if arguments.model else list(FAMILIES))
    if families and (not tokenizer or not (tokenizer / "tokenizer.json").exists()):
        print("cannot run: no tokenizer; name one with --tokenizer, or the cases with --cases")
        return 2
    work = arguments.keep or pathlib.Path(tempfile.mkdtemp(prefix="msplora-llamacpp-"))
    tally = Tally()
    for family in families:
        folder = work / family
        folder.mkdir(parents=True)
        check_family(family, folder, arguments.program, tokenizer, tally)
    if arguments.model:
        check_model(arguments.model, work, arguments.program, tally)
    if arguments.cases:
        check_cases(arguments.cases, work, arguments.program, tally)
    if not arguments.keep:
        shutil.rmtree(work)
    for failure in tally.failed:
        print("FAILED", failure)
    print(f"{tally.compared} compared, {len(tally.failed)} failed")
    return 1 if tally.failed or not tally.compared else 0


if __name__ == "__main__":
    sys.exit(main())
