"""How ready this is for production, by evidence that is looked up."""
