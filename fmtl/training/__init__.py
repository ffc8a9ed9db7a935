"""One training: recipe, loss, loop, counts and checkpoints. No MLflow, no pictures, no printing."""
