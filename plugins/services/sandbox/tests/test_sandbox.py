"""What the sandbox promises: programs run, hostile ones get the verdict that they deserve, and nothing is left."""

from __future__ import annotations

import asyncio
import importlib.util
import json
import os
import platform
import select
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import attrs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dovetail.errors import UserError
from dovetail_sandbox import Limits, Sandbox, Status, Tests, interpreter, probe, tiers
from dovetail_sandbox.inside import filter
from dovetail_sandbox.inside.tester import same
from dovetail_sandbox.inside.values import decode, encode
from dovetail_sandbox.server import Server, finish


def _beside(name):
    """A module of this folder, which is no package."""
    spec = importlib.util.spec_from_file_location(name, Path(__file__).with_name(f"{name}.py"))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


hostile, hacks = _beside("hostile"), _beside("hacks")
PROGRAMS = [one for one in hostile.ALL if platform.machine() == "x86_64" or "syscall(" not in one.source]


def need(tier):
    """Skip, with the reason, where a tier does not work; in CI that is a failure, unless the kernel forbids it."""
    found = probe(tier)
    if found.works:
        return
    if os.environ.get("CI") == "true" and not is_forbidden():
        pytest.fail(f"the tier {tier} must work in CI: {found.why}")
    pytest.skip(f"the tier {tier} does not work here: {found.why}")


def is_forbidden():
    """Whether the kernel itself refuses namespaces to us."""
    refused = subprocess.run(["unshare", "--user", "--pid", "--fork", "true"], capture_output=True).returncode != 0
    return refused or tiers._missing("basic") != ""


@pytest.fixture(scope="module", params=["strict", "basic"])
def box(request):
    """A sandbox in each tier."""
    need(request.param)
    box = Sandbox(request.param, workers=4)
    yield box
    box.close()


@pytest.fixture(scope="module")
def secret(tmp_path_factory):
    """A file that everybody on the host may read and write."""
    folder = Path(tempfile.mkdtemp(dir="/tmp"))
    folder.chmod(0o755)
    path = folder / "secret"
    path.write_text("the secret")
    path.chmod(0o666)
    yield path
    assert path.read_text() == "the secret"
    path.unlink()
    folder.rmdir()


def attack(box, secret):
    """What each hostile program got: its status, its output, and whether that is as it must be."""

    def run(one):
        result = box.run(one.source.replace("{secret!r}", repr(str(secret))), limits=Limits(seconds=0.7, memory=256))
        return one.name, result

    with ThreadPoolExecutor(4) as threads:
        return dict(threads.map(run, PROGRAMS))


def problems(tier, results):
    """Hostile programs with another verdict than they must get, or with success."""
    found = []
    for one in PROGRAMS:
        result = results[one.name]
        if result.status not in one.allowed(tier) or "ESCAPED" in result.stdout:
            found.append(f"{one.name}: {result.status} {result.reason} {result.stdout[-200:]} {result.stderr[-300:]}")
    return found


def children():
    """Processes below this one, by number, with their state."""
    found = {}
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                _, _, rest = Path(f"/proc/{name}/stat").read_text().rpartition(")")
            except OSError:
                continue
            state, parent = rest.split()[:2]
            found[int(name)] = (int(parent), state)
    below = {os.getpid()}
    while more := {pid for pid, (parent, _) in found.items() if parent in below} - below:
        below |= more
    return {pid: found[pid][1] for pid in below - {os.getpid()}}


def folders():
    return {path.name for path in Path(tempfile.gettempdir()).glob("dovetail-sandbox-*")}


def test_hostile_programs_get_their_verdicts(box, secret, monkeypatch):
    """None gets what it wants, none breaks its sandbox, and afterwards the sandbox still works."""
    monkeypatch.setenv("DOVETAIL_SECRET", "x")
    assert len(PROGRAMS) >= 45
    assert problems(box.tier, attack(box, secret)) == []
    assert box.run("print(6 * 7)").stdout == "42\n"


