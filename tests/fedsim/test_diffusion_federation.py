"""Diffusion in the federation: what clients train, what the truth of an upload is, what the server leaves."""

from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import fedsim
from adversary.captures import capture_paths, read_capture, read_weights
from adversary.diagnose import diagnose
from adversary.evidence import observed_update
from adversary.problem import Problem, frozen_model
from fedsim.data.load import load_dataset
from fedsim.errors import InputError
from fedsim.report.folder import read_run
from fedsim.report.gallery import panels, samples
from fedsim.scenario.load import load_scenario
from fedsim.simulation.api import Run
from fedsim.simulation.federation import task_of, truth_of
from fedsim.simulation.targets import RunTarget
from fedsim.tasks.diffusion import Diffusion, DiffusionTask
from fedsim.training import PrivateSGD, Recipe, draw_batches, train, training_seed, truth_draws, truth_indices
from fedsim.training.draws import draw_generator

UNET = {"name": "unet", "channels": [4, 8], "norm_groups": 2, "head_dim": 4}
TASK = {"name": "diffusion", "timesteps": 20, "sample_every": 2, "samples": 4}


def tables(**changed: Any) -> dict[str, Any]:
    """Return a small federation of a diffusion model, one FedSGD step of two images a client."""
    return {
        "seed": 3,
        "data": {"name": "fashion_mnist", "train_limit": 60, "test_limit": 40},
        "partition": {"clients": 4},
        "task": TASK,
        "model": UNET,
        "training": {"batch_size": 2, "learning_rate": 0.5},
        "strategy": {"rounds": 1, "clients_per_round": 2},
        "adversary": {"attacks": ["idlg"], "workers": 0, "capture": {"clients": 1}},
        "output": {"report": False},
    } | changed


def learnt(prediction: str = "epsilon") -> DiffusionTask:
    options = {key: value for key, value in UNET.items() if key != "name"}
    return Diffusion(prediction=prediction, timesteps=20).task("unet", options, (1, 28, 28), 10)


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_training_is_a_plain_loop_with_the_same_draws(prediction):
    """Bit for bit: batches, timesteps, noise, Adam."""
    problem, data = learnt(prediction), load_dataset("fashion_mnist", {"train_limit": 40}, 1)
    recipe = Recipe(epochs=2, batch_size=16, optimizer="adam", learning_rate=1e-3)
    held, seed = np.arange(40), training_seed(7, 2, 5)
    trained = train(
        problem, problem.build(1), data.train, draw_batches(recipe, held, 7, 2, 5), recipe, seed=seed
    )

    model = problem.build(1).train()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    images, _ = data.train.batch(truth_indices(recipe, held, 7, 2, 5))
    timesteps, noise = truth_draws(problem, recipe, held, 7, 2, 5)
    assert len(images) == len(timesteps) == len(noise) == 80
    for start, stop in ((0, 16), (16, 32), (32, 40), (40, 56), (56, 72), (72, 80)):
        optimizer.zero_grad()
        now = slice(start, stop)
        loss = problem.loss_at(model, images[now], timesteps[now], noise[now])
        torch.autograd.backward(loss)
        optimizer.step()
    for name, value in model.named_parameters():
        assert torch.equal(value, trained.weights[name]), name


def test_draws_differ_between_clients_and_rounds():
    problem, recipe = learnt(), Recipe(algorithm="fedsgd", batch_size=4)
    drawn = {
        (client, number): truth_draws(problem, recipe, np.arange(8), 1, client, number)[1]
        for client in (0, 1)
        for number in (1, 2)
    }
    first = drawn.pop((0, 1))
    assert not any(torch.equal(first, other) for other in drawn.values())
    again = problem.draw(4, draw_generator(training_seed(1, 0, 1)))
    assert torch.equal(first, again[1])


def test_dp_sgd_clips_each_example_by_itself():
    """Slow reference: one gradient an example with its own draws, scaled to the clip norm."""
    problem, data, clip = learnt(), load_dataset("fashion_mnist", {"train_limit": 10}, 1), 0.05
    recipe = Recipe(
        algorithm="fedsgd",
        batch_size=3,
        learning_rate=1.0,
        private=PrivateSGD(clip_norm=clip, noise_multiplier=0.0),
    )
    indices = np.arange(3)
    found = train(problem, problem.build(1), data.train, iter([indices]), recipe, seed=4).update
    images, _ = data.train.batch(indices)
    timesteps, noise = problem.draw(3, draw_generator(4))
    model, expected = problem.build(1), 0.0
    for i in range(3):
        one = slice(i, i + 1)
        loss = problem.loss_at(model, images[one], timesteps[one], noise[one])
        single = torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(model.parameters()))])
        assert single.norm() > clip
        expected = expected + single * clip / single.norm() / 3
    flat = -torch.cat([value.flatten() for value in found.values()])
    torch.testing.assert_close(flat, expected, rtol=1e-3, atol=1e-6)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    torch.set_num_threads(1)
    out = tmp_path_factory.mktemp("diffusion") / "run"
    strategy = {"rounds": 3, "clients_per_round": 2}
    return fedsim.run(tables(strategy=strategy, output={"report": True}), out=out)


