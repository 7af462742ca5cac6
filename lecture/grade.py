"""Grade a copy that `exercise.py` wrote: check each function that it left blank.

Each function is checked in a process of its own, and the functions around it are those of the real
script, so that a mistake is reported where it is. Where a function is wrong, numbers show it: what
was given, what was expected, what came, and a hint. Prints of the file are not shown.

    python lecture/grade.py my_ddpg.py

Exit codes: 0 all is right, 1 something is not, 2 the file can't be graded.
"""

import argparse
import ast
import multiprocessing
import os
import sys
from contextlib import suppress
from copy import deepcopy
from functools import cache
from pathlib import Path
from types import ModuleType

import torch
from checks import CHECKS, PPO_CHECKS, Wrong, seed
from exercise import EXERCISES, definition, fail, find, script_path, to_set


# ---- The student's file ----
def parse(path: Path):
    """Return the syntax tree of a file and the algorithm whose script it is a copy of."""
    try:
        tree = ast.parse(path.read_text(encoding="utf-8-sig"))
        ast.unparse(tree)
    except OSError as error:
        fail(f"cannot read {path}: {error.strerror}")
    except SyntaxError as error:
        fail(f"{path} has a syntax error in line {error.lineno}: {error.msg}")
    except (ValueError, RecursionError, MemoryError) as error:
        fail(f"{path} is no Python file: {error}")
    for algorithm in EXERCISES:
        if title(real_tree(algorithm)) == title(tree):
            return tree, algorithm
    fail(f"{path} has the docstring of no script that is an exercise ({', '.join(EXERCISES)})")


def title(tree) -> str:
    return (ast.get_docstring(tree) or "").split("\n")[0]


def changed_besides(tree, algorithm: str) -> list[str]:
    """Return the names of what differs from the real script outside of the exercise."""

    def parts(tree):
        tree = deepcopy(tree)
        for name in EXERCISES[algorithm]:
            if place := find(tree, name):
                body, start, stop = place
                body[start:stop] = [ast.Pass()]
        found = {}
        for node in tree.body:
            members = node.body if isinstance(node, ast.ClassDef) else [node]
            owner = f"{node.name}." if isinstance(node, ast.ClassDef) else ""
            for member in members:
                name = getattr(member, "name", None)
                found[owner + (name or ast.unparse(member))] = ast.unparse(member)
        return found

    real, own = parts(real_tree(algorithm)), parts(tree)
    return [name.split("\n")[0][:60] for name in real if own.get(name) != real[name]]


# ---- One function ----
@cache
def real_tree(algorithm: str):
    return ast.parse(script_path(algorithm).read_text(encoding="utf-8"))


@cache
def compiled(algorithm: str):
    return compile(real_tree(algorithm), str(script_path(algorithm)), "exec")


def load(algorithm: str) -> ModuleType:
    """Return the real script as a new module, with `act` as a function."""
    script = ModuleType(algorithm)
    script.__file__ = str(script_path(algorithm))
    exec(compiled(algorithm), vars(script))
    script.act = act(real_tree(algorithm), script)
    return script


@cache
def real_script(algorithm: str) -> ModuleType:
    return load(algorithm)


def run(nodes, script) -> dict:
    """Run statements of the student's file among the script's globals; return what they define."""
    tree, defined = ast.fix_missing_locations(ast.Module(nodes, [])), {}
    exec(compile(tree, "<student>", "exec"), vars(script), defined)
    return defined


def act(tree, script):
    """Return action selection as a function of what `train` knows at that place."""
    names = ", ".join(f"'{name}': {name}" for name in to_set(real_tree(script.__name__)))
    (node,) = ast.parse(f"def act(run, args, nets, obs, metrics, t): return {{{names}}}").body
    body, start, stop = find(tree, "act")
    node.body[:0] = body[start:stop]
    return run([node], script)["act"]


def install(script, tree, name: str) -> None:
    """Put a function of the student's file, and the helpers it may call, into the real script."""
    for node in tree.body:  # imports, functions, classes and constants that the script lacks
        targets = getattr(node, "targets", [getattr(node, "target", node)])
        names = {getattr(target, "id", getattr(target, "name", None)) for target in targets}
        if isinstance(node, ast.Import | ast.ImportFrom) or not names & {None, *vars(script)}:
            with suppress(Exception):
                vars(script).update(run([node], script))
    owner, _, method = name.rpartition(".")
    if name == "act":
        script.act = act(tree, script)
    elif owner:
        known = vars(getattr(script, owner))
        for node in definition(tree, owner).body:
            if (
                getattr(node, "name", None) == method
                or getattr(node, "name", "__doc__") not in known
            ):
                setattr(getattr(script, owner), node.name, run([node], script)[node.name])
    else:
        vars(script).update(run([definition(tree, name)], script))


