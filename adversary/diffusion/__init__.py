"""What attacks on the gradients of diffusion models share: docs/attacks.md, `gidm` and `gidm_plus`."""