def test_nothing_is_left(secret):
    """No process, no zombie, no folder, no descriptor, after hostile programs in every tier that works."""
    before, open_before, folders_before = children(), len(os.listdir("/proc/self/fd")), folders()
    for tier in tiers.CONFINED:
        if not probe(tier).works:
            continue
        box = Sandbox(tier, workers=2)
        few = [one for one in PROGRAMS if one in hostile.PROCESSES + hostile.DISKS + hostile.SIGNALS[:4]]
        for one in few:
            box.run(one.source, limits=Limits(seconds=0.3, memory=256))
        if tier == "basic":
            (folder,) = folders() - folders_before
            assert os.listdir(Path(tempfile.gettempdir()) / folder) == []
        box.close()
        box._threads.shutdown()
    assert set(children()) - set(before) == set()
    assert folders() == folders_before
    assert len(os.listdir("/proc/self/fd")) <= open_before


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become another user")
@pytest.mark.parametrize("tier", tiers.CONFINED)
def test_hostile_programs_get_their_verdicts_from_another_user(tier, secret):
    """The sandbox of a user without rights, whose own files and processes are not to be touched either."""
    need(tier)
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.setgroups([])
            os.setresgid(12345, 12345, 12345)
            os.setresuid(12345, 12345, 12345)
            interpreter.find.cache_clear()
            tiers.probe.cache_clear()
            found = tiers.probe(tier)
            told = [found.why] if not found.works else problems(tier, attack(Sandbox(tier, workers=4), secret))
        except BaseException as error:
            told = [repr(error)]
        os.write(writer, json.dumps(told).encode()[:60_000])
        os._exit(0)
    os.close(writer)
    with open(reader) as file:
        told = json.load(file)
    os.waitpid(child, 0)
    assert told == []


@pytest.mark.parametrize("tests", [hacks.BY_ASSERTS, hacks.BY_CASES], ids=["asserts", "cases"])
def test_no_reward_hack_passes(box, tests):
    """What is scored is a value of a plain type; the tests are in another process, and say themselves that they ran."""
    assert len(hacks.HACKS) >= 20

    def run(source):
        return box.test(source, tests, limits=Limits(seconds=1.0, memory=256))

    with ThreadPoolExecutor(4) as threads:
        verdicts = dict(zip(hacks.HACKS, threads.map(run, hacks.HACKS.values()), strict=True))
    wrong = {name: v for name, v in verdicts.items() if v.has_passed or v.status == Status.SANDBOX_ERROR}
    assert wrong == {}
    assert run(hacks.HONEST).has_passed


def test_a_verdict_counts_tests_and_shows_no_expected_value(box):
    """Each assert is a case, one that fails does not hide the others, and a constant asserts nothing."""
    asserts = (
        "assert f(1) == 1\nassert f(2) == 98765, 'it should be 98765'\nfor x in (3, 4): assert f(x) == x\nassert True"
    )
    verdict = box.test("def f(x): return x", Tests(["f"], asserts=asserts))
    assert (verdict.passed, verdict.total, verdict.has_passed) == (3, 4, False)
    assert verdict.first_failure.call == "f(2)"
    assert verdict.first_failure.returned == "2"
    assert "98765" not in repr(verdict)
    assert box.test("def f(x): return x", Tests(["f"], asserts="assert True")).has_passed is False


@pytest.mark.parametrize(
    ("source", "status", "words"),
    [
        ("def f(x)", Status.SYNTAX_ERROR, "SyntaxError"),
        ("1 / 0", Status.RUNTIME_ERROR, "ZeroDivisionError"),
        ("def f(x):\n    while True: pass", Status.TIMEOUT, ""),
        ("def f(x): return [0] * 10**10", Status.OK, ""),
        ("g = 1", Status.OK, ""),
    ],
)
def test_a_solution_that_fails_has_a_status(box, source, status, words):
    """And its own words."""
    verdict = box.test(source, Tests(["f"], asserts="assert f(1) == 1"), limits=Limits(seconds=0.5))
    assert (verdict.status, verdict.has_passed, verdict.passed) == (status, False, 0)
    assert words in verdict.stderr


