"""Grade a copy that `exercise.py` wrote: check each function that it left blank.

Each function is checked in a process of its own, and the functions around it are those of the real
script, so that a mistake is reported where it is; in a bundle they are the file's own, and what
they need has to pass first. Where a function is wrong, numbers show it: what was given, what was
expected, what came, and a hint. Prints of the file are not shown.

    python lecture/grade.py my_ddpg.py

Exit codes: 0 all is right, 1 something is not, 2 the file can't be graded.
"""

import argparse
import ast
import json
import multiprocessing
import os
import re
import sys
from contextlib import suppress
from functools import cache
from pathlib import Path
from types import ModuleType

import torch
from exercise import EXERCISES, definition, fail, find, parts, script_path, to_set
from measure import Wrong, compare, described

EXPECTED = Path(__file__).with_name("expected.json")
BUNDLE = EXPECTED.exists()  # there is no real script, and what it would give stands in that file


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
    command = re.search(r"python (\w+)_continuous\.py", ast.get_docstring(tree) or "")
    if command and command[1] in EXERCISES:
        return tree, command[1]
    fail(f"{path} is no exercise: its docstring names none of {', '.join(EXERCISES)}")


# ---- The real script ----
@cache
def real_tree(algorithm: str):
    return ast.parse(script_path(algorithm).read_text(encoding="utf-8"))


@cache
def compiled(algorithm: str):
    return compile(real_tree(algorithm), str(script_path(algorithm)), "exec")


def real_script(algorithm: str) -> ModuleType:
    """Return the real script as a new module, with `act` as a function."""
    script = ModuleType(algorithm)
    script.__file__ = str(script_path(algorithm))
    exec(compiled(algorithm), vars(script))
    script.act = act(real_tree(algorithm), script, to_set(real_tree(algorithm)))
    return script


@cache
def record(algorithm: str) -> dict:
    """Return what has to be known of the real script besides what its functions return."""
    if BUNDLE:
        return json.loads(EXPECTED.read_text(encoding="utf-8"))[algorithm]
    tree = real_tree(algorithm)
    return {"parts": parts(tree, EXERCISES[algorithm]), "act sets": to_set(tree)}


@cache
def expected(algorithm: str, name: str) -> list[dict]:
    """Return what is expected of a function, as arguments of `compare`."""
    if BUNDLE:
        return record(algorithm)["cases"][name]
    from checks import cases

    return cases(real_script(algorithm), name)


def changed_besides(tree, algorithm: str) -> list[str]:
    """Return the names of what differs from the real script outside of the exercise."""
    own = parts(tree, EXERCISES[algorithm])
    return [name for name, sum_ in record(algorithm)["parts"].items() if own.get(name) != sum_]


# ---- One function ----
def run(nodes, script) -> dict:
    """Run statements of the student's file among the script's globals; return what they define."""
    tree, defined = ast.fix_missing_locations(ast.Module(nodes, [])), {}
    exec(compile(tree, "<student>", "exec"), vars(script), defined)
    return defined


def act(tree, script, names):
    """Return action selection as a function of what `train` knows at that place."""
    names = ", ".join(f"'{name}': {name}" for name in names)
    (node,) = ast.parse(f"def act(run, args, nets, obs, metrics, t): return {{{names}}}").body
    body, start, stop = find(tree, "act")
    node.body[:0] = body[start:stop]
    return run([node], script)["act"]


def install(script, tree, name: str) -> None:
    """Put a function of the student's file, and the helpers it may call, into the real script."""
    for node in tree.body:  # imports, functions, classes and constants that the script lacks
        if not isinstance(node, ast.Expr | ast.If):
            with suppress(Exception):
                made = run([node], script)
                vars(script).update({k: made[k] for k in made if k not in vars(script)})
    owner, _, method = name.rpartition(".")
    if owner:
        real, own = getattr(script, owner), vars(run([definition(tree, owner)], script)[owner])
        for part in own:  # the method, and what the script's class lacks
            if part == method or part not in vars(real):
                setattr(real, part, own[part])
    elif name != "act":
        vars(script).update(run([definition(tree, name)], script))


def own_script(tree, failed) -> ModuleType:
    """Return the student's file as a module in which functions that have `failed` say so."""
    script = ModuleType("student")
    script.__file__ = "student.py"
    exec(compile(tree, "<student>", "exec"), vars(script))
    for name in failed:

        def wait(*_, name=name):
            raise NotImplementedError(name)

        owner, _, method = name.rpartition(".")
        setattr(getattr(script, owner) if owner else script, method, wait)
    return script


def try_with(tree, algorithm: str, name: str, others=()) -> None:
    """Raise Wrong if a function of the student's file is.

    The `others` are those that are also taken from the file, or in a bundle those that have failed.
    """
    try:
        script = own_script(tree, others) if BUNDLE else real_script(algorithm)
        if name == "act":
            script.act = act(tree, script, record(algorithm)["act sets"])
        for own in () if BUNDLE else (name, *others):
            install(script, tree, own)
    except BaseException as error:
        raise Wrong(described(error), "Does the file run without the grader?") from None
    for case in expected(algorithm, name):
        compare(script, **case)


def check(tree, algorithm: str, name: str, failed=()) -> Wrong | None:
    """Return what is wrong with a function of the student's file, None if nothing is."""
    place = find(tree, name)
    if place is None:
        return Wrong("nothing", f"The file has no {name} where the script has it.")
    body, start, stop = place
    if any("NotImplementedError" in ast.unparse(line) for line in body[start:stop]):
        return Wrong("", "blank")
    policy = "Actor.distribution"
    try:
        try_with(tree, algorithm, name, failed if BUNDLE else ())
    except Wrong as wrong:
        if BUNDLE or name[:6] != "Actor." or name == policy or policy not in EXERCISES[algorithm]:
            return wrong
        with suppress(Wrong):  # it may be right with the file's own policy
            try_with(tree, algorithm, name, [policy])
            return None
        return wrong
    return None


# ---- Processes ----
def work(tree, algorithm, name, failed, sender):
    """Check one function, in a process whose prints nobody sees."""
    for number in range(3):
        os.dup2(os.open(os.devnull, os.O_RDWR), number)
    torch.set_num_threads(1)
    expected(algorithm, name)
    sender.send("ready")
    wrong = check(tree, algorithm, name, failed)
    sender.send(wrong and wrong.args)
    os._exit(0)


def grade(tree, algorithm: str, name: str, timeout: float, failed=()) -> Wrong | None:
    """Check one function in a process of its own."""
    context = multiprocessing.get_context("fork" if sys.platform == "linux" else "spawn")
    receiver, sender = context.Pipe(duplex=False)
    args = tree, algorithm, name, failed, sender
    process = context.Process(target=work, args=args, daemon=True)
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
    if not came:  # blank, or it waits for another
        return f"{name:22}{hint}"
    lines = [f"{name:22}wrong"]
    for label, text in ("given", given), ("expected", expected), ("got", came), ("hint", hint):
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
    with suppress(Exception):  # what the file imports, once for all processes
        imports = [node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)]
        run(imports, ModuleType("imports"))
    failed = []
    for name in EXERCISES[algorithm]:
        wrong = grade(tree, algorithm, name, args.timeout, failed)
        print(report(name, wrong), flush=True)
        failed += [name] * (wrong is not None)
    count = len(EXERCISES[algorithm])
    print(f"{count - len(failed)} of {count} passed")
    sys.exit(len(failed) > 0)


if __name__ == "__main__":
    main()
