"""Recipes are traced into graphs, and mistakes name the user's line."""

import attrs
import pytest
import torch

import dovetail as dt
from dovetail.errors import OptionError, RecipeError
from dovetail_trainer.cli.main import main


@dt.recipe
def grpo(policy, ref_policy, prompts, *, group_size=8, beta=0.0, clip=0.2, clip_high=None):
    completions = dt.generate(policy, prompts, samples=group_size, name="completions")
    policy_logprobs = dt.logprobs(policy, prompts, completions, name="policy_logprobs")
    ref_logprobs = dt.logprobs(ref_policy, prompts, completions, name="ref_logprobs")
    rewards = dt.run_rewards(completions)
    advantages = dt.advantages("group", rewards, name="advantages")
    dt.set_loss(
        dt.loss("clipped", advantages, policy_logprobs, ref_logprobs, clip=clip, clip_high=clip_high, beta=beta)
    )


@dt.algorithm(using=grpo)
def vapo(graph, value_model):
    values = dt.values(value_model, graph.prompts, graph.completions)
    graph.advantages.replace_with(dt.advantages("gae", graph.rewards, values))
    dt.add_loss(dt.loss("value", values, graph.rewards))


def test_an_algorithm_is_the_difference_from_its_base():
    """The diff of architecture's example, line by line."""
    assert str(dt.diff(grpo, vapo)).splitlines() == [
        "+ value_model: input()",
        "+ values: values(agent=value_model, prompts=prompts, completions=completions)",
        "~ advantages: advantages group -> advantages gae",
        "~ advantages.values: nothing -> values",
        "+ value_loss: loss value(values=values, returns=rewards)",
        "~ loss: clipped_loss -> clipped_loss + value_loss",
    ]
    assert str(dt.diff(vapo, vapo)) == "no difference"
    assert "- values: values" in str(dt.diff(vapo, grpo))


def test_options_reach_the_graph_and_are_checked():
    """Bound options show in the diff; unknown and mistyped ones are refused, in derived recipes too."""
    assert str(dt.diff(grpo, grpo(beta=0.1, group_size=4))).splitlines() == [
        "~ completions.samples: 8 -> 4",
        "~ clipped_loss.beta: 0.0 -> 0.1",
    ]
    assert vapo(group_size=2).settings()["group_size"] == 2
    with pytest.raises(OptionError, match="did you mean 'group_size'"):
        vapo(group_sise=2)


def test_drawings_show_every_node():
    """Mermaid and SVG hold all names; another format is refused."""
    mermaid, svg = dt.draw(vapo), dt.draw(vapo, format="svg")
    for node in vapo.trace():
        assert node.name in mermaid
        assert f">{node.name}<" in svg
    with pytest.raises(dt.UserError, match="mermaid or svg"):
        dt.draw(vapo, format="png")


def edited(edit):
    return dt.algorithm(using=grpo)(edit).trace()


def failing(edit) -> str:
    with pytest.raises(dt.UserError) as error:
        edited(edit)
    return str(error.value)


