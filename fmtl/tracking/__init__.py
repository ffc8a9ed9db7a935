"""The only door to MLflow. What is set here must be set before MLflow is imported."""

import os

os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "3")  # MLflow's 7 block one call for four minutes
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")

# Of 'mlflow run' or the user. Read here, since MLflow writes the variable itself whenever an experiment is set.
CHOSEN_EXPERIMENT_ID = os.environ.get("MLFLOW_EXPERIMENT_ID")
