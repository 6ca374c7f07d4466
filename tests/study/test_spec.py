import re
from pathlib import Path

import pytest

from sesr_lab.errors import ConfigError
from sesr_lab.study.config import PRESETS, TrialConfig
from sesr_lab.study.files import built_in, load_study
from sesr_lab.study.naming import slug, study_name
from sesr_lab.study.space import Range, parse_macs
from sesr_lab.study.spec import StudySpec
from sesr_lab.study.summary import space_summary

STUDIES = ("blocks", "npu-budget", "npu-pareto", "presets", "quickstart", "x2-budget", "x2-pareto", "x2-to-x4", "x4")


def write(text: str, name: str = "mine.toml") -> str:
    """A study's file in the current folder, which is the test's own."""
    Path(name).write_text(text, encoding="utf-8")
    return name


def study(text: str) -> StudySpec:
    return load_study(write(text))


# Mistakes


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('enqueue = ["m3"]', ["trials: missing"]),
        ('trials = 0\nenqueue = ["m3"]', ["trials: found 0", "greater than or equal to 1"]),
        ('trials = "3"\nenqueue = ["m3"]', ["trials: found '3'", "valid integer"]),
        ('trails = 3\nenqueue = ["m3"]', ["trails: unknown key; did you mean 'trials'? allowed: name, description"]),
        ("trials = 3", ["space: missing; give [space], enqueue or candidates"]),
        ("trials = = 3", ["cannot be read as TOML", "line 1, column 10", "mend the file"]),
        ('trials = 3\nenqueue = ["m3"]\nname = "a b"', ["name: found 'a b'", "letters, digits", ": a-b-"]),
        ('trials = 3\nenqueue = ["m3"]\nseed = 5_000_000_000', ["seed: found 5000000000", "less than 2147483648"]),
        ('trials = 3\nenqueue = ["m3"]\nseed = -1', ["seed: found -1", "greater than or equal to 0"]),
        ('trials = 3\nenqueue = ["m3"]\n[train]\nseed = 5_000_000_000', ["train: seed: found 5000000000", "less than"]),
        ("trials = 3\n[space]\nseed = [1, 5_000_000_000]", ["space: seed: found 5000000000", "less than"]),
        ('trials = 3\nenqueue = ["m3"]\nmax_macs = inf', ["max_macs: found inf", "finite"]),
        ('trials = 3\nenqueue = ["m3"]\nmax_macs = nan', ["max_macs: found nan", "finite"]),
        ('trials = 3\nenqueue = ["m3"]\nobjective = "best"', ["objective: found 'best'", "'pareto' or 'psnr'"]),
        ('trials = 3\nenqueue = ["m3"]\nsampler = "grid"', ["sampler: found 'grid'", "'tpe' or 'random'"]),
        # the limit
        ('trials = 3\nenqueue = ["m3"]\nmax_macs = "2.5 GMAC"', ["max_macs: '2.5 GMAC'", "2.5G, 800M or 3e9"]),
        ('trials = 3\nenqueue = ["m3"]\nmax_macs = "1.2.3G"', ["max_macs: '1.2.3G'", "2.5G, 800M or 3e9"]),
        ('trials = 3\nenqueue = ["m3"]\nmax_macs = "0G"', ["max_macs: found 0.0", "greater than 0"]),
        ('trials = 3\nenqueue = ["m3"]\nmax_macs = -1.0', ["max_macs: found -1.0", "greater than 0"]),
        # the target
        (
            'trials = 3\nenqueue = ["m3"]\ntarget = "ethos"',
            ["target: 'ethos' is unknown; did you mean 'ethos-u55-256'?"],
        ),
        ('trials = 3\nenqueue = ["m3"]\ntarget = 3', ["target: found 3", "valid string"]),
        (
            'trials = 3\nenqueue = ["m3"]\ntarget = "macs"\nmax_ms = 3',
            ["max_ms: MACs take no time; name a target: ethos-"],
        ),
        ('trials = 3\nenqueue = ["m3"]\ninput = "64x64"', ["input: MACs take no time; name a target: ethos-"]),
        (
            'trials = 3\nenqueue = ["m3"]\ntarget = "ethos-u55-256"\ninput = "0x360"',
            ["input: '0x360' is no size", "640x360"],
        ),
        ('trials = 3\nenqueue = ["m3"]\ntarget = "ethos-u55-256"\nmax_ms = 0', ["max_ms: found 0", "greater than 0"]),
        ('trials = 3\nenqueue = ["m3"]\ntarget = "ethos-u55-256"\nmax_ms = inf', ["max_ms: found inf", "finite"]),
        (
            'trials = 3\n[space]\nactivation = ["relu", "gelu"]',
            ["space: activation: found 'gelu'", "'prelu' or 'relu'"],
        ),
        ("trials = 3\n[space]\ninput_residual = [1, 0]", ["space: input_residual: found 1", "valid boolean"]),
        # the space
        ("trials = 3\n[space]\nm = []", ["space: m: found []", "a list of values, or {low = "]),
        ("trials = 3\n[space]\nm = 3", ["space: m: found 3", "a list of values, or {low = "]),
        ("trials = 3\nspace = 3", ["space: found 3", "table"]),
        ("trials = 3\n[space]\nm = [[1], 2]", ["space: m: found [1]", "a number, a text, true or false"]),
        ("trials = 3\n[space]\nm = [{ a = 1 }]", ["space: m: found {'a': 1}", "a number, a text, true or false"]),
        ("trials = 3\n[space]\nm = [2, 2]", ["space: m: [2, 2] names a value twice"]),
        ('trials = 3\n[space]\nm = [2, "3"]', ["space: m: found '3'", "valid integer"]),
        ("trials = 3\n[space]\nm = [2, 0]", ["space: m: found 0", "greater than or equal to 1"]),
        ('trials = 3\n[space]\nblock = ["collapse"]', ["space: block: found 'collapse'", "'collapsed' or 'expanded'"]),
        ('trials = 3\n[space]\nrecipe = ["fast", "slow"]', ["space: recipe: found 'slow'", "'paper' or 'fast'"]),
        ("trials = 3\n[space]\nscale = [2, 4]", ["space.scale: cannot be searched; allowed: m, f"]),
        ("trials = 3\n[space]\nfeatures = [2]", ["space.features: cannot be searched; did you mean 'feature_size'?"]),
        ("trials = 3\n[space]\nm = [2]\n[train]\nm = 3", ["space.m: also fixed under [train]"]),
        ("trials = 3\n[space]\npatch = [64, 65]\n[train]\nscale = 4", ["space: patch: 65", "scale 4; use 64"]),
        # ranges
        ("trials = 3\n[space.learning_rate]\nlow = 1e-4", ["learning_rate: high: missing"]),
        ("trials = 3\n[space.learning_rate]\nlow = 0.1\nhigh = 0.01", ["learning_rate: low: 0.1 is not below high"]),
        ("trials = 3\n[space.learning_rate]\nlow = 0.1\nhigh = 0.1", ["learning_rate: low: 0.1 is not below high"]),
        ("trials = 3\n[space.learning_rate]\nlow = 0\nhigh = 0.1\nlog = true", ["low: 0 is not positive"]),
        ("trials = 3\n[space.learning_rate]\nlow = 1e-4\nhigh = 1\nlogg = true", ["logg: unknown key", "'log'?"]),
        ('trials = 3\n[space.learning_rate]\nlow = "a"\nhigh = 1', ["learning_rate: low: found 'a'", "valid number"]),
        ("trials = 3\n[space.learning_rate]\nlow = 0.1\nhigh = 2.0", ["space: learning_rate: found 2.0", "equal to 1"]),
        ("trials = 3\n[space.m]\nlow = 1\nhigh = 5", ["space.m: found a range; list its values"]),
        # what comes first
        ('trials = 3\nenqueue = ["m6"]', ["enqueue: preset 'm6' is unknown; allowed: m3, m5"]),
        ('trials = 3\nenqueue = "m3"', ["enqueue: found 'm3'", "list"]),
        ("trials = 3\nenqueue = [3]", ["enqueue.0: found 3", "table"]),
        ("trials = 3\nenqueue = [{ m = 0 }]", ["enqueue: m: found 0"]),
        ("trials = 3\nenqueue = [{ m = [1] }]", ["enqueue: m: found [1]", "a number, a text, true or false"]),
        ("trials = 3\nenqueue = [{ m = 3, scale = 4 }]", ["enqueue: scale: scores at another scale", "under [train]"]),
        (
            'trials = 3\nenqueue = [{ m = 3, data = "div2k" }]',
            ["enqueue: data: scores at another data", "under [train]"],
        ),
        # what every trial shares
        ('trials = 3\nenqueue = ["m3"]\ntrain = 3', ["train: found 3", "table"]),
        ('trials = 3\nenqueue = ["m3"]\n[train]\nlearning_rat = 1e-3', ["train: learning_rat: unknown key", "mean"]),
        ('trials = 3\ncandidates = "x2"\n[train]\nlearning_rat = 1e-3', ["train: learning_rat: unknown key", "mean"]),
        ('trials = 3\nenqueue = ["m3"]\n[train]\nscale = 3', ["train: scale: found 3", "2 or 4"]),
        ('trials = 3\nenqueue = ["m3"]\n[train]\nscale = 4\npatch = 65', ["train: patch: 65", "use 64"]),
        ('trials = 3\nenqueue = ["m3"]\n[train]\nepochs = 1\nsteps = 1', ["train: steps: epochs is given too"]),
        ('trials = 3\nenqueue = ["m3"]\n[train]\nsteps = [1, 2]', ["train: steps: found [1, 2]", "a number, a text"]),
        ('trials = 3\nenqueue = ["m3"]\n[train]\nsteps = 2001-01-01', ["train: steps: found ", "a number, a text"]),
    ],
)
def test_a_mistake_in_a_study_is_one_line_with_its_file_its_key_and_what_is_allowed(text: str, says: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        study(text)
    line = str(caught.value)
    assert line.startswith("mine.toml: ")
    assert "\n" not in line
    assert [part for part in says if part not in line] == []


def test_a_file_that_is_not_text_is_refused() -> None:
    Path("mine.toml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match=r"^mine\.toml: cannot be read as TOML"):
        load_study("mine.toml")


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("quickstrat", ["'quickstrat' is unknown", "did you mean 'quickstart'?", "or a path to a .toml"]),
        ("zzz", ["'zzz' is unknown; allowed: blocks, npu-budget"]),
        ("no/such.toml", ["no/such.toml: no such file", "built-in studies: blocks, npu-budget"]),
        ("folder.toml", ["folder.toml: no such file"]),
        ("", ["'' is unknown"]),
    ],
)
def test_a_study_that_does_not_exist_is_named_with_those_that_do(name: str, says: list[str]) -> None:
    Path("folder.toml").mkdir()
    with pytest.raises(ConfigError) as caught:
        load_study(name)
    assert [part for part in says if part not in str(caught.value)] == []