def test_gae_without_values_is_told():
    """What is missing, where, and the line to add."""

    def value_less(graph):
        graph.advantages.replace_with(dt.advantages("gae", graph.rewards))

    text = failing(value_less)
    assert "needs `values`: per_token[B, T], and nothing in the recipe gives it" in text
    assert "test_graph.py" in text
    assert 'dt.advantages("gae", graph.rewards)' in text
    assert "try: add values = dt.values(value_model, prompts, completions)" in text


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda graph: graph.advatages, "did you mean 'advantages'?"),
        (lambda graph: graph.set("advantages", scael="none"), "did you mean 'scale'?"),
        (lambda graph: graph.set("completions", sampels=3), "did you mean 'samples'?"),
        (lambda graph: graph.drop("rewards"), "'rewards' cannot be dropped: 'advantages' reads it"),
        (lambda graph: graph.wire("advantages", rewards=graph.completions), "wants scalar[B], and completions gives"),
        (lambda graph: graph.wire("advantages", reward=graph.rewards), "did you mean 'rewards'?"),
        (lambda graph: graph.wire("advantages", rewards=3), "needs a node, got int 3"),
        (lambda graph: graph.insert_before("advantages", "rewrds", lambda r: r), "reads nothing at port"),
        (lambda graph: dt.loss("clipped", graph.rewards, graph.rewards, graph.rewards, *[graph.rewards] * 9), "takes"),
        (lambda graph: dt.advantages("gruop", graph.rewards), "did you mean 'group'?"),
        (lambda graph: dt.generate(graph.policy, graph.prompts, temprature=1), "did you mean 'temperature'?"),
        (lambda graph: dt.generate(graph.policy, graph.prompts, samples=0), "whole number from 1"),
        (lambda graph: dt.logprobs(graph.prompts, graph.prompts, graph.completions), "is read as"),
        (lambda graph: dt.add_loss(graph.rewards), "which is no loss"),
        (lambda graph: dt.set_loss(graph.loss_of_nothing), "no node is named 'loss_of_nothing'"),
        (lambda graph: dt.set_loss(graph.clipped_loss, epochs=0), "epochs must be a whole number from 1"),
        (lambda graph: graph.completions.nothing, "has no output 'nothing'"),
        (lambda graph: graph.rewards + "x", "cannot be combined"),
        (lambda graph: graph.rewards + graph.policy, "cannot be combined"),
        (lambda graph: graph.clipped_loss * graph.clipped_loss, "cannot be combined"),
        (lambda graph: 1 if graph.rewards else 2, "cannot steer an `if`"),
        (
            lambda graph: dt.logprobs(graph.policy, graph.prompts, graph.completions, name="rewards"),
            "two nodes are named",
        ),
    ],
)
def test_wrong_edits_are_told_at_once(edit, message):
    """Unknown nodes, ports, options, types: each with the near miss or the reason, and the user's line."""
    text = failing(edit)
    assert message in text
    assert "test_graph.py" in text


def test_a_cycle_is_shown_with_its_nodes():
    """Wiring an ancestor to a descendant is refused."""

    def circular(graph):
        twice = graph.rewards * 2
        more = twice + graph.rewards
        graph.wire(twice.name, left=more)

    text = failing(circular)
    assert "the graph has a cycle: mul -> add -> mul" in text


def test_a_recipe_without_a_loss_or_with_an_unused_input_is_told():
    """Both name the recipe's line."""

    @dt.recipe
    def lossless(policy, prompts):
        dt.generate(policy, prompts)

    @dt.recipe
    def wasteful(policy, other, data):
        dt.set_loss(dt.loss("nll", dt.logprobs(policy, data)))

    with pytest.raises(RecipeError, match="recipe 'lossless' has no loss"):
        lossless.trace()
    with pytest.raises(RecipeError, match="recipe 'wasteful' never uses its input 'other'"):
        wasteful.trace()


def test_options_need_defaults_and_bases_are_recipes():
    """A recipe has a schema; an algorithm starts from a recipe."""
    with pytest.raises(RecipeError, match="the option 'size' needs a default"):

        @dt.recipe
        def without(policy, *, size):
            pass

    with pytest.raises(RecipeError, match="using= must be a recipe"):
        dt.algorithm(using="grpo")


def test_words_of_a_recipe_need_a_recipe_around_them():
    """Outside of tracing the error says where to call them."""
    with pytest.raises(RecipeError, match=r"call it inside a function under @dt\.recipe"):
        dt.run_rewards(None)


