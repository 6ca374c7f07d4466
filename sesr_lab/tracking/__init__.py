"""MLflow runs that survive an outage of their store."""
