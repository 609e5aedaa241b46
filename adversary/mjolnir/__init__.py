"""Denoising perturbed gradients with what surrogate data teach: after Mjolnir (Liu et al. 2025)."""