def test_the_truth_of_a_capture_explains_its_upload(run):
    """Images, timesteps and noise, recomputed from scenario, seed, client and round, give the gradient."""
    target = RunTarget(load_scenario(run.folder / "scenario.toml"), run.folder)
    capture = read_capture(next(capture_paths(target.captures)))
    truth = target.truth(capture)
    assert truth.draws is not None
    assert truth.draws[1].shape == truth.images.shape == (2, 1, 28, 28)
    task = task_of(str(run.folder / "scenario.toml"))
    model = frozen_model(task, read_weights(target.captures, capture.weights))
    problem = Problem(task=task, model=model, target={}, seeds=())
    gradient = problem.gradient_of(truth.loss(task))
    weights = read_weights(target.captures, capture.weights)
    update = observed_update(capture, weights, list(gradient))
    for name, value in gradient.items():
        torch.testing.assert_close(update[name], -0.5 * value, rtol=1e-3, atol=1e-6)


def test_the_truth_joins_each_draw_to_its_image(run, tmp_path):
    """Two epochs over the same images: as many draws, and each explains its own share of the steps."""
    text = (run.folder / "scenario.toml").read_text()
    (tmp_path / "scenario.toml").write_text(
        text.replace('algorithm = "fedsgd"', 'algorithm = "fedavg"').replace("epochs = 1", "epochs = 2")
    )
    target = RunTarget(load_scenario(tmp_path / "scenario.toml"), tmp_path)
    capture = read_capture(next(capture_paths(run.folder / "captures")))
    truth, path = target.truth(capture), str(tmp_path / "scenario.toml")
    images, _ = truth_of(path, capture.client, capture.round)
    assert len(images) == len(truth.drawn_for) == len(truth.draws[0]) == 2 * len(truth.images)
    assert torch.equal(truth.images[truth.drawn_for], images)


def test_the_run_leaves_pictures_distances_and_a_refusal(run):
    rows = run.rounds
    assert [row["round"] for row in rows if "sample_distance" in row] == [0, 2, 3]
    assert all(row["accuracy"] is None and row["loss"] > 0 for row in rows)
    assert sorted(read_run(run.folder).samples) == [0, 2, 3]
    assert len(list((run.folder / "samples").glob("*.png"))) == 3 * 4
    assert run.summary["loss"] == rows[-1]["loss"]
    assert run.leakage == []
    (refused,) = run.summary["refused"]
    assert refused == {
        "attack": "idlg",
        "reason": "reads the gradients of task classification; these uploads are of task diffusion",
    }
    page = (run.folder / "report.html").read_text(encoding="utf-8")
    for text in ("Held-out loss by round", "Samples by round", "Sample 4, round 3", "held-out loss"):
        assert text in page


def test_the_report_shows_some_rounds_of_many(run, tmp_path):
    (tmp_path / "samples").mkdir()
    (tmp_path / "scenario.toml").write_text("")
    picture = next((run.folder / "samples").glob("*.png")).read_bytes()
    for number in range(0, 200, 5):
        (tmp_path / "samples" / f"round-{number:05d}-00.png").write_bytes(picture)
    panel = samples(read_run(tmp_path))
    titles = [line.title for line in panel.strips[0].lines]
    assert titles[0] == "Round 0"
    assert titles[-1] == "Round 195"
    assert 8 <= len(titles) <= 13
    assert panel.left_out == 40 - len(titles)


def test_the_same_scenario_gives_the_same_weights(run, tmp_path):
    again = fedsim.run(
        run.folder / "scenario.toml", out=tmp_path / "again", overrides=["output.report=false"]
    )
    first, second = (load_file(each.folder / "weights.safetensors") for each in (run, again))
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert [row["loss"] for row in again.rounds] == [row["loss"] for row in run.rounds]


