"""Write a copy of a training script in which functions are blank, to be filled in.

The copy is made of the script as it is now, and trains once it is finished. Comments with an
equation or a source stay. `act` is what stands in `train` before the step of the environments.

    python lecture/exercise.py ddpg --out my_ddpg.py
    python lecture/grade.py my_ddpg.py
"""

import argparse
import ast
import io
import re
import sys
import textwrap
import tokenize
from copy import deepcopy
from pathlib import Path
from zlib import crc32

ROOT = Path(__file__).parent.parent
DETERMINISTIC = ["QNetwork.forward", "Actor.forward"]
STOCHASTIC = ["QNetwork.forward", "Actor.distribution", "Actor.sample", "Actor.forward"]
PPO = ["Critic.forward", "Actor.distribution", "Actor.forward", "estimate_advantages"]
LOSSES = ["critic_loss", "actor_loss"]
EXERCISES = {
    "ddpg": [*DETERMINISTIC, *LOSSES, "polyak_update", "act"],
    "td3": [*DETERMINISTIC, *LOSSES, "polyak_update", "act"],
    "ac_reparam": [*STOCHASTIC, *LOSSES, "polyak_update", "act"],
    "sac": [*STOCHASTIC, *LOSSES, "polyak_update", "act"],
    "ppo": [*PPO, *LOSSES, "act"],
}
SHAPES = {
    **dict.fromkeys(["data.observations", "data.next_observations"], "(batch, obs_dim)"),
    "data.actions": "(batch, act_dim)",
    **dict.fromkeys(["data.rewards", "data.dones"], "(batch, 1)"),
    **dict.fromkeys(["data.log_probs", "data.advantages", "data.returns"], "(batch,)"),
    **dict.fromkeys(["rollout.terminations", "rollout.dones"], "(num_steps, num_envs)"),
}


def fail(message: str):
    """Exit with one line and code 2."""
    print("error:", message, file=sys.stderr)
    raise SystemExit(2)


def script_path(name: str) -> Path:
    return ROOT / f"{name}_continuous.py"


def definition(tree, name: str):
    """Return the last definition of "function", "Class" or "Class.method", None if missing."""
    for part in name.split("."):
        named = [node for node in getattr(tree, "body", []) if getattr(node, "name", None) == part]
        tree = named[-1] if named else None
    return tree


def find(tree, name: str):
    """Return (statements, start, stop): the exercise is statements[start:stop]; None if missing."""
    if name == "act":
        for node in ast.walk(definition(tree, "train") or ast.Pass()):
            body = getattr(node, "body", None)
            for i, line in enumerate(body if isinstance(body, list) else []):
                if isinstance(line, ast.Assign) and ast.unparse(line.value).startswith("run.step("):
                    return body, 0, i
        return None
    function = definition(tree, name)
    if not isinstance(function, ast.FunctionDef):
        return None
    return function.body, int(ast.get_docstring(function) is not None), len(function.body)


def to_set(tree) -> list[str]:
    """Return the names that `act` has to set: those that the rest of `train` reads."""
    body, start, stop = find(tree, "act")
    act = [node for line in body[start:stop] for node in ast.walk(line)]
    stored = [n.id for n in act if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)]
    rest = {n.id for line in body[stop:] for n in ast.walk(line) if isinstance(n, ast.Name)}
    return sorted(rest.intersection(stored))


def task(tree, name: str) -> str:
    """Return what a blank has to respect, read off the script: what it reads and what it logs."""
    body, start, stop = find(tree, name)
    nodes = [node for line in body[start:stop] for node in ast.walk(line)]
    read = sorted({ast.unparse(node) for node in nodes if isinstance(node, ast.Attribute)})
    code = "\n".join(ast.unparse(line) for line in body[start:stop])
    settings = [text for text in read if re.fullmatch(r"(args|run)\.\w+|self\.action_\w+", text)]
    batch = [f"{text} {SHAPES[text]}".replace(" ", "\xa0") for text in read if text in SHAPES]
    logged = re.findall(r"[{,] '(\w+)':|\{'(\w+)':|metrics\['(\w+)'\] =", code)
    parts = [f"set {', '.join(to_set(tree))}"] if name == "act" else []
    parts += [f"it reads {', '.join(settings + batch)}"] if settings + batch else []
    parts += ["x may be float64"] if "x.float()" in code else []
    uses = sorted(set(re.findall(r"F\.relu|torch\.tanh(?=\(self)|clamp\(-?\d+, \d+\)", code)))
    parts += [f"it uses {', '.join(uses)}"] if uses else []
    parts += [f"it logs {', '.join(''.join(names) for names in logged)}"] if logged else []
    return "To do: " + "; ".join(parts) if parts else ""


def parts(tree, names: list[str]) -> dict[str, int]:
    """Return a checksum of each definition and statement of a script, its blanks left out."""
    tree = deepcopy(tree)
    for name in names:
        if place := find(tree, name):
            body, start, stop = place
            body[start:stop] = [ast.Pass()]
    found = {}
    for node in tree.body:
        members = node.body if isinstance(node, ast.ClassDef) else [node]
        owner = f"{node.name}." if isinstance(node, ast.ClassDef) else ""
        for member in members:
            name = owner + (getattr(member, "name", None) or ast.unparse(member))
            text = ast.unparse(member).replace('"', "'")  # Python 3.12 quotes f-strings otherwise
            found[name.split("\n")[0][:60]] = crc32(text.encode())
    return found


def blank(source: str, names: list[str]) -> str:
    """Return the source with the named functions blank: their comments and a line that raises."""
    tree, lines = ast.parse(source), source.splitlines()
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    comments = [token for token in tokens if token.type == tokenize.COMMENT]
    for name in sorted(names, key=lambda name: -find(tree, name)[0][0].lineno):
        body, start, stop = find(tree, name)
        first, last, indent = body[start].lineno, body[stop - 1].end_lineno, body[start].col_offset
        inside = [token for token in comments if first <= token.start[0] <= last]
        # a comment behind code explains that line, unless it names a source
        kept = [t.string for t in inside if t.line.lstrip().startswith("#") or "[" in t.string]
        todo = textwrap.wrap(task(tree, name), 96 - indent)
        kept += [f"# {line}".replace("\xa0", " ") for line in todo]
        kept += [f'raise NotImplementedError("{name}")']
        lines[first - 1 : last] = [" " * indent + line for line in kept]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("script", choices=EXERCISES, help="algorithm of the exercise")
    parser.add_argument("--out", type=Path, help="file to write (default: my_<script>.py)")
    parser.error = fail
    args = parser.parse_args()
    path = args.out or Path(f"my_{args.script}.py")
    try:
        source = script_path(args.script).read_text(encoding="utf-8")
        text = blank(source, EXERCISES[args.script])
        with open(path, "x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError:
        fail(f"{path} exists and is left as it is: choose another --out")
    except OSError as error:
        fail(f"{error.filename}: {error.strerror}")
    print(f"{path}: fill in {', '.join(EXERCISES[args.script])}")
    print(f"  python {Path(__file__).with_name('grade.py')} {path}")


if __name__ == "__main__":
    main()
