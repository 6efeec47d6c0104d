"""Tests, in folders by what they hold against what; `support` serves benchmarks too."""
