"""One public function per command, and what they share."""
