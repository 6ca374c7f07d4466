"""On real SQLite stores: publishing, finding, loading and distrusting registered models."""

import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import mlflow
import pytest
import torch
from mlflow.entities import LoggedModelStatus
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import BAD_REQUEST
from mlflow_store import Server, new_store
from registered import DIV2K, NAME, PHOTOS, facts_of, network_weights, publish, published, run_id_of, start
from safetensors import safe_open
from torch import Tensor

import sesr_lab
from sesr_lab.errors import ModelError, ParentError
from sesr_lab.network.model import SESR, from_weights, run_collapsed
from sesr_lab.registry import catalog
from sesr_lab.registry import publish as registry
from sesr_lab.registry.catalog import by_number, champion, load, promote, resolve, version_of_run, versions
from sesr_lab.registry.version import Version, describe, lineage_of
from sesr_lab.registry.weights import load_file
from sesr_lab.study.config import Architecture
from sesr_lab.tracking import pauses
from sesr_lab.tracking.runs import RunLog, Tracker, open_store
from sesr_lab.tracking.store import is_http

pytestmark = pytest.mark.slow


@pytest.fixture
def tracker(tmp_path: Path) -> Tracker:
    return new_store(tmp_path)


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Tracker:
    """Two versions, the first the champion; for tests that only read."""
    tracker = new_store(tmp_path_factory.mktemp("filled"))
    published(tracker)
    published(tracker, 29.0, seed=1)
    return tracker


def weights_path(tracker: Tracker, version: Version) -> Path:
    location = tracker.client.get_logged_model(version.model_id).artifact_location
    return Path(location.removeprefix("file://")) / "weights.safetensors"


# Publishing


def test_what_is_published_comes_back_as_it_was(tracker: Tracker) -> None:
    weights = network_weights()
    run = start(tracker)
    version = publish(tracker, run, name=NAME, weights=weights, facts=facts_of())
    assert (version.name, version.version, version.run_id) == (NAME, 1, run_id_of(tracker, run))
    assert version.architecture == facts_of().architecture
    assert (version.psnr_db, version.ssim, version.recipe) == (30.0, 0.9, "fast")
    assert (version.params, version.macs_720p) == (facts_of().costs.params, facts_of().costs.macs_720p)
    assert (version.data, version.data_fingerprint, version.parent) == ("photos", PHOTOS, None)
    loaded = load(tracker, version)
    assert loaded.version == version
    assert loaded.weights.keys() == weights.keys()
    assert all(torch.equal(loaded.weights[name], weights[name]) for name in weights)


@pytest.mark.parametrize(("activation", "input_residual"), [("relu", True), ("prelu", False), ("relu", False)])
def test_a_network_for_hardware_comes_back_as_one(tracker: Tracker, activation: str, input_residual: bool) -> None:
    facts = facts_of()
    variant = {"activation": activation, "input_residual": input_residual}
    facts = replace(facts, architecture=Architecture.model_validate({**facts.architecture.model_dump(), **variant}))
    weights = dict(SESR(**facts.architecture.model_dump()).state_dict())
    version = publish(tracker, start(tracker), name=NAME, weights=weights, facts=facts)
    assert version.architecture == facts.architecture
    assert load(tracker, version).weights.keys() == weights.keys()
    with safe_open(weights_path(tracker, version).parent / "collapsed.safetensors", "pt") as file:
        collapsed = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (it is not a dict)
    x = torch.rand(1, 1, 6, 6)
    torch.testing.assert_close(run_collapsed(collapsed_tuple(collapsed), x), from_weights(weights).subpixels(x))


def test_the_papers_networks_have_no_tags_for_what_came_later(tracker: Tracker) -> None:
    tags = published(tracker).tags
    assert not {"sesr.activation", "sesr.input_residual"} & tags.keys()


