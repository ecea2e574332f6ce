"""The `perennial` command: app.py holds it together, each other module a group of commands."""
