"""The version, read by the build and by `jupyter_ft.__version__`."""

__version__ = "0.1.0"
