from __future__ import annotations

from pathlib import Path

import pytest

from medimind.config.catalogue import find_recipe, list_recipes
from medimind.config.load import load_recipe
from medimind.errors import ConfigError


@pytest.mark.parametrize("path", list_recipes(), ids=lambda path: path.stem)
def test_every_ready_recipe_is_valid_and_named_after_its_file(path):
    recipe = load_recipe(path)
    assert recipe.name == path.stem
    assert recipe.description


def test_the_story_is_as_its_notebook_ran_it():
    recipe = load_recipe(find_recipe("deepseek-r1-distill-llama-8b"))
    assert recipe.data.sources[0].split == "train[:500]"
    assert (recipe.lora.rank, recipe.lora.alpha, recipe.lora.dropout) == (16, 16, 0)
    assert len(recipe.lora.targets) == 7
    train = recipe.train
    assert (train.steps, train.batch_size, train.max_length, train.seed) == (60, 8, 2048, 3407)
    assert (train.learning_rate, train.schedule, train.warmup_steps) == (2e-4, "linear", 5)
    assert train.weight_decay == 0.01


def test_recipes_are_found_by_path_and_by_name(tmp_path, monkeypatch):
    by_name = find_recipe("starter")
    assert find_recipe(str(by_name)) == by_name
    monkeypatch.chdir(tmp_path)
    assert find_recipe("recipes/starter.yaml") == by_name
    own = Path("mine.yaml")
    own.touch()
    assert find_recipe("mine.yaml") == own
    Path("starter").mkdir()  # as in a folder of runs
    assert find_recipe("starter") == by_name


def test_unknown_recipe_gets_a_suggestion():
    with pytest.raises(ConfigError, match="Did you mean 'starter'"):
        find_recipe("startr")
    with pytest.raises(ConfigError, match="Ready recipes"):
        find_recipe("nothere")
    with pytest.raises(ConfigError, match="no ready recipe"):
        find_recipe("a\0b")
