"""Parts: fields are options, hook arguments are needs."""

import attrs
import pytest

import dovetail as dt
from dovetail.errors import OptionError, PartError
from dovetail.parts import Part, argument_docs, build_part, options_of
from dovetail.testing import tiny_rollouts
from dovetail_testing.reward_checks import score
from dovetail_trainer.manager import PartManager


@attrs.frozen
class Brevity:
    """Near a length.

    Args:
        target: Length in tokens.
    """

    target: int = attrs.field(default=64, validator=attrs.validators.gt(0))

    @dt.hookimpl
    def score(self, completions):
        return -((completions.lengths - self.target).abs() / self.target).clamp(max=1.0)


@attrs.frozen
class Penalised:
    weight_of_reference: float = 0.0

    @dt.hookimpl
    def loss_terms(self, logprobs, ref_logprobs):
        return dt.LossTerms(-logprobs)

    def ignores(self):
        return () if self.weight_of_reference else ("ref_logprobs",)


def shout(texts, *, factor: int = 2):
    """Upper-case letters."""
    return [factor * sum(map(str.isupper, text)) for text in texts]


async def slow_shout(texts, *, factor: int = 2):
    return shout(texts, factor=factor)


def test_fields_are_options_with_their_documentation():
    """Type, default and text come from the class."""
    (option,) = options_of(Brevity)
    assert (option.name, option.type, option.default, option.doc) == ("target", int, 64, "Length in tokens.")


def test_argument_docs_join_wrapped_lines():
    """An Args entry may take several lines."""
    text = "X.\n\nArgs:\n    one: First\n        and more.\n    two (int): Second.\n\nReturns:\n    no: option\n"
    assert argument_docs(text) == {"one": "First and more.", "two": "Second."}


def test_needs_leave_out_what_the_options_do_not_use():
    """ignores() turns an argument into None."""
    plain, penalised = Part("losses", "p", Penalised()), Part("losses", "p", Penalised(0.1))
    assert plain.asks_for("loss_terms") == ("logprobs", "ref_logprobs")
    assert plain.needs("loss_terms") == ("logprobs",)
    assert penalised.needs("loss_terms") == ("logprobs", "ref_logprobs")


@pytest.mark.parametrize("function", [shout, slow_shout])
def test_functions_become_parts(function):
    """Keyword-only parameters are options, the others hook arguments; async ones are awaited."""
    part = build_part("rewards", "shout", function, {"factor": 3})
    assert part.options() == {"factor": 3}
    assert part.asks_for("score") == ("texts",)
    assert part.is_async("score") == (function is slow_shout)
    assert score(part, tiny_rollouts()).values.tolist() == [0.0] * 8


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tagret": 3}, "unknown option 'tagret', did you mean 'target'?"),
        ({"target": 3.7}, "option 'target': expected int, got float 3.7"),
        ({"target": "3"}, "option 'target': expected int, got str '3'"),
        ({"target": True}, "option 'target': expected int, got bool True"),
        ({"target": -1}, "'target' must be > 0: -1"),
    ],
)
def test_wrong_options_are_refused(options, message):
    """Nothing is rounded or guessed; the error names part and place."""
    with pytest.raises(OptionError) as error:
        build_part("rewards", "brevity", Brevity, options)
    assert message in str(error.value)
    assert "test_parts" in str(error.value)


def test_a_required_option_is_asked_for():
    """A part without a default for an option says so."""

    def needy(texts, *, path: str):
        return [0.0 for _ in texts]

    with pytest.raises(OptionError, match="the option 'path' is required"):
        build_part("rewards", "needy", needy, {})


def test_an_argument_that_the_hook_does_not_have_is_refused():
    """pluggy's rule, with a near miss."""

    def odd(texs):
        return texs

    with pytest.raises(PartError, match="asks for 'texs'; did you mean 'texts'"):
        build_part("rewards", "odd", odd, {})


def test_a_missing_or_unmarked_hook_is_refused():
    """The error says what to write."""

    class Nothing:
        pass

    class Unmarked:
        def score(self, texts):
            return texts

    with pytest.raises(PartError, match="does not implement the hook 'score'"):
        build_part("rewards", "nothing", Nothing, {})
    with pytest.raises(PartError, match=r"@dovetail\.hookimpl"):
        build_part("rewards", "unmarked", Unmarked, {})


def test_two_equal_parts_serve_in_one_run():
    """pluggy tells plugins apart by equality; the manager by identity."""
    called = []

    @attrs.frozen
    class Listener:
        @dt.hookimpl
        def on_step_end(self, step):
            called.append(step)

    parts = [Part("extensions", "listener", Listener()) for _ in range(2)]
    PartManager(parts).broadcast("on_step_end", run=None, step=3, metrics={})
    assert called == [3, 3]


def test_callbacks_are_called_in_config_order_unless_they_say_otherwise():
    """The order of the configuration; tryfirst and trylast are pluggy's."""
    called = []

    class Listener:
        def __init__(self, name):
            self.name = name

        @dt.hookimpl
        def on_step_end(self, step):
            called.append(self.name)

    class Eager(Listener):
        @dt.hookimpl(tryfirst=True)
        def on_step_end(self, step):
            called.append(self.name)

    parts = [Part("extensions", name, kind(name)) for name, kind in (("a", Listener), ("b", Listener), ("c", Eager))]
    PartManager(parts).broadcast("on_step_end", run=None, step=3, metrics={})
    assert called == ["c", "a", "b"]


def test_an_error_in_a_part_names_its_line():
    """The innermost line of the part's own code is shown."""

    def broken(texts):
        raise KeyError("gone")

    part = build_part("rewards", "broken", broken, {})
    with pytest.raises(PartError) as error:
        part.call("score", {"texts": []})
    assert "rewards part 'broken': KeyError: 'gone'" in str(error.value)
    assert "test_parts.py" in str(error.value)