# Built-in studies


def test_the_built_in_studies_are_these() -> None:
    assert tuple(built_in()) == STUDIES


@pytest.mark.parametrize("name", STUDIES)
def test_every_point_of_a_built_in_study_is_a_valid_trial_with_one_identity(name: str) -> None:
    spec = load_study(name)
    assert spec.name == name
    assert spec.description
    trials = [spec.trial(point) for point in [*spec.enqueue, *(spec.points or [])]]
    listed = [spec.trial(point).fingerprint for point in spec.points or []]
    assert trials or spec.candidates
    assert len({*listed}) == len(listed)
    assert {trial.data for trial in trials} <= {"photos"}  # each runs without a network


def test_the_quickstart_is_eight_short_runs_on_the_bundled_photographs() -> None:
    spec = load_study("quickstart")
    assert spec.trials == 8
    assert spec.trial({}).data == "photos"
    assert (spec.trial({}).steps, spec.trial({}).max_seconds) == (1_200, None), "everybody sees the same table"


# What a study holds


def test_a_study_is_called_after_its_file_unless_it_names_itself() -> None:
    assert study('trials = 1\nenqueue = ["m3"]').name == "mine"
    assert study('trials = 1\nenqueue = ["m3"]\nname = "other"').name == "other"


def test_points_are_all_combinations_in_order() -> None:
    spec = study('trials = 1\n[space]\nm = [3, 2]\nblock = ["collapsed", "expanded"]')
    assert spec.points == [
        {"m": 3, "block": "collapsed"},
        {"m": 3, "block": "expanded"},
        {"m": 2, "block": "collapsed"},
        {"m": 2, "block": "expanded"},
    ]


