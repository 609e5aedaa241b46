"""Replayed evaluations give what the evaluations themselves give, and are given up where they do not."""

from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest
import torch
from conftest import Victim
from torch import Tensor

from adversary.attacks.idlg import IDLG
from adversary.lockstep import lockstep
from adversary.objectives import matching
from adversary.replay import RECORDED_AFTER, Outcome, Replay, replayed


class Recorder:
    """Stands in for a GPU: holds the arguments as a graph does, and computes anew from what it holds."""

    def __init__(self) -> None:
        self.recorded = self.replays = 0

    def __call__(self, evaluation: Callable[[Sequence[Tensor]], Outcome], leaves: Sequence[Tensor]) -> Replay:
        held = [leaf.clone() for leaf in leaves]
        self.recorded += 1

        def replay(values: Sequence[Tensor]) -> Outcome:
            self.replays += 1
            for place, value in zip(held, values, strict=True):
                place.copy_(value)
            return evaluation(held)

        return replay


def squares(points: Tensor, rest: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    return (points.square() * rest["scale"]).sum(dim=1), 2 * points * rest["scale"]


def points(rows: int, value: float) -> tuple[Tensor, dict[str, Tensor]]:
    return torch.full((rows, 3), value), {"scale": torch.arange(3.0) + value}


def test_shapes_that_come_again_are_recorded_and_replayed_at_new_values() -> None:
    recorder = Recorder()
    evaluate = replayed(squares, recorder)
    for number in range(2 * RECORDED_AFTER):
        for rows in (1, 4):
            arguments = points(rows, 0.1 * number)
            for found, expected in zip(evaluate(*arguments), squares(*arguments), strict=True):
                assert torch.equal(found, expected)
    assert recorder.recorded == 2
    assert recorder.replays == 2 * RECORDED_AFTER


def test_shapes_that_change_soon_are_left_alone() -> None:
    recorder = Recorder()
    evaluate = replayed(squares, recorder)
    for rows in range(1, 40):
        evaluate(*points(rows, 1.0))
    assert recorder.recorded == 0


def test_what_cannot_be_recorded_or_differs_is_evaluated_as_before() -> None:
    def refuses(*_: object) -> Replay:
        raise RuntimeError("operation not permitted when stream is capturing")

    def stale(evaluation: Callable[[Sequence[Tensor]], Outcome], leaves: Sequence[Tensor]) -> Replay:
        frozen = evaluation([leaf.clone() for leaf in leaves])
        return lambda _: frozen

    for record in (refuses, stale):
        evaluate = replayed(squares, record)
        for number in range(3 * RECORDED_AFTER):
            arguments = points(2, 0.1 * number)
            assert torch.equal(evaluate(*arguments)[0], squares(*arguments)[0])


def test_an_evaluation_in_lockstep_depends_on_its_arguments_alone(victim: Victim) -> None:
    captures = [victim.capture(victim.images[i : i + 1], victim.labels[i : i + 1]) for i in range(2)]
    problem = victim.problem(captures)
    batched, recorder = lockstep(problem, matching(problem)), Recorder()
    evaluate = replayed(batched, recorder)
    generator = torch.Generator().manual_seed(1)
    for _ in range(RECORDED_AFTER + 2):
        images = torch.rand(2, *victim.images[:1].shape, generator=generator).to(problem.like)
        arguments = (images, victim.labels[:2, None], problem.evidence())
        for found, expected in zip(evaluate(*arguments), batched(*arguments), strict=True):
            torch.testing.assert_close(found, expected)
    assert recorder.replays == 2


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_a_gpu_an_attack_ends_where_it_does_without_graphs(victim: Victim) -> None:
    capture = victim.capture(victim.images[:1], victim.labels[:1])
    problem = victim.problem([capture], device="cuda")
    plain = IDLG(max_evaluations=200).attack(problem)
    graphs = IDLG(max_evaluations=200).attack(replace(problem, graphs=True))
    torch.testing.assert_close(plain.images, graphs.images, atol=1e-3, rtol=0)
