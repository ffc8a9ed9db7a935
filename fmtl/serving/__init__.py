"""Labels over HTTP, of whatever labeller a command hands over. No torch, no MLflow and no pandas here."""