def try_with(tree, algorithm: str, name: str, *others: str) -> None:
    """Check a function of the student's file among the script's, but for some `others`."""
    script = load(algorithm)
    seed(0)
    for own in name, *others:
        install(script, tree, own)
    (PPO_CHECKS if algorithm == "ppo" else CHECKS)[name](script, real_script(algorithm), name)


def check(tree, algorithm: str, name: str) -> Wrong | None:
    """Return what is wrong with a function of the student's file, None if nothing is."""
    place = find(tree, name)
    if place is None:
        return Wrong("nothing", f"The file has no {name} where the script has it.")
    body, start, stop = place
    if any("NotImplementedError" in ast.unparse(line) for line in body[start:stop]):
        return Wrong("", "blank")
    try:
        try_with(tree, algorithm, name)
    except Wrong as wrong:
        policy = "Actor.distribution"
        if name not in ("Actor.sample", "Actor.forward") or policy not in EXERCISES[algorithm]:
            return wrong
        with suppress(Wrong, SyntaxError):  # it may be right with the file's own policy
            try_with(tree, algorithm, name, policy)
            return None
        return wrong
    except SyntaxError as error:  # that only the compiler sees, such as `break` outside a loop
        return Wrong(f"line {error.lineno}: {error.msg}", "Python cannot compile this.")
    return None


# ---- Processes ----
def work(tree, algorithm, name, sender):
    """Check one function, in a process whose prints nobody sees."""
    for number, mode in (0, os.O_RDONLY), (1, os.O_WRONLY), (2, os.O_WRONLY):
        os.dup2(os.open(os.devnull, mode), number)
    torch.set_num_threads(1)
    real_script(algorithm)
    sender.send("ready")
    wrong = check(tree, algorithm, name)
    sender.send(wrong and wrong.args)
    os._exit(0)


def grade(tree, algorithm: str, name: str, timeout: float) -> Wrong | None:
    """Check one function in a process of its own."""
    context = multiprocessing.get_context("fork" if sys.platform == "linux" else "spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=work, args=(tree, algorithm, name, sender), daemon=True)
    process.start()
    sender.close()
    try:
        receiver.recv()  # what the script imports is not the student's time
        if not receiver.poll(timeout):
            return Wrong(f"nothing within {timeout:g} seconds", "Does every loop end?")
        args = receiver.recv()
        return args and Wrong(*args)
    except EOFError:
        process.join()
        return Wrong(f"the process ended, with code {process.exitcode}", "Which line ends it?")
    finally:
        process.kill()
        process.join()


def report(name: str, wrong: Wrong | None) -> str:
    """Return what is printed about a function."""
    if wrong is None:
        return f"{name:22}passed"
    came, hint, given, expected = (*wrong.args, "", "")[:4]
    if hint == "blank":
        return f"{name:22}blank"
    lines = [f"{name:22}wrong"]
    for label, text in ("given", given), ("expected", expected), ("came", came), ("hint", hint):
        for i, line in enumerate(text.split("\n") if text else []):
            lines.append(f"    {'' if i else label:10}{line}")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("file", type=Path, help="what exercise.py wrote, filled in")
    parser.add_argument("--timeout", type=float, default=30, help="seconds for each function")
    parser.error = fail
    args = parser.parse_args()
    if not 0 < args.timeout <= 1e6:
        fail("--timeout must be above 0 and at most 1e6")
    sys.stdout.reconfigure(encoding="utf-8", errors="replace")
    tree, algorithm = parse(args.file)
    print(f"{args.file} is a copy of {script_path(algorithm).name}")
    if changed := changed_besides(tree, algorithm):
        print(f"changed besides and not graded: {', '.join(changed)}")
    real_script(algorithm)  # its imports, once for all processes
    right = 0
    for name in EXERCISES[algorithm]:
        wrong = grade(tree, algorithm, name, args.timeout)
        print(report(name, wrong), flush=True)
        right += wrong is None
    print(f"{right} of {len(EXERCISES[algorithm])} passed")
    sys.exit(right < len(EXERCISES[algorithm]))


if __name__ == "__main__":
    main()
