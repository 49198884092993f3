"""What works with what: every layer under everything that people put around it. ``docs/support.md`` is its outcome."""
