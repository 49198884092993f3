"""Mutation testing: do the tests notice when a line is wrong? ``docs/reliability.md`` has the numbers."""
