"""Commands that produce the evidence behind the README's numbers, and the figures that only they make."""
