"""Pure decisions: frozen verdicts with reasons, no I/O."""
