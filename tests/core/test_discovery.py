"""Discovery: entry points are the manifest, and every failure names its culprit and the way out."""

import json
import subprocess
import sys

import pytest

import dovetail as dt
from dovetail import catalog
from dovetail.errors import PartClash, PartImportError, PartNotFound
from dovetail.parts import Part, Provenance
from dovetail.registry import as_part
from dovetail_trainer.cli.main import main
from dovetail_trainer.lock import compare_lock, plugin_lock

GOOD = """
import dovetail as dt
def short(texts, *, factor: float = 1.0):
    '''Shorter is better.

    Args:
        factor: Multiplies.
    '''
    return [-factor * len(text) for text in texts]
"""
BROKEN = "raise RuntimeError('no licence found')"


def test_a_broken_plugin_that_is_not_named_disturbs_nobody(install):
    """Listing reads metadata; nothing is imported."""
    install("plugin-broken", "[dovetail.rewards]\nbroken = plugin_broken:Broken\n", {"plugin_broken": BROKEN})
    assert "broken" in dt.rewards
    assert "plugin_broken" not in sys.modules


def test_a_plugin_that_raises_on_import_is_named_with_its_cause(install):
    """Kind, name, distribution, version, target, cause and the next step in one message."""
    install("plugin-broken", "[dovetail.rewards]\nbroken = plugin_broken:Broken\n", {"plugin_broken": BROKEN})
    with pytest.raises(PartImportError) as error:
        _ = dt.rewards.broken
    assert str(error.value) == (
        "rewards part 'broken' cannot be imported: RuntimeError: no licence found\n"
        "  at plugin-broken 1.2 (plugin_broken:Broken)\n"
        "  try: reinstall or remove plugin-broken; `dovetail plugins --check` tests them all"
    )


def test_a_missing_library_is_named(install):
    """The hint says what to install."""
    install("plugin-needy", "[dovetail.rewards]\nneedy = plugin_needy:f\n", {"plugin_needy": "import not_there.at_all"})
    with pytest.raises(PartImportError, match="pip install not_there"):
        _ = dt.rewards["needy"]


def test_an_unknown_name_gets_a_near_miss():
    """The registry knows what is installed."""
    with pytest.raises(PartNotFound) as error:
        _ = dt.rewards.lenght
    assert str(error.value) == "no rewards part is named 'lenght'\n  try: did you mean 'length'?"


def test_an_unknown_name_gets_the_extra_that_installs_it(monkeypatch):
    """The meta distribution knows the extras."""
    monkeypatch.setattr(catalog, "extras", lambda: {"zoo": "zoo"})
    with pytest.raises(PartNotFound, match=r'pip install "dovetail\[zoo\]"'):
        _ = dt.environments["zoo"]


def test_a_name_of_another_kind_is_told():
    """Asking for a reward among the environments says where it is."""
    with pytest.raises(PartNotFound, match="'length' is installed as a part of kind rewards"):
        _ = dt.environments["length"]


def test_two_distributions_with_one_name_clash_only_when_named(install):
    """Both spellings are shown, and both work."""
    install("plugin-a", "[dovetail.rewards]\ntwin = plugin_a:short\n", {"plugin_a": GOOD})
    install("other-b", "[dovetail.rewards]\ntwin = other_b:short\n", {"other_b": GOOD})
    assert "twin" in list(dt.rewards)
    with pytest.raises(PartClash) as error:
        _ = dt.rewards["twin"]
    assert "write 'twin@other-b' or 'twin@plugin-a'" in str(error.value)
    assert dt.rewards["twin@plugin-a"](factor=2.0).provenance.distribution == "plugin-a"


def test_a_plugin_for_another_core_is_told_on_failure(install):
    """A failing import compares the plugin's requirement with the installed core."""
    install(
        "plugin-old", "[dovetail.rewards]\nold = plugin_old:f\n", {"plugin_old": BROKEN}, requires="dovetail-core<0.1"
    )
    with pytest.raises(PartImportError, match=r"was built for dovetail-core<0\.1, and dovetail-core 0\.1\.0"):
        _ = dt.rewards["old"]


