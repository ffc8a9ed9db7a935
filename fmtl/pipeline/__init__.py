"""One public function per command."""

DEFAULT_MODEL_NAME = "fashion-attributes"
DEFAULT_ALIAS = "champion"
