import pickle

import pytest

from moeash.core.solutions.recipe import STEPS, Distill, Merge, Recipe, Refine, Tune
from moeash.errors import InputError

TUNE = Tune(epochs=3, labels=0.5)
DISTILL = Distill(epochs=3, labels=0.5, rate=0.1 + 0.2)

ONES = [
    Recipe.of({"k": 37}),
    Recipe.of({"k": 37, "rate": 0.1 + 0.2}),
    Recipe.of({"k": 37, "rate": 0.3}),
    Recipe.of({"k": 37}, Refine()),
    Recipe.of({"k": 37}, Merge((1, 2, 1))),
    Recipe.of({"k": 37}, Refine(), Merge((1, 2, 1)), Merge((3, 1))),
    Recipe.of({"k": 37}, TUNE),
    Recipe.of({"k": 37}, DISTILL),
    Recipe.of({"k": 37}, Distill(epochs=3, labels=0.5, rate=0.3)),
    Recipe.of({"k": 37}, Refine(), DISTILL, TUNE),
    Recipe.of({"k": 37}, Tune(epochs=3, labels=0.5, norms="batch")),
]


def test_keys_differ_exactly_where_recipes_do():
    assert len({recipe.key for recipe in ONES}) == len(ONES)
    assert Recipe.of({"rate": 0.5, "k": 3}).key == Recipe.of({"k": 3, "rate": 0.5}).key


@pytest.mark.parametrize("recipe", ONES, ids=str)
def test_plain_values_and_pickles_give_the_recipe_back(recipe):
    assert Recipe.from_dict(recipe.as_dict()) == recipe
    assert pickle.loads(pickle.dumps(recipe)) == recipe


def test_every_kind_of_step_survives_the_way_through_plain_values():
    made = {step.name: step for step in (Refine(), Merge((2, 1)), TUNE, DISTILL)}
    assert made.keys() == STEPS.keys()


def test_an_unknown_step_is_refused_with_the_nearest_name():
    plain = {"candidate": {"k": 3}, "steps": [{"step": "merg", "runs": [1]}]}
    with pytest.raises(InputError, match=r"no step 'merg'.*merge"):
        Recipe.from_dict(plain)


def test_a_step_with_values_of_another_is_refused():
    plain = {"candidate": {"k": 3}, "steps": [{"step": "refine", "runs": [1]}]}
    with pytest.raises(InputError, match=r"'refine'.*does not take \['runs'\]"):
        Recipe.from_dict(plain)


def test_what_was_merged_cannot_be_refined():
    with pytest.raises(InputError, match="refine begins with a candidate"):
        Recipe.of({"k": 3}, Merge((1, 2)), Refine())


def test_the_file_of_what_was_trained_is_stored_and_that_of_its_merges_is_not():
    merge = Merge((1, 2))
    for steps, stored in [
        ((), False),
        ((Refine(),), False),
        ((merge,), False),
        ((TUNE,), True),
        ((merge, DISTILL), True),
        ((DISTILL, merge), False),
    ]:
        assert Recipe.of({"k": 3}, *steps).has_artifact(keeps_artifacts=False) == stored
    assert Recipe.of({"k": 3}).has_artifact(keeps_artifacts=True)
    assert not Recipe.of({"k": 3}, merge).has_artifact(keeps_artifacts=True)


def test_options_at_their_defaults_are_not_stored_so_that_later_ones_change_no_recipe():
    recipe = Recipe.of({"k": 4}, Distill(epochs=2, rate=3.0), Tune(epochs=1, labels=0.5))
    assert recipe.as_dict()["steps"] == [
        {"step": "distill", "epochs": 2, "rate": 3.0},
        {"step": "tune", "epochs": 1, "labels": 0.5},
    ]
    spelt_out = {"step": "tune", "epochs": 1, "labels": 0.5, "batch_size": 128, "augment": []}
    same = {"candidate": {"k": 4}, "steps": [recipe.as_dict()["steps"][0], spelt_out]}
    assert Recipe.from_dict(same).key == recipe.key
