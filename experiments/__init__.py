"""Commands that measure the numbers of the README and docs/."""
