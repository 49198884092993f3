"""Random inputs by the thousand, each with a seed of its own: ``python -m tests.fuzz files``, or formats, or kill."""
