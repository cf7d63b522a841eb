#!/usr/bin/env python3
"""Reading prompts, writing and loading beside llama.cpp, in turn, with the same threads.

  bench/peers/llamacpp.py --gguf MODEL.gguf [--program PATH] [--weights PATH | --shape NAME] [--types bf16,f32,stored-bf16,stored-f32]
                          [--threads 1,2] [--prompt 512] [--new 64] [--rounds 3] [--keep FOLDER] [--json]

For bf16 and f32 the file is recast by llama.cpp itself, so that both sides multiply numbers of one kind: BF16 beside our bfloat16, F32 beside our
float32. stored-bf16 and stored-f32 take the file as it is, which may be quantised: ours forms the numbers in bfloat16 or float32 and multiplies
activations of that type, llama.cpp rounds activations to eight bits. Ours is `msplora bench generate` of the same file, of --weights (a directory, or
{type} in it for the type), or of drawn weights of --shape. Each measurement is a process of its own; a round has one of each side. llama.cpp has its own choices but for the threads: keys and
values in F16, flash attention where it likes. `load` is the time from the file to the first token after a prompt of one, the file being in
the system's cache; not of --shape. With --weights that of transformers stands beside it, where the Python has it: its imports are not in it, and
named. Medians of all rounds.
Needs llama-cpp-python (llama.cpp as a library) in the Python that runs this; build it for the processor (GGML_NATIVE, Release).
"""
import argparse, ctypes, importlib.util, json, pathlib, statistics, subprocess, sys, tempfile, time

REPOSITORY = pathlib.Path(__file__).resolve().parent.parent.parent
DTYPES = {"bf16": "bfloat16", "f32": "float32", "stored-bf16": "bfloat16", "stored-f32": "float32"}
FTYPES = {"f32": 0, "bf16": 32}  # enum llama_ftype


def library():
    import llama_cpp

    # Kept alive by the module: llama.cpp calls it for ever.
    llama_cpp.quiet = llama_cpp.llama_log_callback(lambda level, text, _: None)
    llama_cpp.llama_log_set(llama_cpp.quiet, ctypes.c_void_p(0))
    llama_cpp.llama_backend_init()
    return llama_cpp


def recast(source, target, kind):
    llama = library()
    options = llama.llama_model_quantize_default_params()
    options.ftype, options.allow_requantize, options.pure, options.nthread = FTYPES[kind], True, True, 2
    if llama.llama_model_quantize(str(source).encode(), str(target).encode(), ctypes.byref(options)):
        sys.exit(f"llama.cpp cannot recast {source} to {kind}")


def decode(llama, context, ids, first):
    batch = llama.llama_batch_init(len(ids), 0, 1)
    for i, token in enumerate(ids):
        batch.token[i], batch.pos[i], batch.n_seq_id[i], batch.logits[i] = token, first + i, 1, i + 1 == len(ids)
        batch.seq_id[i][0] = 0
    batch.n_tokens = len(ids)
    if llama.llama_decode(context, batch):
        sys.exit("llama.cpp does not decode")
    llama.llama_batch_free(batch)


def peer(arguments):
    """One process of llama.cpp: prints its times."""
    llama = library()
    began = time.perf_counter()
    options = llama.llama_model_default_params()
    options.n_gpu_layers = 0
    model = llama.llama_model_load_from_file(arguments.gguf.encode(), options)
    if not model:
        sys.exit(f"llama.cpp refuses {arguments.gguf}")
    settings = llama.llama_context_default_params()
    settings.n_ctx = arguments.prompt + arguments.new + 8
    settings.n_batch = settings.n_ubatch = max(arguments.prompt, 32)
    settings.n_threads = settings.n_threads_batch = int(arguments.threads)
    context = llama.llama_init_from_model(model, settings)
    sampler = llama.llama_sampler_init_greedy()
    vocabulary = llama.llama_vocab_n_tokens(llama.llama_model_get_vocab(model))
    ids = [(7919 * i + 11) % vocabulary for i in range(arguments.prompt)]
    decode(llama, context, ids[:1], 0)
    llama.llama_sampler_sample(sampler, context, -1)
    load, prompts, tokens = time.perf_counter() - began, [], []
    for repetition in range(3):
        llama.llama_memory_clear(llama.llama_get_memory(context), True)
        at = time.perf_counter()
        decode(llama, context, ids, 0)
        token = llama.llama_sampler_sample(sampler, context, -1)
        times = [time.perf_counter()]
        prompt = times[0] - at
        for i in range(arguments.new - 1):
            decode(llama, context, [token], len(ids) + i)
            token = llama.llama_sampler_sample(sampler, context, -1)
            times.append(time.perf_counter())
        if repetition > 0:  # the first one warms up
            prompts.append(prompt)
            tokens += [b - a for a, b in zip(times, times[1:])]
    print(json.dumps({"load": load, "prompts": prompts, "tokens": tokens}))


