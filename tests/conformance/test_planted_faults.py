"""For each planted fault the kit goes red, with a message that says what is wrong and where."""

import os
import re
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

ROOT = Path(__file__).parents[2]

FAULTS = {
    "a causal mask where a tree mask belongs": (
        "TestCausalMaskOnATree",
        "test_every_node_of_a_tree_sees_its_own_path",
        r"step 1, node \d at depth \d of a tree: differs by .* \(prefix and own ancestors only",
    ),
    "a causal mask in the drafter's table": (
        "TestAncestorsAreCausal",
        "test_hands_over_sound_tables",
        r"step 1: node 2 of row 0 sees the nodes \[0, 1, 2\]; expected .* \[0, 2\]",
    ),
    "positions by index instead of depth": (
        "TestIndexInsteadOfDepth",
        "test_rope_follows_the_positions_it_is_given",
        r"rope\(\) at position 9 .* do not renumber",
    ),
    "positions by index instead of depth in a tree": (
        "TestIndexInsteadOfDepth",
        "test_every_node_of_a_tree_sees_its_own_path",
        r"step 1, node \d at depth \d of a tree: differs",
    ),
    "depths that number the nodes": (
        "TestDepthIsTheIndex",
        "test_hands_over_sound_tables",
        r"node 2 of row 0 has depth 2, its parent 0 has 0; expected 1",
    ),
    "a rotation taken off the wrong way": (
        "TestRotationTheWrongWay",
        "test_rotary_position_can_be_taken_off",
        r"the keys of a layer without rotary position: differs by .* Override unrotate\(\)",
    ),
    "positions renumbered after pruning": (
        "TestRenumberedPositions",
        "test_pruned_equals_a_masked_full_length_run",
        r"the pruned prompt of row 0 .*: differs by .* original positions",
    ),
    "positions of the turn before": (
        "TestPositionsOfTheTurnBefore",
        "test_a_chat_that_goes_on",
        r"second turn of a chat with .*: row 0 differs .* keep nothing of the one before",
    ),
    "a wrong kept set": (
        "TestWrongKeptSet",
        "test_keeps_the_best_in_prompt_order",
        r"the stage after layer 1, row \d: kept \[.*\] instead of \[.*\]; expected all text and",
    ),
    "a cache that is not rolled back": (
        "TestCacheNotRolledBack",
        "test_speculation_equals_plain_decoding_under_it",
        r"the cache of layers 0\.\.0 holds \d+ tokens of row \d after step 1; .*rolled back",
    ),
    "unsorted indices": (
        "TestUnsortedIndices",
        "test_keeps_the_best_in_prompt_order",
        r"kept positions \[.*\] are not in prompt order",
    ),
    "one token above the budget": (
        "TestOffByOneBudget",
        "test_meets_the_budget_exactly",
        r"budget .* of 576 visual tokens in 32 layers .* Round the keep count up",
    ),
    "one token below the budget": (
        "TestOneTokenTooFew",
        "test_meets_the_budget_exactly",
        r"budget .* of 576 visual tokens in 32 layers .* Round the keep count up",
    ),
    "a wipe layer that is not heard": (
        "TestIgnoresTheWipeLayer",
        "test_wipes_where_it_is_asked_to",
        r"with the wipe layer 20 of 32 layers the stages are .* none stay after layer 20",
    ),
    "states that are replaced without a word": (
        "TestReplacesStatesInSecret",
        "test_scores_have_the_right_shape",
        r"select\(\) replaces states at the stage after layer 1; declare the capability 'merge'",
    ),
    "states that a head cuts off from training": (
        "TestStatesDetached",
        "test_gradients_reach_the_states",
        r"no gradient reached the states, so that the twig's layers would not be trained",
    ),
    "shapes that follow values": (
        "TestShapesFollowValues",
        "test_equals_plain_decoding_in_fixed_shapes",
        r"steps handed over \[\d, \d\] nodes\. When draft_model\.fixed_shapes is true",
    ),
    "a gradient into the base": (
        "TestGradientIntoTheBase",
        "test_gradients_never_reach_the_base",
        r"the gradient reached the base \(lm_head\.weight",
    ),
    "a head of the base's own weights": (
        "TestGradientIntoTheBase",
        "test_owns_its_weights",
        r"linear\.weight share memory with the base",
    ),
    "twig layers of the base's own weights": (
        "TestTwigOfTheBasesOwnWeights",
        "test_twig_layers_own_their_weights",
        r"make_twig_layer\(\) shares weights with the base",
    ),
    "a state dict that is not strict": (
        "TestStateDictNotStrict",
        "test_its_state_is_strict",
        r"weights that lack 'linear\.weight' were accepted",
    ),
    "a state that is not saved": (
        "TestStateNotSaved",
        "test_saves_and_loads",
        r"the output after saving and loading: differs .* Register every tensor",
    ),
    "a layer computed twice": (
        "TestLayerComputedTwice",
        "test_plain_decoding_equals_the_models_own_generate",
        r"layer 0 ran 2 times over the prompt; expected once",
    ),
    "a drawn draft that is dropped": (
        "TestDrawnTokenDropped",
        "test_drawn_drafts_leave_the_targets_distribution",
        r"drawn answers deviate .* probability of .* drop no draft for what it turned out to be",
    ),
    "a q that the drafts do not have": (
        "TestWrongProposal",
        "test_drawn_drafts_leave_the_targets_distribution",
        r"Draw with candidates\.sample\(\) from the distribution that it is given",
    ),
    "drafts drawn in secret": (
        "TestDrawsInSecret",
        "test_a_seed_gives_the_same_answer",
        r"SecretDrafter draws its drafts; declare the capability 'sampling'",
    ),
    "answers that depend on more than the seed": (
        "TestAnswersDependOnMore",
        "test_a_seed_gives_the_same_answer",
        r"the same seeds gave other answers the second time",
    ),
    "a resolution that is said to be dynamic": (
        "TestAllPicturesAreEqual",
        "test_pictures_have_the_declared_numbers_of_tokens",
        r"pictures of the seeds 0 to 7 all have \d+ visual tokens",
    ),
    "a level that asks the device": (
        "TestAsksInALevel",
        "test_its_steps_can_be_captured",
        r"AskingDrafter cannot be captured: aten.(item|_local_scalar_dense) waits for the",
    ),
    "a head that reads numbers on the host": (
        "TestHeadOfNumbersOnTheHost",
        "test_its_steps_can_be_captured",
        r"a step cannot be captured: .* numbers on the host; .* head\(\) need once",
    ),
    "a pruner that asks the device": (
        "TestAsksForAScore",
        "test_its_prefill_can_be_captured",
        r"with ScalingPruner cannot be captured: aten.(item|_local_scalar_dense) waits for the",
    ),
    "a pruner that takes the last place for the last token": (
        "TestTakesTheLastPlace",
        "test_its_prefill_can_be_captured",
        r"with LastPlacePruner cannot be captured: prefill gives other scores where fillers follow",
    ),
    "a file that a drafter removes": (
        "TestTidiesUp",
        "test_leaves_files_alone",
        r"TidyingDrafter removed /no-such-folder/no-such-file; a plug-in leaves files and",
    ),
    "a program that a pruner starts": (
        "TestCallsAProgram",
        "test_leaves_files_alone",
        r"CallingPruner started true; a plug-in leaves files and programs alone",
    ),
    "a class that takes no spec": (
        "TestTakesNoSpec",
        "test_has_what_its_contract_lists",
        r"SpecLessDrafter .* lacks __init__\(self, spec\); .*docs/recipes/drafter\.md",
    ),
    "a node expanded twice": (
        "TestNodeExpandedTwice",
        "test_passes_each_node_once",
        r"step 1 expands node 0 of row 0 a second time",
    ),
}
"""Fault: its class, a check that must be red, and what the check's message says."""


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    """Outcome of every check of every faulty plug-in: ``{(class, check): [messages]}``."""
    folder = tmp_path_factory.mktemp("faulty")
    file, chosen = folder / "report.xml", " or ".join(sorted({f[1] for f in FAULTS.values()}))
    command = [sys.executable, "-m", "pytest", "tests/support/faulty_plugins.py", "-k", chosen]
    command += [f"--junitxml={file}", "-p", "no:cacheprovider"]
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert ran.returncode == 1, ran.stdout + ran.stderr
    outcome = {}
    for case in ElementTree.parse(file).iter("testcase"):
        key = case.get("classname").rsplit(".", 1)[-1], case.get("name").split("[")[0]
        assert case.find("error") is None, f"{key} could not even be set up"
        messages = outcome.setdefault(key, [])
        messages += [failure.get("message") for failure in case.findall("failure")]
    return outcome


@pytest.mark.parametrize("fault", FAULTS)
def test_the_kit_goes_red_and_says_why(report, fault):
    case, check, said = FAULTS[fault]
    messages = report[case, check]
    assert messages, f"{check} is green on {fault}"
    found = [m for m in messages if re.search(said, m.replace(os.linesep, " "), re.DOTALL)]
    assert found, f"expected {said!r} in one of {messages}"


@pytest.mark.parametrize("check", sorted({check for _, check, _ in FAULTS.values()}))
def test_a_check_is_red_for_its_fault_and_not_for_all(report, check):
    kinds = [case for case, name in report if name == check]
    red = [case for case in kinds if report[case, check]]
    alone = {"test_passes_each_node_once", "test_hands_over_sound_tables"}
    assert len(red) < len(kinds) or check in alone or len(kinds) == 1
