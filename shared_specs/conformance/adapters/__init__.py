"""The targets: one module for each, which imports its library. `offers` says what such a module holds."""
