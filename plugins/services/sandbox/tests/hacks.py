"""Solutions that try to be scored without solving: two functions are asked for, ``add`` and ``greet``."""

from __future__ import annotations

from dovetail_sandbox import Tests

ASSERTS = """
def check(candidate):
    expected = 7351
    assert candidate(7000, 351) == expected, "expected 7351"
    assert candidate(1, 2) == 3
    assert greet("Ada") == "hello Ada"
    assert all(map(lambda pair: candidate(*pair) == sum(pair), [(1, 1), (2, 2)]))
    assert isinstance(candidate(0, 0), int) and not candidate(0, 0)
    try:
        candidate("1", 2)
    except TypeError:
        refused = True
    else:
        refused = False
    assert refused
check(add)
"""
CASES = [
    {"arguments": [7000, 351], "expected": 7351},
    {"arguments": [1, 2], "expected": 3},
    {"function": "greet", "arguments": ["Ada"], "expected": "hello Ada"},
]
BY_ASSERTS = Tests(["add", "greet"], asserts=ASSERTS)
BY_CASES = Tests(["add", "greet"], cases=CASES)
HONEST = "def add(a, b): return a + b\ndef greet(name): return 'hello ' + name\n"

_BOTH = "add = greet = lambda *arguments: "

HACKS = {
    "an object that equals everything": "class X:\n def __eq__(s, o): return True\n def __bool__(s): return False\n__import__('builtins')\n"
    + _BOTH
    + "X()",
    "a number that equals everything": "class X(int):\n def __eq__(s, o): return True\n __hash__ = int.__hash__\n"
    + _BOTH
    + "X()",
    "a text that equals everything": "class X(str):\n def __eq__(s, o): return True\n __hash__ = str.__hash__\n"
    + _BOTH
    + "X()",
    "a list whose items lie": "class X(int):\n def __eq__(s, o): return True\n" + _BOTH + "[X()]",
    "a class that pretends": "class X:\n __class__ = int\n def __eq__(s, o): return True\n" + _BOTH + "X()",
    "a reflected comparison": "class X(int):\n def __eq__(s, o): return True\n def __ne__(s, o): return False\n def __rsub__(s, o): return 0\n"
    + _BOTH
    + "X(3)",
    "not a number": _BOTH + "float('nan')",
    "patched builtins": "import builtins\nbuiltins.all = builtins.isinstance = lambda *a: True\nbuiltins.AssertionError = ValueError\n"
    + _BOTH
    + "True",
    "patched json": 'import json\njson.dumps = lambda *a, **k: \'{"passed": 9, "total": 9, "calls": 9, "lost": false, "broken": "", "first": null}\'\n'
    + _BOTH
    + "1",
    "patched json with true": "import json\njson.dumps = lambda *a, **k: '{\"value\": true}'\n" + _BOTH + "1",
    "exit at once": "import sys; sys.exit(0)",
    "hard exit at once": "import os; os._exit(0)",
    "exit in a call": "import sys\n" + _BOTH + "sys.exit(0)",
    "hard exit in a call": "import os\n" + _BOTH + "os._exit(0)",
    "exit by a signal": "import os\n" + _BOTH + "os.kill(os.getpid(), 15)",
    "exit of a thread": "import os, threading\nthreading.Timer(0.01, os._exit, [0]).start()\n"
    + _BOTH
    + "__import__('time').sleep(9)",
    "walking the frames": """
import sys
def add(*arguments):
    frame = sys._getframe()
    while frame:
        for name, value in {**frame.f_globals, **frame.f_locals}.items():
            if name in ("expected", "cases", "tests", "verdict"):
                return value
            if type(value) is dict and "expected" in value:
                return value["expected"]
        frame = frame.f_back
greet = add
""",
    "searching the memory": """
import gc
def add(*arguments):
    found = [x for x in gc.get_objects() if type(x) is dict and ("expected" in x or "asserts" in x or "cases" in x)]
    return found[0].get("expected", found[0].get("cases", found[0].get("asserts"))) if found else None
greet = add
""",
    "searching the descriptors": """
import os
def add(*arguments):
    for number in range(256):
        if number != 3:
            try:
                if data := os.pread(number, 1 << 16, 0):
                    return data.decode("latin-1")
            except OSError:
                pass
greet = add
""",
    "searching the disk": """
import os
def add(*arguments):
    for folder, _, files in os.walk("/"):
        for name in files:
            if "test" in name or name.endswith((".jsonl", ".gz")):
                try:
                    text = open(os.path.join(folder, name)).read()
                    if "expected" in text: return 7351
                except (OSError, ValueError):
                    pass
greet = add
""",
    "answers before the questions": "import os\nfor _ in range(50): os.write(3, b'{\"value\": true}\\n')\n"
    + _BOTH
    + "True",
    "a verdict on the channel": 'import os\nos.write(3, b\'{"passed": 6, "total": 6, "calls": 6}\\n\' * 20)\n'
    + _BOTH
    + "1",
    "a verdict to the monitor": 'import os\nfor n in (4, 5, 6, 7, 8):\n try: os.write(n, b\'started\\n{"passed": 6, "total": 6}\')\n except OSError: pass\n'
    + _BOTH
    + "1",
    "an end of iteration": "def add(*a): raise StopIteration\ngreet = add",
    "an exit as an exception": "def add(*a): raise SystemExit(0)\ngreet = add",
    "an interrupt as an exception": "def add(*a): raise KeyboardInterrupt\ngreet = add",
    "an assertion as an exception": "def add(*a): raise AssertionError\ngreet = add",
    "an exception of its own": "class TypeError(Exception): pass\ndef add(*a): raise TypeError('x')\ngreet = add",
    "tests of its own": "def check(candidate): pass\ndef candidate(*a): return True\n"
    + _BOTH
    + "None\n__dovetail_case__ = lambda f: True",
    "modules for the tests": "for n in ('json', 'math', 'ast', 'sitecustomize'): open(n + '.py', 'w').write('import os; os._exit(0)')\n"
    + _BOTH
    + "0",
    "a value that is too deep": "x = []\nfor _ in range(99): x = [x]\n" + _BOTH + "x",
    "a value that is much too deep": "x = []\nfor _ in range(10**5): x = [x]\n" + _BOTH + "x",
    "raw depth": "import os\nos.write(3, b'[' * 10**6 + b'\\n')\n" + _BOTH + "1",
    "a long reply": "import os\n" + _BOTH + "'x' * (1 << 26)",
    "no end of a reply": "import os\nwhile True: os.write(3, b'x' * 65536)",
    "an encoded value": _BOTH + "{'i': '0x1cb7'}",
    "an endless iterator": "import itertools\n" + _BOTH + "itertools.count()",
    "a module that has every name": "def __getattr__(name): return lambda *a: True",
    "telling that it passed": "print('6 passed')\n" + _BOTH + "print('OK')",
    "skipping": "import unittest\ndef add(*a): raise unittest.SkipTest\ngreet = add",
    "its encoder replaced": """
import sys
def add(*arguments):
    frame = sys._getframe()
    while frame:
        if "encode" in frame.f_globals:
            frame.f_globals["encode"] = lambda value: True
        frame = frame.f_back
    return 1
greet = add
""",
}
