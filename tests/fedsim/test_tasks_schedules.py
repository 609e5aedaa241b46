"""Noise schedules: those of their papers, at any number of timesteps."""

import pytest
import torch
from diffusers import DDPMScheduler

from fedsim.tasks.schedules import alpha_bars

SCHEDULES = ("linear", "cosine", "sigmoid")


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("timesteps", [16, 17, 100, 999, 1000])
def test_the_signal_falls_with_every_timestep(schedule, timesteps):
    left = alpha_bars(schedule, timesteps)
    assert left.shape == (timesteps,)
    assert left.dtype == torch.float64
    assert 0 < left[-1] < 1e-3 < 0.9 < left[0] < 1
    assert (left.diff() < 0).all()


def test_schedules_are_those_of_the_papers():
    torch.testing.assert_close(
        alpha_bars("linear", 1000).float(), DDPMScheduler(1000, beta_schedule="linear").alphas_cumprod
    )
    cosine = DDPMScheduler(1000, beta_schedule="squaredcos_cap_v2").alphas_cumprod
    torch.testing.assert_close(alpha_bars("cosine", 1000).float(), cosine, rtol=1e-3, atol=1e-9)
    # Jabri et al. 2022, algorithm 4, in plain floats.
    t, sigmoid = 0.25, lambda x: 1 / (1 + 2.718281828459045**-x)
    by_hand = (sigmoid(3) - sigmoid(6 * t - 3)) / (sigmoid(3) - sigmoid(-3))
    assert abs(alpha_bars("sigmoid", 100)[24] - by_hand) < 1e-12


@pytest.mark.parametrize("timesteps", [100, 250, 500])
def test_a_shorter_linear_schedule_passes_through_the_long_one(timesteps):
    long, every = alpha_bars("linear", 1000), 1000 // timesteps
    torch.testing.assert_close(alpha_bars("linear", timesteps), long[every - 1 :: every])