def test_spaces_that_are_continuous_or_too_large_are_not_listed() -> None:
    continuous = study("trials = 1\n[space]\nm = [2]\n[space.learning_rate]\nlow = 1e-4\nhigh = 1e-2\nlog = true")
    assert continuous.space["learning_rate"] == Range(low=1e-4, high=1e-2, log=True)
    assert continuous.points is None
    assert space_summary(continuous)["networks in the space"] == "continuous"
    large = study(f"trials = 1\n[space]\nseed = {list(range(4097))}")
    assert large.points is None
    assert space_summary(large)["networks in the space"] == "more than 4,096"
    assert len(study(f"trials = 1\n[space]\nseed = {list(range(4096))}").points or []) == 4096


def test_a_trial_is_the_studys_settings_with_the_points_on_top() -> None:
    spec = study('trials = 1\nseed = 7\nenqueue = ["XL"]\n[space]\nm = [2, 11]\n[train]\nscale = 4\nsteps = 9')
    assert spec.trial({"m": 2}) == TrialConfig(m=2, scale=4, steps=9, seed=7)
    assert spec.trial({"m": 2, "seed": 3}).seed == 3
    assert list(spec.enqueue) == [PRESETS["xl"]]
    with pytest.raises(ConfigError, match=r"^study mine: trial: m: found 0"):
        spec.trial({"m": 0})


