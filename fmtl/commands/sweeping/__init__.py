"""Many trainings from one file, by any number of workers that share a storage."""
