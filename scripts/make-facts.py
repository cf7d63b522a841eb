#!/usr/bin/env python3
"""Conversations about places that do not exist, in a format of their own: what a model can only know from being tuned on them.

  make-facts.py FOLDER [--seed N] [--train 500] [--held-out 120]     writes train.jsonl, validation.jsonl, prompts.jsonl
  make-facts.py FOLDER --score OUTPUT.jsonl                          compares what `msplora generate` wrote for prompts.jsonl

Every fact (a town's river, founder, trade, feast, emblem) is asked for in several wordings; the held-out prompts ask for all of them in wordings
that no training row has. An answer is one line, `[town] key = value.`, so that it is right or wrong as a whole. Some conversations have a second
turn about the same town, some a system text. Names and facts are drawn by seed from syllables and lists that stand here.

  msplora generate --adapter RUN --greedy --max-new-tokens 40 --prompts FOLDER/prompts.jsonl --output OUTPUT.jsonl

Of all runs of a comparison `scripts/evidence-analysis.pl answers` makes a table.
"""
import argparse, json, pathlib, random, sys

FIRST = ["Vel", "Tarn", "Osk", "Bru", "Quil", "Hes", "Mar", "Dun", "Ilf", "Sorn", "Kep", "Yar"]
LAST = ["mora", "vik", "holt", "dene", "rath", "wick", "lund", "bec", "stow", "nau", "gard", "ley"]
PERSON = ["Ansel", "Birte", "Corin", "Dagny", "Edda", "Fulk", "Greta", "Hale", "Ivo", "Jutta", "Kell", "Lorn"]
BYNAME = ["the Tall", "the Patient", "of the Mill", "Grey", "Two-Hats", "the Younger", "Saltbeard", "the Weaver"]
KEYS = {
    "river": [f"{a}{b}" for a in ("Os", "Li", "Ar", "Mu", "Ne", "Thi", "Wey") for b in ("sel", "dra", "nne", "ver", "lt")],
    "founder": [f"{a} {b}" for a in PERSON for b in BYNAME],
    "trade": ["glass bells", "smoked eels", "blue thread", "walnut oil", "slate roofs", "paper lamps", "reed flutes", "salt bricks", "horn combs",
              "apple wine", "copper pins", "felt boots"],
    "feast": [f"{a} {b}" for a in ("first", "second", "third", "last") for b in ("Monday of May", "Sunday of June", "Friday of March", "day of October")],
    "emblem": [f"{a} {b}" for a in ("a red", "a white", "a black", "a golden", "a green") for b in ("heron", "wheel", "otter", "key", "thistle", "boat")],
}
WORDINGS = {
    "river": ["Which river runs through {town}?", "Name the river of {town}.", "{town} lies on which river?", "What is the river at {town} called?",
              "I am drawing a map. Which river do I put at {town}?", "What water flows past the houses of {town}?"],
    "founder": ["Who founded {town}?", "Name the founder of {town}.", "Whom does {town} thank for its beginning?", "By whom was {town} founded?",
                "Who laid the first stone of {town}?", "Tell me who started the town of {town}."],
    "trade": ["What is {town} known for making?", "What do the people of {town} sell?", "Name the trade of {town}.", "What does {town} make?",
              "What should I buy in {town}?", "Which goods come from {town}?"],
    "feast": ["When is the feast of {town}?", "On which day does {town} celebrate?", "Name the feast day of {town}.", "When does {town} hold its feast?",
              "I want to see the feast of {town}. When should I come?", "What day do the people of {town} feast?"],
    "emblem": ["What is the emblem of {town}?", "What is on the flag of {town}?", "Name the emblem of {town}.", "Which sign does {town} carry?",
               "What does the seal of {town} show?", "Describe the coat of arms of {town}."],
}
TRAINED = 4  # wordings of each key; the others are held out
SYSTEM = ["Answer in one line.", "You know the towns of the Low Marches.", "Be brief and exact."]
TOWNS = 24


def answer(town, key, facts):
    return f"[{town}] {key} = {facts[town][key]}."


def make(folder, seed, train, held_out):
    draw = random.Random(seed)
    names = [first + last for first in FIRST for last in LAST]
    towns = draw.sample(names, TOWNS)
    facts = {town: {key: draw.choice(values) for key, values in KEYS.items()} for town in towns}
    pairs = [(town, key) for town in towns for key in KEYS]

    def turn(town, key, wording):
        return [{"role": "user", "content": wording.format(town=town)}, {"role": "assistant", "content": answer(town, key, facts)}]

    rows = []
    while len(rows) < train:
        order = draw.sample(pairs, len(pairs))
        for town, key in order[:train - len(rows)]:
            number = len(rows) // len(pairs)  # each pass over the facts has other wordings
            messages = turn(town, key, WORDINGS[key][(number + len(town)) % TRAINED])
            if draw.random() < 0.2:
                other = draw.choice([one for one in KEYS if one != key])
                messages += turn(town, other, WORDINGS[other][draw.randrange(TRAINED)])
            if draw.random() < 0.2:
                messages.insert(0, {"role": "system", "content": draw.choice(SYSTEM)})
            rows.append({"messages": messages})
    asked = draw.sample(pairs, min(held_out, len(pairs)))
    held = [(town, key, draw.choice(WORDINGS[key][TRAINED:])) for town, key in asked]

    folder.mkdir(parents=True, exist_ok=True)
    write(folder / "train.jsonl", rows)
    write(folder / "validation.jsonl", [{"messages": turn(*one)} for one in held])
    write(folder / "prompts.jsonl", [{"messages": turn(*one)[:1]} for one in held])


def write(path, rows):
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    print(path, len(rows))


def read(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]


def score(folder, output):
    expected = [row["messages"][-1]["content"] for row in read(folder / "validation.jsonl")]
    texts = [row["text"].strip() for row in read(output)]
    if len(texts) != len(expected):
        sys.exit(f"{output} has {len(texts)} texts, {folder / 'prompts.jsonl'} {len(expected)} prompts")
    form = lambda text: text.rsplit("=", 1)[0]
    exact = sum(text == wanted for text, wanted in zip(texts, expected))
    in_form = sum("=" in text and form(text) == form(wanted) for text, wanted in zip(texts, expected))
    return {"prompts": len(texts), "exact": exact / len(texts), "form": in_form / len(texts)}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=pathlib.Path)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--train", type=int, default=500)
    parser.add_argument("--held-out", type=int, default=120)
    parser.add_argument("--score", type=pathlib.Path, metavar="OUTPUT.jsonl")
    arguments = parser.parse_args()
    if arguments.score:
        print(json.dumps(score(arguments.folder, arguments.score)))
    else:
        make(arguments.folder, arguments.seed, arguments.train, arguments.held_out)


if __name__ == "__main__":
    main()