def test_another_number_of_trials_is_the_same_study_and_other_data_are_another_one() -> None:
    spec = study('trials = 1\nenqueue = ["m3"]')
    assert spec.changed(trials=5, data=None).trials == 5
    assert spec.changed(trials=5, data=None).identity == spec.identity
    moved = spec.changed(trials=None, data="folder:/some where/x")
    assert re.fullmatch("mine-folder-some-where-x-[0-9a-f]{6}", moved.name)
    assert moved.trial({}).data == "folder:/some where/x"
    assert spec.changed(trials=None, data="photos") == spec
    named = study('trials = 1\nenqueue = ["m3"]\n[train]\ndata = "div2k"')
    assert named.changed(trials=None, data="div2k") == named
    assert named.changed(trials=None, data="photos").name == "mine-photos"


def test_what_makes_the_numbers_of_a_study_comparable_is_its_identity() -> None:
    base = 'trials = 1\nenqueue = ["m3"]\n[space]\nm = [3, 5]\n[train]\nsteps = 3\n'
    same = study(base).identity
    assert study(base.replace("trials = 1", 'description = "other"\ntrials = 7')).identity == same
    assert study(base.replace('["m3"]', '["m5", "m3"]')).identity == same, "which come first"
    target = 'target = "ethos-u55-256"\n'
    others = [target, f'{target}input = "32x32"\n', f"{target}max_ms = 30\n"]
    assert len({str(study(other + base).identity) for other in ["", *others]}) == 4
    others += ["seed = 1\n", 'objective = "psnr"\n', 'sampler = "random"\n', 'max_macs = "1G"\n']
    changed = [study(other + base).identity for other in others]
    changed += [study(base + other).identity for other in ("scale = 4", "seed = 1", "f = 8", 'recipe = "paper"')]
    changed += [study(base.replace("steps = 3", "steps = 4")).identity, study(base.replace("3, 5", "3, 7")).identity]
    assert all(identity != same for identity in changed)


@pytest.mark.parametrize(
    "default",
    [
        'objective = "pareto"',
        'sampler = "tpe"',
        'target = "macs"',
        'input = "640x360"',
        'train.activation = "prelu"',
        "train.input_residual = true",
        "seed = 0",
        "train.scale = 2",
        'train.recipe = "fast"',
        'train.data = "photos"',
        'train.block = "collapsed"',
        "train.f = 16",
        "train.feature_size = 256",
        "train.seed = 0",
        "train.epochs = 300",
        'train.parent = "auto"',
        "train.patch = 64",
    ],
)
def test_a_default_that_is_written_out_leaves_a_study_what_it_is(default: str) -> None:
    base = 'trials = 1\nenqueue = ["m3"]\n[space]\nm = [3, 5]\n'
    assert study(f"{default}\n{base}").identity == study(base).identity


