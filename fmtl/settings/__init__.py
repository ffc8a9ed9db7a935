"""Settings of every command: names, defaults, units and ranges, from a YAML file or the command line. No torch."""