def test_exceptions_cross_to_the_tests(box):
    """Tests may expect one of Python's own; the solution's words come with it."""
    asserts = "try:\n    f(-1)\nexcept ValueError as error:\n    seen = str(error)\nassert 'negative' in seen"
    assert box.test("def f(x):\n    raise ValueError('negative')", Tests(["f"], asserts=asserts)).has_passed
    verdict = box.test("def f(x):\n    return 1 // x", Tests(["f"], cases=[{"arguments": [0], "expected": 0}]))
    assert verdict.first_failure.error.startswith("ZeroDivisionError: integer division or modulo by zero (line 2)")


def test_broken_tests_are_nobodys_fault(box):
    """They give no verdict, which is not the same as a failure."""
    for asserts in ("assert f(1 ==", "undefined", "assert f(object()) == 1"):
        verdict = box.test("def f(x): return x", Tests(["f"], asserts=asserts))
        if "object" in asserts:
            assert not verdict.has_passed
            continue
        assert verdict.status == Status.SANDBOX_ERROR
        assert "the tests themselves are broken" in verdict.reason


def test_programs_run_as_usual(box):
    """Input, output, exit codes, threads, asyncio, files of their own, the standard library, one hash seed."""
    assert box.run("print(input()[::-1])", stdin="äbc\n").stdout == "cbä\n"
    assert box.run("import sys; sys.exit(3)").exit_code == 3
    assert box.run("import sys; sys.exit('bye')").stderr == "bye\n"
    assert box.run("import threading as t\nt.Thread(target=print, args=['done']).start()").stdout == "done\n"
    assert box.run("import asyncio\nasync def f(): return 7\nprint(asyncio.run(f()))").stdout == "7\n"
    assert box.run("open('x', 'w').write('kept'); print(open('x').read(), __name__)").stdout == "kept __main__\n"
    assert box.run("import os; print(os.listdir('.'))").stdout == "[]\n"
    assert box.run("import csv, sqlite3, unittest, zoneinfo, concurrent.futures").status == Status.OK
    told = box.run("def f():\n    1 / 0\nf()").stderr
    assert "line 2, in f\n    1 / 0" in told
    assert "dovetail" not in told
    same_twice = "print({chr(i) for i in range(99, 120)}, __import__('random').random())"
    assert box.run(same_twice).stdout == box.run(same_twice).stdout != box.run(same_twice, seed=1).stdout


def test_what_a_run_used_is_told(box):
    """Time, processor time, memory."""
    result = box.run("x = bytearray(50 << 20)\nfor i in range(10**6): pass")
    assert result.memory > 50 << 20
    assert result.cpu_seconds > 0
    assert 0 < result.seconds < 10


def test_a_server_that_is_killed_is_replaced(box):
    """The run is tried again; nothing is scored by accident."""
    assert box.run("print(1)").stdout == "1\n"
    taken = [box._servers.get() for _ in range(box._servers.qsize())]
    for server in taken:
        if server:
            server.kill()
        box._servers.put(server)
    for _ in range(len(taken)):
        assert box.run("print(1)").stdout == "1\n"


def test_a_killed_trainer_leaves_nothing_running():
    """kill -9 in the middle of a run: servers, monitors and programs end by themselves."""
    code = (
        "import sys, threading\nfrom dovetail_sandbox import Sandbox, probe\n"
        "for tier in ('strict', 'basic'):\n"
        "    if probe(tier).works:\n"
        "        box = Sandbox(tier, workers=1)\n"
        "        box.run('1')\n"
        "        threading.Thread(target=box.run, args=['while True: pass'], daemon=True).start()\n"
        "print('ready', flush=True)\nsys.stdin.read()"
    )
    before = set(children())
    trainer = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert trainer.stdout.readline() == b"ready\n"
    handles = [os.pidfd_open(pid) for pid in set(children()) - before - {trainer.pid}]
    assert handles or not any(probe(tier).works for tier in tiers.CONFINED)
    trainer.kill()
    trainer.communicate()
    for handle in handles:
        assert select.select([handle], [], [], 20)[0], "a process outlived the trainer"
        os.close(handle)


