"""A forecast in words, by a template or a model; every claim is traced before it is shown."""
