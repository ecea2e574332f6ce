"""Kinds of damage to a real delivery, each with the outcome that is right for it."""