def test_coroutines_run_beside_each_other(box):
    """As many as there are workers, and the event loop goes on."""

    async def many():
        return await asyncio.gather(*(box.run_async(f"print({n} ** 2)") for n in range(20)))

    assert [int(result.stdout) for result in asyncio.run(many())] == [n**2 for n in range(20)]


def test_the_tier_none_runs_programs_under_limits_alone():
    """For trusted code; it must be asked for."""
    box = Sandbox("none", workers=1)
    assert box.run("print(open('/etc/hostname').name)").stdout == "/etc/hostname\n"
    assert box.run("while True: pass", limits=Limits(seconds=0.2)).status == Status.TIMEOUT
    assert box.test(hacks.HONEST, hacks.BY_ASSERTS).has_passed
    box.close()


def test_an_interpreter_of_another_version_is_sent_text():
    """The server starts, and runs programs, in an interpreter that cannot read what ours has compiled."""
    server = Server("none", attrs.evolve(interpreter.find(None), is_like_ours=False))
    ((result, _),) = finish(server.start({"mode": "program", "source": "print(7)", "seed": 0}, Limits()))
    server.close()
    assert (result.status, result.stdout) == (Status.OK, "7\n")


def test_a_tier_is_never_lowered_in_silence(monkeypatch):
    """One that does not work is an error with the reason; none is never taken by auto."""
    monkeypatch.setattr(tiers.shutil, "which", lambda name: None)
    monkeypatch.setattr(tiers.filter, "is_supported", lambda: True)
    tiers.probe.cache_clear()
    try:
        with pytest.raises(UserError, match="'strict' does not work here") as error:
            Sandbox("strict")
        assert "bwrap is not installed (apt install bubblewrap" in str(error.value)
        monkeypatch.setattr(tiers.filter, "is_supported", lambda: False)
        tiers.probe.cache_clear()
        with pytest.raises(UserError, match="no sandbox works on this machine"):
            Sandbox("auto")
        facts = tiers.facts()
        assert facts["sandbox"] == "none works"
        assert facts["sandbox basic"].startswith("no: its list of system calls is not written for")
    finally:
        tiers.probe.cache_clear()


def test_a_python_that_will_not_do_is_told():
    """With the path and the reason."""
    with pytest.raises(UserError, match="does not work here") as error:
        Sandbox("none", python="/bin/false")
    assert "/bin/false" in str(error.value)


def test_limits_that_make_no_sense_are_refused():
    """At once."""
    for options in ({"seconds": 0}, {"memory": 1}, {"output": 0}):
        with pytest.raises(ValueError, match="must be"):
            Limits(**options)


numbers = st.integers() | st.floats(allow_nan=False) | st.complex_numbers(allow_nan=False)
plain = st.recursive(
    st.none() | st.booleans() | numbers | st.text() | st.binary(),
    lambda inner: (
        st.lists(inner) | st.tuples(inner, inner) | st.dictionaries(st.text() | st.integers(), inner)
        | st.frozensets(st.integers()) | st.sets(st.text())
    ),
    max_leaves=20,
)  # fmt: skip


def typed(value):
    """A text that tells types apart as well."""
    if type(value) in (set, frozenset):
        return f"{type(value).__name__}{sorted(map(typed, value))}"
    if type(value) in (list, tuple):
        return f"{type(value).__name__}{[typed(item) for item in value]}"
    if type(value) is dict:
        return f"dict{[(typed(key), typed(item)) for key, item in value.items()]}"
    return repr(value)


@settings(deadline=None, max_examples=50)
@given(plain)
def test_values_cross_with_their_types(value):
    """What is decoded has the exact types and values of what was encoded."""
    assert typed(decode(json.loads(json.dumps(encode(value))))) == typed(value)


@settings(deadline=None, max_examples=50)
@given(plain)
def test_a_value_is_the_same_as_itself(value):
    """Whatever its type."""
    assert same(value, decode(json.loads(json.dumps(encode(value)))), 0.0)