def test_the_files_are_of_use_without_us(tracker: Tracker) -> None:
    version = published(tracker)
    folder = weights_path(tracker, version).parent
    assert {"weights.safetensors", "collapsed.safetensors", "README.md"} <= {path.name for path in folder.iterdir()}
    with safe_open(folder / "collapsed.safetensors", "pt") as file:
        collapsed = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (it is not a dict)
        assert '"m": 1' in file.metadata()["architecture"]
    x = torch.rand(1, 1, 6, 6)
    expected = from_weights(network_weights(), block="expanded").subpixels(x)
    # float32 sums of some 200 products of numbers near 1, in another order
    torch.testing.assert_close(run_collapsed(collapsed_tuple(collapsed), x), expected, atol=1e-5, rtol=1e-5)


def collapsed_tuple(tensors: dict[str, Tensor]):
    from sesr_lab.network.model import Collapsed

    return Collapsed(**tensors)


def test_people_find_scores_costs_and_commands_in_the_description(tracker: Tracker) -> None:
    version = published(tracker, 30.5)
    text = tracker.client.get_model_version(NAME, "1").description
    for part in ("30.50", "+1.50 dB over bicubic", "photos", "fast recipe", f"sesr-lab evaluate {version.uri}"):
        assert part in text


def test_the_card_links_the_run_and_the_parent_and_names_the_licence_of_the_data(tracker: Tracker) -> None:
    parent = published(tracker)
    child = publish(
        tracker,
        start(tracker),
        name="sesr-m1-f4-p8-collapsed-x4",
        weights=network_weights(4),
        facts=facts_of(scale=4),
        parent=lineage_of(parent),
    )
    experiment = tracker.experiment("trials")
    folder = weights_path(tracker, child).parent
    for text in (
        tracker.client.get_model_version(child.name, "1").description,
        (folder / "README.md").read_text(encoding="utf-8"),
    ):
        assert f"[this run](#/experiments/{experiment}/runs/{child.run_id})" in text
        assert f"[{NAME} version 1](#/models/{NAME}/versions/1)" in text
        assert "licence: public domain, CC0, or none stated" in text
        assert "{" not in text


@pytest.mark.parametrize(
    ("source", "says"),
    [("div2k", "academic research"), ("hub:a/b", "huggingface.co/datasets/a/b"), ("folder:/x", "not known here")],
)
def test_the_card_says_where_the_licence_of_the_data_is(source: str, says: str) -> None:
    card = describe(replace(facts_of(), data=source), uri="models:/x/1", parent=None)
    assert says in card


def model_tags(tracker: Tracker) -> dict[str, str]:
    return dict(tracker.client.get_registered_model(NAME).tags)


def test_the_list_of_models_says_scale_best_psnr_and_cost(tracker: Tracker) -> None:
    published(tracker, 31.126)
    gmacs = f"{facts_of().costs.macs_720p / 1e9:.2f}"
    assert model_tags(tracker) == {"scale": "x2", "psnr_db": "31.13", "data": "photos", "gmacs_720p": gmacs}
    published(tracker, 30.0, seed=1)
    assert model_tags(tracker)["psnr_db"] == "31.13", "a worse version does not change it"
    published(tracker, 32.0, seed=2)
    assert model_tags(tracker)["psnr_db"] == "32.00"
    promote(tracker, f"models:/{NAME}/2", "champion")
    assert model_tags(tracker)["psnr_db"] == "30.00", "the champion is who the user says it is"


def test_the_list_of_models_knows_networks_below_bicubic_too(tracker: Tracker) -> None:
    published(tracker, 28.0)
    assert model_tags(tracker)["psnr_db"] == "28.00"


def test_the_list_of_models_follows_a_champion_whose_files_are_gone(tracker: Tracker) -> None:
    lost = published(tracker, 31.0)
    published(tracker, 30.0, seed=1)
    tracker.client.delete_logged_model(lost.model_id)
    resolve(tracker, NAME)
    assert model_tags(tracker)["psnr_db"] == "30.00"


