import os
import subprocess
import sys

import pytest

from sesr_lab.errors import ConfigError
from sesr_lab.study.config import PRESETS, Architecture, TrialConfig, checked, preset
from sesr_lab.training.recipe import recipe


def trial(**settings: object) -> TrialConfig:
    return checked(TrialConfig, settings, where="train")


# Mistakes


@pytest.mark.parametrize(
    ("settings", "key", "says"),
    [
        ({"learning_rat": 1e-3}, "learning_rat", ["unknown key", "did you mean 'learning_rate'?", "allowed: m, f"]),
        ({"feature-size": 64}, "feature-size", ["unknown key", "did you mean 'feature_size'?"]),
        ({"zzz": 1}, "zzz", ["unknown key; allowed: m, f, feature_size, block, scale"]),
        ({"zzz": 1, "f": 0}, "zzz", ["unknown key"]),  # a typo first: it may be the cause of the rest
        ({"m": 0}, "m", ["found 0", "greater than or equal to 1"]),
        ({"m": 65}, "m", ["found 65", "less than or equal to 64"]),
        ({"f": 0}, "f", ["found 0", "greater than or equal to 1"]),
        ({"f": "16"}, "f", ["found '16'", "valid integer"]),
        ({"f": 16.0}, "f", ["found 16.0", "valid integer"]),
        ({"f": True}, "f", ["found True", "valid integer"]),
        ({"f": None}, "f", ["found None", "valid integer"]),
        ({"feature_size": -1}, "feature_size", ["found -1", "greater than or equal to 1"]),
        ({"block": "collapse"}, "block", ["found 'collapse'", "'collapsed' or 'expanded'"]),
        ({"scale": 3}, "scale", ["found 3", "2 or 4"]),
        ({"scale": "2"}, "scale", ["found '2'", "2 or 4"]),
        ({"recipe": "fsat"}, "recipe", ["found 'fsat'", "'paper' or 'fast'"]),
        ({"learning_rate": 0.0}, "learning_rate", ["found 0.0", "greater than 0"]),
        ({"learning_rate": 2.0}, "learning_rate", ["found 2.0", "less than or equal to 1"]),
        ({"learning_rate": float("nan")}, "learning_rate", ["found nan"]),
        ({"batch_size": 0}, "batch_size", ["found 0", "greater than or equal to 1"]),
        ({"patch": 65, "scale": 4}, "patch", ["65 is not a multiple of scale 4; use 64"]),
        ({"patch": 17, "scale": 2}, "patch", ["17 is not a multiple of scale 2; use 16"]),
        ({"patch": 8}, "patch", ["found 8", "greater than or equal to 16"]),
        ({"epochs": 1, "steps": 1}, "steps", ["epochs is given too"]),
        ({"epochs": 0}, "epochs", ["found 0", "greater than or equal to 1"]),
        ({"steps": 0}, "steps", ["found 0", "greater than or equal to 1"]),
        ({"max_seconds": 0}, "max_seconds", ["found 0", "greater than 0"]),
        ({"max_seconds": float("inf")}, "max_seconds", ["found inf", "finite"]),
        ({"data": ""}, "data", ["found ''", "at least 1 character"]),
        ({"seed": -1}, "seed", ["found -1", "greater than or equal to 0"]),
        ({"seed": 2**31}, "seed", ["found 2147483648", "less than 2147483648"]),
        ({"parent": "m5"}, "parent", ["'m5' at scale 2; only x4 networks have parents"]),
        ({"parent_block": "other"}, "parent_block", ["found 'other'", "'any' or 'same'"]),
    ],
)
def test_a_bad_setting_is_one_line_with_its_key_what_was_found_and_what_is_allowed(
    settings: dict[str, object], key: str, says: list[str]
) -> None:
    with pytest.raises(ConfigError) as caught:
        trial(**settings)
    line = str(caught.value)
    assert line.startswith(f"train: {key}: ")
    assert "\n" not in line
    assert [text for text in says if text not in line] == []