def test_plugins_check_imports_each_part_in_isolation(install, capsys):
    """ok, heavy and error are told apart, and the exit code says so."""
    install("plugin-broken", "[dovetail.rewards]\nbroken = plugin_broken:Broken\n", {"plugin_broken": BROKEN})
    install("plugin-heavy", "[dovetail.rewards]\nheavy = plugin_heavy:torch\n", {"plugin_heavy": "import torch"})
    entries = {entry.name: entry for entry in catalog.entries()}
    from dovetail_trainer.cli.plugins import probe

    assert probe(entries["length"]).startswith("ok")
    assert "heavy: imports torch" in probe(entries["heavy"])
    assert probe(entries["broken"]).startswith("error: rewards part 'broken' cannot be imported")


def test_the_list_is_machine_readable(capsys):
    """dovetail plugins --json gives kind, name, distribution, target and status."""
    assert main(["plugins", "--json"]) == 0
    rows = {row["name"]: row for row in json.loads(capsys.readouterr().out)}
    assert rows["math"]["kind"] == "environments"
    assert rows["math"]["status"] == "installed"


@pytest.mark.parametrize("arguments", [["--help"], ["plugins"], ["new", "--help"]])
def test_listing_and_help_load_no_heavy_library(arguments):
    """Neither torch nor transformers, structlog or cattrs."""
    code = (
        "import sys, dovetail; from dovetail_trainer.cli.main import main; main(sys.argv[1:]);"
        "heavy = {'torch', 'transformers', 'structlog', 'cattrs'} & set(sys.modules); sys.exit(str(heavy) if heavy else 0)"
    )
    finished = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True)
    assert finished.returncode == 0, finished.stderr


def test_the_registry_is_a_mapping_with_attributes(register):
    """Items, attributes, iteration, completion, own parts, hyphens as underscores."""
    register("rewards", "my-own", lambda texts: [0.0 for _ in texts])
    assert "my-own" in dt.rewards
    assert "my_own" in dir(dt.rewards)
    assert dt.rewards.my_own(weight=0.5, name="mine").label == "mine"
    assert len(dt.rewards) == len(list(dt.rewards))
    assert "length" in repr(dt.rewards)
    assert "Score in [-1, 0]" in dt.rewards.length.__doc__
    with pytest.raises(AttributeError):
        _ = dt.rewards._private

    @dt.rewards.register("decorated")
    def decorated(texts):
        return [0.0 for _ in texts]

    assert dt.rewards.decorated().name == "decorated"
    dt.rewards._own.pop("decorated")


def test_recipes_are_found_by_import():
    """from dovetail.recipes import grpo, and a clear error for one that is not there."""
    from dovetail.recipes import grpo

    assert grpo is dt.recipes["grpo"]
    with pytest.raises((ImportError, PartNotFound)):
        from dovetail.recipes import nothing_like_it  # noqa: F401


def test_anything_like_a_part_will_do(register):
    """as_part reads parts, factories, names, classes, functions and instances."""

    class Zero:
        @dt.hookimpl
        def score(self, texts):
            return [0.0 for _ in texts]

    def one(texts):
        return [1.0 for _ in texts]

    for value in (Zero, Zero(), one, "length", dt.rewards.length, dt.rewards.length(target=3)):
        assert as_part("rewards", value).kind == "rewards"
    with pytest.raises(dt.DovetailError, match="a part of kind losses"):
        as_part("losses", dt.rewards.length())


def test_the_lock_tells_what_changed():
    """A part of another version, a part that is gone, another core."""
    old = Part("rewards", "a", object(), Provenance("dist", "1.0", "m:A"))
    new = Part("rewards", "a", object(), Provenance("dist", "1.1", "m:A"))
    before, after = plugin_lock([old]), plugin_lock([new])
    assert compare_lock(before, before) == []
    assert compare_lock(before, after) == ["rewards/a: dist 1.0 then, dist 1.1 now"]
    assert compare_lock({**before, "core": "0.0"}, plugin_lock([])) == [
        "dovetail-core: 0.0 then, 0.1.0 now",
        "rewards/a: dist 1.0 then, absent now",
    ]
