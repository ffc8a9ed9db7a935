"""A model on its way to where it is used: exported, compared, served."""
