"""What the data must satisfy before it may land."""
