"""GIDM and GIDM+ in figures: `python -m benchmarks.gidm`."""
