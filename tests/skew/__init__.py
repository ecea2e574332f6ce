"""Skews, each injected on one side alone, and the probe that must find them."""