def test_a_capture_is_not_diagnosed_as_a_classifiers(run):
    path = next(capture_paths(run.folder / "captures"))
    capture = read_capture(path)
    weights = read_weights(path.parent, capture.weights)
    with pytest.raises(InputError, match="timesteps and noise"):
        diagnose(capture, weights, task_of(str(run.folder / "scenario.toml")))


def test_the_federation_learns(tmp_path):
    """FedAvg on skewed labels: the held-out loss and the distance of the samples fall."""
    run = fedsim.run(
        tables(
            data={"name": "fashion_mnist", "train_limit": 200, "test_limit": 30},
            partition={"name": "dirichlet", "clients": 4, "alpha": 0.5},
            task=TASK | {"sample_every": 3, "samples": 10, "sample_steps": 5},
            training={
                "algorithm": "fedavg",
                "steps": 10,
                "batch_size": 8,
                "optimizer": "adam",
                "learning_rate": 0.005,
            },
            strategy={"rounds": 3, "clients_per_round": 2},
            adversary={"attacks": []},
        ),
        out=tmp_path / "run",
    )
    first, last = run.rounds[0], run.rounds[-1]
    assert last["loss"] < 0.5 * first["loss"]
    assert last["sample_distance"] < 0.5 * first["sample_distance"]


GRANTED = {
    "threat_model": ["C", "timesteps", "noise"],
    "attacks": [{"name": "gidm", "steps": 2, "latent_evaluations": 2, "max_evaluations": 2}],
    "workers": 0,
    "capture": {"clients": 1},
}


def test_the_report_shows_truth_and_both_phases(tmp_path):
    run = fedsim.run(tables(adversary=GRANTED), out=tmp_path / "run")
    (panel,) = panels(read_run(run.folder))
    lines = panel.strips[0].lines
    assert [line.details[0] for line in lines] == ["the client's image", "after phase 1", "after phase 2"]
    assert all(all(line.pictures) for line in lines)


def test_draws_of_images_that_were_trained_on_twice_are_refused(tmp_path):
    training = {"algorithm": "fedavg", "epochs": 2, "batch_size": 1, "learning_rate": 0.1}
    data = {"name": "fashion_mnist", "train_limit": 8, "test_limit": 40}
    run = fedsim.run(tables(adversary=GRANTED, training=training, data=data), out=tmp_path / "run")
    (refused,) = run.summary["refused"]
    assert refused["reason"].endswith("each image was drawn for once; here 2 were drawn for 4 times")


DEFENSES = [
    {"name": "masking", "p": 0.5},
    {"name": "noising", "std": 0.01},
    {"name": "clipping", "norm": 1.0},
    {"name": "pruning", "fraction": 0.5},
    {"name": "quantizing", "dtype": "int8"},
    {"name": "dpsgd", "clip_norm": 1.0, "noise_multiplier": 0.1},
]


@pytest.mark.parametrize("defense", DEFENSES, ids=lambda table: table["name"])
def test_every_defence_works(defense, tmp_path):
    scenario = tables(defenses=[defense], task=TASK | {"sample_every": 0})
    run = fedsim.run(scenario, out=tmp_path / "run")
    assert run.summary["federation"]["failed_replies"] == 0
    assert np.isfinite(run.rounds[-1]["loss"])
    assert not (run.folder / "samples").exists()


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"model": "lenet"}, r"model\.name = 'lenet': allowed: 'dit', 'unet', or your own, with task\.name"),
        (
            {"task": "classification"},
            r"model\.name = 'unet': allowed: 'cnn', .* task\.name = 'classification'",
        ),
        ({"task": "difusion"}, r"task\.name = 'difusion': no such task; did you mean 'diffusion'"),
        ({"task": TASK | {"timesteps": 2000}}, r"task\.timesteps = 2000: allowed: 16 to 1000"),
        ({"task": TASK | {"schedule": "square"}}, r"task\.schedule = 'square': allowed: 'linear', 'cosine'"),
        ({"model": UNET | {"channels": [4, 4, 4, 4]}}, r"model\.channels"),
        (
            {"adversary": {"threat_model": "F", "manipulation": "imprint"}},
            r"adversary\.manipulation\.name = 'imprint': allowed: none with task\.name = 'diffusion'",
        ),
        (
            {"adversary": {"join_rounds": True}},
            r"adversary\.join_rounds = True: allowed: false with task\.name = 'diffusion'",
        ),
    ],
)
def test_what_does_not_fit_is_refused_in_one_line(changed, said, tmp_path):
    with pytest.raises(InputError, match=said) as raised:
        fedsim.run(tables(**changed), out=tmp_path / "run")
    assert "\n" not in str(raised.value)