def test_the_ui_links_model_run_scores_and_version(tracker: Tracker) -> None:
    version = published(tracker)
    model = tracker.client.get_logged_model(version.model_id)
    assert (model.status, model.source_run_id) == (LoggedModelStatus.READY, version.run_id)
    assert {metric.key: metric.value for metric in model.metrics} == {"best_psnr": 30.0, "best_ssim": 0.9}
    assert model.params["m"] == "1"
    assert NAME in model.tags["mlflow.modelVersions"]
    outputs = tracker.client.get_run(version.run_id).outputs.model_outputs
    assert [(output.model_id, output.step) for output in outputs] == [(version.model_id, 2000)]


def test_publishing_again_makes_no_second_version(tracker: Tracker) -> None:
    run = start(tracker)
    first = publish(tracker, run, name=NAME, weights=network_weights(), facts=facts_of())
    tracker.client.delete_registered_model_alias(NAME, "champion")  # killed before the aliases
    again = publish(tracker, run, name=NAME, weights=network_weights(), facts=facts_of())
    assert again == first
    assert [version.version for version in versions(tracker)] == [1]


def kept_and_ended(tracker: Tracker) -> RunLog:
    """A run whose network waits to be published; delivered."""
    run = start(tracker)
    registry.keep(run, registry.prepare(NAME, weights=network_weights(), facts=facts_of()))
    run.end("FINISHED")
    assert tracker.flush() == 0
    return run


def test_a_network_can_be_published_when_its_run_is_long_over(tracker: Tracker) -> None:
    run = kept_and_ended(tracker)
    assert versions(tracker) == []
    for _ in range(2):
        tracker.publish_kept(run.key, registry.KEPT)
        assert tracker.flush() == 0
    (version,) = versions(tracker)
    assert tracker.delivered(run.key).model == version.uri  # type: ignore[union-attr]
    assert load(tracker, version).weights.keys() == network_weights().keys()
    assert tracker.run(version.run_id).status == "FINISHED"


def test_a_machine_that_does_not_know_the_run_can_publish_its_network_too(tracker: Tracker, tmp_path: Path) -> None:
    run = kept_and_ended(tracker)
    elsewhere = open_store(tracker.uri, state=tmp_path / "another state")
    elsewhere.publish_kept(run.key, registry.KEPT)
    assert elsewhere.flush() == 0
    assert [version.version for version in versions(tracker)] == [1]