def transformers_peer(arguments):
    """One process of transformers: prints the time of its imports, and that from the files to the first token."""
    began = time.perf_counter()
    import torch
    from transformers import AutoModelForCausalLM

    torch.set_num_threads(int(arguments.threads))
    imported = time.perf_counter()
    model = AutoModelForCausalLM.from_pretrained(arguments.weights, dtype=getattr(torch, arguments.dtype))
    with torch.no_grad():
        int(model(torch.tensor([[11]])).logits[0, -1].argmax())
    print(json.dumps({"load": time.perf_counter() - imported, "imports": imported - began}))


def run(command):
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(f"{' '.join(map(str, command))}\n{done.stderr.strip()}")
    return json.loads(done.stdout)


def ours(arguments, kind, file, threads):
    weights = arguments.weights.format(type=kind) if arguments.weights else file
    model = ["--shape", arguments.shape] if arguments.shape else ["--weights", weights]
    report = run([arguments.program, "bench", "generate", *model, "--dtype", DTYPES[kind], "--prompt", arguments.prompt, "--new", arguments.new,
                  "--rounds", 2, "--threads", threads, "--no-roof", "--json"])
    return {"load": report.get("ready_seconds"), "prompts": report["prompts"]["seconds"], "tokens": report["tokens"]["seconds"]}


def theirs(arguments, file, threads):
    return run([sys.executable, __file__, "--peer", "--gguf", file, "--prompt", arguments.prompt, "--new", arguments.new, "--threads", threads])


def loaded_by_transformers(arguments, kind, threads):
    return run([sys.executable, __file__, "--transformers-peer", "--gguf", "-", "--weights", arguments.weights.format(type=kind),
                "--dtype", DTYPES[kind], "--threads", threads])


def median(runs, what):
    values = [v for r in runs for v in (r[what] if isinstance(r[what], list) else [r[what]]) if v is not None]
    return statistics.median(values) if values else None


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gguf", required=True)
    parser.add_argument("--program", default=REPOSITORY / "build/release/bin/msplora")
    parser.add_argument("--weights")
    parser.add_argument("--shape")
    parser.add_argument("--types", default="bf16,f32")
    parser.add_argument("--threads", default="1,2")
    parser.add_argument("--prompt", type=int, default=512)
    parser.add_argument("--new", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--keep", help="folder of the recast files; those that are there are taken")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--peer", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--transformers-peer", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--dtype", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.peer:
        return peer(arguments)
    if arguments.transformers_peer:
        return transformers_peer(arguments)
    try:
        import llama_cpp
    except ImportError as problem:
        print("cannot run:", problem, file=sys.stderr)
        sys.exit(2)
    with tempfile.TemporaryDirectory() as scratch:
        folder = pathlib.Path(arguments.keep or scratch)
        folder.mkdir(parents=True, exist_ok=True)
        rows = []
        for kind in arguments.types.split(","):
            file = folder / f"recast-{kind}.gguf" if kind in FTYPES else arguments.gguf
            if kind in FTYPES and not file.exists():
                recast(arguments.gguf, file, kind)
            for threads in arguments.threads.split(","):
                sides = [lambda: ours(arguments, kind, file, threads), lambda: theirs(arguments, file, threads)]
                if arguments.weights and importlib.util.find_spec("transformers"):
                    sides.append(lambda: loaded_by_transformers(arguments, kind, threads))
                runs = tuple([] for _ in sides)
                for number in range(arguments.rounds):
                    order = range(len(sides))
                    for side in order if number % 2 == 0 else reversed(order):
                        runs[side].append(sides[side]())
                row = {"type": kind, "threads": int(threads)}
                for name, what, amount in (("prompt", "prompts", arguments.prompt), ("generated", "tokens", 1)):
                    speeds = [amount / median(side, what) for side in runs[:2]]
                    row[name] = {"ours": speeds[0], "llama.cpp": speeds[1], "ratio": speeds[0] / speeds[1]}
                row["load_seconds"] = {"ours": median(runs[0], "load"), "llama.cpp": median(runs[1], "load")}
                if len(runs) > 2:
                    row["load_seconds"].update({"transformers": median(runs[2], "load"), "transformers' imports": median(runs[2], "imports")})
                rows.append(row)
                if not arguments.json:
                    print(f"{kind:11s} {threads} threads: " + "; ".join(
                        f"{name} {row[name]['ours']:.1f} tokens/s, llama.cpp {row[name]['llama.cpp']:.1f}, ratio {row[name]['ratio']:.2f}"
                        for name in ("prompt", "generated")) + "; load " + ", ".join(
                        f"{name} {seconds:.3f} s" for name, seconds in row["load_seconds"].items() if seconds is not None), flush=True)
        if arguments.json:
            print(json.dumps({"prompt": arguments.prompt, "new": arguments.new, "rounds": arguments.rounds, "rows": rows}, indent=2))


if __name__ == "__main__":
    main()