@pytest.mark.parametrize(("patch", "scale"), [(65, 4), (66, 4), (67, 4), (17, 4), (33, 2)])
def test_the_patch_that_an_error_suggests_is_accepted(patch: int, scale: int) -> None:
    with pytest.raises(ConfigError) as caught:
        trial(patch=patch, scale=scale)
    suggested = int(str(caught.value).rpartition(" ")[2])
    assert trial(patch=suggested, scale=scale).patch == suggested


# Presets and names


def test_presets_are_the_papers_networks() -> None:
    shapes = {name: (each["m"], each["f"], each["feature_size"]) for name, each in PRESETS.items()}
    assert shapes == {
        "m3": (3, 16, 256),
        "m5": (5, 16, 256),
        "m7": (7, 16, 256),
        "m11": (11, 16, 64),
        "xl": (11, 32, 64),
    }


def test_a_preset_is_found_by_its_name_in_any_case_and_known_again_by_its_shape() -> None:
    for name in PRESETS:
        assert preset(name.upper()) == PRESETS[name]
        assert Architecture(**preset(name)).preset == name
    assert Architecture(m=4).preset is None


def test_an_unknown_preset_is_named_with_the_nearest_and_all_others() -> None:
    with pytest.raises(ConfigError, match=r"^preset: 'm111' is unknown; did you mean 'm11'\? allowed: m3, m5, m7"):
        preset("m111")


def test_a_networks_names_tell_its_shape_its_block_and_its_scale() -> None:
    network = Architecture(m=11, f=32, feature_size=64, block="expanded", scale=4)
    assert network.name == "m11-f32-p64-expanded"
    assert network.registered_name() == "sesr-m11-f32-p64-expanded-x4"
    assert network.registered_name("mine") == "mine-m11-f32-p64-expanded-x4"
    assert TrialConfig(**network.model_dump(), seed=3).architecture == network


def test_what_is_not_the_papers_is_in_a_networks_name() -> None:
    assert Architecture(activation="relu").name == "m5-f16-p256-collapsed-relu"
    assert Architecture(input_residual=False).name == "m5-f16-p256-collapsed-noskip"
    both = Architecture(activation="relu", input_residual=False, scale=4)
    assert both.registered_name() == "sesr-m5-f16-p256-collapsed-relu-noskip-x4"
    assert both.short_name == "m5-f16-p256-relu-noskip"


# Recipes and budgets


