"""What `make prove` measures, one module a subject; each yields figures."""