def test_numbers_are_near_and_bools_are_no_numbers():
    """A list may be a tuple, because JSON has none."""
    assert same(0.1 + 0.2, 0.3, 1e-9)
    assert same(2.0, 2, 0.0)
    assert not same(10**17 + 1, 10**17, 1e-6)
    assert not same(True, 1, 0.0)
    assert not same(1, True, 0.0)
    assert same((1, [2]), [1, (2,)], 0.0)
    assert not same("1", 1, 0.0)
    assert not same({"a": 1}, {"a": 2}, 0.0)


def test_the_filter_has_the_numbers_of_the_kernel():
    """Checked against the system's headers, where they are installed."""
    header = Path("/usr/include/asm-generic/unistd.h")
    if platform.machine() != "x86_64" or not header.exists():
        pytest.skip("needs x86_64 and linux-libc-dev")
    for text, column, prefix in (
        (Path("/usr/include/x86_64-linux-gnu/asm/unistd_64.h").read_text(), 0, "__NR_"),
        (header.read_text(), 1, "__NR_|__NR3264_"),
    ):
        import re

        known = {m[1]: int(m[2]) for m in re.finditer(rf"#define (?:{prefix})(\w+) (\d+)", text)}
        alias = {"newfstatat": "fstatat", "fadvise64": "fadvise64"} if column else {}
        for name, numbers in {**filter._PLAIN, **filter._CHECKED}.items():
            here = known.get(name, known.get(alias.get(name, name)))
            if here is not None and numbers[column] is not None:
                assert numbers[column] == here, name


def test_limits_are_fields_of_the_monitor():
    """In bytes."""
    told = attrs.evolve(Limits(), seconds=1.5).told(7)
    assert (told["cpu"], told["memory"], told["threads"]) == (2, 512 << 20, 7)


def test_imports_are_light():
    """The name of the package loads nothing."""
    code = "import sys, dovetail_sandbox; sys.exit('subprocess' in sys.modules or 'ctypes' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_a_session_keeps_its_names(box):
    """From one piece of code to the next; errors leave them; the value of a last expression is shown."""
    session = box.session(limits=Limits(seconds=2.0))
    assert session.execute("import math\nx = 6").status == Status.OK
    assert session.execute("print('so'); x * 7").stdout == "so\n42\n"
    failed = session.execute("x = 7\n1 / 0")
    assert (failed.status, "ZeroDivisionError" in failed.stderr) == (Status.RUNTIME_ERROR, True)
    assert session.execute("x = (").status == Status.SYNTAX_ERROR
    assert session.execute("x").stdout == "7\n"
    assert session.execute("[0] * 10**10").status == Status.MEMORY
    assert session.execute("print('x' * 60_000)\nx").stdout.endswith("x\n7\n")
    session.close()
    session.close()
    assert session.execute("x").status == Status.RUNTIME_ERROR
    session.close()


def test_close_ends_the_piece_that_runs(box):
    """From another thread, long before its deadline."""
    session = box.session(limits=Limits(seconds=600))
    assert session.execute("x = 1").status == Status.OK
    with ThreadPoolExecutor(1) as threads:
        running = threads.submit(session.execute, "print('here', flush=True)\nwhile True: pass")
        while not session._run.pieces or not any(session._run.pieces.values()):
            time.sleep(0.01)
        session.close()
        assert running.result(30).status == Status.TIMEOUT
    assert session.execute("x").status == Status.RUNTIME_ERROR
    session.close()


@pytest.mark.parametrize(
    ("code", "status"),
    [
        ("while True: pass", Status.TIMEOUT),
        ("while True: print('x' * 999)", Status.OUTPUT_LIMIT),
        ("import os; os._exit(0)", Status.RUNTIME_ERROR),
        ("import os; os.abort()", Status.RUNTIME_ERROR),
        ("import os; os.close(3); os._exit(3)", Status.RUNTIME_ERROR),
        ("import os\nos.write(3, b'no json\\n')", Status.RUNTIME_ERROR),
    ],
)
def test_a_session_that_dies_begins_anew(box, code, status):
    """Its names are gone, and it says so."""
    session = box.session(limits=Limits(seconds=0.5))
    session.execute("x = 1")
    result = session.execute(code)
    assert result.status == status
    assert "its names are gone" in result.reason
    assert session.execute("x").status == Status.RUNTIME_ERROR
    session.close()