def test_edits_rewire_readers():
    """replace_with, insert_after, insert_before, set, wire and drop do what they say."""

    def changes(graph):
        graph.rewards.replace_with(graph.rewards * 2 - 1)
        graph.insert_after("advantages", lambda advantages: advantages / 3)
        graph.insert_before("clipped_loss", "logprobs", lambda logprobs: -logprobs)
        graph.set("completions", samples=3, temperature=0.5)
        graph.set("clipped_loss", clip=0.3)
        spare = dt.reward("length", weight=0.5, target=9)
        graph.set(spare.name, weight=0.7)
        graph.drop(spare.name)

    graph = edited(changes)
    assert graph["advantages"].inputs["rewards"].node == "rewards"
    assert graph["rewards"].op.name == "sub"
    assert graph["clipped_loss"].inputs["advantages"].node == "div"
    assert graph["clipped_loss"].inputs["logprobs"].node == "mul_2"
    assert graph["clipped_loss"].settings()["clip"] == 0.3
    assert graph["completions"].options == {"samples": 3, "temperature": 0.5}
    assert "length_reward" not in graph


def test_base_graphs_stay_as_they_are():
    """Graphs are values: deriving changes nothing in the base."""
    before = str(dt.draw(grpo))
    edited(lambda graph: graph.set("completions", samples=3))
    assert dt.draw(grpo) == before


def test_attribute_forms_are_the_same_thing():
    """dt.group_advantages and dt.clipped_loss; no name takes the default estimator."""

    @dt.recipe
    def spelled(policy, prompts):
        completions = dt.generate(policy, prompts, samples=2)
        logprobs = dt.logprobs(policy, prompts, completions)
        rewards = dt.run_rewards(completions)
        named = dt.group_advantages(rewards)
        unnamed = dt.advantages(rewards)
        dt.set_loss(dt.clipped_loss(named, logprobs) + dt.clipped_loss(unnamed, logprobs))

    graph = spelled.trace()
    assert graph["group_advantages"].op.label == graph["group_advantages_2"].op.label


def test_ops_are_nodes_in_recipes_and_functions_outside():
    """Type hints give ports, a dict annotation several outputs, plain arguments options."""

    @dt.op
    def halves(rewards: torch.Tensor, factor: float = 2.0) -> {"low": torch.Tensor, "high": torch.Tensor}:
        return {"low": rewards / factor, "high": rewards * factor}

    assert halves(torch.tensor([4.0]))["low"].tolist() == [2.0]

    def with_op(graph):
        graph.advantages.replace_with(dt.advantages("group", halves(graph.rewards, factor=3.0).high, name="again"))

    graph = edited(with_op)
    assert graph["halves"].options == {"factor": 3.0}
    assert graph["advantages"].inputs["rewards"].port == "high"
    with pytest.raises(RecipeError, match="halves"):
        edited(lambda graph: halves(graph.rewards, wrong=1))


def test_graph_command(capsys):
    """dovetail graph draws, and prints differences."""
    assert main(["graph", "grpo"]) == 0
    assert capsys.readouterr().out.startswith("flowchart")
    assert main(["graph", "grpo", "--set", "beta=0.1", "--diff", "grpo"]) == 0
    assert "~ loss.beta: 0.0 -> 0.1" in capsys.readouterr().out
    assert main(["graph", "grpo", "--set", "beta"]) == 2
    assert main(["graph", "nothing"]) == 2


def test_names_of_edits_and_operations_are_free_for_nodes_and_ops():
    """A sum is reachable as graph.add; an op may be called as a built-in operation is."""

    @dt.op
    def total(rewards: torch.Tensor) -> torch.Tensor:
        return rewards * 2

    def summed(graph):
        dt.add_loss(graph.clipped_loss + graph.clipped_loss)
        assert graph.add.name == "add"
        graph.rewards.replace_with(total(graph.rewards))

    graph = edited(summed)
    assert graph["rewards"].op.name == "op"
    assert graph["rewards"].op.label == "total"


