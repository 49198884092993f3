"""When launch configurations are searched, and where the result is kept."""

import triton


def autotune(configs, key, **kwargs):
    """``triton.autotune``, remembered in Triton's disk cache. The interpreter takes the first config, untimed."""
    if triton.knobs.runtime.interpret:
        configs = configs[:1]
    return triton.autotune(configs=configs, key=key, cache_results=True, **kwargs)
