"""Applications: each a domain with its tasks, its ways of learning, its metrics and one face."""
