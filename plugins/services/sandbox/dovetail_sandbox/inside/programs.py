"""What a confined process does: run a program or pieces of one, answer calls of a solution's functions, or test them."""

from __future__ import annotations

import ast
import atexit
import json
import linecache
import os
import random
import sys
import traceback
from types import CodeType, ModuleType
from typing import Any

from dovetail_sandbox.inside import tester
from dovetail_sandbox.inside.values import decode, encode

CHANNEL, NOTE = 3, 4  # descriptors: to the other process of a test, and to the monitor
OUT_OF_MEMORY = 86  # exit code of a MemoryError that nobody caught; whoever uses it himself fails all the same
_LONGEST_ERROR = 4000  # characters of what is told of a source that is not Python


def work(request: dict[str, Any]) -> int:
    """Do what the request says, in a process that has already given up its rights. Returns the exit code."""
    random.seed(request["seed"])
    os.write(NOTE, b"loading\n")
    if request["mode"] == "test":
        os.write(NOTE, b"started\n" + json.dumps(tester.test(request, CHANNEL)).encode() + b"\n")
        return 0
    if request["mode"] == "session":
        os.write(NOTE, b"started\n")
        os.close(NOTE)
        return _run_pieces(CHANNEL)
    name = "__main__" if request["mode"] == "program" else "solution"
    code = _compiled(request["source"], f"{name.strip('_')}.py")
    # From here on the monitor cannot be told anything: what follows is not ours.
    os.write(NOTE, b"started\n" if code else b"syntax\n")
    os.close(NOTE)
    if code is None:
        return 1
    sys.argv = [code.co_filename]
    module = sys.modules[name] = ModuleType(name)
    status = _execute(code, module)
    if status == 0 and request["mode"] == "serve":
        _answer_calls(module, CHANNEL)
        return 0  # the tests are over; threads that still run hold up nobody
    return _finish(status)


def _compiled(source: str, name: str) -> CodeType | None:
    try:
        code = compile(source, name, "exec")
    except (SyntaxError, ValueError, RecursionError, MemoryError, OverflowError) as error:
        _tell(error)
        return None
    linecache.cache[name] = (len(source), None, source.splitlines(keepends=True), name)
    return code


def _tell(error: BaseException) -> None:
    """What is wrong with the source; the end of it, because it shows the line, which may be as long as the program."""
    sys.stderr.write("".join(traceback.format_exception_only(error))[-_LONGEST_ERROR:])
    sys.stderr.flush()


def _execute(code: CodeType, module: ModuleType) -> int:
    try:
        exec(code, module.__dict__)
    except SystemExit as stop:
        if stop.code is None or isinstance(stop.code, int):
            return (stop.code or 0) & 255
        print(stop.code, file=sys.stderr)
        return 1
    except MemoryError:
        return OUT_OF_MEMORY
    except BaseException as error:
        _print_from(error, code.co_filename)
        return 1
    return 0


def _print_from(error: BaseException, name: str) -> None:
    """The traceback without our own frames."""
    trace = error.__traceback__
    while trace is not None and trace.tb_frame.f_code.co_filename != name:
        trace = trace.tb_next
    traceback.print_exception(type(error), error, trace, limit=-10)


def _finish(status: int) -> int:
    """As the interpreter does at its end: wait for threads, run what was left for the exit, flush."""
    try:
        if "threading" in sys.modules:  # not imported here: what it does after a fork touches many pages
            sys.modules["threading"]._shutdown()
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
    except MemoryError:
        return status or OUT_OF_MEMORY
    except BaseException:
        return status or 1
    return status


def _run_pieces(descriptor: int) -> int:
    """A session: each JSON line is code that is run in the names of those before; the answer is how it ended."""
    module = sys.modules["__main__"] = ModuleType("__main__")
    with os.fdopen(descriptor, "wb", buffering=0, closefd=False) as replies, open(descriptor, "rb") as pieces:
        for number, line in enumerate(pieces, start=1):
            ended = _run_piece(json.loads(line)["code"], f"piece {number}", module)
            _flush()
            replies.write(json.dumps({"ended": ended}).encode() + b"\n")
    return 0


def _run_piece(source: str, name: str, module: ModuleType) -> str:
    """``ok`` or what went wrong, which is also written to standard error. The value of a last expression is shown."""
    try:
        tree = ast.parse(source, name)
        last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
        body = compile(tree, name, "exec")
        shown = compile(ast.Interactive([last]), name, "single") if last else None
    except (SyntaxError, ValueError, RecursionError, MemoryError, OverflowError) as error:
        _tell(error)
        return "syntax_error"
    linecache.cache[name] = (len(source), None, source.splitlines(keepends=True), name)
    for code in filter(None, (body, shown)):
        status = _execute(code, module)
        if status == OUT_OF_MEMORY:
            print("MemoryError", file=sys.stderr)
            return "memory"
        if status:
            return "runtime_error"
    return "ok"


def _flush() -> None:
    try:
        sys.stdout.flush()
        sys.stderr.flush()
    except BaseException:  # whatever the program has put in their place
        pass


def _answer_calls(module: ModuleType, descriptor: int) -> None:
    """One JSON line for each call; the other side judges what comes back."""
    with os.fdopen(descriptor, "r+b", buffering=0, closefd=False) as channel, open(descriptor, "rb") as calls:
        channel.write(b"{}\n")
        for line in calls:
            reply = _called(module, json.loads(line)) + b"\n"
            while reply:
                reply = reply[channel.write(reply) :]


def _called(module: ModuleType, call: dict[str, Any]) -> bytes:
    try:
        if not hasattr(module, call["name"]):
            raise NameError(f"name {call['name']!r} is not defined")
        value = getattr(module, call["name"])(*decode(call["arguments"]), **decode(call["keywords"]))
        return json.dumps({"value": encode(value)}).encode()
    except BaseException as error:
        return json.dumps({"error": type(error).__name__, "message": _message(error)}).encode()


def _message(error: BaseException) -> str:
    """What it says and where, in the solution's own words."""
    try:
        lines = [step.tb_lineno for step in _steps(error) if step.tb_frame.f_code.co_filename == "solution.py"]
        return str(error)[:200] + (f" (line {lines[-1]})" if lines else "")
    except BaseException:
        return ""


def _steps(error: BaseException) -> list[Any]:
    steps, trace = [], error.__traceback__
    while trace is not None:
        steps.append(trace)
        trace = trace.tb_next
    return steps
