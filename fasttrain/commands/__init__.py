"""Commands: each runs from its settings to the files and results that it leaves."""
