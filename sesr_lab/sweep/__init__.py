"""The driver of a study: what Optuna is asked and told."""
