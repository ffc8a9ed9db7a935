"""What breaks things on purpose, for tests: forked commands, failing operations, failing servers, hostile files."""
