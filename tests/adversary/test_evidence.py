"""What the evidence says of the mean over several clients."""

from dataclasses import replace

import pytest
import torch
from conftest import LEARNING_RATE, Victim

from fedsim.defenses.noising import Noising


def test_the_noise_of_several_clients_averages_in_their_mean(victim: Victim) -> None:
    defense, count = Noising(std=0.01), 4
    one = (victim.images[:1], victim.labels[:1])
    sent = [victim.capture(*one, [defense], client=number) for number in range(count)]
    arrays = {name: torch.stack([c.arrays[name] for c in sent]).mean(dim=0) for name in sent[0].arrays}
    mean = replace(sent[0], client=None, node=None, arrays=arrays, clients=tuple(range(count)))
    problem = victim.problem([mean], [defense])
    assert problem.knowledge is not None
    plain = {name: -LEARNING_RATE * value for name, value in victim.gradient(*one).items()}
    noise = torch.cat([(arrays[name] - value).flatten() for name, value in plain.items()])
    assert problem.knowledge.noise_std == pytest.approx(float(noise.std()), rel=0.05)
    assert problem.knowledge.noise_std == pytest.approx(0.005)
    alone = victim.problem(sent[:1], [defense]).knowledge
    assert alone is not None
    assert alone.noise_std == pytest.approx(0.01)