@pytest.mark.parametrize("scale", [2, 4])
def test_a_trials_own_settings_take_the_place_of_the_recipes(scale: int) -> None:
    resolved = trial(recipe="paper", scale=scale, learning_rate=1e-3, batch_size=8, patch=64).resolved_recipe()
    assert (resolved.learning_rate, resolved.batch_size, resolved.patch) == (1e-3, 8, 64 // scale)
    assert trial(recipe="paper", scale=scale).resolved_recipe() == recipe("paper", scale)


def test_the_budget_is_in_steps_epochs_or_seconds_and_the_references_300_epochs_without_any() -> None:
    # 64 crops of each picture in batches of 32: the reference's DIV2K epoch is 1,600 steps, its run 480,000.
    assert trial(recipe="paper").steps_for(800) == 480_000
    assert trial(recipe="paper", epochs=1).steps_for(800) == 1600
    assert trial(recipe="paper", steps=7).steps_for(800) == 7
    assert trial(recipe="paper", max_seconds=9.0).steps_for(800) is None
    assert trial(recipe="paper", max_seconds=9.0, steps=7).steps_for(800) == 7
    assert trial(recipe="paper", epochs=1, batch_size=4096).steps_for(1) == 1


# Fingerprints


OTHER: dict[str, object] = {
    "m": 6,
    "f": 17,
    "feature_size": 255,
    "activation": "relu",
    "input_residual": False,
    "block": "expanded",
    "scale": 2,
    "recipe": "paper",
    "learning_rate": 7e-4,
    "batch_size": 5,
    "patch": 80,
    "epochs": 7,
    "steps": 7,
    "max_seconds": 7.0,
    "data": "div2k",
    "seed": 1,
    "parent": "none",
    "parent_block": "same",
}
"""A value for each setting that is not the one of `trial(scale=4)`."""


def test_every_setting_but_the_way_to_a_parent_makes_another_fingerprint() -> None:
    base = {"scale": 4}
    assert OTHER.keys() == TrialConfig.model_fields.keys()
    found = {name: trial(**{**base, name: value}).fingerprint for name, value in OTHER.items()}
    found["base"] = trial(**base).fingerprint
    assert len({*found.values()}) == len(found)


@pytest.mark.parametrize("scale", [2, 4])
@pytest.mark.parametrize("name", ["fast", "paper"])
def test_a_setting_left_out_and_the_recipes_own_spelled_out_are_one_experiment(name: str, scale: int) -> None:
    own = trial(recipe=name, scale=scale).resolved_recipe()
    spelled = {"learning_rate": own.learning_rate, "batch_size": own.batch_size, "patch": own.patch * scale}
    base = trial(recipe=name, scale=scale).fingerprint
    for key, value in spelled.items():
        assert trial(recipe=name, scale=scale, **{key: value}).fingerprint == base, key
    assert trial(recipe=name, scale=scale, epochs=300, **spelled).fingerprint == base
    assert trial(recipe=name, scale=scale, m=5, f=16, feature_size=256, data="photos", seed=0).fingerprint == base


def test_where_a_parent_may_come_from_matters_at_x4_only_and_not_who_trained_it() -> None:
    assert trial(scale=4, parent="require").fingerprint == trial(scale=4, parent="auto").fingerprint
    assert trial(scale=2, parent="none").fingerprint == trial(scale=2).fingerprint
    assert trial(scale=2, parent_block="same").fingerprint == trial(scale=2).fingerprint
    named = {trial(scale=4, parent=name).fingerprint for name in ("auto", "none", "m5", "models:/sesr/3")}
    assert len(named) == 4


def test_a_limit_in_seconds_beside_a_number_of_epochs_is_another_experiment_than_seconds_alone() -> None:
    assert trial(max_seconds=5.0).fingerprint != trial(max_seconds=5.0, epochs=300).fingerprint


def test_fingerprints_are_12_hex_digits_and_the_same_in_every_process() -> None:
    script = (
        "from sesr_lab.study.config import TrialConfig; print(TrialConfig(scale=4, learning_rate=3e-4).fingerprint)"
    )
    found = {
        subprocess.run(
            [sys.executable, "-c", script],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()
        for seed in ("1", "2")
    }
    assert found == {TrialConfig(scale=4, learning_rate=3e-4).fingerprint}
    (digits,) = found
    assert len(digits) == 12
    assert set(digits) <= set("0123456789abcdef")


@pytest.mark.parametrize(
    ("settings", "fingerprint"),
    [
        ({}, "93839b465b0d"),
        ({"scale": 4}, "183fdedd4f62"),
        (
            {"m": 11, "f": 32, "feature_size": 64, "block": "expanded", "scale": 4, "recipe": "paper", "seed": 3},
            "eb3ce11f8eb3",
        ),
        ({"steps": 5000, "data": "div2k", "learning_rate": 2e-3}, "4870065e4d52"),
    ],
)
def test_a_trial_of_0_1_0_keeps_its_fingerprint(settings: dict[str, object], fingerprint: str) -> None:
    assert trial(**settings).fingerprint == fingerprint
    assert trial(**settings, activation="prelu", input_residual=True).fingerprint == fingerprint
    assert trial(**settings, activation="relu").fingerprint != fingerprint
    assert trial(**settings, input_residual=False).fingerprint != fingerprint
