"""From a run's folder to a store: once each, however often it takes."""