def test_a_mark_in_front_of_the_file_and_the_ends_of_its_lines_change_nothing() -> None:
    text = 'trials = 1\nenqueue = ["m3"]\n'
    plain = study(text)
    Path("mine.toml").write_bytes(b"\xef\xbb\xbf" + text.replace("\n", "\r\n").encode())
    assert load_study("mine.toml") == plain


def test_studies_on_different_data_never_share_a_name() -> None:
    spec = study('trials = 1\nenqueue = ["m3"]')
    sources = [
        "folder:照片",
        "folder:图片",
        "folder:set_a",
        "folder:set-a",
        "folder:set a",
        "folder:/set/a",
        "folder:a",
    ]
    sources += ["hub:a/b", "hub:a-b", "hub:a.b", "folder:a/", "folder:-a", "folder:a-", "folder:", "folder:a--b"]
    names = [spec.changed(trials=None, data=source).name for source in sources]
    assert len(set(names)) == len(names)
    assert all(re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name) for name in names)
    assert slug("folder:set-a") == "folder-set-a"
    assert slug("div2k") == "div2k"


def test_a_study_whose_file_has_any_name_gets_one_of_its_own() -> None:
    text = 'trials = 1\nenqueue = ["m3"]'
    files = ["my study.toml", "my-study.toml", "my+study.toml", "研究.toml", "学习.toml", "-x.toml", "é.toml", " .toml"]
    names = [load_study(write(text, file)).name for file in files]
    assert len(set(names)) == len(names)
    assert all(re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name) for name in names)
    assert study_name("x2-pareto_v1.2") == "x2-pareto_v1.2"


def test_the_limit_is_a_number_of_macs_however_it_is_written() -> None:
    written = {
        "2.5G": 2.5e9,
        "800M": 8e8,
        "3e9": 3e9,
        " 1 T ": 1e12,
        "12k": 12e3,
        "12K": 12e3,
        "5": 5.0,
        "1.5e3M": 1.5e9,
    }
    assert {text: parse_macs(text) for text in written} == written
    for text in ("", "G", "2,5G", "-1G", ".", "1.2.3", "2.5GB", "1e", "nan", "inf"):
        with pytest.raises(ValueError, match=r"is not a number of MACs; write it as 2\.5G"):
            parse_macs(text)


def test_the_summary_counts_networks_over_the_limit() -> None:
    # At x2: M3 2.05, M5 3.12, M7 4.18 GMAC (the paper's table 1).
    spec = study('trials = 2\nmax_macs = "3G"\nenqueue = ["m3"]\n[space]\nm = [3, 5, 7]\n[train]\nsteps = 9')
    assert space_summary(spec) == {
        "networks in the space": 3,
        "trials": 2,
        "first": 1,
        "GMAC to 720p": "2.05 to 4.18",
        "over the limit": 2,
        "each trial": "steps = 9",
    }


def test_a_network_that_is_not_in_the_space_cannot_be_enqueued() -> None:
    with pytest.raises(ConfigError, match=r"enqueue: f = 12 is not in space\.f; add it there"):
        study("trials = 1\nenqueue = [{m = 2, f = 12}]\n[space]\nm = [2]\nf = [8, 16]")


def test_the_summary_of_a_study_for_a_target_has_its_milliseconds() -> None:
    pytest.importorskip("ethosu.vela")
    spec = study('trials = 2\ntarget = "ethos-u55-256"\ninput = "64x48"\nmax_ms = 0.8\n[space]\nm = [1, 8]\nf = [16]\n')
    summary = space_summary(spec)
    low, high = (float(ms) for ms in str(summary["ms on ethos-u55-256, 64x48 in"]).split(" to "))
    assert low < 0.8 < high
    assert summary["over the limit"] == 1
    assert not [key for key in space_summary(study('trials = 2\nenqueue = ["m3"]')) if key.startswith("ms")]


def test_what_train_fixes_is_part_of_a_study_that_searches_recipes() -> None:
    text = 'trials = 3\n[space]\nm = [1]\nrecipe = ["fast", "paper"]\n[train]\nlearning_rate = {rate}'
    one, other = (study(text.format(rate=rate)).identity for rate in ("1e-3", "5e-3"))
    assert {key for key in one if one[key] != other[key]} == {"train.learning_rate"}
    assert "train.batch_size" not in one, "which the recipe decides"