def test_a_network_that_is_not_what_was_scored_is_not_published(
    tracker: Tracker, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run = kept_and_ended(tracker)
    (file,) = tmp_path.glob("mlruns/**/checkpoints/best.safetensors")
    flip_a_byte(file)
    tracker.publish_kept(run.key, registry.KEPT)
    assert tracker.flush() == 0
    assert versions(tracker) == []
    assert "is not what was scored" in caplog.text


@pytest.mark.parametrize(
    "killed_after", ["create_logged_model", "log_model_artifacts", "log_outputs", "create_model_version"]
)
def test_a_kill_while_a_network_is_published_leaves_one_model_one_version_and_one_score(
    tracker: Tracker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, killed_after: str
) -> None:
    run = kept_and_ended(tracker)
    real = getattr(mlflow.MlflowClient, killed_after)
    calls = iter([True])

    def dies(*arguments: object, **others: object) -> object:
        done = real(*arguments, **others)
        if next(calls, False):
            raise ConnectionError("the process was killed here")
        return done

    monkeypatch.setattr(mlflow.MlflowClient, killed_after, dies)
    monkeypatch.setattr(pauses, "FIRST_PAUSE_S", 0.05)
    tracker.publish_kept(run.key, registry.KEPT)
    assert tracker.flush() == 0
    (version,) = versions(tracker)
    models = tracker.client.search_logged_models([tracker.experiment("trials")])
    assert [model.model_id for model in models] == [version.model_id]
    assert len(tracker.client.get_metric_history(version.run_id, "best_psnr")) == 1
    assert version.aliases == ("champion", "champion-aaaaaaaa")


def test_weights_of_another_network_are_a_bug() -> None:
    with pytest.raises(ValueError, match="the weights are of"):
        registry.prepare(NAME, weights=network_weights(4), facts=facts_of())


def test_publishing_does_not_change_the_process_s_default_store(
    tracker: Tracker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    published(tracker)
    assert os.environ["MLFLOW_TRACKING_URI"] == "http://127.0.0.1:9"
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    published(tracker)
    assert "MLFLOW_TRACKING_URI" not in os.environ
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert mlflow.get_tracking_uri() == f"sqlite:///{tmp_path}/elsewhere/mlflow.db"
    assert list((tmp_path / "elsewhere").iterdir()) == []


# Champions


def test_the_champion_is_the_best_on_its_data(tracker: Tracker) -> None:
    published(tracker, 30.0)
    assert published(tracker, 31.0, seed=1).aliases == ("champion", "champion-aaaaaaaa")
    assert published(tracker, 30.5, seed=2).aliases == ()
    best = champion(tracker, NAME, PHOTOS)
    assert best is not None
    assert (best.version, best.psnr_db) == (2, 31.0)


def test_a_better_score_on_other_data_does_not_take_the_champion_s_place(tracker: Tracker) -> None:
    published(tracker, 30.0)
    assert published(tracker, 40.0, DIV2K, seed=1).aliases == ("champion-bbbbbbbb",)
    assert resolve(tracker, NAME).version == 1
    assert champion(tracker, NAME, DIV2K) == resolve(tracker, f"models:/{NAME}/2")


def test_of_equal_scores_the_first_stays(tracker: Tracker) -> None:
    published(tracker, 30.0)
    published(tracker, 30.0, seed=1)
    assert resolve(tracker, NAME).version == 1


def test_nothing_below_bicubic_is_a_champion(tracker: Tracker) -> None:
    assert published(tracker, 28.9).aliases == (), "bicubic has 29 dB"
    assert champion(tracker, NAME, PHOTOS) is None
    assert published(tracker, 29.5, seed=1).aliases == ("champion", "champion-aaaaaaaa")


def test_what_an_earlier_version_has_crowned_below_bicubic_loses_its_crown_at_the_next_publication(
    tracker: Tracker,
) -> None:
    published(tracker, 28.0)
    for alias in ("champion", "champion-aaaaaaaa"):
        tracker.client.set_registered_model_alias(NAME, alias, "1")
    published(tracker, 28.5, seed=1)
    assert all(version.aliases == () for version in versions(tracker))
    for alias in ("champion", "champion-aaaaaaaa"):
        tracker.client.set_registered_model_alias(NAME, alias, "1")
    assert published(tracker, 31.0, DIV2K, seed=2).aliases == ("champion", "champion-bbbbbbbb")


def test_a_champion_whose_files_are_gone_is_passed_over_and_the_next_best_is_crowned(tracker: Tracker) -> None:
    lost = published(tracker, 31.0)
    published(tracker, 30.0, seed=1)
    published(tracker, 30.5, seed=2)
    tracker.client.delete_logged_model(lost.model_id)
    best = champion(tracker, NAME, PHOTOS)
    assert best is not None
    assert (best.version, best.aliases) == (3, ("champion", "champion-aaaaaaaa"))
    weights_path(tracker, best).unlink()
    assert resolve(tracker, NAME).version == 2


def test_a_champion_whose_files_are_gone_stays_where_there_is_no_other(tracker: Tracker) -> None:
    lost = published(tracker, 31.0)
    weights_path(tracker, lost).unlink()
    with pytest.raises(ModelError, match="is gone from the store; train it again"):
        load(tracker, resolve(tracker, NAME))


def test_no_champion_on_data_that_nothing_was_trained_on(tracker: Tracker) -> None:
    assert champion(tracker, NAME, PHOTOS) is None
    published(tracker)
    assert champion(tracker, NAME, DIV2K) is None


def test_a_champion_that_is_not_ours_says_what_to_do(tracker: Tracker) -> None:
    published(tracker)
    with tracker.reporting("test"):
        tracker.client.create_model_version(NAME, "s3://somewhere/else")
    tracker.client.set_registered_model_alias(NAME, "champion-bbbbbbbb", "2")
    with pytest.raises(ParentError, match=r"version 2.*sesr-lab promote .*VERSION --alias champion-bbbbbbbb"):
        champion(tracker, NAME, DIV2K)


def test_a_deleted_champion_is_succeeded_at_the_next_publication(tracker: Tracker) -> None:
    published(tracker, 31.0)
    tracker.client.delete_model_version(NAME, "1")
    assert champion(tracker, NAME, PHOTOS) is None
    assert published(tracker, 30.0, seed=1).aliases == ("champion", "champion-aaaaaaaa")


def test_promoting_moves_an_alias(tracker: Tracker) -> None:
    first = published(tracker, 31.0)
    published(tracker, 30.0, seed=1)
    assert promote(tracker, f"models:/{NAME}/2", "phone").aliases == ("phone",)
    assert promote(tracker, first.run_id, "phone").aliases == ("champion", "champion-aaaaaaaa", "phone")
    assert resolve(tracker, f"models:/{NAME}@phone").version == 1


@pytest.mark.parametrize("alias", ["", "v3", "latest", "a b", "7"])
def test_what_cannot_be_an_alias_is_refused(filled: Tracker, alias: str) -> None:
    with pytest.raises(ModelError, match="cannot be an alias"):
        promote(filled, NAME, alias)


# Finding


def test_every_way_to_name_a_version_finds_it(tracker: Tracker) -> None:
    version = published(tracker)
    for model in (version.run_id, NAME, f"models:/{NAME}", f"models:/{NAME}/1", f"models:/{NAME}@champion"):
        assert resolve(tracker, model) == version


@pytest.mark.parametrize(
    ("model", "says"),
    [
        ("sesr-m1-f4-p8-colapsed-x2", f"no registered model .* did you mean {NAME}"),
        ("resnet", "no registered model resnet, nor one like it among the 1"),
        (f"models:/{NAME}/7", f"{NAME} has no version 7; it has 1, 2"),
        (f"models:/{NAME}@phone", r"no alias phone; it has champion \(version 1\)"),
        (f"models:/{NAME}/1/2", "write models:/NAME/VERSION or models:/NAME@ALIAS"),
        ("f" * 32, "there is no run ffff"),
    ],
)
def test_a_model_that_is_not_there_is_answered_with_what_is(filled: Tracker, model: str, says: str) -> None:
    with pytest.raises(ModelError, match=says) as caught:
        resolve(filled, model)
    assert "\n" not in str(caught.value)


def test_a_run_without_a_model_says_so(tracker: Tracker) -> None:
    run_id = run_id_of(tracker, start(tracker))
    with pytest.raises(ModelError, match=r"t0001, RUNNING\) has published no model"):
        resolve(tracker, run_id)
    assert version_of_run(tracker, run_id) is None


def test_all_versions_are_listed_over_many_pages(tracker: Tracker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(catalog, "_PAGE", 2)
    for seed in range(3):
        published(tracker, 30.0 + seed, seed=seed)
    tracker.client.create_registered_model("someone-else-s")
    for name in ("a", "b", "c"):
        publish(tracker, start(tracker), name=name, weights=network_weights(), facts=facts_of())
    assert [(version.name, version.version) for version in versions(tracker)] == [
        ("a", 1),
        ("b", 1),
        ("c", 1),
        (NAME, 1),
        (NAME, 2),
        (NAME, 3),
    ]
    listed = versions(tracker, "m1-f4")
    assert [version.aliases for version in listed] == [(), (), ("champion", "champion-aaaaaaaa")]


@pytest.mark.parametrize("name", ["bob's classifier", 'a "model"', "photos ×2 – größer", "50%", "back\\slash", "`x`"])
def test_other_peoples_models_are_passed_over_whatever_their_names(tracker: Tracker, name: str) -> None:
    client = tracker.client
    client.create_registered_model(name)
    client.create_model_version(name, "s3://bucket/model")
    client.create_model_version(name, "s3://bucket/model", tags={"sesr.sha256": "ab", "sesr.m": "many"})
    ours = published(tracker)
    client.create_model_version(NAME, "s3://bucket/model")
    client.set_model_version_tag(NAME, "2", "sesr.sha256", "ab")
    assert versions(tracker) == [ours]
    assert champion(tracker, NAME, PHOTOS) == ours
    with pytest.raises(ModelError, match=r"was not published by sesr-lab|has no alias champion"):
        resolve(tracker, name)
    with pytest.raises(ModelError, match="has no version 9; it has none"):
        by_number(tracker, name, 9)


# Lineage


def test_a_x4_network_names_its_parent_for_good(tracker: Tracker) -> None:
    parent = published(tracker)
    run = start(tracker)
    run.set_tags(lineage_of(parent).tags)
    run.log_model_input(parent.model_id)
    run.log_model_input(parent.model_id)  # again after a resume
    child = publish(
        tracker,
        run,
        name="sesr-m1-f4-p8-collapsed-x4",
        weights=network_weights(4),
        facts=facts_of(scale=4),
        parent=lineage_of(parent),
    )
    assert child.parent == f"{NAME}/1"
    assert child.tags["sesr.parent.sha256"] == parent.sha256
    assert tracker.run(child.run_id).tags["sesr.parent.run_id"] == parent.run_id
    inputs = tracker.client.get_run(child.run_id).inputs.model_inputs
    assert [item.model_id for item in inputs] == [parent.model_id]


# Distrust


def flip_a_byte(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def cut_short(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:100])


def empty(path: Path) -> None:
    path.write_bytes(b"")


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (flip_a_byte, "altered or cut short"),
        (cut_short, "altered or cut short: 100 bytes"),
        (empty, "altered or cut short: 0 bytes"),
        (Path.unlink, "is gone from the store"),
    ],
)
def test_weights_that_are_not_what_was_published_are_refused(
    tracker: Tracker, spoil: Callable[[Path], object], says: str
) -> None:
    version = published(tracker)
    spoil(weights_path(tracker, version))
    with pytest.raises(
        ModelError, match=rf"^models:/{NAME}/1: weights.safetensors .*{says}.*sesr-lab train --m 1"
    ) as e:
        load(tracker, version)
    assert "\n" not in str(e.value)


def test_tags_that_contradict_the_weights_are_refused(tracker: Tracker) -> None:
    version = published(tracker)
    tracker.client.set_model_version_tag(NAME, "1", "sesr.m", "3")
    with pytest.raises(ModelError, match=r"the weights are of .*'m': 1.* the tags say .*'m': 3"):
        load(tracker, resolve(tracker, version.uri))


def test_a_weights_file_is_checked_too(tracker: Tracker, tmp_path: Path) -> None:
    path = weights_path(tracker, published(tracker))
    assert load_file(path).keys() == network_weights().keys()
    with pytest.raises(ModelError, match=r"collapsed form: give weights\.safetensors"):
        load_file(path.parent / "collapsed.safetensors")
    with pytest.raises(ModelError, match="no such file"):
        load_file(tmp_path / "absent.safetensors")
    torch.save(network_weights(), tmp_path / "pickled.safetensors")
    with pytest.raises(ModelError, match="not a whole safetensors file"):
        load_file(tmp_path / "pickled.safetensors")


# Real processes

PUBLISHER = """
import sys, time
from pathlib import Path
sys.path[:0] = [{tests!r}, {here!r}]
import test_publish as t
from sesr_lab.tracking.runs import open_store
tracker = open_store({uri!r})
run = t.start(tracker)
Path({ready!r}).touch()
while not Path({go!r}).exists():
    time.sleep(0.001)
for index in range(3):
    run = t.start(tracker)
    weights = t.network_weights(seed={seed} + index)
    t.publish(tracker, run, name=t.NAME, weights=weights, facts=t.facts_of({psnr_db} + index))
"""


def test_processes_that_publish_at_once_agree_on_the_champion(tracker: Tracker, tmp_path: Path) -> None:
    go, processes = tmp_path / "go", []
    environment = {**os.environ, "PYTHONPATH": str(Path(sesr_lab.__file__).parents[1])}
    for number in range(2):
        ready = tmp_path / f"ready{number}"
        program = PUBLISHER.format(
            tests=str(Path(__file__).parents[1]),
            here=str(Path(__file__).parent),
            uri=tracker.uri,
            ready=str(ready),
            go=str(go),
            seed=10 * number,
            psnr_db=30 + number / 2,
        )
        processes.append(subprocess.Popen([sys.executable, "-c", program], env=environment, cwd=tmp_path))
    while not all((tmp_path / f"ready{number}").exists() for number in range(2)):
        assert all(process.poll() is None for process in processes)
        time.sleep(0.05)
    go.touch()
    assert [process.wait(timeout=120) for process in processes] == [0, 0]
    known = versions(tracker)
    assert [version.version for version in known] == [1, 2, 3, 4, 5, 6]
    best = resolve(tracker, NAME)
    assert best.psnr_db == max(version.psnr_db for version in known) == 32.5
    assert best.aliases == ("champion", "champion-aaaaaaaa")


def test_a_tag_that_another_process_writes_just_then_holds_back_no_network(
    tracker: Tracker, monkeypatch: pytest.MonkeyPatch
) -> None:
    refusals = iter(["(sqlite3.IntegrityError) UNIQUE constraint failed: registered_model_tags.name"])
    write = mlflow.MlflowClient.set_registered_model_tag

    def collide(client: mlflow.MlflowClient, *tag: str) -> None:
        if (said := next(refusals, None)) is not None:
            raise MlflowException(said, error_code=BAD_REQUEST)
        write(client, *tag)

    monkeypatch.setattr(mlflow.MlflowClient, "set_registered_model_tag", collide)
    assert published(tracker).aliases == ("champion", "champion-aaaaaaaa")
    assert next(refusals, None) is None
    assert [version.version for version in versions(tracker)] == [1]


def test_a_server_keeps_models_as_a_local_store_does(tmp_path: Path) -> None:
    server = Server(tmp_path)
    server.start()
    try:
        tracker = open_store(server.uri)
        assert is_http(tracker.uri)
        version = published(tracker)
        assert load(tracker, version).weights.keys() == network_weights().keys()
        assert published(tracker, 31.0, seed=1).aliases == ("champion", "champion-aaaaaaaa")
        assert replace(version, aliases=()) == resolve(tracker, version.run_id)
        model = tracker.client.get_logged_model(version.model_id)
        assert NAME in model.tags["mlflow.modelVersions"]
        assert {metric.key for metric in model.metrics} == {"best_psnr", "best_ssim"}
        with pytest.raises(ModelError, match="did you mean"):
            resolve(tracker, "sesr-m1-f4-p8-colapsed-x2")
        with pytest.raises(ModelError, match="has no version 9; it has 1, 2"):
            resolve(tracker, f"models:/{NAME}/9")
        with pytest.raises(ModelError, match="there is no run"):
            resolve(tracker, "f" * 32)
        for path in tmp_path.glob("mlartifacts/**/weights.safetensors"):
            path.unlink()
        with pytest.raises(ModelError, match="is gone from the store; train it again"):
            load(tracker, version)
    finally:
        server.kill()
