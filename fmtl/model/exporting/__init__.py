"""A model as one file that runs without us: preprocessing, network, temperatures and labels inside."""
