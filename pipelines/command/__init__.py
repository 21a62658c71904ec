"""The subcommands of kfp-osft, one module each: its options and what it does.

KFP and torch are imported inside functions, so that --help and a bad option answer at once.
"""