def test_inputs_keep_their_names_and_may_be_taken_again():
    """What replaces an input leaves it in the recipe's signature; a parameter of that name is the base's input."""

    @dt.op
    def shuffled(prompts):
        return prompts

    def replaced(graph, prompts):
        prompts.replace_with(shuffled(prompts))

    recipe = dt.algorithm(using=grpo)(replaced)
    assert recipe.inputs == grpo.inputs
    graph = recipe.trace()
    assert graph["completions"].inputs["prompts"].node == "shuffled"
    assert graph["shuffled"].inputs["prompts"].node == "prompts"
    with pytest.raises(RecipeError, match="cannot be combined by 'mul'"):
        edited(lambda graph: graph.policy * 2)


def test_settings_hold_what_a_base_was_given():
    """The options of a configured base are the defaults of what derives from it."""
    derived = dt.algorithm(using=grpo(group_size=2))(lambda graph, *, scale=1.0: None)
    assert derived.settings() == {"scale": 1.0, "group_size": 2, "beta": 0.0, "clip": 0.2, "clip_high": None}
    assert derived(beta=0.5).trace()["completions"].options["samples"] == 2


def test_rollouts_are_found_or_said(register):
    """A part may ask for the rollouts themselves; where there are several, wiring them decides."""

    @attrs.frozen
    class Watching:
        @dt.hookimpl
        def score(self, rollouts):
            return rollouts.sampled.lengths

    register("rewards", "watching", Watching)
    edited(lambda graph: graph.rewards.replace_with(dt.reward("watching")))

    def twice(graph, *, said=True):
        other = dt.generate(graph.policy, graph.prompts, name="other")
        logprobs = dt.logprobs(graph.policy, graph.prompts, other)
        ports = [graph.advantages, logprobs, logprobs, logprobs, logprobs]
        dt.add_loss(dt.loss("clipped", *([graph.completions] if said else []), *ports, name="mixed"))

    recipe = dt.algorithm(using=grpo)(twice)
    recipe.trace()
    with pytest.raises(RecipeError, match="say which: rollouts=<node>"):
        recipe(said=False).trace()


def test_sources_of_plugins_installed_beside_the_core_are_the_users(tmp_path):
    """A folder whose name begins as the core's does is not the core."""
    text = "import dovetail as dt\n@dt.recipe\ndef beside(policy, prompts):\n    dt.generate(policy, policy.nothing)\n"
    names = {}
    exec(compile(text, dt.__file__.replace("dovetail/__init__", "dovetail_beside/recipe"), "exec"), names)
    with pytest.raises(RecipeError, match=r"dovetail_beside/recipe\.py:4"):
        names["beside"].trace()


def test_another_part_takes_the_place_of_one(register):
    """Wires stay, options that both parts have stay, and what was set and has no place is refused."""

    @attrs.frozen
    class Gentle:
        clip: float = 0.5
        beta: float = 0.0

        @dt.hookimpl
        def loss_terms(self, advantages, logprobs):
            return dt.LossTerms(-(advantages * logprobs))

    register("losses", "gentle", Gentle)

    @dt.algorithm(using=grpo)
    def gentle(graph, *, clip=None):
        graph.set("clipped_loss", use="gentle", **({} if clip is None else {"clip": clip}))

    node = gentle(beta=0.1).trace()["clipped_loss"]
    assert (node.op.label, node.settings()) == ("loss gentle", {"clip": 0.2, "beta": 0.1})
    assert {port: str(ref) for port, ref in node.inputs.items()} == {
        "advantages": "advantages", "logprobs": "policy_logprobs",
    }  # fmt: skip
    assert gentle(clip=0.7).trace()["clipped_loss"].settings()["clip"] == 0.7
    assert "~ clipped_loss: loss clipped -> loss gentle" in dt.diff(grpo, gentle)
    assert "~ clipped_loss.clip: 0.2 -> 0.7" in dt.diff(grpo, gentle(clip=0.7))
    with pytest.raises(RecipeError, match="gentle has no option 'clip_high'"):
        gentle(clip_high=0.3).trace()
