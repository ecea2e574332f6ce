"""What serves, and how it comes to: the one path of every move, rollouts, their looks, and the record."""
